//! What a transaction's statements read and write.

use std::sync::Arc;

use datafusion::execution::SessionState;
use lambic_model::Append;
use lambic_view::session;

use super::{Database, catalogs, insert::append_error, names_system_column};
use crate::{
    Error, Modes, Session, Transaction,
    pinned::Pinned,
    provider::{Public, Versions},
    sqlstate,
};

impl Database {
    pub fn begin(&self, modes: Modes) -> Arc<Transaction> {
        Arc::new(Transaction::new(self.0.transactions.clone(), modes))
    }

    /// Appends all that the transaction inserted at once. On an error nothing of it was kept, unless the log itself
    /// failed: then it is not known.
    pub async fn commit(&self, transaction: &Transaction) -> Result<(), Error> {
        let (pending, _held) = transaction.end();
        let gone = pending.streams().find(|stream| {
            let known = self.stream(stream.name.as_str());
            known.is_none_or(|known| known.id != stream.id)
        });
        if let Some(stream) = gone {
            let message = format!(
                "stream \"{}\" was dropped after the transaction inserted into it; nothing of the transaction was kept",
                stream.name
            );
            return Err(Error::new(sqlstate::UNDEFINED_TABLE, message));
        }
        let writes = pending.into_writes().map_err(Error::internal)?;
        if writes.is_empty() {
            return Ok(());
        }
        let append = Append {
            writes,
            ..Append::default()
        };
        let appended = self.0.appender.append(append).await;
        appended.map(drop).map_err(append_error)
    }

    /// The frontier of a statement: that of its transaction, if it is in one.
    pub(super) fn pin(&self, session: &Session) -> Arc<Pinned> {
        match &session.transaction {
            Some(transaction) => transaction.pin(&self.0.sources),
            None => Arc::new(Pinned::take(&self.0.sources)),
        }
    }

    /// A session state pinned to one frontier, in which streams show their system columns if `sql` names one.
    pub(super) fn pinned_for(
        &self,
        session: &Session,
        sql: &str,
        versions: Versions,
    ) -> SessionState {
        self.pinned_with(self.pin(session), names_system_column(sql), versions)
    }

    pub(crate) fn pinned_to(&self, pinned: Arc<Pinned>, with_system: bool) -> SessionState {
        self.pinned_with(pinned, with_system, Versions::default())
    }

    /// The same, in which versions of views are known that are not served.
    pub(super) fn pinned_with(
        &self,
        pinned: Arc<Pinned>,
        with_system: bool,
        versions: Versions,
    ) -> SessionState {
        let public = Public {
            sources: self.0.sources.clone(),
            with_system,
            pinned: Some(pinned),
            versions,
        };
        let besides = self.0.context.catalog(session::CATALOG);
        let mut state = self.0.context.state();
        state.register_catalog_list(catalogs(public, besides.as_deref()));
        state
    }
}
