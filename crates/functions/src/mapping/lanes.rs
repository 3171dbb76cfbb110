//! Where a mapping stands in its stream: a cursor of the log for each of its lanes.
//!
//! A lane is the share of a stream's records whose keys fall on it; with one lane, that is all of them. Each lane
//! moves on by itself, and what it appends moves its own cursor in the same append: so batches of one partition run
//! beside each other, and still none is lost or doubled by a kill. The log is kept from the lane that is furthest
//! behind.
//!
//! When the number of lanes changes, those that were there first come to one and the same place: only from there on
//! does it not matter which lane a key was on.

use std::sync::{Arc, Mutex};

use lambic_log::Log;
use lambic_model::{Append, Cursor, Frontier, Offset, PartitionId};

use crate::{
    append::{NotKept, append_patiently},
    registry::Mapping,
    rules::LANES_MAX,
};

/// All lanes of a mapping.
pub struct Lanes(Vec<Arc<Lane>>);

pub struct Lane {
    pub cursor: String,
    position: Mutex<Frontier>,
    /// One append at a time: each says where all partitions stand.
    pub committing: tokio::sync::Mutex<()>,
}

impl Lane {
    pub fn new(cursor: String, position: Frontier) -> Lane {
        Lane {
            cursor,
            position: Mutex::new(position),
            committing: tokio::sync::Mutex::default(),
        }
    }

    pub fn position(&self) -> Frontier {
        self.position.lock().expect("held shortly").clone()
    }

    pub fn offset(&self, partition: PartitionId) -> Offset {
        let position = self.position.lock().expect("held shortly");
        position.offset(partition)
    }

    pub fn set(&self, partition: PartitionId, offset: Offset) {
        let mut position = self.position.lock().expect("held shortly");
        position.set(partition, offset);
    }
}

/// The cursor of one of so many lanes.
fn cursor_name(mapping: &str, lane: u32, of: u32) -> String {
    match of {
        1 => mapping.to_owned(),
        _ => format!("{mapping}#{lane}/{of}"),
    }
}

/// The cursors of so many lanes, if all of them are there.
fn cursors(log: &Log, mapping: &str, of: u32) -> Option<Vec<Cursor>> {
    let cursors = (0..of).map(|lane| log.cursor(&cursor_name(mapping, lane, of)));
    cursors.collect()
}

fn furthest_behind(cursors: &[Cursor]) -> Frontier {
    let mut frontiers = cursors.iter().map(|cursor| &cursor.frontier);
    let first = frontiers.next().cloned().unwrap_or_default();
    frontiers.fold(first, |earliest, other| earliest.min(other))
}

/// The cursors that count. Those of a former number of lanes stand where it was changed, and are left behind.
fn in_effect(log: &Log, mapping: &str) -> Option<Vec<Cursor>> {
    let sets = (1..=LANES_MAX).filter_map(|of| cursors(log, mapping, of));
    sets.max_by_key(|cursors| furthest_behind(cursors).records())
}

/// From where on a mapping has still to read.
pub fn position(log: &Log, mapping: &str) -> Option<Frontier> {
    in_effect(log, mapping).map(|cursors| furthest_behind(&cursors))
}

/// All cursors that a mapping has or may have left behind.
pub fn names(log: &Log, mapping: &str) -> Vec<String> {
    let names = (1..=LANES_MAX).flat_map(|of| (0..of).map(move |lane| (lane, of)));
    let names = names.map(|(lane, of)| cursor_name(mapping, lane, of));
    names.filter(|name| log.cursor(name).is_some()).collect()
}

impl Lanes {
    /// As they stand in the log.
    pub fn find(log: &Log, mapping: &Mapping) -> Lanes {
        let cursors = in_effect(log, &mapping.cursor);
        let Some(cursors) = cursors else {
            let lane = Lane::new(mapping.cursor.clone(), Frontier::default());
            return Lanes(vec![Arc::new(lane)]);
        };
        let lane = |cursor: Cursor| Arc::new(Lane::new(cursor.name, cursor.frontier));
        Lanes(cursors.into_iter().map(lane).collect())
    }

    pub fn all(&self) -> impl Iterator<Item = (u32, &Arc<Lane>)> {
        (0..).zip(&self.0)
    }

    pub fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// The place that all lanes have to come to before their number can change.
    pub fn furthest(&self) -> Frontier {
        let mut positions = self.0.iter().map(|lane| lane.position());
        let first = positions.next().unwrap_or_default();
        positions.fold(first, |latest, other| latest.max(&other))
    }

    pub fn have_reached(&self, place: &Frontier) -> bool {
        self.0.iter().all(|lane| lane.position().covers(place))
    }

    /// Goes on with another number of lanes, from where all of them stand.
    pub async fn change_to(
        &self,
        log: &Log,
        mapping: &Mapping,
        of: u32,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), NotKept> {
        let frontier = self.furthest();
        let cursors = (0..of).map(|lane| Cursor {
            name: cursor_name(&mapping.cursor, lane, of),
            stream: mapping.stream_id,
            frontier: frontier.clone(),
        });
        let cursors: Vec<Cursor> = cursors.collect();
        // Set twice is as set once.
        let append = Append {
            cursors: cursors.clone(),
            ..Append::default()
        };
        append_patiently(log, &append, usize::MAX, stopped).await?;
        for name in names(log, &mapping.cursor) {
            if cursors.iter().any(|cursor| cursor.name == name) {
                continue;
            }
            if let Err(error) = log.drop_cursor(&name).await {
                tracing::warn!(%error, cursor = name, "a cursor nobody needs was not dropped");
            }
        }
        Ok(())
    }
}
