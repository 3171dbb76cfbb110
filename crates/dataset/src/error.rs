//! What can go wrong with the master dataset, and what to do about it.

use lambic_model::{Frontier, Offset, PartitionId, SchemaVersion, StreamId, StreamName};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program committed to the same dataset.
    #[error(
        "another writer committed `{path}` or a later manifest first; only one server may write a dataset: stop the \
         other one, then restart this one"
    )]
    Conflict { path: String },

    /// A manifest's bytes are not what was committed. An older one is never used in its place.
    #[error(
        "manifest `{path}` is damaged: {reason}; restore it from a backup (older manifests beside it lack the newest \
         files, so they are not used in its place)"
    )]
    ManifestDamaged { path: String, reason: String },

    /// A manifest whose checksum is right, but which does not fit its stream.
    #[error("manifest `{path}` is not usable: {reason}")]
    ManifestInconsistent { path: String, reason: String },

    #[error(
        "data file `{path}` is missing; restore it from a backup, its {records} records are not in the log any more"
    )]
    FileMissing { path: String, records: u64 },

    #[error(
        "data file `{path}` has {bytes_found} bytes instead of {bytes_expected}: it was cut or replaced; restore it \
         from a backup"
    )]
    FileCut {
        path: String,
        bytes_expected: u64,
        bytes_found: u64,
    },

    #[error(
        "data file `{path}` is damaged or was swapped with another: its crc32c is {found:08x} instead of \
         {expected:08x}; restore it from a backup"
    )]
    FileDamaged {
        path: String,
        expected: u32,
        found: u32,
    },

    #[error("data file `{path}` cannot be read as Parquet: {source}")]
    FileUnreadable {
        path: String,
        source: parquet::errors::ParquetError,
    },

    #[error(
        "data file `{path}` was written under version {version} of the columns of stream `{stream}`, of which nothing \
         is known; restore `catalog.json` from a backup that is not older than the file"
    )]
    SchemaUnknown {
        path: String,
        version: SchemaVersion,
        stream: StreamName,
    },

    /// The log does not begin where the dataset ends.
    #[error(
        "stream `{stream}` has a gap in partition {partition}: the dataset ends at offset {dataset_end}, the log \
         begins at {log_start}; the newest manifest of the stream is missing, or the log is that of another moment: bring \
         the manifest back, or restore both from a backup of the same moment; nothing was deleted"
    )]
    Gap {
        stream: StreamName,
        partition: PartitionId,
        dataset_end: Offset,
        log_start: Offset,
    },

    /// The log ends before the dataset does.
    #[error(
        "the log of stream `{stream}` ends at {head}, before the dataset's frontier {frontier}; the log is older than \
         the dataset: restore both from a backup of the same moment"
    )]
    LogBehind {
        stream: StreamName,
        head: Frontier,
        frontier: Frontier,
    },

    /// The log or a file handed over other records than it was asked for.
    #[error(
        "the records of stream `{stream}` are not those that it should have: {reason}; please report this"
    )]
    TailMismatch { stream: StreamName, reason: String },

    /// What will have been appended by then is not known.
    #[error("the time {at_us} (µs since 1970) has not come; the clock shows {now_us}")]
    NotYet { at_us: i64, now_us: i64 },

    /// Which records an erasure took is not known any more.
    #[error(
        "`{path}` is damaged or was swapped with another: its hash is not the one that the erasure log has; restore it \
         from a backup, the records that it names would come back otherwise"
    )]
    ErasureDamaged { path: String },

    #[error("stream {stream} is not part of the dataset")]
    UnknownStream { stream: StreamId },

    #[error("reading the log for sealing failed: {0}")]
    Log(#[from] lambic_log::Error),

    #[error("writing Parquet failed: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),

    #[error("sealed records do not fit together: {0}")]
    Arrow(#[from] arrow::error::ArrowError),

    #[error("the dataset's store failed: {0}")]
    Store(#[from] object_store::Error),

    #[error("a sealing task stopped early: {0}")]
    Task(#[from] tokio::task::JoinError),
}
