//! What statements do to the layers, behind a trait: this room knows neither batch nor speed.

use std::sync::Arc;

use async_trait::async_trait;
use lambic_dataset::{Expiring, Keep};
use lambic_model::{Frontier, Frontiers, OffsetSet, ScalarFunction, Stream, StreamId};
use lambic_view::{Definition, Planned};

use crate::Error;

/// What statements do to the layers; the binary wires it.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    /// No append is in flight from here on, and those that come wait, until what is returned is dropped.
    async fn hold_appends(&self) -> Box<dyn AppendsHeld>;
    /// Builds the view from history up to the head; it is not served yet.
    async fn build_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error>;
    /// Builds the view from what is kept of this former version; it is not served yet.
    async fn reopen_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error>;
    /// The code that a view was created with.
    fn functions_of_view(
        &self,
        definition: &Definition,
    ) -> Result<Vec<Arc<dyn ScalarFunction>>, Error>;
    async fn drop_view(&self, definition: &Definition) -> Result<(), Error>;
    /// Runs the view's batch now: over the records sealed since the last one, or `full`, over all.
    async fn refresh_view(&self, name: &str, full: bool) -> Result<(), Error>;
    /// Remembers up to where the rows of a view go that is recomputed and served as of its last batch.
    async fn keep_frontier(
        &self,
        definition: &Definition,
        frontier: &Frontiers,
    ) -> Result<(), Error>;
    /// Puts an erasure down: when this returns it has happened for every read to come and will be carried out,
    /// whatever is killed. The stream must be there still.
    async fn erase(&self, to_erase: ToErase) -> Result<Box<dyn Erasing>, Error>;
    /// All erasures ever, the oldest first.
    fn erasures(&self) -> Vec<ErasureInfo>;
    /// Copies all that there is at one frontier to `target`, an absolute path or a URL; returns when it can be restored.
    async fn backup(&self, target: &str) -> Result<BackupInfo, Error>;
    /// The backups that this server made or is making, the oldest first.
    fn backups(&self) -> Vec<BackupInfo>;
    /// The batches that run and the last ones that ended, the oldest first.
    fn batches(&self) -> Vec<BatchInfo>;
    /// Makes few large files of the stream's small ones, now.
    async fn compact(&self, stream: StreamId) -> Result<Compacted, Error>;
    /// What of the stream goes if it keeps no more than that; nothing while an erasure from it is carried out, and
    /// nothing that a function has yet to read.
    async fn expiring(&self, stream: StreamId, keep: Keep) -> Result<Expiring, Error>;
    /// Before it, the stream's records have expired.
    fn start_of(&self, stream: StreamId) -> Frontier;
    /// When the newest record of the stream was appended that has expired; `None` if none has.
    fn expired_until(&self, stream: StreamId) -> Option<i64>;
    /// The functions that trigger on or write to a stream; it cannot be dropped while there are any.
    fn functions_of(&self, stream: &str) -> Vec<String>;
}

/// Appends wait as long as it is there.
pub trait AppendsHeld: Send {
    /// From now on the stream is read, sealed and appended to in these columns, those of a later version of its own.
    fn change_stream(&self, stream: Arc<Stream>);
}

/// A view that was built and waits to be served; the log keeps what it has yet to read.
///
/// Dropped unserved, it is as if it had never been built.
pub trait BuiltView: Send {
    /// Serves it, in place of a former version.
    fn serve(self: Box<Self>);
}

/// What a statement found to be erased.
#[derive(Debug, Clone)]
pub struct ToErase {
    pub stream: Arc<Stream>,
    pub offsets: OffsetSet,
    /// Records from here on were appended after the statement began.
    pub frontier: Frontier,
    /// Who asked.
    pub by: String,
    /// The condition, which the erasure log keeps as a hash.
    pub predicate: String,
    /// The condition as the erasure log shows it.
    pub predicate_shown: String,
    /// If it takes all records before `frontier` because the stream keeps them no longer: when the newest of them was
    /// appended.
    pub expires: Option<i64>,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    pub files_before: u64,
    pub files_after: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// An erasure that is put down.
#[async_trait]
pub trait Erasing: Send {
    /// Waits until nothing of the records is left.
    async fn finished(self: Box<Self>) -> Result<(), Error>;
}

/// An erasure as `lambic_erasures` shows it.
#[derive(Debug, Clone)]
pub struct ErasureInfo {
    pub number: u64,
    pub at_us: i64,
    pub by: String,
    pub stream: String,
    pub predicate: String,
    pub predicate_salt: String,
    pub predicate_sha256: String,
    pub records: u64,
    pub frontier: String,
    /// `finished`, or what is being done or waited for.
    pub state: String,
    pub files_rewritten: u64,
    pub files_left: u64,
    pub finished_at_us: Option<i64>,
    pub sha256: String,
}

/// A batch as `lambic_batches` shows it.
#[derive(Debug, Clone, Default)]
pub struct BatchInfo {
    /// Counts the batches since the server started.
    pub batch: u64,
    pub view: String,
    pub version: u32,
    /// Which part of a recomputed view, from 0.
    pub part: Option<u64>,
    /// `full` or `incremental`.
    pub kind: String,
    /// `computing`, `merging`, `publishing`, `finished`, `cancelled` or `failed: …`.
    pub state: String,
    pub records: u64,
    pub records_total: u64,
    /// Finished slices; a batch in one piece has none.
    pub slices: u64,
    pub slices_total: u64,
    /// Of `slices`, those that a batch before this one had finished.
    pub slices_resumed: u64,
    pub bytes_spilled: u64,
    pub started_at_us: i64,
    pub finished_at_us: Option<i64>,
    /// When it will have read all records, if it goes on as so far.
    pub eta_us: Option<i64>,
}

/// A backup as `lambic_backups` shows it.
#[derive(Debug, Clone, Default)]
pub struct BackupInfo {
    /// Its id; empty before it has one.
    pub backup: String,
    pub target: String,
    pub started_at_us: i64,
    pub finished_at_us: Option<i64>,
    /// `finished`, `failed: …`, or what is being done.
    pub state: String,
    pub files: u64,
    pub files_total: u64,
    pub bytes: u64,
    pub bytes_total: u64,
    /// Of `bytes`, what the target did not have yet.
    pub bytes_copied: u64,
    pub frontier: String,
    /// What the user should know of other backups in the target.
    pub notes: Vec<String>,
}
