//! The transaction block of a connection: steps of it, commits, and what clients are told of it.

use std::sync::Arc;

use futures::Sink;
use lambic_query::Transaction;
use metrics::counter;
use pgwire::{
    api::{ClientInfo, results::Tag},
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, response::TransactionStatus},
};
use tracing::debug;

use crate::block::Status;

use super::{
    control::{Control, name_of},
    error,
    handler::{Busy, Done, Handler, notice},
    settings::on_or_off,
};

impl Handler {
    pub async fn control<C>(&self, client: &mut C, control: &Control) -> PgWireResult<Done>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let defaults = self.connection.settings().modes();
        let begin = |modes| self.shared.executor.begin(modes);
        let step = self.connection.block().step(control, defaults, begin);
        // The library keeps a status of its own, which an error would otherwise be added to.
        client.set_transaction_status(self.status());
        if self.connection.block().status() != Status::Open {
            self.connection.cursors.close_all();
        }
        let step = step.map_err(|error| error::from_query(error, 0))?;
        if let Some(told) = step.notice {
            notice(client, "WARNING", told.code, &told.message, told.hint).await?;
        }
        if let Some(transaction) = step.commit {
            self.commit(transaction).await?;
        }
        Ok(Done::Tag(Tag::new(step.tag)))
    }

    /// Ends what statements without `BEGIN` have begun.
    pub async fn commit_implicit(&self) -> PgWireResult<()> {
        let ended = self.connection.block().end_implicit();
        match ended {
            Some(transaction) => self.commit(transaction).await,
            None => Ok(()),
        }
    }

    /// Neither a cancel request nor a time limit ends a commit: half of one is nothing that a client could be told.
    async fn commit(&self, transaction: Arc<Transaction>) -> PgWireResult<()> {
        let _busy = Busy::new(self);
        let committed = self.shared.executor.commit(transaction).await;
        committed.map_err(|error| error::from_query(error, 0))
    }

    /// To be told of every error that a client is told.
    pub fn failed(&self, error: &PgWireError) {
        debug!(%error, "statement failed");
        counter!("lambic_sql_errors_total", "door" => "postgres").increment(1);
        self.connection.block().fail();
        self.connection.cursors.close_all();
    }

    /// What `ReadyForQuery` tells.
    pub fn status(&self) -> TransactionStatus {
        match self.connection.block().status() {
            Status::Idle => TransactionStatus::Idle,
            Status::Open => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        }
    }

    /// The settings that show the present transaction, or what the next one begins with.
    pub fn mode_shown(&self, name: &str) -> Option<&'static str> {
        let present = self.connection.block().modes();
        let modes = present.unwrap_or_else(|| self.connection.settings().modes());
        match name {
            "transaction_isolation" => Some(name_of(modes.isolation)),
            "transaction_read_only" => Some(on_or_off(modes.read_only)),
            _ => None,
        }
    }
}
