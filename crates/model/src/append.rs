//! What a producer hands to the log, and what it gets back.

use std::{future::Future, pin::Pin};

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::{Frontier, OffsetRange, PartitionId, SchemaVersion, StreamId};

/// One atomic append: all of it becomes durable and visible at once, or none of it.
#[derive(Debug, Clone, Default)]
pub struct Append {
    pub writes: Vec<Write>,
    /// Makes a repetition harmless.
    pub producer: Option<Producer>,
    /// Positions that move together with the writes: how a function's input and output commit as one.
    pub cursors: Vec<Cursor>,
}

/// Records for one stream, in the stream's own schema (without system columns) or one that it had before.
#[derive(Debug, Clone)]
pub struct Write {
    pub stream: StreamId,
    /// `None`: by the stream's `partition_by` column, or in turns.
    pub partition: Option<PartitionId>,
    pub batch: RecordBatch,
    /// The version of the stream's schema that `batch` has. `None`: the newest with these columns.
    pub schema: Option<SchemaVersion>,
}

/// An append with the same id and sequence as one that was acknowledged has no second effect.
///
/// Sequences may arrive in any order and with gaps. Of a producer that leaves many gaps only the newer
/// sequences are remembered; an older one is refused ([`AppendError::SequenceForgotten`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Producer {
    pub id: String,
    pub sequence: u64,
}

/// A named reading position kept by the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub name: String,
    pub stream: StreamId,
    pub frontier: Frontier,
}

/// An acknowledgement: the records are on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    pub writes: Vec<Written>,
    /// True if the append had been acknowledged before (by producer and sequence): nothing was written now.
    /// The writes' frontiers are then the present heads, and their ranges empty.
    pub duplicate: bool,
}

/// Where the records of one [`Write`] went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub stream: StreamId,
    pub ranges: Vec<OffsetRange>,
    /// Records left out because their record id was known.
    pub records_known: u64,
    /// The stream's head right after this append.
    pub frontier: Frontier,
}

/// Why an append was refused or failed; nothing of it was kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The caller's mistake; repeating it unchanged fails again.
    #[error("{0}")]
    Refused(String),
    /// The sequence is older than what is remembered of its producer: whether the append was kept before is
    /// not known. Repeating it fails again.
    #[error("{0}")]
    SequenceForgotten(String),
    /// Too much is waiting; repeat it later.
    #[error("{0}")]
    Busy(String),
    /// The log cannot take records now (disk full, failed fsync); whether it was kept is not known,
    /// so repeat it with the same producer and sequence.
    #[error("{0}")]
    Unavailable(String),
}

/// The way into the log for rooms that do not know the log.
pub trait Appender: Send + Sync {
    fn append(
        &self,
        append: Append,
    ) -> Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send + '_>>;
}
