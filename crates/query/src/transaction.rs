//! One transaction: what it has inserted, its savepoints, and where its reads stand.
//!
//! Its records are checked when they are inserted and wait here; the commit hands all of them to the log as one
//! append. It knows no protocol: what `BEGIN` and an error mean for a connection is for the doors.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow::record_batch::RecordBatch;
use lambic_base::{Clock, SystemClock};
use lambic_model::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Error,
    pending::{Mark, Pending},
    pinned::Pinned,
    provider::Sources,
    sqlstate,
    statement::{Statement, name_of},
};

const PERMIT_BYTES: usize = 1 << 10;
const SAVEPOINTS_MAX: usize = 1_000;

/// What transactions may hold that are not committed.
#[derive(Debug, Clone, Copy)]
pub struct TransactionLimits {
    /// Records of one transaction: it becomes one append, so not more than that may have.
    pub bytes_max: usize,
    /// Records of all transactions together.
    pub bytes_together_max: usize,
    /// How long an insert waits for others to end before it is refused.
    pub wait_max: Duration,
}

impl Default for TransactionLimits {
    fn default() -> TransactionLimits {
        TransactionLimits {
            bytes_max: 64 << 20,
            bytes_together_max: 256 << 20,
            wait_max: Duration::from_secs(10),
        }
    }
}

/// What a statement of a transaction sees of the appends of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All that were acknowledged before the statement.
    #[default]
    ReadCommitted,
    /// All that were acknowledged before the transaction's first statement: one frontier for all of it.
    RepeatableRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    pub isolation: Isolation,
    pub read_only: bool,
}

/// The memory that open transactions share.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    limits: TransactionLimits,
    free: Arc<Semaphore>,
}

impl Room {
    pub fn new(limits: TransactionLimits) -> Room {
        // Whatever one may hold alone must fit in.
        let together = limits.bytes_together_max.max(limits.bytes_max);
        let permits = (permits(together) as usize).min(Semaphore::MAX_PERMITS);
        Room {
            limits,
            free: Arc::new(Semaphore::new(permits)),
        }
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// Dropped without a commit, it leaves nothing.
pub struct Transaction {
    room: Room,
    state: Mutex<State>,
}

struct State {
    modes: Modes,
    /// Begun by `BEGIN`; otherwise it ends with the statements that were sent together.
    is_block: bool,
    /// From its first statement on its modes stand.
    used: bool,
    /// The frontier of a repeatable read.
    snapshot: Option<Arc<Pinned>>,
    pending: Pending,
    held: Option<OwnedSemaphorePermit>,
    savepoints: Vec<(String, Mark)>,
    /// Statements that took effect at once, which no rollback undoes.
    kept: usize,
    /// Grows when a statement fails or the transaction ends: a statement that runs on although nobody waits for it
    /// any more must not add its records.
    epoch: u64,
}

impl Transaction {
    pub(crate) fn new(room: Room, modes: Modes) -> Transaction {
        Transaction {
            room,
            state: Mutex::new(State {
                modes,
                is_block: false,
                used: false,
                snapshot: None,
                pending: Pending::default(),
                held: None,
                savepoints: Vec::new(),
                kept: 0,
                epoch: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn modes(&self) -> Modes {
        self.state().modes
    }

    /// It lasts until it is ended by a statement.
    pub fn become_block(&self) {
        self.state().is_block = true;
    }

    /// `SET TRANSACTION`, which comes before the first statement.
    pub fn set_modes(&self, modes: Modes) -> Result<(), Error> {
        let mut state = self.state();
        if state.used && state.modes != modes {
            return Err(Error::new(
                sqlstate::ACTIVE_TRANSACTION,
                "the modes of a transaction must be set before any statement of it",
            )
            .with_hint("give them to BEGIN"));
        }
        state.modes = modes;
        Ok(())
    }

    pub fn savepoint(&self, name: &str) -> Result<(), Error> {
        let mut state = self.state();
        if state.savepoints.len() == SAVEPOINTS_MAX {
            let message = format!("a transaction has at most {SAVEPOINTS_MAX} savepoints");
            return Err(Error::new(sqlstate::LIMIT_EXCEEDED, message)
                .with_hint("RELEASE those that are done with"));
        }
        let mark = state.pending.mark();
        state.savepoints.push((name.to_owned(), mark));
        Ok(())
    }

    /// Forgets the savepoint and those after it; their records stay.
    pub fn release(&self, name: &str) -> Result<(), Error> {
        let mut state = self.state();
        let index = state.savepoint(name)?;
        state.savepoints.truncate(index);
        Ok(())
    }

    /// Forgets the records that were inserted since; the savepoint stays.
    pub fn rollback_to(&self, name: &str) -> Result<(), Error> {
        let mut state = self.state();
        let index = state.savepoint(name)?;
        state.savepoints.truncate(index + 1);
        let mark = state.savepoints[index].1.clone();
        state.pending.cut(&mark);
        state.give_back();
        state.epoch += 1;
        Ok(())
    }

    /// To be called when a statement has failed or was cancelled.
    pub fn statement_failed(&self) {
        self.state().epoch += 1;
    }

    /// How many of its statements took effect at once, so that a rollback left them standing.
    pub fn kept(&self) -> usize {
        self.state().kept
    }

    pub fn has_records(&self) -> bool {
        !self.state().pending.is_empty()
    }

    /// What is to be committed; nothing can be added any more.
    pub(crate) fn end(&self) -> (Pending, Option<OwnedSemaphorePermit>) {
        let mut state = self.state();
        state.epoch += 1;
        let pending = std::mem::take(&mut state.pending);
        (pending, state.held.take())
    }

    /// Where a statement's reads stand: its own records included, its later ones not.
    pub(crate) fn pin(&self, sources: &Sources) -> Arc<Pinned> {
        let mut state = self.state();
        state.used = true;
        let pinned = match state.modes.isolation {
            Isolation::ReadCommitted => Arc::new(Pinned::take(sources)),
            Isolation::RepeatableRead => {
                let take = || Arc::new(Pinned::take(sources));
                Arc::clone(state.snapshot.get_or_insert_with(take))
            }
        };
        match state.pending.is_empty() {
            true => pinned,
            false => Arc::new(pinned.with_own(state.pending.clone(), SystemClock.now_us())),
        }
    }

    /// Whether `statement` may run here.
    pub(crate) fn check(&self, statement: &Statement) -> Result<(), Error> {
        let Some(what) = changes(statement) else {
            return Ok(());
        };
        let mut state = self.state();
        if state.modes.read_only {
            let message = format!("cannot execute {what} in a read-only transaction");
            return Err(Error::new(sqlstate::READ_ONLY_TRANSACTION, message));
        }
        if matches!(statement, Statement::Insert(_)) {
            return Ok(());
        }
        if state.modes.isolation == Isolation::RepeatableRead {
            let message = format!("{what} cannot run in a transaction that is REPEATABLE READ");
            return Err(Error::new(sqlstate::ACTIVE_TRANSACTION, message)
                .with_hint("it takes effect at once, and the transaction's one frontier would not show it; use READ COMMITTED, or run it outside"));
        }
        if matches!(statement, Statement::Erase(_)) && (state.is_block || !state.pending.is_empty())
        {
            let message = format!("{what} cannot run inside a transaction block");
            return Err(Error::new(sqlstate::ACTIVE_TRANSACTION, message)
                .with_hint("no ROLLBACK would bring the records back; run it alone"));
        }
        if matches!(statement, Statement::Backup(_)) && state.is_block {
            let message = format!("{what} cannot run inside a transaction block");
            return Err(Error::new(sqlstate::ACTIVE_TRANSACTION, message).with_hint(
                "it has what is committed, whatever the transaction sees; run it alone",
            ));
        }
        if let Statement::DropStream { names, .. } = statement
            && let Some(name) = names.iter().find(|name| state.has_records_for(name))
        {
            let message =
                format!("stream \"{name}\" cannot be dropped: this transaction has records for it");
            return Err(
                Error::new(sqlstate::OBJECT_IN_USE, message).with_hint("COMMIT or ROLLBACK first")
            );
        }
        if let Statement::AlterStream(alter) = statement
            && let Ok(name) = name_of(&alter.name)
            && state.has_records_for(&name)
        {
            let message =
                format!("stream \"{name}\" cannot be altered: this transaction has records for it");
            return Err(
                Error::new(sqlstate::OBJECT_IN_USE, message).with_hint("COMMIT or ROLLBACK first")
            );
        }
        state.used = true;
        state.kept += 1;
        Ok(())
    }

    /// Records of one statement, which become part of the transaction together.
    pub(crate) fn stage(&self, stream: Arc<Stream>) -> Staged<'_> {
        let state = self.state();
        Staged {
            epoch: state.epoch,
            bytes_before: state.pending.bytes(),
            transaction: self,
            stream,
            batches: Vec::new(),
            bytes: 0,
            rows: 0,
            held: None,
        }
    }
}

/// What a statement changes, as its tag says; `None` if nothing.
fn changes(statement: &Statement) -> Option<&'static str> {
    match statement {
        Statement::Erase(erase) if erase.explain => None,
        Statement::Erase(_) => Some("ERASE"),
        Statement::Backup(_) => Some("BACKUP"),
        Statement::SetRetention(alter) if alter.explain => None,
        Statement::SetRetention(_) => Some("ALTER STREAM"),
        Statement::CompactStream(_) => Some("COMPACT STREAM"),
        Statement::Sql(_)
        | Statement::Subscribe(_)
        | Statement::Audit(_)
        | Statement::Drift(_)
        | Statement::Diff(_)
        | Statement::Replay(_)
        | Statement::ExplainView(_)
        | Statement::Empty => None,
        Statement::Insert(_) => Some("INSERT"),
        Statement::CreateStream(_) => Some("CREATE STREAM"),
        Statement::AlterStream(_) => Some("ALTER STREAM"),
        Statement::CreateView(_) => Some("CREATE MATERIALIZED VIEW"),
        Statement::DropStream { .. } => Some("DROP STREAM"),
        Statement::DropView { .. } => Some("DROP MATERIALIZED VIEW"),
        Statement::RefreshView { .. } => Some("REFRESH MATERIALIZED VIEW"),
        Statement::AlterView(_) | Statement::RollbackView { .. } => Some("ALTER MATERIALIZED VIEW"),
    }
}

impl State {
    /// The newest savepoint of this name.
    fn savepoint(&self, name: &str) -> Result<usize, Error> {
        let found = self.savepoints.iter().rposition(|(known, _)| known == name);
        found.ok_or_else(|| {
            let message = format!("savepoint \"{name}\" does not exist");
            Error::new(sqlstate::UNDEFINED_SAVEPOINT, message)
        })
    }

    fn has_records_for(&self, name: &str) -> bool {
        let mut streams = self.pending.streams();
        streams.any(|stream| stream.name.as_str() == name)
    }

    /// Merged and forgotten records need less.
    fn give_back(&mut self) {
        let needed = permits(self.pending.bytes()) as usize;
        if let Some(held) = &mut self.held {
            drop(held.split(held.num_permits().saturating_sub(needed)));
        }
    }
}

/// What one `INSERT` has gathered so far.
pub(crate) struct Staged<'a> {
    transaction: &'a Transaction,
    epoch: u64,
    bytes_before: usize,
    stream: Arc<Stream>,
    batches: Vec<RecordBatch>,
    bytes: usize,
    rows: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Staged<'_> {
    pub async fn push(&mut self, batch: RecordBatch) -> Result<(), Error> {
        let limits = &self.transaction.room.limits;
        let bytes = batch.get_array_memory_size();
        self.bytes += bytes;
        if self.bytes_before + self.bytes > limits.bytes_max {
            let message = format!(
                "the records of the transaction are over the limit of {} bytes",
                limits.bytes_max
            );
            return Err(Error::new(sqlstate::LIMIT_EXCEEDED, message).with_hint(
                "COMMIT more often, or load files with `lambic append`; `log.append_bytes_max` is the limit",
            ));
        }
        let free = Arc::clone(&self.transaction.room.free);
        let more = free.acquire_many_owned(permits(bytes));
        let more = match tokio::time::timeout(limits.wait_max, more).await {
            Ok(Ok(more)) => more,
            Ok(Err(_)) | Err(_) => {
                let message = format!(
                    "transactions that are not committed hold all of the {} bytes that they may",
                    limits.bytes_together_max
                );
                return Err(Error::new(sqlstate::OUT_OF_MEMORY, message).with_hint(
                    "commit or roll back what is open, or raise `memory.transactions_bytes_max`",
                ));
            }
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        self.rows += batch.num_rows();
        self.batches.push(batch);
        Ok(())
    }

    /// Makes the records part of the transaction; returns how many they are.
    pub fn keep(self) -> Result<usize, Error> {
        let mut state = self.transaction.state();
        if state.epoch != self.epoch {
            return Err(Error::new(
                sqlstate::QUERY_CANCELED,
                "the transaction went on without this statement",
            ));
        }
        let State {
            pending,
            savepoints,
            held,
            ..
        } = &mut *state;
        let start = Mark::default();
        let mark = savepoints.last().map_or(&start, |(_, mark)| mark);
        pending.add(&self.stream, self.batches, mark);
        match (held, self.held) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = held.take().or(more),
        }
        state.give_back();
        Ok(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::Int64Array,
        datatypes::{DataType, Field, Schema},
    };
    use lambic_model::{StreamId, StreamName};

    use super::*;
    use crate::{Session, statement};

    fn transaction(limits: TransactionLimits) -> Transaction {
        Transaction::new(Room::new(limits), Modes::default())
    }

    async fn insert(transaction: &Transaction, rows: usize) -> Result<usize, Error> {
        let schema = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
        let stream = Arc::new(Stream {
            id: StreamId(100),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(schema),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        });
        let column = Arc::new(Int64Array::from(vec![1; rows]));
        let batch = RecordBatch::try_new(Arc::clone(&stream.schema), vec![column]).unwrap();
        let mut staged = transaction.stage(stream);
        staged.push(batch).await?;
        staged.keep()
    }

    fn rows(transaction: &Transaction) -> usize {
        let (pending, _held) = transaction.end();
        let writes = pending.into_writes().unwrap();
        writes.iter().map(|write| write.batch.num_rows()).sum()
    }

    #[tokio::test]
    async fn savepoints_are_gone_back_to_and_released() {
        let transaction = transaction(TransactionLimits::default());
        insert(&transaction, 1).await.unwrap();
        transaction.savepoint("a").unwrap();
        insert(&transaction, 10).await.unwrap();
        transaction.savepoint("b").unwrap();
        insert(&transaction, 100).await.unwrap();
        transaction.rollback_to("b").unwrap();
        transaction.rollback_to("b").unwrap();
        insert(&transaction, 1_000).await.unwrap();
        transaction.release("b").unwrap();
        let missing = transaction.rollback_to("b").unwrap_err();
        assert_eq!(missing.sqlstate, sqlstate::UNDEFINED_SAVEPOINT);
        transaction.savepoint("a").unwrap();
        insert(&transaction, 10_000).await.unwrap();
        // Of two savepoints of one name the newer one counts.
        transaction.rollback_to("a").unwrap();
        assert_eq!(rows(&transaction), 1_011);
    }

    #[tokio::test]
    async fn a_statement_that_nobody_waits_for_adds_nothing() {
        let transaction = transaction(TransactionLimits::default());
        insert(&transaction, 1).await.unwrap();
        let stream = {
            let state = transaction.state();
            Arc::clone(state.pending.streams().next().unwrap())
        };
        let late = transaction.stage(stream);
        transaction.statement_failed();
        assert_eq!(late.keep().unwrap_err().sqlstate, sqlstate::QUERY_CANCELED);
        assert_eq!(rows(&transaction), 1);
        assert!(insert(&transaction, 1).await.is_ok());
    }

    #[tokio::test]
    async fn what_transactions_hold_is_bounded_and_given_back() {
        let limits = TransactionLimits {
            bytes_max: 1 << 20,
            bytes_together_max: 1 << 20,
            wait_max: Duration::from_millis(10),
        };
        let room = Room::new(limits);
        let begin = || Transaction::new(room.clone(), Modes::default());
        let one = begin();
        let too_large = insert(&one, 200_000).await.unwrap_err();
        assert_eq!(too_large.sqlstate, sqlstate::LIMIT_EXCEEDED);
        one.savepoint("a").unwrap();
        insert(&one, 100_000).await.unwrap();
        let other = begin();
        let refused = insert(&other, 100_000).await.unwrap_err();
        assert_eq!(refused.sqlstate, sqlstate::OUT_OF_MEMORY);
        one.rollback_to("a").unwrap();
        insert(&other, 100_000).await.unwrap();
        drop(other);
        insert(&one, 100_000).await.unwrap();
        drop(one);
        assert_eq!(room.free.available_permits(), 1 << 10);
    }

    #[tokio::test]
    async fn nothing_is_erased_in_a_block_or_behind_inserts() {
        let erase = |sql| {
            statement::parse(&Session::default(), sql)
                .unwrap()
                .remove(0)
        };
        let told = erase("explain erase from s where true").statement;
        let erase = erase("erase from s where true").statement;
        let alone = transaction(TransactionLimits::default());
        alone.check(&erase).unwrap();
        insert(&alone, 1).await.unwrap();
        let behind = alone.check(&erase).unwrap_err();
        assert_eq!(behind.sqlstate, sqlstate::ACTIVE_TRANSACTION);
        let block = transaction(TransactionLimits::default());
        block.become_block();
        let within = block.check(&erase).unwrap_err();
        assert_eq!(within.sqlstate, sqlstate::ACTIVE_TRANSACTION);
        block.check(&told).unwrap();
        assert_eq!(block.kept(), 0);
    }

    #[tokio::test]
    async fn modes_stand_from_the_first_statement_on() {
        let transaction = transaction(TransactionLimits::default());
        let read_only = Modes {
            read_only: true,
            ..Modes::default()
        };
        transaction.set_modes(read_only).unwrap();
        let drop_stream = Statement::DropStream {
            names: vec!["s".to_owned()],
            if_exists: false,
        };
        let refused = transaction.check(&drop_stream).unwrap_err();
        assert_eq!(refused.sqlstate, sqlstate::READ_ONLY_TRANSACTION);
        transaction.set_modes(Modes::default()).unwrap();
        transaction.check(&drop_stream).unwrap();
        assert_eq!(transaction.kept(), 1);
        let late = transaction.set_modes(read_only).unwrap_err();
        assert_eq!(late.sqlstate, sqlstate::ACTIVE_TRANSACTION);
        insert(&transaction, 1).await.unwrap();
        let held = transaction.check(&drop_stream).unwrap_err();
        assert_eq!(held.sqlstate, sqlstate::OBJECT_IN_USE);
    }
}
