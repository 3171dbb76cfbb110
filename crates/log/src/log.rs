//! The handle. First stage: records are held in memory while the segments are being built.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use lambic_model::{
    Append, AppendError, Appended, Appender, Cursor, Frontiers, OffsetRange, PartitionId, Stream,
    StreamId, Written,
};
use tokio::sync::watch;

use crate::{Error, Options, Snapshot, snapshot::View};

#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    options: Options,
    state: Mutex<State>,
    commits: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    streams: HashMap<StreamId, Arc<Stream>>,
    view: Arc<View>,
    cursors: BTreeMap<String, Cursor>,
    producers: HashMap<String, (u64, Appended)>,
    turn: u32,
}

impl Log {
    pub fn open(options: Options, streams: &[Arc<Stream>]) -> Result<Log, Error> {
        let log = Log(Arc::new(Inner {
            options,
            state: Mutex::default(),
            commits: watch::Sender::new(0),
        }));
        for stream in streams {
            log.add_stream(stream.clone());
        }
        Ok(log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .state
            .lock()
            .expect("no panic while the state is held")
    }

    pub fn add_stream(&self, stream: Arc<Stream>) {
        self.state().streams.insert(stream.id, stream);
    }

    pub fn remove_stream(&self, id: StreamId) {
        self.state().streams.remove(&id);
    }

    /// Resolves when the records are durable and visible in [`Log::snapshot`].
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        let mut state = self.state();
        if let Some(producer) = &append.producer
            && let Some((sequence, last)) = state.producers.get(&producer.id)
            && producer.sequence <= *sequence
        {
            return Ok(Appended {
                duplicate: true,
                ..last.clone()
            });
        }
        let now_us = self.0.options.clock.now_us();
        let mut view = (*state.view).clone();
        let mut writes = Vec::new();
        for write in append.writes {
            let stream = state
                .streams
                .get(&write.stream)
                .cloned()
                .ok_or(Error::UnknownStream {
                    stream: write.stream,
                })?;
            let turn = state.turn;
            state.turn = turn.wrapping_add(1);
            let partition = write
                .partition
                .unwrap_or(PartitionId(turn % stream.partitions.max(1)));
            let mut head = view.heads.of(stream.id);
            let first = head.offset(partition);
            let end = first.plus(write.batch.num_rows() as u64);
            head.set(partition, end);
            view.heads.set(stream.id, head.clone());
            let range = OffsetRange {
                partition,
                first,
                end,
            };
            let batch = crate::snapshot::with_system(&stream, &write.batch, range, now_us)?;
            view.batches
                .entry(stream.id)
                .or_default()
                .push((range, batch));
            writes.push(Written {
                stream: stream.id,
                ranges: vec![range],
                records_known: 0,
                frontier: head,
            });
        }
        for cursor in append.cursors {
            state.cursors.insert(cursor.name.clone(), cursor);
        }
        let appended = Appended {
            writes,
            duplicate: false,
        };
        if let Some(producer) = append.producer {
            state
                .producers
                .insert(producer.id, (producer.sequence, appended.clone()));
        }
        state.view = Arc::new(view);
        drop(state);
        self.0.commits.send_modify(|commits| *commits += 1);
        Ok(appended)
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().view.clone())
    }

    /// Changes with every commit.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.commits.subscribe()
    }

    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.state().cursors.get(name).cloned()
    }

    pub async fn drop_cursor(&self, name: &str) -> Result<(), Error> {
        self.state().cursors.remove(name);
        Ok(())
    }

    /// Deletes the oldest segments whose records all lie below `keep_from`; returns how many.
    pub fn trim(&self, _keep_from: &Frontiers) -> Result<u64, Error> {
        Ok(0)
    }

    /// Of the segments on disk.
    pub fn bytes(&self) -> u64 {
        0
    }

    pub async fn close(self) {}
}

impl Appender for Log {
    fn append(
        &self,
        append: Append,
    ) -> Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send + '_>> {
        Box::pin(async move { Ok(Log::append(self, append).await?) })
    }
}
