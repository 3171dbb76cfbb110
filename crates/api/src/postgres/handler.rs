//! One connection: simple and extended queries, its settings, its transaction block.
//!
//! Every statement commits by itself. `BEGIN … COMMIT` is accepted, since clients send it by habit;
//! `ROLLBACK` says what it could not undo.

use std::{
    fmt::Debug,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{Sink, SinkExt, StreamExt, stream};
use lambic_query::{Outcome, Prepared, Session as QuerySession, split};
use metrics::{counter, histogram};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, Type,
        portal::{Format, Portal},
        query::{ExtendedQueryHandler, SimpleQueryHandler},
        results::{
            DescribePortalResponse, DescribeStatementResponse, FieldFormat, FieldInfo,
            QueryResponse, Response, Tag,
        },
        stmt::{QueryParser, StoredStatement},
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        data::DataRow,
        response::{NoticeResponse, TransactionStatus},
        simplequery::Query,
        startup::ParameterStatus,
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, debug_span};

use crate::executor::Batches;

use super::{
    Shared,
    command::{self, Command},
    encode::{self, Encoder},
    error::{self, wire},
    parameter,
    settings::{SetError, Settings},
};

/// What a connection keeps between its statements.
#[derive(Debug, Default)]
pub struct Connection {
    pub settings: Mutex<Settings>,
    pub user: Mutex<String>,
    /// Told when a cancel request comes for this connection.
    pub cancel: Notify,
    /// Statements of the present transaction block that have written, and so committed.
    written: AtomicUsize,
}

impl Connection {
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
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
enum Done {
    Rows(QueryResponse),
    Tag(Tag),
    Begin(Tag),
    End(Tag),
}

impl From<Done> for Response {
    fn from(done: Done) -> Response {
        match done {
            Done::Rows(rows) => Response::Query(rows),
            Done::Tag(tag) => Response::Execution(tag),
            Done::Begin(tag) => Response::TransactionStart(tag),
            Done::End(tag) => Response::TransactionEnd(tag),
        }
    }
}

/// Counts the statement as running until the last row is out, so that a shutdown can wait for it.
struct Busy {
    shared: Arc<Shared>,
    started: Instant,
}

impl Busy {
    fn new(handler: &Handler) -> Busy {
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
    fn query_session(&self) -> QuerySession {
        let user = self
            .connection
            .user
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        QuerySession {
            user,
            parser: Some(Arc::clone(&self.shared.parser)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.connection
            .settings()
            .statement_timeout()
            .map(|timeout| Instant::now() + timeout)
    }

    /// Runs `work` until it is done, cancelled, or out of time.
    async fn bounded<T>(
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

    fn response(
        &self,
        outcome: Outcome,
        format: &Format,
        deadline: Option<Instant>,
        busy: Busy,
    ) -> PgWireResult<Done> {
        match outcome {
            Outcome::Done { tag } => {
                self.connection.written.fetch_add(1, Ordering::Relaxed);
                Ok(Done::Tag(Tag::new(&tag)))
            }
            Outcome::Rows { schema, rows } => {
                let fields = Arc::new(encode::fields(&schema, format)?);
                let bytea_as_escape = self.connection.settings().bytea_as_escape();
                let mut encoder = Encoder::new(Arc::clone(&fields), bytea_as_escape);
                let connection = Arc::clone(&self.connection);
                // `busy` travels with the stream: the statement runs until its last row is out.
                let batches = stream::unfold(
                    (self.shared.executor.stream(rows), busy, false),
                    move |(mut rows, busy, ended)| {
                        let connection = Arc::clone(&connection);
                        async move {
                            if ended {
                                return None;
                            }
                            let next = next_batch(&mut rows, &connection, deadline).await?;
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
                Ok(Done::Rows(QueryResponse::new(fields, rows)))
            }
        }
    }

    /// What a rollback cannot undo.
    async fn warn_of_kept<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: Sink<PgWireBackendMessage> + Unpin,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let written = self.connection.written.swap(0, Ordering::Relaxed);
        if written == 0 {
            return Ok(());
        }
        let message = format!(
            "{written} statement(s) of this transaction had already committed and are kept"
        );
        let hint = "streams only grow, and every statement commits by itself; put rows that belong together into one INSERT";
        notice(client, "WARNING", "01000", &message, Some(hint)).await
    }

    async fn command<C>(
        &self,
        client: &mut C,
        command: &Command,
        status: TransactionStatus,
        format: &Format,
    ) -> PgWireResult<Done>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let ends = matches!(command, Command::Commit | Command::Rollback);
        if status == TransactionStatus::Error && !ends {
            return Err(error::aborted());
        }
        match command {
            Command::Begin { tag } => {
                if status == TransactionStatus::Transaction {
                    notice(
                        client,
                        "WARNING",
                        "25001",
                        "there is already a transaction in progress",
                        None,
                    )
                    .await?;
                } else {
                    self.connection.written.store(0, Ordering::Relaxed);
                }
                Ok(Done::Begin(Tag::new(tag)))
            }
            Command::Commit | Command::Rollback if status == TransactionStatus::Idle => {
                notice(
                    client,
                    "WARNING",
                    "25P01",
                    "there is no transaction in progress",
                    None,
                )
                .await?;
                let tag = if *command == Command::Commit {
                    "COMMIT"
                } else {
                    "ROLLBACK"
                };
                Ok(Done::End(Tag::new(tag)))
            }
            // A failed block ends with a rollback, whatever the client says; as in Postgres.
            Command::Commit if status != TransactionStatus::Error => {
                Ok(Done::End(Tag::new("COMMIT")))
            }
            Command::Commit | Command::Rollback => {
                self.warn_of_kept(client).await?;
                Ok(Done::End(Tag::new("ROLLBACK")))
            }
            Command::Savepoint | Command::Release | Command::RollbackTo
                if status == TransactionStatus::Idle =>
            {
                Err(wire(
                    "25P01",
                    "savepoints can only be used in transaction blocks",
                ))
            }
            Command::Savepoint => {
                self.connection.written.store(0, Ordering::Relaxed);
                Ok(Done::Tag(Tag::new("SAVEPOINT")))
            }
            Command::Release => Ok(Done::Tag(Tag::new("RELEASE"))),
            Command::RollbackTo => {
                self.warn_of_kept(client).await?;
                Ok(Done::Tag(Tag::new("ROLLBACK")))
            }
            Command::Set { name, value } => {
                let report = self
                    .connection
                    .settings()
                    .set(name, value.as_deref())
                    .map_err(|wrong| match wrong {
                        SetError::Unknown => wire(
                            "42704",
                            format!("unrecognized configuration parameter \"{name}\""),
                        ),
                        SetError::Fixed => {
                            wire("55P02", format!("parameter \"{name}\" cannot be changed"))
                        }
                        SetError::Invalid if name.eq_ignore_ascii_case("timezone") => {
                            error::with_hint(
                                "22023",
                                format!(
                                    "the time zone of a session is always UTC, not \"{}\"",
                                    value.as_deref().unwrap_or_default()
                                ),
                                "turn the clock where you need it: ts AT TIME ZONE 'Europe/Berlin'",
                            )
                        }
                        SetError::Invalid => wire(
                            "22023",
                            format!(
                                "invalid value for parameter \"{name}\": \"{}\"",
                                value.as_deref().unwrap_or_default()
                            ),
                        ),
                    })?;
                if let Some((name, value)) = report {
                    client
                        .feed(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(
                            name, value,
                        )))
                        .await?;
                }
                Ok(Done::Tag(Tag::new("SET")))
            }
            Command::SetIgnored => Ok(Done::Tag(Tag::new("SET"))),
            Command::Reset { name } => {
                match name {
                    None => self.connection.settings().reset_all(),
                    Some(name) => {
                        let unknown = || {
                            wire(
                                "42704",
                                format!("unrecognized configuration parameter \"{name}\""),
                            )
                        };
                        self.connection
                            .settings()
                            .set(name, None)
                            .map_err(|_| unknown())?;
                    }
                }
                Ok(Done::Tag(Tag::new("RESET")))
            }
            Command::Show { name } => {
                let shown = self.connection.settings().get(name);
                let (name, value) = shown.ok_or_else(|| {
                    wire(
                        "42704",
                        format!("unrecognized configuration parameter \"{name}\""),
                    )
                })?;
                Ok(Done::Rows(text_rows(&[&name], vec![vec![value]], format)?))
            }
            Command::ShowAll => {
                let all = self.connection.settings().all();
                let rows = all
                    .into_iter()
                    .map(|(name, value)| vec![name, value, String::new()])
                    .collect();
                Ok(Done::Rows(text_rows(
                    &["name", "setting", "description"],
                    rows,
                    format,
                )?))
            }
            Command::Deallocate { name: Some(name) } => {
                client.portal_store().rm_statement(name);
                Ok(Done::Tag(Tag::new("DEALLOCATE")))
            }
            // The store cannot forget everything; clients that drop all do not use the old names again.
            Command::Deallocate { name: None } => Ok(Done::Tag(Tag::new("DEALLOCATE ALL"))),
            Command::Discard { tag, all } => {
                if *all {
                    self.connection.settings().reset_all();
                    client.portal_store().clear_portals();
                }
                Ok(Done::Tag(Tag::new(tag)))
            }
            Command::Ignored { tag } => Ok(Done::Tag(Tag::new(tag))),
            Command::Copy => Err(error::with_hint(
                "0A000",
                "COPY is not supported",
                "load files with `lambic append STREAM FILE` or POST them to /v1/streams/{name}/records; read with SELECT",
            )),
            Command::Unsupported { what, hint } => Err(error::with_hint(
                "0A000",
                format!("{what} are not supported"),
                hint,
            )),
        }
    }
}

async fn next_batch(
    rows: &mut Batches,
    connection: &Connection,
    deadline: Option<Instant>,
) -> Option<PgWireResult<arrow::array::RecordBatch>> {
    let cancelled = pin!(connection.cancel.notified());
    let next = async {
        match deadline {
            Some(deadline) => timeout_at(deadline, rows.next()).await,
            None => Ok(rows.next().await),
        }
    };
    tokio::select! {
        next = next => match next {
            Ok(next) => next.map(|batch| batch.map_err(|error| {
                error::from_query(lambic_query::Error::from_datafusion(error, "", &[]), 0)
            })),
            Err(_) => Some(Err(error::cancelled(true))),
        },
        () = cancelled => Some(Err(error::cancelled(false))),
    }
}

async fn notice<C>(
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

fn text_fields(names: &[&str], format: &Format) -> Vec<FieldInfo> {
    let format = |index| match format {
        Format::UnifiedBinary => FieldFormat::Binary,
        Format::UnifiedText => FieldFormat::Text,
        Format::Individual(formats) => formats
            .get(index)
            .copied()
            .map_or(FieldFormat::Text, FieldFormat::from),
    };
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            FieldInfo::new((*name).to_owned(), None, None, Type::TEXT, format(index))
        })
        .collect()
}

/// Text is the same in both formats.
fn text_rows(
    names: &[&str],
    rows: Vec<Vec<String>>,
    format: &Format,
) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(text_fields(names, format));
    let mut encoder = pgwire::api::results::DataRowEncoder::new(Arc::clone(&fields));
    let mut encoded = Vec::with_capacity(rows.len());
    for row in rows {
        for value in row {
            encoder.encode_field(&Some(value))?;
        }
        encoded.push(Ok(encoder.take_row()));
    }
    Ok(QueryResponse::new(fields, stream::iter(encoded)))
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Going back to a savepoint makes a failed block usable again.
        if client.transaction_status() == TransactionStatus::Error
            && command::parse(&query.query) == Some(Command::RollbackTo)
        {
            client.set_transaction_status(TransactionStatus::Transaction);
        }
        self._on_query(client, query).await
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let pieces = match split(query) {
            Ok(pieces) => pieces,
            Err(error) => {
                counter!("lambic_sql_errors_total", "door" => "postgres").increment(1);
                let error = error::from_query(error, 0);
                return Ok(vec![Response::Error(Box::new(error.into()))]);
            }
        };
        if pieces.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let mut status = client.transaction_status();
        let mut responses = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let done = match command::parse(piece.text) {
                Some(command) => {
                    self.command(client, &command, status, &Format::UnifiedText)
                        .await
                }
                None if status == TransactionStatus::Error => Err(error::aborted()),
                None => self.simple_statement(piece.text, piece.chars_before).await,
            };
            match done {
                Ok(done) => {
                    match &done {
                        Done::Begin(_) => status = TransactionStatus::Transaction,
                        Done::End(_) => status = TransactionStatus::Idle,
                        _ => {}
                    }
                    responses.push(done.into());
                }
                // What came before it is answered first; the rest is not run, as in Postgres.
                Err(error) => {
                    counter!("lambic_sql_errors_total", "door" => "postgres").increment(1);
                    responses.push(Response::Error(Box::new(error.into())));
                    break;
                }
            }
        }
        Ok(responses)
    }
}

impl Handler {
    async fn simple_statement(&self, sql: &str, chars_before: usize) -> PgWireResult<Done> {
        let busy = Busy::new(self);
        let deadline = self.deadline();
        let session = self.query_session();
        let work = async {
            self.shared
                .executor
                .execute(session, sql.to_owned())
                .await
                .map_err(|error| error::from_query(error, chars_before))
        };
        let outcomes = self
            .bounded(
                deadline,
                work.instrument(debug_span!("sql", door = "postgres")),
            )
            .await?;
        match outcomes.into_iter().next_back() {
            Some(outcome) => self.response(outcome, &Format::UnifiedText, deadline, busy),
            None => Ok(Done::Tag(Tag::new(""))),
        }
    }
}

#[async_trait]
impl QueryParser for Handler {
    type Statement = Statement;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let pieces = split(sql).map_err(|error| error::from_query(error, 0))?;
        let piece = match pieces.as_slice() {
            [] => return Ok(None),
            [piece] => *piece,
            _ => {
                return Err(wire(
                    "42601",
                    "cannot insert multiple commands into a prepared statement",
                ));
            }
        };
        let command = command::parse(piece.text);
        if client.transaction_status() == TransactionStatus::Error
            && !matches!(command, Some(Command::Commit | Command::Rollback))
        {
            return Err(error::aborted());
        }
        if let Some(command) = command {
            return Ok(Some(Statement::Command(command)));
        }
        let _busy = Busy::new(self);
        let session = self.query_session();
        let work = async {
            self.shared
                .executor
                .prepare(session, piece.text.to_owned())
                .await
                .map_err(|error| error::from_query(error, piece.chars_before))
        };
        let prepared = self
            .bounded(self.deadline(), work.instrument(debug_span!("prepare")))
            .await;
        if prepared.is_err() {
            counter!("lambic_sql_errors_total", "door" => "postgres").increment(1);
        }
        let mut prepared = prepared?;
        let unused = prepared
            .parameters
            .saturating_sub(prepared.parameter_types.len());
        parameter::types_of_text(piece.text, &mut prepared.parameter_types);
        Ok(Some(Statement::Query { prepared, unused }))
    }

    fn get_parameter_types(&self, statement: &Statement) -> PgWireResult<Vec<Type>> {
        Ok(match statement {
            Statement::Command(_) => Vec::new(),
            Statement::Query { prepared, unused } => prepared
                .parameter_types
                .iter()
                .map(|planned| parameter::wire_type(planned.as_ref()))
                .chain(std::iter::repeat_n(Type::TEXT, *unused))
                .collect(),
        })
    }

    fn get_result_schema(
        &self,
        statement: &Statement,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        match statement {
            Statement::Command(command) => Ok(match command {
                Command::Show { name } => {
                    let shown = self
                        .connection
                        .settings()
                        .get(name)
                        .map_or(name.clone(), |(name, _)| name);
                    text_fields(&[&shown], format)
                }
                Command::ShowAll => text_fields(&["name", "setting", "description"], format),
                _ => Vec::new(),
            }),
            Statement::Query { prepared, .. } if prepared.schema.fields().is_empty() => {
                Ok(Vec::new())
            }
            Statement::Query { prepared, .. } => encode::fields(&prepared.schema, format),
        }
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Statement;
    type QueryParser = Handler;

    fn query_parser(&self) -> Arc<Handler> {
        Arc::new(self.clone())
    }

    async fn do_describe_statement<C>(
        &self,
        _client: &mut C,
        target: &StoredStatement<Statement>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // What the client declared stands, unless it left it open ("unknown").
        let planned = self.get_parameter_types(&target.statement)?;
        let types = planned.into_iter().enumerate().map(|(index, planned)| {
            let declared = target.parameter_types.get(index).cloned().flatten();
            declared
                .filter(|declared| *declared != Type::UNKNOWN)
                .unwrap_or(planned)
        });
        let fields = self.get_result_schema(&target.statement, None)?;
        Ok(DescribeStatementResponse::new(types.collect(), fields))
    }

    async fn do_describe_portal<C>(
        &self,
        _client: &mut C,
        target: &Portal<Statement>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let fields = self.get_result_schema(
            &target.statement.statement,
            Some(&target.result_column_format),
        )?;
        Ok(DescribePortalResponse::new(fields))
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Statement>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        let format = &portal.result_column_format;
        let (prepared, unused) = match &portal.statement.statement {
            Statement::Command(command) => {
                return Ok(self.command(client, command, status, format).await?.into());
            }
            Statement::Query { prepared, unused } => (prepared, *unused),
        };
        if status == TransactionStatus::Error {
            return Err(error::aborted());
        }
        let parameters = parameter::values(portal, &prepared.parameter_types, unused)?;
        let busy = Busy::new(self);
        let deadline = self.deadline();
        let session = self.query_session();
        let work = async {
            self.shared
                .executor
                .run_prepared(session, prepared.clone(), parameters)
                .await
                .map_err(|error| error::from_query(error, 0))
        };
        let outcome = self
            .bounded(
                deadline,
                work.instrument(debug_span!("sql", door = "postgres")),
            )
            .await;
        if outcome.is_err() {
            counter!("lambic_sql_errors_total", "door" => "postgres").increment(1);
        }
        Ok(self.response(outcome?, format, deadline, busy)?.into())
    }
}

/// How long a statement that runs when the server stops may go on.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
