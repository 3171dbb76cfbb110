//! One connection: its settings, its transaction block, and how a statement of it runs.
//!
//! The protocol's two ways to send statements stand in `simple.rs` and `extended.rs`.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Sink, SinkExt, StreamExt, stream};
use lambic_query::{Outcome, Prepared, Session as QuerySession};
use metrics::histogram;
use pgwire::{
    api::{
        portal::Format,
        results::{QueryResponse, Response, Tag},
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, data::DataRow, response::NoticeResponse},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::{block::Block, executor::Batches};

use super::{
    Shared,
    command::Command,
    cursor::Cursors,
    encode::{self, Encoder},
    error,
    flow::{Copied, Peer},
    settings::Settings,
};

/// What a connection keeps between its statements.
#[derive(Default)]
pub struct Connection {
    pub settings: Mutex<Settings>,
    pub user: Mutex<String>,
    /// The library goes on reading after it has refused somebody, and would take what comes then for queries.
    pub is_let_in: AtomicBool,
    /// Told when a cancel request comes for this connection.
    pub cancel: Notify,
    block: Mutex<Block>,
    pub cursors: Cursors,
    pub peer: Peer,
    /// To be sent before the tag of the statement that runs.
    notices: Mutex<Vec<String>>,
}

impl Connection {
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn block(&self) -> MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notices(&self) -> MutexGuard<'_, Vec<String>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what comes from somebody who was not let in.
    pub fn check_let_in(&self) -> PgWireResult<()> {
        match self.is_let_in.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(error::fatal("28000", "this connection was refused", None)),
        }
    }

    pub fn set_user(&self, user: &str) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = user.to_owned();
    }
}

/// A statement of the extended protocol.
#[derive(Debug, Clone)]
pub enum Statement {
    Command(Command),
    Query {
        prepared: Prepared,
        /// Parameters at the end that the client numbers and a rewritten statement does not use.
        unused: usize,
    },
}

/// Answers the queries of one connection.
#[derive(Clone)]
pub struct Handler {
    pub shared: Arc<Shared>,
    pub connection: Arc<Connection>,
}

/// What one statement came to, before the protocol's own dress is put on.
pub enum Done {
    Rows(QueryResponse),
    /// Rows that come as things change.
    Changes(QueryResponse),
    Copy(Copied),
    Tag(Tag),
}

impl From<Done> for Response {
    fn from(done: Done) -> Response {
        match done {
            Done::Rows(rows) | Done::Changes(rows) => Response::Query(rows),
            // Not sent this way.
            Done::Copy(copy) => Response::Query(copy.rows),
            Done::Tag(tag) => Response::Execution(tag),
        }
    }
}

/// Counts the statement as running until the last row is out, so that a shutdown can wait for it.
pub struct Busy {
    shared: Arc<Shared>,
    started: Instant,
}

impl Busy {
    pub fn new(handler: &Handler) -> Busy {
        handler
            .shared
            .statements_running
            .fetch_add(1, Ordering::AcqRel);
        Busy {
            shared: Arc::clone(&handler.shared),
            started: Instant::now(),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared
            .statements_running
            .fetch_sub(1, Ordering::AcqRel);
        self.shared.statement_ended.notify_waiters();
        histogram!("lambic_sql_seconds", "door" => "postgres")
            .record(self.started.elapsed().as_secs_f64());
    }
}

impl Handler {
    /// The session of a statement, which belongs to the block's transaction or begins one.
    pub fn query_session(&self) -> PgWireResult<QuerySession> {
        let defaults = self.connection.settings().modes();
        let begin = || self.shared.executor.begin(defaults);
        let transaction = self.connection.block().transaction(begin);
        let transaction = transaction.map_err(|error| error::from_query(error, 0))?;
        let user = self
            .connection
            .user
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Ok(QuerySession {
            user,
            parser: Some(Arc::clone(&self.shared.parser)),
            transaction: Some(transaction),
            parameter_types: Vec::new(),
        })
    }

    pub async fn tell_notices<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: Sink<PgWireBackendMessage> + Unpin,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let notices = std::mem::take(&mut *self.connection.notices());
        for message in notices {
            notice(client, "NOTICE", "00000", &message, None).await?;
        }
        Ok(())
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.connection
            .settings()
            .statement_timeout()
            .map(|timeout| Instant::now() + timeout)
    }

    /// Runs `work` until it is done, cancelled, or out of time.
    pub async fn bounded<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = PgWireResult<T>>,
    ) -> PgWireResult<T> {
        let cancelled = self.connection.cancel.notified();
        let timeout = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => done,
            () = cancelled => Err(error::cancelled(false)),
            () = timeout => Err(error::cancelled(true)),
        }
    }

    pub fn response(
        &self,
        outcome: Outcome,
        format: &Format,
        deadline: Option<Instant>,
        busy: Busy,
    ) -> PgWireResult<Done> {
        match outcome {
            Outcome::Done { tag, notice } => {
                self.connection.notices().extend(notice);
                Ok(Done::Tag(Tag::new(&tag)))
            }
            Outcome::Rows { schema, rows } => {
                let rows = self.encoded(&schema, rows, None, format, deadline, busy)?;
                Ok(Done::Rows(rows))
            }
            Outcome::Changes { schema, rows } => {
                let stop = Some(self.shared.stop.clone());
                let mut rows = self.encoded(&schema, rows, stop, format, deadline, busy)?;
                rows.set_command_tag("SUBSCRIBE");
                Ok(Done::Changes(rows))
            }
        }
    }

    /// `stop` ends rows that have no end of their own.
    fn encoded(
        &self,
        schema: &SchemaRef,
        rows: SendableRecordBatchStream,
        stop: Option<watch::Receiver<bool>>,
        format: &Format,
        deadline: Option<Instant>,
        busy: Busy,
    ) -> PgWireResult<QueryResponse> {
        let fields = Arc::new(encode::fields(schema, format)?);
        let bytea_as_escape = self.connection.settings().bytea_as_escape();
        let mut encoder = Encoder::new(Arc::clone(&fields), bytea_as_escape);
        let connection = Arc::clone(&self.connection);
        // `busy` travels with the stream: the statement runs until its last row is out.
        let batches = stream::unfold(
            (self.shared.executor.stream(rows), busy, false),
            move |(mut rows, busy, ended)| {
                let (connection, stop) = (Arc::clone(&connection), stop.clone());
                async move {
                    if ended {
                        return None;
                    }
                    let next = next_batch(&mut rows, &connection, deadline, stop).await?;
                    let failed = next.is_err();
                    Some((next, (rows, busy, failed)))
                }
            },
        );
        let rows = batches.flat_map(move |batch| {
            let rows: Vec<PgWireResult<DataRow>> =
                match batch.and_then(|batch| encoder.rows(&batch)) {
                    Ok(rows) => rows.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
            stream::iter(rows)
        });
        Ok(QueryResponse::new(fields, rows))
    }
}

/// `stop` is given for rows that have no end of their own: they end when the server stops, or the client has hung up.
pub async fn next_batch(
    rows: &mut Batches,
    connection: &Connection,
    deadline: Option<Instant>,
    stop: Option<watch::Receiver<bool>>,
) -> Option<PgWireResult<arrow::array::RecordBatch>> {
    let cancelled = pin!(connection.cancel.notified());
    let next = async {
        match deadline {
            Some(deadline) => timeout_at(deadline, rows.next()).await,
            None => Ok(rows.next().await),
        }
    };
    let hung_up = async {
        match stop {
            Some(_) => connection.peer.gone().await,
            None => std::future::pending().await,
        }
    };
    let stopped = async {
        match stop.clone() {
            Some(mut stop) => {
                let _ = stop.wait_for(|stop| *stop).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stopped => Some(Err(error::fatal(
            "57P01",
            "terminating connection due to administrator command",
            None,
        ))),
        () = hung_up => None,
        next = next => match next {
            Ok(next) => next.map(|batch| batch.map_err(|error| {
                error::from_query(lambic_query::Error::from_datafusion(error, "", &[]), 0)
            })),
            Err(_) => Some(Err(error::cancelled(true))),
        },
        () = cancelled => Some(Err(error::cancelled(false))),
    }
}

pub async fn notice<C>(
    client: &mut C,
    severity: &str,
    code: &str,
    message: &str,
    hint: Option<&str>,
) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut info = error::info(severity, code, message);
    info.hint = hint.map(str::to_owned);
    client
        .feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(
            info,
        )))
        .await?;
    Ok(())
}

/// How long a statement that runs when the server stops may go on.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
