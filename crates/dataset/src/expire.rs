//! Which of a stream's records are kept too long: whole files, the oldest first.
//!
//! They go as an erasure takes them, by their offsets (`erasures`); this only finds where the stream is to start.

use std::collections::VecDeque;

use lambic_model::{Frontier, OffsetRange, PartitionId, StreamId};

use crate::{DataFile, Dataset, Error};

/// How long records are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Files whose newest record was appended before go.
    pub since_us: Option<i64>,
    /// The oldest files go until the others have so many bytes.
    pub bytes: Option<u64>,
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiring {
    /// Where the stream starts then.
    pub start: Frontier,
    pub records: u64,
    pub files: u64,
    pub bytes: u64,
    /// When the newest of the records was appended.
    pub newest_us: Option<i64>,
}

/// The files of one partition that are there still, the oldest first, with when the newest record of the first was
/// appended.
struct Queue {
    partition: PartitionId,
    files: VecDeque<DataFile>,
    latest_us: Option<i64>,
}

impl Dataset {
    /// What of the stream goes if it keeps no more than `keep`, and everything from `upto` on.
    pub async fn expiring(
        &self,
        stream: StreamId,
        keep: Keep,
        upto: &Frontier,
    ) -> Result<Expiring, Error> {
        let manifest = self.manifest(stream);
        let mut expiring = Expiring {
            start: Frontier::zero(manifest.frontier.0.len() as u32),
            ..Expiring::default()
        };
        let mut queues = Vec::new();
        for partition in (0..manifest.frontier.0.len() as u32).map(PartitionId) {
            let files = manifest.files.iter();
            let files = files.filter(|file| file.range.partition == partition);
            let mut queue = Queue {
                partition,
                files: files.cloned().collect(),
                latest_us: None,
            };
            self.look(&mut queue, upto, &mut expiring.start).await?;
            queues.push(queue);
        }
        let kept = manifest.files.iter().filter(|file| file.records() > 0);
        let mut bytes: u64 = kept.map(|file| file.bytes).sum();
        loop {
            let oldest = queues.iter_mut().filter(|queue| queue.latest_us.is_some());
            let Some(queue) = oldest.min_by_key(|queue| queue.latest_us) else {
                break;
            };
            let too_old = keep
                .since_us
                .is_some_and(|since| queue.latest_us < Some(since));
            let too_many = keep.bytes.is_some_and(|max| bytes > max);
            if !too_old && !too_many {
                break;
            }
            expiring.newest_us = expiring.newest_us.max(queue.latest_us);
            if let Some(file) = queue.files.pop_front() {
                bytes -= file.bytes;
                expiring.records += file.records();
                expiring.files += 1;
                expiring.bytes += file.bytes;
                expiring.start.set(queue.partition, file.range.end);
            }
            self.look(queue, upto, &mut expiring.start).await?;
        }
        Ok(expiring)
    }

    /// Passes files that are empty already, and finds out how old the next one is.
    async fn look(
        &self,
        queue: &mut Queue,
        upto: &Frontier,
        start: &mut Frontier,
    ) -> Result<(), Error> {
        queue.latest_us = None;
        while let Some(file) = queue.files.front() {
            let OffsetRange { partition, end, .. } = file.range;
            if end > upto.offset(partition) {
                return Ok(());
            }
            if file.records() > 0 {
                queue.latest_us = Some(self.latest(file).await?);
                return Ok(());
            }
            start.set(partition, end);
            queue.files.pop_front();
        }
        Ok(())
    }
}
