//! Simple queries: one message with one or several statements.
//!
//! Each is answered before the next one runs. Without `BEGIN` they are one transaction: what they insert is committed
//! when the last one is done, or not at all.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::{Sink, SinkExt};
use lambic_query::{Outcome, split};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, PgWireConnectionState,
        portal::Format,
        query::{
            SimpleQueryHandler, send_execution_response, send_query_response, send_ready_for_query,
        },
        results::{Response, Tag},
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, response::EmptyQueryResponse, simplequery::Query},
};
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use super::{
    command, error, flow,
    handler::{Busy, Done, Handler},
};

#[async_trait]
impl SimpleQueryHandler for Handler {
    /// An error that is returned is sent by the library, which then tells that the next query may come.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.connection.check_let_in()?;
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        // Answered while it runs: there is nothing to come.
        self.do_query(client, &query.query).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = self.status();
        client.set_transaction_status(status);
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let pieces = split(query).map_err(|error| error::from_query(error, 0))?;
        let Some(last) = pieces.len().checked_sub(1) else {
            client
                .feed(PgWireBackendMessage::EmptyQueryResponse(
                    EmptyQueryResponse::new(),
                ))
                .await?;
            return Ok(Vec::new());
        };
        for (index, piece) in pieces.into_iter().enumerate() {
            let done = match command::parse(piece.text) {
                Some(command) => {
                    let format = &Format::UnifiedText;
                    self.command(client, &command, piece.chars_before, format)
                        .await?
                }
                None => {
                    self.simple_statement(piece.text, piece.chars_before)
                        .await?
                }
            };
            self.tell_notices(client).await?;
            match done {
                Done::Rows(rows) => send_query_response(client, rows, true).await?,
                Done::Changes(rows) => flow::send_rows(client, rows, true).await?,
                Done::Copy(copy) => flow::send_copy(client, copy).await?,
                Done::Tag(tag) => {
                    // The last statement has succeeded only when the transaction has.
                    if index == last {
                        self.commit_implicit().await?;
                    }
                    send_execution_response(client, tag).await?;
                }
            }
        }
        self.commit_implicit().await?;
        Ok(Vec::new())
    }
}

impl Handler {
    pub async fn simple_statement(&self, sql: &str, chars_before: usize) -> PgWireResult<Done> {
        let busy = Busy::new(self);
        let deadline = self.deadline();
        match self.outcome(sql, chars_before, deadline).await? {
            Some(outcome) => self.response(outcome, &Format::UnifiedText, deadline, busy),
            None => Ok(Done::Tag(Tag::new(""))),
        }
    }

    pub async fn outcome(
        &self,
        sql: &str,
        chars_before: usize,
        deadline: Option<Instant>,
    ) -> PgWireResult<Option<Outcome>> {
        let session = self.query_session()?;
        let work = async {
            self.shared
                .executor
                .execute(session, sql.to_owned())
                .await
                .map_err(|error| error::from_query(error, chars_before))
        };
        let work = work.instrument(debug_span!("sql", door = "postgres"));
        let outcomes = self.bounded(deadline, work).await?;
        Ok(outcomes.into_iter().next_back())
    }
}
