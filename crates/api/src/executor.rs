//! Runs SQL on threads of its own.
//!
//! A plan can compute for seconds without a pause. On the threads that serve connections that would make everybody
//! wait, and a cancel request could not even be read. It can also recurse deeply, so their stacks are large.

use std::{future::Future, sync::Arc};

use arrow::array::RecordBatch;
use datafusion::{error::DataFusionError, execution::SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use lambic_query::{
    AsOf, Database, Error, Follow, Followed, Lookup, Message, Modes, Outcome, Prepared, Session,
    Transaction,
};
use tokio::{
    runtime::Runtime,
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
};

/// Batches that are computed ahead of the client.
const BATCHES_AHEAD: usize = 2;

/// Clones share the threads; the last one to go lets them end.
#[derive(Clone)]
pub struct Executor(Arc<Threads>);

struct Threads {
    runtime: Option<Runtime>,
    database: Database,
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed here, which may be one that serves connections.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends the work when nobody waits for it any more.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Executor {
    pub fn new(database: Database) -> std::io::Result<Executor> {
        let threads = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .max(2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("sql")
            .thread_stack_size(lambic_query::STACK_BYTES)
            .enable_all()
            .build()?;
        Ok(Executor(Arc::new(Threads {
            runtime: Some(runtime),
            database,
        })))
    }

    pub async fn execute(&self, session: Session, sql: String) -> Result<Vec<Outcome>, Error> {
        let database = self.0.database.clone();
        self.run(async move { database.execute(&session, &sql).await })
            .await
    }

    pub async fn prepare(&self, session: Session, sql: String) -> Result<Prepared, Error> {
        let database = self.0.database.clone();
        self.run(async move { database.prepare(&session, &sql).await })
            .await
    }

    pub async fn run_prepared(
        &self,
        session: Session,
        prepared: Prepared,
        parameters: Vec<datafusion::scalar::ScalarValue>,
    ) -> Result<Outcome, Error> {
        let database = self.0.database.clone();
        self.run(async move { database.run(&session, &prepared, parameters).await })
            .await
    }

    pub fn begin(&self, modes: Modes) -> Arc<Transaction> {
        self.0.database.begin(modes)
    }

    pub async fn commit(&self, transaction: Arc<Transaction>) -> Result<(), Error> {
        if !transaction.has_records() {
            return Ok(());
        }
        let database = self.0.database.clone();
        self.run(async move { database.commit(&transaction).await })
            .await
    }

    pub async fn lookup(
        &self,
        view: String,
        key: Vec<(String, String)>,
        as_of: Option<AsOf>,
    ) -> Result<Lookup, Error> {
        let database = self.0.database.clone();
        self.run(async move { database.lookup(&view, &key, as_of.as_ref()).await })
            .await
    }

    /// Follows what changes; the first message is there when this returns.
    pub async fn follow(&self, followed: Followed, follow: Follow) -> Result<Messages, Error> {
        let database = self.0.database.clone();
        let feed = self.run(async move { database.follow(followed, follow).await });
        let mut feed = feed.await?;
        let Some(runtime) = &self.0.runtime else {
            return Err(Error::internal("the server is stopping"));
        };
        let (sender, messages) = mpsc::channel(1);
        let work = runtime.spawn(async move {
            loop {
                let next = feed.next().await.transpose();
                let Some(next) = next else { return };
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Messages {
            messages,
            work: Some(Aborting(work)),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(runtime) = &self.0.runtime else {
            return Err(Error::internal("the server is stopping"));
        };
        let mut work = Aborting(runtime.spawn(work));
        match (&mut work.0).await {
            Ok(done) => done,
            Err(error) => Err(Error::internal(format!(
                "the statement ended unexpectedly: {error}"
            ))),
        }
    }

    /// The same batches, computed on the threads of SQL.
    pub fn stream(&self, mut rows: SendableRecordBatchStream) -> Batches {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let Some(runtime) = &self.0.runtime else {
            return Batches {
                batches,
                work: None,
                _turn: None,
            };
        };
        let work = runtime.spawn(async move {
            while let Some(batch) = rows.next().await {
                if sender.send(batch).await.is_err() {
                    return;
                }
            }
        });
        Batches {
            batches,
            work: Some(Aborting(work)),
            _turn: None,
        }
    }
}

/// What changes, made on the threads of SQL.
pub struct Messages {
    messages: mpsc::Receiver<Result<Message, Error>>,
    work: Option<Aborting<()>>,
}

impl Messages {
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        if let Some(message) = self.messages.recv().await {
            return Some(message);
        }
        let mut work = self.work.take()?;
        let ended = (&mut work.0).await;
        ended.err().map(|error| {
            Err(Error::internal(format!(
                "following ended unexpectedly: {error}"
            )))
        })
    }
}

/// The batches of an answer.
pub struct Batches {
    batches: mpsc::Receiver<Result<RecordBatch, DataFusionError>>,
    work: Option<Aborting<()>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Batches {
    #[cfg(test)]
    pub async fn of(all: Vec<RecordBatch>) -> Batches {
        let (sender, batches) = mpsc::channel(all.len().max(1));
        for batch in all {
            sender.send(Ok(batch)).await.expect("the receiver is alive");
        }
        Batches {
            batches,
            work: None,
            _turn: None,
        }
    }

    /// The statement's turn ends when its last batch is out.
    pub fn holding(mut self, turn: OwnedSemaphorePermit) -> Batches {
        self._turn = Some(turn);
        self
    }

    pub async fn next(&mut self) -> Option<Result<RecordBatch, DataFusionError>> {
        if let Some(batch) = self.batches.recv().await {
            return Some(batch);
        }
        // The end, or a panic: half an answer must not look like a whole one.
        let mut work = self.work.take()?;
        match (&mut work.0).await {
            Ok(()) => None,
            Err(error) => Some(Err(DataFusionError::Internal(format!(
                "the statement ended unexpectedly: {error}"
            )))),
        }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send {
        futures::stream::unfold(self, |mut batches| async move {
            Some((batches.next().await?, batches))
        })
    }
}
