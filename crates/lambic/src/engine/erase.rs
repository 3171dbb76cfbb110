//! Erasures: put down at once, carried out in the background, whatever is killed in between.
//!
//! An erasure happens when its entry is in the erasure log (see `lambic_dataset::erasures`). From then on the log's
//! snapshots leave the records out, and with them every read: of streams, of files, by triggers. States of views
//! cannot give records back, so views whose runs know the records are read from history until their batch has run.
//! What follows has no haste; every step can be repeated, and a start after a kill begins with the first:
//!
//! 1. The stream is sealed, which leaves the records out, and the files that hold them are written anew.
//! 2. Views that read the stream are computed from the first record on; all batch views that are older, those of
//!    former versions too, are deleted.
//! 3. The log's segments that hold the records are closed. Everything else in them is sealed and batched, and they
//!    are trimmed. This waits for triggers that have not read so far: they read from the log alone.
//! 4. The replaced files are deleted when no statement that began before can read them any more; a backup that is being
//!    made keeps links to them until it ends.
//!
//! Then the erasure log gets the entry that it is finished. Not reached: dead letters and lines that functions wrote
//! (they are streams of their own, and can be erased from), what outside systems were given, and backups.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lambic_base::{Clock, SystemClock};
use lambic_dataset::{
    ErasureLog,
    erasures::{Begun, Finished, Predicate},
};
use lambic_log::Log;
use lambic_model::{Erased, Frontier, Frontiers, StreamId, StreamName};
use lambic_query::{Erasing, ErasureInfo, Error, ToErase, sqlstate};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::{
    errors::{batch_error, dataset_error},
    layers::Layers,
};

/// Between two looks at what an erasure waits for.
const PAUSE: Duration = Duration::from_millis(200);
/// The first wait after a failure; each further one is twice as long.
const FAILING_PAUSE: Duration = Duration::from_secs(1);
const FAILING_PAUSE_MAX: Duration = Duration::from_secs(60);
const PUT_DOWN: &str = "no read finds the records, their bytes are still there";

/// The erasures of a server, and how far they have come.
#[derive(Clone)]
pub struct Erasures(Arc<Inner>);

struct Inner {
    entries: ErasureLog,
    erased: Mutex<BTreeMap<StreamId, Erased>>,
    progress: Mutex<BTreeMap<StreamId, Progress>>,
    /// There is something to do.
    begun: Notify,
    /// Changes when one is finished; true when none will be any more.
    stopped: watch::Sender<bool>,
}

/// How far the erasures from one stream are.
#[derive(Debug, Clone)]
struct Progress {
    state: String,
    files_rewritten: u64,
    files_left: u64,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            state: PUT_DOWN.to_owned(),
            files_rewritten: 0,
            files_left: 0,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Erasures {
    /// Takes up what is not finished.
    pub async fn open(entries: ErasureLog) -> anyhow::Result<Erasures> {
        for broken in entries.broken() {
            error!(
                broken,
                "the erasure log was changed by others; see `lambic doctor`"
            );
        }
        entries.tidy().await?;
        let mut erased: BTreeMap<StreamId, Erased> = BTreeMap::new();
        for erasure in entries.erasures() {
            let stream = erasure.begun.stream;
            if erasure.begun.records > 0 {
                erased.entry(stream).or_default().number = erasure.number;
            }
        }
        for erasure in entries.pending() {
            let offsets = Arc::new(entries.offsets(&erasure).await?);
            let of_stream = erased.entry(erasure.begun.stream).or_default();
            of_stream.sets.push((erasure.number, offsets));
        }
        Ok(Erasures(Arc::new(Inner {
            entries,
            erased: Mutex::new(erased),
            progress: Mutex::default(),
            begun: Notify::new(),
            stopped: watch::Sender::new(false),
        })))
    }

    /// Lets no read of `log` find what was erased.
    pub fn leave_out(&self, log: &Log) {
        for (stream, erased) in &*locked(&self.0.erased) {
            log.set_erased(*stream, erased.clone());
        }
    }

    /// See [`lambic_query::Lifecycle::erase`].
    pub async fn erase(&self, log: &Log, to_erase: ToErase) -> Result<Box<dyn Erasing>, Error> {
        let stream = to_erase.stream.id;
        let records = to_erase.offsets.records();
        let salt = uuid::Uuid::new_v4().simple().to_string();
        let begun = Begun {
            by: to_erase.by,
            stream,
            name: to_erase.stream.name.clone(),
            predicate: Predicate::new(&to_erase.predicate, to_erase.predicate_shown, salt),
            frontier: to_erase.frontier,
            records,
            offsets_sha256: String::new(),
            expires: to_erase.expires,
        };
        let entries = &self.0.entries;
        let number = entries.begin(now_us(), begun, &to_erase.offsets).await;
        let number = number.map_err(unavailable)?;
        info!(erasure = number, stream = %to_erase.stream.name, records, "records erased; their bytes follow");
        if records == 0 {
            let finished = entries.finish(now_us(), number, Finished::default()).await;
            finished.map_err(unavailable)?;
        } else {
            let mut all = locked(&self.0.erased);
            let erased = all.entry(stream).or_default();
            erased.number = number;
            erased.sets.push((number, Arc::new(to_erase.offsets)));
            log.set_erased(stream, erased.clone());
            self.0.begun.notify_one();
        }
        Ok(Box::new(Waiting {
            number,
            entries: entries.clone(),
            stopped: self.0.stopped.subscribe(),
        }))
    }

    /// See [`lambic_query::Lifecycle::erasures`].
    pub fn infos(&self) -> Vec<ErasureInfo> {
        let progress = locked(&self.0.progress).clone();
        let info = |erasure: lambic_dataset::erasures::Erasure| {
            let Begun {
                by,
                stream,
                name,
                predicate,
                frontier,
                records,
                ..
            } = erasure.begun;
            let progress = match &erasure.finished {
                Some((_, finished)) => Progress {
                    state: "finished".to_owned(),
                    files_rewritten: finished.files_rewritten,
                    files_left: 0,
                },
                None => progress.get(&stream).cloned().unwrap_or_default(),
            };
            ErasureInfo {
                number: erasure.number,
                at_us: erasure.at_us,
                by,
                stream: name.to_string(),
                predicate: predicate.shown,
                predicate_salt: predicate.salt,
                predicate_sha256: predicate.sha256,
                records,
                frontier: frontier.to_string(),
                state: progress.state,
                files_rewritten: progress.files_rewritten,
                files_left: progress.files_left,
                finished_at_us: erasure.finished.map(|(at_us, _)| at_us),
                sha256: erasure.sha256,
            }
        };
        self.0.entries.erasures().into_iter().map(info).collect()
    }

    /// Before it, the stream's records have expired.
    pub fn start_of(&self, stream: StreamId) -> Frontier {
        self.0.entries.start_of(stream)
    }

    /// When the newest record of the stream was appended that has expired.
    pub fn expired_until(&self, stream: StreamId) -> Option<i64> {
        self.0.entries.expired_until(stream)
    }

    /// True while an erasure from the stream is carried out.
    pub fn is_pending(&self, stream: StreamId) -> bool {
        let pending = self.0.entries.pending();
        pending.iter().any(|erasure| erasure.begun.stream == stream)
    }

    /// No erasure begins or is finished as long as this is held.
    pub async fn standstill(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.entries.standstill().await
    }

    /// The stream whose erasures come next.
    fn next(&self) -> Option<StreamId> {
        let pending = self.0.entries.pending();
        pending.first().map(|erasure| erasure.begun.stream)
    }

    /// As the erasures that are not finished know it.
    fn name_of(&self, stream: StreamId) -> Option<StreamName> {
        let pending = self.0.entries.pending().into_iter();
        let mut of_stream = pending.filter(|erasure| erasure.begun.stream == stream);
        of_stream.next().map(|erasure| erasure.begun.name)
    }

    fn erased(&self, stream: StreamId) -> Erased {
        locked(&self.0.erased)
            .get(&stream)
            .cloned()
            .unwrap_or_default()
    }

    fn tell(&self, stream: StreamId, change: impl FnOnce(&mut Progress)) {
        change(locked(&self.0.progress).entry(stream).or_default());
    }

    fn state(&self, stream: StreamId, state: impl Into<String>) {
        self.tell(stream, |progress| progress.state = state.into());
    }

    /// Nothing is left of what `done` says of `stream`.
    async fn finish(&self, log: &Log, stream: StreamId, done: &Erased) -> Result<(), Error> {
        let files_rewritten = {
            let progress = locked(&self.0.progress);
            progress
                .get(&stream)
                .map_or(0, |progress| progress.files_rewritten)
        };
        for (number, _) in &done.sets {
            let finished = Finished { files_rewritten };
            let finished = self.0.entries.finish(now_us(), *number, finished).await;
            finished.map_err(dataset_error)?;
            let mut all = locked(&self.0.erased);
            if let Some(erased) = all.get_mut(&stream) {
                erased.sets.retain(|(of, _)| of != number);
                log.set_erased(stream, erased.clone());
            }
            info!(erasure = number, files_rewritten, "erasure finished");
        }
        locked(&self.0.progress).remove(&stream);
        self.0.stopped.send_modify(|_| {});
        Ok(())
    }
}

/// A statement that waits for its erasure.
struct Waiting {
    number: u64,
    entries: ErasureLog,
    stopped: watch::Receiver<bool>,
}

#[async_trait]
impl Erasing for Waiting {
    async fn finished(mut self: Box<Self>) -> Result<(), Error> {
        loop {
            let stopped = *self.stopped.borrow_and_update();
            if self.entries.is_finished(self.number) {
                return Ok(());
            }
            if stopped || self.stopped.changed().await.is_err() {
                let message = "the server stops: no read finds the records any more, and their bytes go after the next start";
                return Err(Error::new(sqlstate::UNAVAILABLE, message)
                    .with_hint("lambic_erasures tells when nothing is left of them"));
            }
        }
    }
}

fn now_us() -> i64 {
    SystemClock.now_us()
}

fn unavailable(error: lambic_dataset::Error) -> Error {
    Error::new(
        sqlstate::UNAVAILABLE,
        format!("the erasure could not be put down: {error}"),
    )
    .with_hint(
        "whether it happens is known after a restart; until then lambic_erasures does not show it",
    )
}

/// Carries out what is put down, one stream at a time, until the server stops.
pub async fn carry_out(layers: Arc<Layers>, mut stopping: watch::Receiver<bool>) {
    let erasures = layers.erasures().clone();
    tokio::select! {
        () = carry_out_all(&layers, &erasures) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    erasures.0.stopped.send_replace(true);
}

async fn carry_out_all(layers: &Layers, erasures: &Erasures) {
    let mut pause = FAILING_PAUSE;
    loop {
        let Some(stream) = erasures.next() else {
            erasures.0.begun.notified().await;
            continue;
        };
        match erase_from(layers, erasures, stream).await {
            Ok(()) => pause = FAILING_PAUSE,
            Err(failure) => {
                warn!(%stream, error = %failure, "an erasure cannot go on; it is tried again");
                erasures.state(stream, format!("it is tried again after: {failure}"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(FAILING_PAUSE_MAX);
            }
        }
    }
}

async fn erase_from(layers: &Layers, erasures: &Erasures, stream: StreamId) -> Result<(), Error> {
    let erased = erasures.erased(stream);
    rewrite_files(layers, erasures, stream, &erased).await?;
    recompute_views(layers, erasures, stream).await?;
    trim_log(layers, erasures, stream, &erased).await?;
    erasures.state(stream, "deleting the replaced files");
    loop {
        match layers.dataset().remove_replaced(stream).await {
            // A dropped stream has no files.
            Ok(0) | Err(lambic_dataset::Error::UnknownStream { .. }) => break,
            Ok(left) => {
                let state =
                    format!("waiting for statements that still read {left} of the replaced files");
                erasures.state(stream, state);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(dataset_error(error)),
        }
    }
    erasures.state(stream, "waiting for the end of a backup that is being made");
    layers.snapshots().ended().await;
    erasures.finish(layers.log(), stream, &erased).await
}

async fn rewrite_files(
    layers: &Layers,
    erasures: &Erasures,
    stream: StreamId,
    erased: &Erased,
) -> Result<(), Error> {
    erasures.state(stream, "rewriting files");
    let rewritten = async {
        layers.seal(stream).await?;
        let dataset = layers.dataset();
        loop {
            let left = dataset.files_to_rewrite(stream, erased);
            erasures.tell(stream, |progress| progress.files_left = left);
            if !dataset.rewrite_next(stream, erased).await? {
                return Ok::<(), lambic_dataset::Error>(());
            }
            erasures.tell(stream, |progress| progress.files_rewritten += 1);
        }
    };
    match rewritten.await {
        // It was dropped: all of it goes, and nothing may be left when the erasure is called finished.
        Err(lambic_dataset::Error::UnknownStream { .. }) => match erasures.name_of(stream) {
            None => Ok(()),
            Some(name) => {
                let erased = layers.dataset().erase_stream(stream, &name).await;
                erased.map_err(dataset_error)
            }
        },
        other => other.map_err(dataset_error),
    }
}

/// Views that read the stream get a batch from the first record on. One that fails is read from history, which fails
/// the same way; its erasure does not wait for it to be mended.
async fn recompute_views(
    layers: &Layers,
    erasures: &Erasures,
    stream: StreamId,
) -> Result<(), Error> {
    for view in layers.serving().kept() {
        let reads = view.plan().inputs.iter().any(|input| input.id == stream);
        if !reads || !layers.is_outdated(&view) {
            continue;
        }
        let name = &view.definition().name;
        erasures.state(stream, format!("recomputing view {name}"));
        if let Err(error) = layers.run_batch(&view, true).await {
            error!(view = %name, %error, "the view cannot be recomputed without the erased records; it is read from them");
        }
    }
    // Batches that start from here on know of the erasure; with the turn, none is left that does not.
    let _turn = layers.batch_turn().await;
    let known = layers.log().snapshot().erasures();
    let forgotten = layers.batch().forget_outdated(&known).await;
    forgotten.map_err(batch_error)
}

async fn trim_log(
    layers: &Layers,
    erasures: &Erasures,
    stream: StreamId,
    erased: &Erased,
) -> Result<(), Error> {
    erasures.state(stream, "trimming the log");
    let log = layers.log();
    let is_held = || {
        let snapshot = log.snapshot();
        (erased.sets.iter()).any(|(_, offsets)| snapshot.holds(stream, offsets))
    };
    if !is_held() {
        return Ok(());
    }
    let rotated = log.rotate().await;
    rotated.map_err(|error| Error::new(sqlstate::UNAVAILABLE, error.to_string()))?;
    let upto = log.snapshot().heads();
    for other in upto.0.keys() {
        match layers.seal(*other).await {
            Ok(_) | Err(lambic_dataset::Error::UnknownStream { .. }) => {}
            Err(error) => return Err(dataset_error(error)),
        }
    }
    let mut pause = PAUSE;
    loop {
        // Again each time: a view that was being built may be served by now, with its first batch from before.
        let mut without = bring_batches_to(layers, &upto).await;
        // What failed fails again, and others wait for its turn.
        pause = match without.is_empty() {
            true => PAUSE,
            false => (pause * 2).min(FAILING_PAUSE_MAX),
        };
        // Those hold the log only to tell how old they are, perhaps for days.
        let renewed = layers.renewed_by_batch();
        without.extend(renewed.iter().map(|view| view.definition().directory()));
        let trimmed = layers.trim(&without).await;
        trimmed.map_err(|error| Error::internal(format!("{error:#}")))?;
        if !is_held() {
            return Ok(());
        }
        erasures.state(stream, waiting_for(layers, &upto));
        tokio::time::sleep(pause).await;
    }
}

/// Runs the batch of every view that does not cover `upto` yet; returns the folders of those that fail.
async fn bring_batches_to(layers: &Layers, upto: &Frontiers) -> HashSet<String> {
    let mut failing = HashSet::new();
    for view in layers.serving().kept() {
        let covered = view.runs().batch_frontier();
        let mut inputs = view.plan().inputs.iter();
        if inputs.all(|input| covered.of(input.id).covers(&upto.of(input.id))) {
            continue;
        }
        if let Err(error) = layers.run_batch(&view, false).await {
            error!(view = %view.definition().name, %error, "batch run failed; the log does not keep its records for it any more");
            failing.insert(view.definition().directory());
        }
    }
    failing
}

/// What keeps segments before `upto` in the log.
fn waiting_for(layers: &Layers, upto: &Frontiers) -> String {
    let cursors = layers.functions().cursors();
    let behind = cursors
        .0
        .iter()
        .find(|(stream, cursor)| !cursor.covers(&upto.of(**stream)));
    match behind {
        Some((stream, cursor)) => {
            let manifest = layers.dataset().manifest(*stream);
            format!(
                "waiting for functions that have read stream {} up to {cursor}, and must up to {}",
                manifest.name,
                upto.of(*stream)
            )
        }
        None => "waiting for a view that is being built".to_owned(),
    }
}
