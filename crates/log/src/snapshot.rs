//! One moment of the log, over all streams.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray},
    record_batch::RecordBatch,
};
use lambic_model::{Frontier, Frontiers, OffsetRange, Stream, StreamId};

use crate::Error;

#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub heads: Frontiers,
    pub batches: BTreeMap<StreamId, Vec<(OffsetRange, RecordBatch)>>,
}

#[derive(Debug, Clone)]
pub struct Snapshot(pub(crate) Arc<View>);

impl Snapshot {
    /// Exclusive; survives trim and restart.
    pub fn head(&self, stream: StreamId) -> Frontier {
        self.0.heads.of(stream)
    }

    /// The oldest record still in the log.
    pub fn start(&self, stream: StreamId) -> Frontier {
        Frontier::zero(self.head(stream).0.len() as u32)
    }

    pub fn heads(&self) -> Frontiers {
        self.0.heads.clone()
    }

    /// Exactly the records of `range`, in offset order, with the system columns.
    pub fn read(&self, stream: StreamId, range: OffsetRange) -> Result<Vec<RecordBatch>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if range.end > self.head(stream).offset(range.partition) {
            return Err(Error::OutOfRange {
                stream,
                range,
                start: self.start(stream),
                head: self.head(stream),
            });
        }
        let all = self
            .0
            .batches
            .get(&stream)
            .map(Vec::as_slice)
            .unwrap_or_default();
        Ok(all
            .iter()
            .filter(|(r, _)| {
                r.partition == range.partition && r.first < range.end && r.end > range.first
            })
            .map(|(r, batch)| {
                let first = r.first.max(range.first);
                let end = r.end.min(range.end);
                batch.slice(first.since(r.first) as usize, end.since(first) as usize)
            })
            .collect())
    }

    /// The records of `range` in pieces of about `bytes_max` in memory, at least one batch each.
    pub fn read_chunks(&self, stream: StreamId, range: OffsetRange, bytes_max: u64) -> Chunks {
        Chunks {
            snapshot: self.clone(),
            stream,
            rest: range,
            bytes_max,
        }
    }
}

/// Pieces of a range; see [`Snapshot::read_chunks`].
#[derive(Debug)]
pub struct Chunks {
    snapshot: Snapshot,
    stream: StreamId,
    rest: OffsetRange,
    #[allow(dead_code)]
    bytes_max: u64,
}

impl Iterator for Chunks {
    type Item = Result<Vec<RecordBatch>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batches = self.snapshot.read(self.stream, self.rest);
        self.rest.first = self.rest.end;
        Some(batches)
    }
}

pub(crate) fn with_system(
    stream: &Stream,
    batch: &RecordBatch,
    range: OffsetRange,
    appended_at_us: i64,
) -> Result<RecordBatch, Error> {
    let rows = batch.num_rows();
    let first = range.first.0 as i64;
    let system: [ArrayRef; 3] = [
        Arc::new(Int32Array::from_value(range.partition.0 as i32, rows)),
        Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
        Arc::new(TimestampMicrosecondArray::from_value(appended_at_us, rows).with_timezone("UTC")),
    ];
    let columns = batch.columns().iter().cloned().chain(system).collect();
    RecordBatch::try_new(stream.schema_with_system(), columns).map_err(|error| {
        Error::Refused(format!(
            "the batch does not fit stream `{}`: {error}",
            stream.name
        ))
    })
}
