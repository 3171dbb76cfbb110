//! What can go wrong in the log, by what a caller would do about it.

use std::{io, path::PathBuf};

use lambic_model::{AppendError, Frontier, OffsetRange, StreamId};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The caller's mistake; the same append fails again. Nothing of it was kept.
    #[error("{0}")]
    Refused(String),
    /// Nothing of the append was kept; repeat it later.
    #[error(
        "{queued_bytes} bytes of appends are waiting, over `queue_bytes_max` of {limit}; append again later"
    )]
    Busy { queued_bytes: u64, limit: u64 },
    /// The disk has no room. Nothing of the append was kept; the log goes on when there is room again.
    #[error("the disk holding `{}` is full; nothing of this append was kept; free space and append again", path.display())]
    DiskFull { path: PathBuf },
    /// A write or fsync failed: the log stays readable and takes nothing until it is opened again.
    #[error(
        "the log is read-only since {reason}; check the disk, then start again: what was acknowledged is kept"
    )]
    Unavailable { reason: String },
    /// Bytes that were acknowledged are not what was written.
    #[error("`{}` is damaged at byte {position}: {reason}; {advice}", path.display())]
    Damaged {
        path: PathBuf,
        position: u64,
        reason: String,
        advice: &'static str,
    },
    /// Whether the append was kept before cannot be told; the same append fails again. Nothing of it was kept now.
    #[error(
        "sequence {sequence} is older than what is remembered of its producer (those after {forgotten}), so whether it was kept before is not known; nothing was kept now; look for its records in the stream and append what is missing with a sequence that was not used"
    )]
    SequenceForgotten { sequence: u64, forgotten: u64 },
    /// The log ends before the dataset does: it is an older copy.
    #[error(
        "the log in `{}` is older than the dataset: of stream {stream} it ends at {head}, the dataset holds {sealed}; restore log and dataset from copies of the same moment, or move the whole log folder away: a new log goes on where the dataset ends, without the records not sealed yet, the positions of triggers, and the record ids and producer sequences known so far",
        dir.display()
    )]
    BehindDataset {
        dir: PathBuf,
        stream: StreamId,
        head: Frontier,
        sealed: Frontier,
    },
    /// What will have been appended by then is not known.
    #[error("the time {at_us} (µs since 1970) lies ahead of the clock, which shows {now_us}")]
    NotYet { at_us: i64, now_us: i64 },
    #[error("stream {stream} is not declared to the log")]
    UnknownStream { stream: StreamId },
    /// The records are no longer (or not yet) in the log.
    #[error(
        "records {}..{} of partition {} of stream {stream} are not all in the log, which holds {start} to {head}; read older ones from the dataset",
        range.first, range.end, range.partition
    )]
    OutOfRange {
        stream: StreamId,
        range: OffsetRange,
        start: Frontier,
        head: Frontier,
    },
    #[error("cannot {action} `{}`: {reason}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// The index of record ids.
    #[error(
        "the index of record ids in `{}` failed: {reason}; if the disk is full, free space and append again; otherwise check the disk and start again; if it fails again, restore the whole log folder from a copy (the records' own segments are not enough once old ones were trimmed)",
        path.display()
    )]
    Ids { path: PathBuf, reason: String },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Error {
        Error::Io {
            action,
            path: path.into(),
            reason: error.to_string(),
        }
    }
}

impl From<Error> for AppendError {
    fn from(error: Error) -> AppendError {
        let text = error.to_string();
        match error {
            Error::Refused(_)
            | Error::UnknownStream { .. }
            | Error::OutOfRange { .. }
            | Error::NotYet { .. } => AppendError::Refused(text),
            Error::SequenceForgotten { .. } => AppendError::SequenceForgotten(text),
            Error::Busy { .. } => AppendError::Busy(text),
            Error::DiskFull { .. }
            | Error::Unavailable { .. }
            | Error::BehindDataset { .. }
            | Error::Damaged { .. }
            | Error::Io { .. }
            | Error::Ids { .. } => AppendError::Unavailable(text),
        }
    }
}
