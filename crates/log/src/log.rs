//! The handle: what other rooms hold of the log.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use lambic_model::{
    Append, AppendError, Appended, Appender, Cursor, Erased, Frontier, Frontiers, PartitionId,
    Stream, StreamId,
};
use tokio::{
    runtime::Handle,
    sync::{
        OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, Semaphore, mpsc,
        oneshot, watch,
    },
};

use crate::{
    Cut, Error, Options, Snapshot,
    cache::Cache,
    ids::Ids,
    options::{INLINE_BYTES_MAX, QUEUE_FACTOR_MAX},
    prepare::{self, Prepared},
    recover::{self, Known, Recovered},
    segment::Segment,
    snapshot::View,
    state::widen,
    writer::{Command, Job, Writer},
};

const PERMIT_BYTES: u64 = 1 << 10;

/// Cheap to clone. When the last handle is dropped, what was queued is finished first.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the handle and the writer's thread both use.
pub(crate) struct Shared {
    pub options: Options,
    pub ids: Ids,
    pub commits: watch::Sender<u64>,
    streams: RwLock<HashMap<StreamId, Arc<Stream>>>,
    view: Mutex<Arc<View>>,
    /// Why the log is read-only.
    broken: Mutex<Option<String>>,
    turn: AtomicU32,
    /// Appends hold it shared from before they look at their streams until they are done.
    altering: Arc<tokio::sync::RwLock<()>>,
    queue: Arc<Semaphore>,
    queued_bytes: Arc<AtomicU64>,
    /// Segments that are no longer part of the log and have yet to leave the disk, the oldest first.
    trimming: Mutex<VecDeque<PathBuf>>,
}

impl Log {
    /// Recovers exactly what was acknowledged. Takes no lock on the folder: the binary holds it.
    ///
    /// `streams` are all that there are: what the log holds of others belongs to dropped ones, and is given up.
    pub fn open(options: Options, streams: &[Arc<Stream>]) -> Result<Log, Error> {
        Log::open_after(options, streams, Frontiers::default())
    }

    /// As [`Log::open`], where the dataset holds everything below `sealed`: a new log begins there, and one that
    /// ends before it is refused, since it would give the same offsets to other records.
    pub fn open_after(
        options: Options,
        streams: &[Arc<Stream>],
        sealed: Frontiers,
    ) -> Result<Log, Error> {
        let ids = Ids::new(&options);
        let Recovered {
            state,
            segments,
            active,
            mark,
        } = {
            let declared = streams.iter().map(|stream| stream.id).collect();
            let known = Known { declared, sealed };
            recover::recover(&options, &ids, &known)?
        };
        let view = View {
            commit: state.commit,
            heads: state.heads.clone(),
            cursors: Arc::new(state.cursors.clone()),
            segments: Arc::new(segments),
            cache: Arc::new(Cache::new(options.cache_bytes_max)),
            erased: Arc::default(),
            streams: Arc::default(),
        };
        let permits = options.queue_bytes_max.div_ceil(PERMIT_BYTES);
        let permits = permits.clamp(1, u64::from(u32::MAX / 2)) as usize;
        let shared = Arc::new(Shared {
            ids,
            commits: watch::Sender::new(state.commit),
            streams: RwLock::default(),
            view: Mutex::new(Arc::new(view)),
            broken: Mutex::default(),
            turn: AtomicU32::new(0),
            queue: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            altering: Arc::default(),
            queued_bytes: Arc::default(),
            trimming: Mutex::default(),
            options,
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        let writer = Writer {
            shared: shared.clone(),
            state,
            active,
            mark,
            settled_us: i64::MIN,
        };
        let thread = thread::Builder::new()
            .name("lambic-log".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| Error::io("start the writer of", &shared.options.dir, &error))?;
        let log = Log(Arc::new(Inner {
            shared,
            commands,
            writer: Mutex::new(Some(thread)),
        }));
        for stream in streams {
            log.add_stream(stream.clone());
        }
        Ok(log)
    }

    /// From now on the stream, a new one, can be appended to.
    pub fn add_stream(&self, stream: Arc<Stream>) {
        let shared = &self.0.shared;
        shared.change_view(|view| {
            let head = view.heads.0.entry(stream.id).or_default();
            widen(head, &Frontier::zero(stream.partitions));
            Arc::make_mut(&mut view.streams).insert(stream.id, Arc::clone(&stream));
        });
        shared.streams_mut().insert(stream.id, stream);
    }

    /// No append is in flight from here on, and those that come wait, until what is returned is dropped.
    pub async fn hold_appends(&self) -> AppendsHeld {
        let altering = Arc::clone(&self.0.shared.altering);
        AppendsHeld {
            _altering: altering.write_owned().await,
        }
    }

    /// From now on the stream, which is known, has these columns: those of a later version of its schema.
    pub fn change_stream(&self, stream: Arc<Stream>, _held: &AppendsHeld) {
        let shared = &self.0.shared;
        if !shared.streams_mut().contains_key(&stream.id) {
            return;
        }
        shared.change_view(|view| {
            Arc::make_mut(&mut view.streams).insert(stream.id, Arc::clone(&stream));
        });
        shared.streams_mut().insert(stream.id, stream);
    }

    /// The stream takes no more records, and those in the log hold no segment any longer. Appends to it that
    /// wait in the queue are refused. Resolves when it is in no snapshot any more.
    pub async fn remove_stream(&self, id: StreamId) -> Result<(), Error> {
        let shared = self.0.shared.clone();
        shared.streams_mut().remove(&id);
        let (done, removed) = oneshot::channel();
        let sent = self.0.commands.send(Command::RemoveStream { id, done });
        sent.map_err(|_| closed())?;
        removed.await.map_err(|_| closed())?;
        // The writer inserts no id of the stream any more.
        let forget = move || {
            if let Err(error) = shared.ids.forget(id) {
                tracing::warn!(stream = %id, %error, "the record ids of a dropped stream stay in the index");
            }
        };
        match Handle::try_current() {
            Ok(runtime) => {
                // It only deletes what nothing reads; a panic has been reported by its thread.
                let _ = runtime.spawn_blocking(forget).await;
            }
            Err(_) => forget(),
        }
        Ok(())
    }

    /// Resolves when the records are durable and visible in [`Log::snapshot`]. Waits while the queue is full.
    ///
    /// Dropping the future does not take the append back.
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        let shared = &self.0.shared;
        if let Some(reason) = shared.broken() {
            return Err(Error::Unavailable { reason });
        }
        let unaltered = Arc::clone(&shared.altering).read_owned().await;
        let streams = {
            let known = shared
                .streams
                .read()
                .expect("no panic while streams change");
            let stream = |write: &lambic_model::Write| {
                let stream = write.stream;
                known
                    .get(&stream)
                    .cloned()
                    .ok_or(Error::UnknownStream { stream })
            };
            append
                .writes
                .iter()
                .map(stream)
                .collect::<Result<Vec<_>, _>>()?
        };
        let bytes = append
            .writes
            .iter()
            .map(|write| slice_bytes(&write.batch))
            .sum();
        let mut waiting = shared.enter_queue(bytes).await?;
        waiting._unaltered = Some(unaltered);
        let limit = shared.options.append_bytes_max.min(1 << 30);
        let prepared = match Handle::try_current() {
            Ok(runtime) if bytes > INLINE_BYTES_MAX => {
                let shared = shared.clone();
                let prepare = move || prepare::prepare(append, streams, &shared.turn, limit);
                let done = runtime.spawn_blocking(prepare).await;
                done.map_err(|error| {
                    Error::Refused(format!("preparing the append failed: {error}"))
                })??
            }
            _ => prepare::prepare(append, streams, &shared.turn, limit)?,
        };
        self.submit(prepared, waiting).await
    }

    async fn submit(&self, prepared: Prepared, waiting: Waiting) -> Result<Appended, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            prepared,
            reply,
            waiting,
        };
        let sent = self.0.commands.send(Command::Append(job));
        sent.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.shared.view())
    }

    /// Resolves when every append that was taken at `at_us` or before is visible; none is given that time any
    /// more. [`Error::NotYet`] if that time has not come.
    pub async fn settle(&self, at_us: i64) -> Result<(), Error> {
        let now_us = self.0.shared.options.clock.now_us();
        if at_us > now_us {
            return Err(Error::NotYet { at_us, now_us });
        }
        let (done, settled) = oneshot::channel();
        let sent = self.0.commands.send(Command::Settle { at_us, done });
        sent.map_err(|_| closed())?;
        settled.await.map_err(|_| closed())
    }

    /// The number of the last commit; changes with every group of them.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.shared.commits.subscribe()
    }

    /// A durable position, moved by [`Append::cursors`].
    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.0.shared.view().cursors.get(name).cloned()
    }

    /// Resolves when the cursor is durably gone.
    pub async fn drop_cursor(&self, name: &str) -> Result<(), Error> {
        let prepared = Prepared {
            cursors_dropped: vec![name.to_owned()],
            ..Prepared::default()
        };
        let waiting = self.0.shared.enter_queue(0).await?;
        self.submit(prepared, waiting).await.map(|_| ())
    }

    /// Deletes the oldest segments all of whose records, of every declared stream, lie below `keep_from`;
    /// returns how many. The segment being written always stays. Blocks: it waits for the disk.
    pub fn trim(&self, keep_from: &Frontiers) -> Result<u64, Error> {
        let shared = &self.0.shared;
        let mut leaving = shared.trimming.lock().expect("no panic while trimming");
        // What an earlier trim could not remove goes first: the segments on disk must follow one another.
        shared.remove_segments(&mut leaving)?;
        let view = shared.view();
        let closed = &view.segments[..view.segments.len() - 1];
        let disposable = |segment: &&Arc<Segment>| {
            let streams = shared
                .streams
                .read()
                .expect("no panic while streams change");
            segment
                .ends()
                .into_iter()
                .filter(|(stream, _, _)| streams.contains_key(stream))
                .all(|(stream, partition, end)| below(keep_from, stream, partition, end))
        };
        let removed: Vec<_> = closed.iter().take_while(disposable).cloned().collect();
        if removed.is_empty() {
            return Ok(0);
        }
        shared.persist_ids(view.commit)?;
        shared.change_view(|view| {
            view.segments = Arc::new(view.segments[removed.len()..].to_vec());
        });
        leaving.extend(removed.iter().map(|segment| segment.path.clone()));
        shared.remove_segments(&mut leaving)?;
        Ok(removed.len() as u64)
    }

    /// From the next snapshot on, reads of the stream leave these records out. Their bytes go with the segments that
    /// hold them, see [`Log::rotate`] and [`Log::trim`]; nothing of this is kept: whoever opens the log says it again.
    pub fn set_erased(&self, stream: StreamId, erased: Erased) {
        let shared = &self.0.shared;
        shared.change_view(|view| {
            Arc::make_mut(&mut view.erased).insert(stream, erased);
        });
        // Who follows the log reads again.
        shared.commits.send_modify(|_| {});
    }

    /// Closes the segment being written if it holds records, so that it can be trimmed.
    pub async fn rotate(&self) -> Result<(), Error> {
        let (done, rotated) = oneshot::channel();
        let sent = self.0.commands.send(Command::Rotate { done });
        sent.map_err(|_| closed())?;
        rotated.await.map_err(|_| closed())?
    }

    /// Everything that was acknowledged so far, over all streams, and nothing later.
    pub async fn cut(&self) -> Result<Cut, Error> {
        let (done, cut) = oneshot::channel();
        let sent = self.0.commands.send(Command::Cut { done });
        sent.map_err(|_| closed())?;
        cut.await.map_err(|_| closed())?
    }

    /// Of the segments on disk.
    pub fn bytes(&self) -> u64 {
        let view = self.0.shared.view();
        let segments = view.segments.iter();
        segments
            .map(|segment| segment.bytes.load(Ordering::Relaxed))
            .sum()
    }

    /// Why the log takes nothing, if so.
    pub fn read_only(&self) -> Option<String> {
        self.0.shared.broken()
    }

    #[cfg(test)]
    pub(crate) fn ids(&self) -> &Ids {
        &self.0.shared.ids
    }

    /// Finishes what is queued and ends the writer; other handles can read on, and append no more.
    pub async fn close(self) {
        let inner = self.0.clone();
        drop(self);
        match Handle::try_current() {
            Ok(runtime) => {
                // It only waits; a panic of the writer has been reported by its thread.
                let _ = runtime.spawn_blocking(move || inner.end()).await;
            }
            Err(_) => inner.end(),
        }
    }
}

/// As long as this is held no append is taken.
#[derive(Debug)]
pub struct AppendsHeld {
    _altering: OwnedRwLockWriteGuard<()>,
}

impl Appender for Log {
    fn append(
        &self,
        append: Append,
    ) -> Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send + '_>> {
        Box::pin(async move { Ok(Log::append(self, append).await?) })
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dir = &self.0.shared.options.dir;
        f.debug_struct("Log")
            .field("dir", dir)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn end(&self) {
        let mut writer = self.writer.lock().expect("no panic while the writer ends");
        if let Some(thread) = writer.take() {
            // It is gone already if it panicked.
            let _ = self.commands.send(Command::Close);
            if thread.join().is_err() {
                tracing::error!("the log's writer panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// One by one, and each made durable: on disk, a gap would look like a lost segment.
    fn remove_segments(&self, leaving: &mut VecDeque<PathBuf>) -> Result<(), Error> {
        while let Some(path) = leaving.front() {
            match self.options.disk.remove(path) {
                // An earlier attempt came as far as this.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
            .and_then(|()| self.options.disk.sync_dir(&self.options.dir))
            .map_err(|error| Error::io("remove", path, &error))?;
            leaving.pop_front();
        }
        Ok(())
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view
            .lock()
            .expect("no panic while the view changes")
            .clone()
    }

    pub(crate) fn change_view(&self, change: impl FnOnce(&mut View)) {
        let mut slot = self.view.lock().expect("no panic while the view changes");
        let mut view = (**slot).clone();
        change(&mut view);
        *slot = Arc::new(view);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.broken
            .lock()
            .expect("no panic while it is held")
            .clone()
    }

    /// Read-only from now on; the first reason stays.
    pub(crate) fn break_down(&self, reason: String) {
        let mut broken = self.broken.lock().expect("no panic while it is held");
        if broken.is_none() {
            tracing::error!(reason, "the log is read-only until it is opened again");
            *broken = Some(reason);
        }
    }

    pub(crate) fn persist_ids(&self, commit: u64) -> Result<(), Error> {
        let persisted = self.ids.persist(commit);
        persisted.inspect_err(|error| self.break_down_if_unsure(error))
    }

    /// Where the index can do no more before the log is opened again, neither can the log.
    pub(crate) fn break_down_if_unsure(&self, error: &Error) {
        if self.ids.is_unsure() {
            self.break_down(error.to_string());
        }
    }

    /// The first stream written to that is not declared.
    pub(crate) fn undeclared(&self, prepared: &Prepared) -> Option<StreamId> {
        let streams = self.streams.read().expect("no panic while streams change");
        let mut written = prepared.writes.iter().map(|write| write.stream.id);
        written.find(|stream| !streams.contains_key(stream))
    }

    fn streams_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<StreamId, Arc<Stream>>> {
        self.streams.write().expect("no panic while streams change")
    }

    /// Waits for room in the queue; `Busy` if too many wait for it already.
    async fn enter_queue(&self, bytes: u64) -> Result<Waiting, Error> {
        let max = self.options.queue_bytes_max;
        let limit = max.saturating_mul(QUEUE_FACTOR_MAX);
        let before = self.queued_bytes.fetch_add(bytes, Ordering::SeqCst);
        let mut waiting = Waiting {
            bytes,
            queued_bytes: self.queued_bytes.clone(),
            _permit: None,
            _unaltered: None,
        };
        if before > 0 && before + bytes > limit {
            return Err(Error::Busy {
                queued_bytes: before,
                limit,
            });
        }
        let most = max.div_ceil(PERMIT_BYTES).clamp(1, u64::from(u32::MAX / 2));
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, most) as u32;
        let permit = self.queue.clone().acquire_many_owned(permits).await;
        waiting._permit = Some(permit.expect("the queue is never closed"));
        Ok(waiting)
    }
}

/// An append's share of the queue, given back on drop.
pub(crate) struct Waiting {
    bytes: u64,
    queued_bytes: Arc<AtomicU64>,
    _permit: Option<OwnedSemaphorePermit>,
    /// Its streams have the columns that it was prepared for until it is done.
    _unaltered: Option<OwnedRwLockReadGuard<()>>,
}

impl Waiting {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.queued_bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

fn closed() -> Error {
    Error::Unavailable {
        reason: "it was closed".to_owned(),
    }
}

fn below(keep_from: &Frontiers, stream: StreamId, partition: PartitionId, end: u64) -> bool {
    let frontier = keep_from.0.get(&stream);
    frontier.is_some_and(|frontier| frontier.offset(partition).0 >= end)
}

/// What the rows take in memory, without what their buffers share with other slices.
fn slice_bytes(batch: &arrow::record_batch::RecordBatch) -> u64 {
    let columns = batch.columns().iter();
    columns
        .map(|column| {
            let bytes = column.to_data().get_slice_memory_size();
            bytes.unwrap_or_else(|_| column.get_array_memory_size()) as u64
        })
        .sum()
}
