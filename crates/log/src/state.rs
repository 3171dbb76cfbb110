//! What the log remembers beside the records: heads, producers, cursors. Rebuilt from checkpoint and frames.

use std::collections::BTreeMap;

use lambic_model::{Cursor, Frontier, Frontiers, Offset, StreamId};

use crate::{
    payload::{AppendHeader, Checkpoint},
    producers::Producers,
};

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The last append's number.
    pub commit: u64,
    pub heads: Frontiers,
    pub producers: Producers,
    pub cursors: BTreeMap<String, Cursor>,
    pub record_ids: u64,
    /// When the last append was taken; no later one has an earlier time.
    pub appended_at_us: i64,
}

impl State {
    pub(crate) fn from_checkpoint(checkpoint: Checkpoint, producers_max: usize) -> State {
        let producers = Producers::from_checkpoint(producers_max, checkpoint.producers);
        let cursors = checkpoint.cursors.into_iter();
        State {
            commit: checkpoint.commit,
            heads: Frontiers(checkpoint.heads.into_iter().collect()),
            producers,
            cursors: cursors
                .map(|cursor| (cursor.name.clone(), cursor))
                .collect(),
            record_ids: checkpoint.record_ids,
            appended_at_us: checkpoint.appended_at_us,
        }
    }

    /// `heads` also knows declared streams without records and no longer knows dropped ones.
    pub(crate) fn checkpoint(&self, heads: &Frontiers) -> Checkpoint {
        let heads = heads.0.iter();
        Checkpoint {
            commit: self.commit,
            heads: heads
                .map(|(id, frontier)| (*id, frontier.clone()))
                .collect(),
            producers: self.producers.oldest_first().cloned().collect(),
            cursors: self.cursors.values().cloned().collect(),
            record_ids: self.record_ids,
            appended_at_us: self.appended_at_us,
        }
    }

    /// Takes in one committed append. The error names what does not follow from what came before.
    pub(crate) fn apply(&mut self, commit: u64, header: &AppendHeader) -> Result<(), String> {
        if commit != self.commit + 1 {
            return Err(format!("append {commit} follows append {}", self.commit));
        }
        for write in &header.writes {
            let head = self.heads.0.entry(write.stream).or_default();
            for piece in &write.pieces {
                let expected = head.offset(piece.partition);
                if expected != Offset(piece.first) {
                    return Err(format!(
                        "records of stream {} partition {} start at {}, not at {expected}",
                        write.stream, piece.partition, piece.first
                    ));
                }
                head.set(piece.partition, piece.range().end);
                if write.record_id.is_some() {
                    self.record_ids += piece.records;
                }
            }
            widen(head, &write.frontier);
        }
        for cursor in &header.cursors {
            self.cursors.insert(cursor.name.clone(), cursor.clone());
        }
        for name in &header.cursors_dropped {
            self.cursors.remove(name);
        }
        if let Some(producer) = &header.producer {
            self.producers.remember(producer, commit);
        }
        self.appended_at_us = self.appended_at_us.max(header.appended_at_us);
        self.commit = commit;
        Ok(())
    }

    /// The first stream whose head differs from the checkpoint's.
    pub(crate) fn disagrees(&self, checkpoint: &Checkpoint) -> Option<StreamId> {
        let heads = checkpoint.heads.iter();
        heads
            .filter(|(stream, _)| self.heads.0.contains_key(stream))
            .find(|(stream, frontier)| {
                let head = self.heads.of(*stream);
                !head.covers(frontier) || !frontier.covers(&head)
            })
            .map(|(stream, _)| *stream)
    }
}

/// Gives `frontier` at least as many partitions as `like`.
pub(crate) fn widen(frontier: &mut Frontier, like: &Frontier) {
    if frontier.0.len() < like.0.len() {
        frontier.0.resize(like.0.len(), Offset::ZERO);
    }
}
