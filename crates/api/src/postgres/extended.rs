//! Extended queries: statements that are parsed, bound and executed by messages of their own.
//!
//! As in Postgres, what is executed up to the next Sync message without `BEGIN` is one transaction.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use futures::{Sink, SinkExt};
use lambic_query::{Session as QuerySession, split};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type,
        portal::{Format, Portal, PortalExecutionState},
        query::{
            ExtendedQueryHandler, send_describe_response, send_execution_response,
            send_ready_for_query,
        },
        results::{DescribePortalResponse, DescribeStatementResponse, FieldInfo, Response, Tag},
        stmt::{QueryParser, StoredStatement},
        store::{Entry, PortalStore},
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        extendedquery::{Describe, Execute, Sync as SyncMessage, TARGET_TYPE_BYTE_PORTAL},
    },
};
use tracing::{Instrument, debug_span};

use super::{
    command::{self, Command},
    commands::text_fields,
    encode,
    error::{self, wire},
    flow,
    handler::{Busy, Done, Handler, Statement},
    parameter,
};

#[async_trait]
impl QueryParser for Handler {
    type Statement = Statement;

    async fn parse_sql<C>(
        &self,
        _client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        self.connection.check_let_in()?;
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
        if let Some(command) = command::parse(piece.text) {
            return Ok(Some(Statement::Command(command)));
        }
        let session = QuerySession {
            parameter_types: parameter::declared(types),
            ..self.query_session()?
        };
        let _busy = Busy::new(self);
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
                Command::Fetch(fetch) => self.connection.cursors.fields(fetch.name(), format)?,
                _ => Vec::new(),
            }),
            Statement::Query { prepared, .. } if prepared.schema.fields().is_empty() => {
                Ok(Vec::new())
            }
            Statement::Query { prepared, .. } => encode::fields(&prepared.schema, format),
        }
    }
}

/// The library makes room for as many rows as a client asks for before there is one.
const ROWS_AT_ONCE_MAX: i32 = 1 << 20;

/// How many rows an `Execute` asks for; 0 are all, and so is the largest number there is.
fn rows_at_once(asked: i32) -> PgWireResult<i32> {
    if asked <= 0 || asked == i32::MAX {
        return Ok(0);
    }
    if asked <= ROWS_AT_ONCE_MAX {
        return Ok(asked);
    }
    let message = format!("{asked} rows cannot be fetched at once");
    let hint = format!("fetch up to {ROWS_AT_ONCE_MAX} at a time, or all of them with 0");
    Err(error::with_hint("54000", message, &hint))
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Statement;
    type QueryParser = Handler;

    fn query_parser(&self) -> Arc<Handler> {
        Arc::new(self.clone())
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        message.max_rows = rows_at_once(message.max_rows)?;
        match self.flowing(client, &message) {
            Some(portal) => self.execute_flowing(client, &portal).await?,
            None => self._on_execute(client, message).await?,
        }
        client.set_transaction_status(self.status());
        Ok(())
    }

    /// Commits what came since the last one without `BEGIN`. After an error there is nothing to commit any more.
    async fn on_sync<C>(&self, client: &mut C, _message: SyncMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.portal_store().rm_portal(DEFAULT_NAME);
        if let Err(error) = self.commit_implicit().await {
            // Returned, it would have the library wait for another Sync.
            self.failed(&error);
            let error = ErrorInfo::from(error);
            client
                .feed(PgWireBackendMessage::ErrorResponse(error.into()))
                .await?;
        }
        let status = self.status();
        client.set_transaction_status(status);
        send_ready_for_query(client, status).await
    }

    /// Clients describe a cursor that `DECLARE` made by its name, as if it were a portal.
    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if message.target_type == TARGET_TYPE_BYTE_PORTAL
            && let Some(name) = &message.name
            && client.portal_store().get_portal(name).is_none()
        {
            let cursors = &self.connection.cursors;
            let fields = cursors.fields(name, &Format::UnifiedText)?;
            return send_describe_response(client, &DescribePortalResponse::new(fields)).await;
        }
        self._on_describe(client, message).await
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
        let format = &portal.result_column_format;
        let (prepared, unused) = match &portal.statement.statement {
            Statement::Command(command) => {
                return Ok(self.command(client, command, 0, format).await?.into());
            }
            Statement::Query { prepared, unused } => (prepared, *unused),
        };
        let session = QuerySession {
            parameter_types: parameter::declared(&portal.statement.parameter_types),
            ..self.query_session()?
        };
        let parameters = parameter::values(portal, &prepared.parameter_types, unused)?;
        let busy = Busy::new(self);
        let deadline = self.deadline();
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
        let done = self.response(outcome?, format, deadline, busy)?;
        self.tell_notices(client).await?;
        Ok(done.into())
    }
}

impl Handler {
    /// The portal, if its rows are to go out as they come; the library would wait for the last one.
    fn flowing<C>(&self, client: &C, message: &Execute) -> Option<Arc<Portal<Statement>>>
    where
        C: ClientPortalStore,
        C::PortalStore: PortalStore<Statement = Statement>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let Some(Entry::Value(portal)) = client.portal_store().get_portal(name) else {
            return None;
        };
        let flows = match &portal.statement.statement {
            Statement::Command(command) => matches!(command, Command::CopyOut { .. }),
            Statement::Query { prepared, .. } => prepared.is_endless() && message.max_rows <= 0,
        };
        flows.then_some(portal)
    }

    async fn execute_flowing<C>(
        &self,
        client: &mut C,
        portal: &Portal<Statement>,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let state = portal.state();
        let mut state = state.lock().await;
        let before = std::mem::replace(&mut *state, PortalExecutionState::Finished);
        drop(state);
        match (before, &portal.statement.statement) {
            (PortalExecutionState::Initial, Statement::Command(command)) => {
                let format = &portal.result_column_format;
                if let Done::Copy(copy) = self.command(client, command, 0, format).await? {
                    flow::send_copy(client, copy).await?;
                }
            }
            (PortalExecutionState::Initial, Statement::Query { .. }) => {
                if let Response::Query(rows) = self.do_query(client, portal, 0).await? {
                    flow::send_rows(client, rows, false).await?;
                }
            }
            (PortalExecutionState::Suspended(rows), _) => {
                flow::send_rows(client, rows, false).await?;
            }
            (PortalExecutionState::Finished, _) => {
                send_execution_response(client, Tag::new("SELECT").with_rows(0)).await?;
            }
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }
}
