//! What must be true of streams, said as simply as possible: lists of records, and who was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lambic_model::{Offset, OffsetRange, PartitionId};

/// The streams of every history, by their place here: name and partitions.
pub const STREAMS: [(&str, u32); 3] = [("plain", 2), ("by_id", 1), ("other", 1)];
/// The one whose records are unique by `id`.
pub const BY_ID: usize = 1;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub id: String,
    pub k: Option<String>,
    pub v: Option<i64>,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub producer: Option<(String, u64)>,
    /// Where a reading position moves to.
    pub cursor: Option<u64>,
    pub writes: Vec<AttemptedWrite>,
}

#[derive(Debug, Clone)]
pub struct AttemptedWrite {
    /// Of [`STREAMS`].
    pub stream: usize,
    pub partition: u32,
    pub rows: Vec<Row>,
}

/// What the acknowledgement must say.
#[derive(Debug, PartialEq, Eq)]
pub struct Effect {
    pub duplicate: bool,
    /// For each write: where its records went, and how many were known.
    pub writes: Vec<(Vec<OffsetRange>, u64)>,
}

/// By stream and partition, in the order of offsets; none is empty.
pub type Records = BTreeMap<(usize, u32), Vec<Row>>;

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub records: Records,
    pub cursor: Option<u64>,
    ids: HashSet<String>,
    sequences: BTreeSet<(String, u64)>,
    /// Asked for and not answered: each is there or not, in this order, and none without those before it.
    unknown: Vec<Attempt>,
}

impl Model {
    /// All records of a stream, partition by partition.
    pub fn rows(&self, stream: usize) -> impl Iterator<Item = &Row> {
        let each = self.records.range((stream, 0)..(stream + 1, 0));
        each.flat_map(|(_, rows)| rows)
    }

    /// An append that is acknowledged.
    pub fn apply(&mut self, attempt: &Attempt) -> Effect {
        let duplicate = attempt
            .producer
            .as_ref()
            .is_some_and(|producer| !self.sequences.insert(producer.clone()));
        let mut writes = Vec::new();
        for write in &attempt.writes {
            if duplicate {
                writes.push((Vec::new(), write.rows.len() as u64));
                continue;
            }
            let ids = &mut self.ids;
            let is_new = |row: &&Row| write.stream != BY_ID || ids.insert(row.id.clone());
            let new: Vec<Row> = write.rows.iter().filter(is_new).cloned().collect();
            let known = (write.rows.len() - new.len()) as u64;
            if new.is_empty() {
                writes.push((Vec::new(), known));
                continue;
            }
            let place = (write.stream, write.partition);
            let records = self.records.entry(place).or_default();
            let range = OffsetRange {
                partition: PartitionId(write.partition),
                first: Offset(records.len() as u64),
                end: Offset((records.len() + new.len()) as u64),
            };
            records.extend(new);
            writes.push((vec![range], known));
        }
        if !duplicate {
            self.cursor = attempt.cursor.or(self.cursor);
        }
        Effect { duplicate, writes }
    }

    /// An append whose outcome the client does not know.
    pub fn leave_open(&mut self, attempt: Attempt) {
        self.unknown.push(attempt);
    }

    /// After a restart: takes for done what was done of the open appends, and returns all of them, for the client to try
    /// again. An error if what is found is not what was acknowledged and a beginning of the open ones.
    pub fn settle(&mut self, found: &Records, cursor: Option<u64>) -> Result<Vec<Attempt>, String> {
        let unknown = std::mem::take(&mut self.unknown);
        let mut candidate = self.clone();
        let mut open = unknown.iter();
        while (&candidate.records, candidate.cursor) != (found, cursor) {
            let Some(next) = open.next() else {
                return Err(format!(
                    "neither what was acknowledged nor that with a beginning of the {} open appends is there: {}",
                    unknown.len(),
                    self.difference(found, cursor)
                ));
            };
            candidate.apply(next);
        }
        *self = candidate;
        Ok(unknown)
    }

    /// Says what differs.
    pub fn difference(&self, found: &Records, cursor: Option<u64>) -> String {
        if self.cursor != cursor {
            return format!("the cursor is {cursor:?}, not {:?}", self.cursor);
        }
        let none = Vec::new();
        let places: BTreeSet<_> = self.records.keys().chain(found.keys()).collect();
        for place in places {
            let expected = self.records.get(place).unwrap_or(&none);
            let found = found.get(place).unwrap_or(&none);
            let length = expected.len().max(found.len());
            if let Some(at) = (0..length).find(|at| expected.get(*at) != found.get(*at)) {
                return format!(
                    "{} partition {} has {} records, not {}; offset {at} is {:?}, not {:?}",
                    STREAMS[place.0].0,
                    place.1,
                    found.len(),
                    expected.len(),
                    found.get(at),
                    expected.get(at)
                );
            }
        }
        "nothing".to_owned()
    }
}
