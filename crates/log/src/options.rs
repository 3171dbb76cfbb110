//! The log's settings and all their defaults.

use std::{path::PathBuf, sync::Arc};

use lambic_base::{Clock, Disk, RealDisk, SystemClock};

use crate::keys::{Fjall, KeyStores};

/// `append` refuses with `Busy` when this many times `queue_bytes_max` is queued or waits to be.
pub(crate) const QUEUE_FACTOR_MAX: u64 = 4;
/// A group of appends is not made larger than about this: it is all in memory once more as frames.
pub(crate) const GROUP_BYTES_MAX: u64 = 32 << 20;
/// What the memory of producers may take in a checkpoint, whatever their number and ids: it is written with every
/// segment.
pub(crate) const PRODUCERS_BYTES_MAX: usize = 16 << 20;
/// Larger appends are encoded on a blocking thread, so that the runtime's threads stay free.
pub(crate) const INLINE_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the segments; the record-id index stands in `ids` below it. Created if missing.
    pub dir: PathBuf,
    /// A segment that has reached this size, and twice that of its checkpoint, is closed and the next one begun.
    pub segment_bytes: u64,
    /// An append whose encoded form is larger is refused.
    pub append_bytes_max: u64,
    /// Appends wait while this much is queued; `Busy` when several times as much waits ([`QUEUE_FACTOR_MAX`]).
    pub queue_bytes_max: u64,
    /// Producers whose sequences are remembered; the least recently used is forgotten first, after which a
    /// repetition of one of its appends counts as new.
    pub producers_max: usize,
    /// Decoded batches of recent frames kept in memory for readers.
    pub cache_bytes_max: u64,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    /// Where the index of record ids stands.
    pub keys: Arc<dyn KeyStores>,
}

impl Options {
    /// The defaults; those that a user can set are the same as in the binary's file of defaults, a test there sees
    /// to it.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            // Large enough that a checkpoint at each start costs nothing, small enough that trimming follows soon.
            segment_bytes: 64 << 20,
            append_bytes_max: 64 << 20,
            queue_bytes_max: 256 << 20,
            // About 150 bytes each, in memory and in every segment's checkpoint; see also [`PRODUCERS_BYTES_MAX`].
            producers_max: 100_000,
            cache_bytes_max: 64 << 20,
            clock: Arc::new(SystemClock),
            disk: Arc::new(RealDisk),
            keys: Arc::new(Fjall),
        }
    }
}
