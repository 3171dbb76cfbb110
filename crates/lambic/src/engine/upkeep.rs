//! What happens by itself: views follow the log, the log is sealed, batches run when due, the log is
//! trimmed of what nothing needs any more, small files become large ones, records expire, erasures are carried out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lambic_base::supervised;
use lambic_model::{Frontiers, Stream, StreamId};
use lambic_query::{Database, Retention};
use lambic_serving::ServedView;
use lambic_speed::RealTime;
use lambic_view::{Definition, Freshness, definition::NEVER, join::Join};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tracing::{error, info, warn};

use super::{
    checkpoint::{Because, Checkpoints},
    layers::Layers,
};
use crate::settings::Settings;

/// How long the speed layer lets records gather before it takes them in.
const SPEED_PAUSE: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_secs(1);
/// A stop waits no longer for what only makes the next start faster.
const LAST_CHECKPOINT: Duration = Duration::from_secs(10);
/// How often at most the records of a stream expire in the time that it keeps them.
const EXPIRIES_PER_AGE: u32 = 24;
/// A batch runs early when this many records wait for it: real-time states live in memory.
const RECORDS_WITHOUT_BATCH_MAX: u64 = 20_000_000;

/// What was started. It has threads of its own: a plan can compute for seconds without a pause, which those who serve
/// connections must not notice.
pub struct Running {
    runtime: Option<Runtime>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Waits for the end of what was told to stop.
    pub async fn ended(mut self) {
        for task in self.tasks.drain(..) {
            // A task that panicked has said so in the log already.
            let _ = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Waiting for threads is not allowed where this may be dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn start(
    layers: &Arc<Layers>,
    database: &Database,
    settings: &Settings,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("layers")
        .thread_stack_size(lambic_query::STACK_BYTES)
        .enable_all()
        .build()?;
    let views = Arc::new(FollowingViews {
        layers: Arc::clone(layers),
        failing: tokio::sync::Mutex::default(),
        resting: tokio::sync::Mutex::default(),
    });
    let log = layers.log().clone();
    let stop = stopping.clone();
    let speed = supervised("the speed layer", move || {
        let views = Arc::clone(&views);
        lambic_speed::keep_current(log.clone(), views, SPEED_PAUSE, stop.clone())
    });
    let (erasing, stop) = (Arc::clone(layers), stopping.clone());
    let erasures = supervised("the erasures", move || {
        super::erase::carry_out(Arc::clone(&erasing), stop.clone())
    });
    let (layers, database) = (Arc::clone(layers), database.clone());
    let checkpoint_records = settings.speed.checkpoint_records;
    let (seal_records, seal_after) = (settings.dataset.seal_records, settings.dataset.seal_after());
    let expire_every = settings.dataset.expire_every();
    let renewal_max = Duration::from_secs(settings.batch.renewal_s_max);
    let upkeep = supervised("upkeep", move || {
        let upkeep = Upkeep {
            layers: Arc::clone(&layers),
            database: database.clone(),
            seal_records,
            seal_after,
            waiting_since: HashMap::new(),
            batched_at: HashMap::new(),
            checkpoints: Checkpoints::every(checkpoint_records),
            renewal_max,
            failed: HashSet::new(),
            expire_every,
            expired_at: HashMap::new(),
        };
        upkeep.run(stopping.clone())
    });
    let tasks = vec![
        runtime.spawn(speed),
        runtime.spawn(erasures),
        runtime.spawn(upkeep),
    ];
    Ok(Running {
        runtime: Some(runtime),
        tasks,
    })
}

/// The first wait before a view that failed is tried again; each further one is twice as long.
const FAILING_PAUSE: Duration = Duration::from_secs(1);
const FAILING_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A view that reads whole streams for what is new rests so many times as long as that took.
const REST_TIMES: u32 = 9;

struct FollowingViews {
    layers: Arc<Layers>,
    /// By the folder of the view. One record can make a view fail for good: it is not computed over
    /// and over, and said once.
    failing: tokio::sync::Mutex<HashMap<String, Failing>>,
    /// Until when views are left alone that read whole streams for what is new.
    resting: tokio::sync::Mutex<HashMap<String, Instant>>,
}

struct Failing {
    error: String,
    pause: Duration,
    again_at: Instant,
}

impl Failing {
    fn after(before: Option<&Failing>, error: String, now: Instant) -> Failing {
        let pause = match before {
            Some(before) => (before.pause * 2).min(FAILING_PAUSE_MAX),
            None => FAILING_PAUSE,
        };
        Failing {
            error,
            pause,
            again_at: now + pause,
        }
    }
}

#[async_trait]
impl RealTime for FollowingViews {
    async fn advance(&self, heads: &Frontiers) {
        let now = Instant::now();
        let mut failing = self.failing.lock().await;
        let mut resting = self.resting.lock().await;
        let kept = self.layers.serving().kept();
        let folders: HashSet<String> = kept.iter().map(|v| v.definition().directory()).collect();
        failing.retain(|folder, _| folders.contains(folder));
        resting.retain(|folder, _| folders.contains(folder));
        // Of those that are served as of their last batch, nobody reads what is newer.
        let followed = |view: &Arc<ServedView>| view.definition().freshness == Freshness::Now;
        for view in kept.into_iter().filter(followed) {
            let folder = view.definition().directory();
            if failing
                .get(&folder)
                .is_some_and(|failing| now < failing.again_at)
            {
                continue;
            }
            if resting.get(&folder).is_some_and(|until| now < *until) {
                continue;
            }
            let began = Instant::now();
            match view.advance(heads).await {
                Ok(_) => {
                    failing.remove(&folder);
                    if view.plan().join().is_some_and(Join::scans) {
                        let rest = began.elapsed() * REST_TIMES;
                        resting.insert(folder, Instant::now() + rest);
                    }
                }
                Err(error) => {
                    let before = failing.remove(&folder);
                    let failure = Failing::after(before.as_ref(), error.to_string(), now);
                    // Reads compute what is missing, or fail with the same error themselves.
                    if before.is_none_or(|before| before.error != failure.error) {
                        error!(view = %view.definition().name, %error, "speed layer cannot follow");
                    }
                    failing.insert(folder, failure);
                }
            }
        }
    }
}

struct Upkeep {
    layers: Arc<Layers>,
    database: Database,
    seal_records: u64,
    seal_after: Duration,
    waiting_since: HashMap<StreamId, Instant>,
    batched_at: HashMap<String, Instant>,
    checkpoints: Checkpoints,
    /// How long the rows of a view that is made anew may take.
    renewal_max: Duration,
    /// Folders of views whose last batch failed.
    failed: HashSet<String>,
    expire_every: Duration,
    /// When streams were looked at for records that are kept too long, and what they keep.
    expired_at: HashMap<String, (Instant, Retention)>,
}

impl Upkeep {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        tokio::select! {
            () = self.layers.resume_batches() => {}
            _ = stopping.changed() => return,
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = stopping.changed() => break,
            }
            // A batch can take long: stopping does not wait for it, an unfinished one leaves nothing.
            tokio::select! {
                () = self.tick() => {}
                _ = stopping.changed() => break,
            }
        }
        // So that the next start has little to compute.
        let kept = self.checkpoints.keep(&self.layers, Because::Stopping);
        // Somebody's batch may still have the turn.
        if tokio::time::timeout(LAST_CHECKPOINT, kept).await.is_err() {
            warn!("the states of the speed layer were not kept in time; the log keeps the records");
        }
    }

    async fn tick(&mut self) {
        self.seal().await;
        self.batch().await;
        self.checkpoints.keep(&self.layers, Because::Due).await;
        self.trim().await;
        self.compact().await;
        self.expire().await;
    }

    /// One group of files of each stream at a time: what is due more often than once a second has come before.
    async fn compact(&self) {
        let files_min = Some(self.layers.dataset().options().compact_files);
        for stream in self.layers.log().snapshot().heads().0.into_keys() {
            match self.layers.compact_next(stream, files_min).await {
                Ok(_) | Err(lambic_dataset::Error::UnknownStream { .. }) => {}
                Err(error) => {
                    warn!(%stream, %error, "small files cannot be made one; they stay as they are");
                }
            }
        }
        self.layers.sweep().await;
    }

    async fn expire(&mut self) {
        let streams = self.database.streams();
        let names: HashSet<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
        self.expired_at
            .retain(|name, _| names.contains(name.as_str()));
        for name in names {
            let retention = self.database.retention(name);
            if retention.is_for_ever() {
                self.expired_at.remove(name);
                continue;
            }
            let every = retention.age.unwrap_or_default() / EXPIRIES_PER_AGE;
            let every = every.max(self.expire_every);
            let last = self.expired_at.get(name);
            if last.is_some_and(|(at, known)| *known == retention && at.elapsed() < every) {
                continue;
            }
            match self.database.expire(name).await {
                Ok(0) => {}
                Ok(records) => {
                    info!(
                        stream = name,
                        records, "records expired; their bytes follow"
                    );
                }
                Err(error) => {
                    warn!(stream = name, %error, "records that are kept too long cannot go yet");
                }
            }
            self.expired_at
                .insert(name.to_owned(), (Instant::now(), retention));
        }
    }

    async fn seal(&mut self) {
        let log = self.layers.log().snapshot();
        for (stream, head) in log.heads().0 {
            let waiting = head.since(&self.layers.dataset().manifest(stream).frontier);
            if waiting == 0 {
                self.waiting_since.remove(&stream);
                continue;
            }
            let since = *self
                .waiting_since
                .entry(stream)
                .or_insert_with(Instant::now);
            if waiting < self.seal_records && since.elapsed() < self.seal_after {
                continue;
            }
            self.waiting_since.remove(&stream);
            if let Err(error) = self.layers.seal(stream).await {
                error!(%stream, %error, "records cannot be sealed; the log keeps them");
            }
        }
    }

    async fn batch(&mut self) {
        let heads = self.layers.log().snapshot().heads();
        let kept = self.layers.serving().kept();
        let renewed = self.layers.renewed_by_batch();
        let definitions = kept.iter().map(|view| view.definition());
        let definitions = definitions.chain(renewed.iter().map(|view| view.definition()));
        let folders: HashSet<String> = definitions.map(Definition::directory).collect();
        self.batched_at.retain(|folder, _| folders.contains(folder));
        self.failed.retain(|folder| folders.contains(folder));
        for view in kept {
            let covered = view.runs().batch_frontier();
            let folder = view.definition().directory();
            let due = self.is_due(view.definition(), &view.plan().inputs, &covered, &heads);
            // One that was being built when records were erased is served with them in its runs.
            let outdated = self.layers.is_outdated(&view) && !self.failed.contains(&folder);
            let is_behind = view.lag(&heads) > 0 || self.layers.is_outdated(&view);
            let stuck = self.checkpoints.is_stuck(&view, is_behind);
            if !due && !outdated && !stuck {
                continue;
            }
            match self.layers.run_batch(&view, false).await {
                Ok(()) => {
                    self.failed.remove(&folder);
                }
                Err(error) => {
                    error!(view = %view.definition().name, %error, "batch run failed; the former batch view is still served");
                    self.failed.insert(folder);
                }
            }
        }
        for view in renewed {
            let (definition, streams) = (view.definition(), &view.plan().streams);
            let covered = view.batch_frontier().cloned().unwrap_or_default();
            if !self.is_due(definition, streams, &covered, &heads) {
                continue;
            }
            let folder = definition.directory();
            let renewing = self.database.renew_view(definition.name.as_str());
            match tokio::time::timeout(self.renewal_max, renewing).await {
                Ok(Ok(())) => {
                    self.failed.remove(&folder);
                    continue;
                }
                Ok(Err(error)) => {
                    error!(view = %definition.name, %error, "batch failed; the former rows are still served");
                }
                // It may have no end.
                Err(_) => {
                    let limit_s = self.renewal_max.as_secs();
                    error!(view = %definition.name, limit_s, "the rows were not made in time and the batch is given up; the former ones are still served; raise batch.renewal_s_max, or REFRESH the view by hand");
                }
            }
            self.failed.insert(folder);
        }
    }

    /// Whether the view's batch is to run now; if so, that is noted.
    fn is_due(
        &mut self,
        definition: &Definition,
        streams: &[Arc<Stream>],
        covered: &Frontiers,
        heads: &Frontiers,
    ) -> bool {
        let last = self
            .batched_at
            .entry(definition.directory())
            .or_insert_with(Instant::now);
        let behind = |stream: &Arc<Stream>| heads.of(stream.id).since(&covered.of(stream.id));
        let behind: u64 = streams.iter().map(behind).sum();
        let waited = last.elapsed() >= definition.batch_every;
        // What has no batches is kept by checkpoints alone.
        let too_many = behind >= RECORDS_WITHOUT_BATCH_MAX && definition.batch_every != NEVER;
        let due = too_many || (behind > 0 && waited);
        if due {
            *last = Instant::now();
        }
        due
    }

    /// A view whose batch fails holds nothing: one record that it cannot compute would let the log grow until the disk
    /// is full. It is read, and made again, from the dataset.
    async fn trim(&self) {
        if let Err(error) = self.layers.trim(&self.failed).await {
            warn!(error = format!("{error:#}"), "the log cannot be trimmed");
        }
    }
}
