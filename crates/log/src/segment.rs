//! One open segment and where in it the records of each partition stand.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::record_batch::RecordBatch;
use lambic_base::DiskFile;
use lambic_model::{Frontiers, OffsetRange, PartitionId, SchemaVersion, StreamId};

use crate::{Error, frame, payload};

const EXTENSION: &str = "segment";
pub(crate) const RESTORE: &str = "restore this file from a copy, or move the whole log folder away: a new log goes on where the dataset ends, without the records not sealed yet, the positions of triggers, and the record ids and producer sequences known so far; nothing was changed";

/// The records of one append in one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub first: u64,
    pub records: u64,
    pub appended_at_us: i64,
    pub frame_at: u64,
    pub frame_bytes: u32,
    /// From the start of the frame.
    pub piece_at: u32,
    pub piece_bytes: u32,
    pub schema: SchemaVersion,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub sequence: u64,
    pub salt: u64,
    pub path: PathBuf,
    pub file: Box<dyn DiskFile>,
    /// The heads when it was begun.
    pub start: Frontiers,
    /// Where its checkpoint ends.
    pub checkpoint_end: u64,
    pub bytes: AtomicU64,
    entries: RwLock<HashMap<(StreamId, PartitionId), Vec<Entry>>>,
}

impl Segment {
    pub(crate) fn new(
        sequence: u64,
        salt: u64,
        path: PathBuf,
        file: Box<dyn DiskFile>,
        start: Frontiers,
        checkpoint_end: u64,
    ) -> Segment {
        Segment {
            sequence,
            salt,
            path,
            file,
            start,
            checkpoint_end,
            bytes: AtomicU64::new(checkpoint_end),
            entries: RwLock::default(),
        }
    }

    /// In the order of offsets.
    pub(crate) fn push(&self, entries: impl IntoIterator<Item = (StreamId, PartitionId, Entry)>) {
        let mut all = self.entries.write().expect("no panic while entries change");
        for (stream, partition, entry) in entries {
            all.entry((stream, partition)).or_default().push(entry);
        }
    }

    pub(crate) fn grow_to(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The entries that hold records of `range`.
    pub(crate) fn entries(&self, stream: StreamId, range: OffsetRange) -> Vec<Entry> {
        let all = self.entries.read().expect("no panic while entries change");
        let Some(entries) = all.get(&(stream, range.partition)) else {
            return Vec::new();
        };
        let from = entries.partition_point(|entry| entry.first + entry.records <= range.first.0);
        entries[from..]
            .iter()
            .take_while(|entry| entry.first < range.end.0)
            .copied()
            .collect()
    }

    /// The first record of a partition that was appended after `at_us`.
    pub(crate) fn first_after(
        &self,
        stream: StreamId,
        partition: PartitionId,
        at_us: i64,
    ) -> Option<u64> {
        let all = self.entries.read().expect("no panic while entries change");
        let entries = all.get(&(stream, partition))?;
        let first = entries.partition_point(|entry| entry.appended_at_us <= at_us);
        entries.get(first).map(|entry| entry.first)
    }

    /// Where each partition's records end that stand in this segment.
    pub(crate) fn ends(&self) -> Vec<(StreamId, PartitionId, u64)> {
        let all = self.entries.read().expect("no panic while entries change");
        all.iter()
            .filter_map(|(&(stream, partition), entries)| {
                let last = entries.last()?;
                Some((stream, partition, last.first + last.records))
            })
            .collect()
    }

    /// The records of `entry` in the columns that the stream had then, checked against the frame's checksum.
    pub(crate) fn load(&self, entry: &Entry) -> Result<RecordBatch, Error> {
        let mut bytes = vec![0; entry.frame_bytes as usize];
        self.file
            .read_exact_at(&mut bytes, entry.frame_at)
            .map_err(|error| Error::io("read", &self.path, &error))?;
        let damaged = |reason: String| Error::Damaged {
            path: self.path.clone(),
            position: entry.frame_at,
            reason,
            advice: RESTORE,
        };
        frame::decode(&bytes, self.salt).map_err(|reason| damaged(reason.to_owned()))?;
        let piece = entry.piece_at as usize..(entry.piece_at + entry.piece_bytes) as usize;
        payload::decode_batch(&bytes[piece]).map_err(|error| damaged(error.to_string()))
    }
}

pub(crate) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:020}.{EXTENSION}"))
}

/// The sequence that a segment's file name says; `None` for other files.
pub(crate) fn sequence(path: &Path) -> Option<u64> {
    if path.extension()? != EXTENSION {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
