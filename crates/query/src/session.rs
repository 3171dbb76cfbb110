//! What the doors hand in and get back: sessions, prepared statements, outcomes.

use std::{fmt, sync::Arc};

use arrow::{
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    execution::SendableRecordBatchStream,
    sql::sqlparser::{ast, parser::ParserError},
};

use crate::{Transaction, kept::Slot, statement::Statement};

/// One client's standing.
#[derive(Clone)]
pub struct Session {
    pub user: String,
    /// How SQL that is not our own extension is parsed; `None` is plain Postgres SQL.
    pub parser: Option<Arc<dyn SqlParser>>,
    /// `None`: every statement is one of its own.
    pub transaction: Option<Arc<Transaction>>,
    /// What the client says that `$1`, `$2`, … are, where it does. It is taken where a statement does not tell.
    pub parameter_types: Vec<Option<DataType>>,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            user: "lambic".to_owned(),
            parser: None,
            transaction: None,
            parameter_types: Vec::new(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A door may rewrite what its clients send (Postgres tools ask the catalog odd questions).
pub trait SqlParser: Send + Sync {
    fn parse(&self, sql: &str) -> Result<Vec<ast::Statement>, ParserError>;
}

/// A statement that is parsed once and run many times.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub sql: String,
    /// The highest number of a parameter in the text; a rewritten statement may use fewer.
    pub parameters: usize,
    /// By number, `$1` first; `None` where the statement does not tell.
    pub parameter_types: Vec<Option<DataType>>,
    /// The columns of the answer; empty if there are none.
    pub schema: SchemaRef,
    pub(crate) known: Arc<Known>,
}

/// A statement that was parsed, and its plan if that is kept.
#[derive(Debug)]
pub(crate) struct Known {
    pub statement: Statement,
    pub sql: String,
    /// Where it starts in what the client sent, in characters.
    pub start: usize,
    pub parameters: usize,
    pub plan: Slot,
}

impl Prepared {
    /// True if its rows have no end.
    pub fn is_endless(&self) -> bool {
        matches!(self.known.statement, Statement::Subscribe(_))
    }
}

/// What a statement gave.
pub enum Outcome {
    Rows {
        schema: SchemaRef,
        rows: SendableRecordBatchStream,
    },
    /// Rows that come as things change, until the client has enough.
    Changes {
        schema: SchemaRef,
        rows: SendableRecordBatchStream,
    },
    /// The Postgres command tag, `INSERT 0 3`.
    Done {
        tag: String,
        /// What whoever asked should know of it.
        notice: Option<String>,
    },
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Rows { schema, .. } => f
                .debug_struct("Rows")
                .field("schema", schema)
                .finish_non_exhaustive(),
            Outcome::Changes { schema, .. } => f
                .debug_struct("Changes")
                .field("schema", schema)
                .finish_non_exhaustive(),
            Outcome::Done { tag, .. } => f.debug_struct("Done").field("tag", tag).finish(),
        }
    }
}

/// The answer to a lookup by full key: the rows and the frontier that they stand for.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub frontier: String,
}

/// What the doors show of a view.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ViewInfo {
    pub name: String,
    pub version: u32,
    pub class: String,
    pub sql: String,
    pub batch_every: Option<String>,
    /// `now`: every acknowledged record is served. `batch`: those up to the batch frontier. `approximate`: those after it
    /// are served by `speed_as`.
    pub freshness: String,
    /// How long the oldest record that is not served yet has waited; only where freshness is not `now`.
    pub age_ms: Option<u64>,
    /// Columns of the view that together are its key, if lookups by key are possible.
    pub key: Vec<String>,
    pub batch_frontier: String,
    pub speed_frontier: String,
    /// Records appended that the view's states do not cover yet (reads cover them).
    pub lag_records: u64,
    pub batch_runs: u64,
    pub state_rows: u64,
    pub state_bytes: u64,
    /// What the indexes of a join hold.
    pub index_bytes: Option<u64>,
    /// Why it costs more to read than the states of what is new.
    pub reason: Option<String>,
}
