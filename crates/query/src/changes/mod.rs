//! What changes in a view: messages, each at one frontier.
//!
//! A message says which rows came and which went since the frontier of the message before. The server keeps nothing for
//! a client that has gone: what changed since a frontier is computed. For a view whose rows are its states that is the
//! rows of the records since; for a mergeable view, the keys that those records touch, before and after; for all else
//! both results are read and compared, so that such views must be small.
//!
//! A frontier has a mark that tells the definition and the erasures that its rows were made with, so that a client that
//! comes back after either is told instead of being given a difference that does not fit what it has.

mod difference;
mod feed;
mod target;

use std::time::Duration;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::sql::sqlparser::ast;

pub(crate) use difference::Difference;
pub use feed::Feed;

/// What is followed.
#[derive(Debug, Clone)]
pub enum Followed {
    /// A view, or a stream: its new records.
    Named(String),
    /// A query that is no view, and the statement that it stands in, where mistakes are shown.
    Select(Box<ast::Statement>, String),
}

/// How it is followed.
#[derive(Debug, Clone)]
pub struct Follow {
    /// The frontier to begin at, as a message gave it or as `AS OF OFFSET` takes it; `None`: now.
    pub from: Option<String>,
    /// Whether all rows come first.
    pub snapshot: bool,
    /// Whether all rows come again where a difference cannot be told.
    pub snapshot_after_reset: bool,
    /// Rows that a result may have that is read as a whole and compared.
    pub rows_max: usize,
    /// The least time between two messages.
    pub every: Duration,
    /// After this long without a message comes one that says that nothing changed.
    pub progress_every: Duration,
}

impl Default for Follow {
    fn default() -> Follow {
        Follow {
            from: None,
            snapshot: true,
            snapshot_after_reset: true,
            rows_max: 10_000,
            every: Duration::from_millis(50),
            progress_every: Duration::from_secs(10),
        }
    }
}

/// Taken one after the other, messages make up the rows at the frontier of each.
#[derive(Debug)]
pub struct Message {
    /// As `AS OF OFFSET` takes it.
    pub frontier: String,
    pub schema: SchemaRef,
    pub change: Change,
}

#[derive(Debug)]
pub enum Change {
    /// All rows.
    Snapshot(Vec<RecordBatch>),
    /// The rows that came and went since the message before.
    Rows {
        added: Vec<RecordBatch>,
        removed: Vec<RecordBatch>,
    },
    /// Nothing changed up to the frontier.
    Progress,
    /// What came before is void, for this reason.
    Reset(String),
    /// It is not there any more; nothing follows.
    Dropped,
}
