//! What statements do to the layers: streams come and go, views are built, served, refreshed, audited.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use lambic_batch::{Batch, BatchState, Kept};
use lambic_dataset::{Dataset, Expiring, Keep};
use lambic_functions::Functions;
use lambic_log::Log;
use lambic_model::{Frontier, Frontiers, ScalarFunction, Stream, StreamId};
use lambic_query::{
    AppendsHeld, BackupInfo, BatchInfo, BuiltView, Compacted, Erasing, ErasureInfo, Error,
    Lifecycle, ToErase, sqlstate,
};
use lambic_serving::{RecomputedView, Served, ServedView, Serving};
use lambic_speed::Speed;
use lambic_view::{Definition, Freshness, Planned, Run, ViewPlan, definition::NEVER};
use tracing::{error, info, warn};

use super::{
    batch_threads::BatchThreads,
    compact::Compaction,
    erase::Erasures,
    errors::{batch_error, dataset_error},
    holds::{Hold, Holds},
};
use crate::backup::Snapshots;

pub struct Parts {
    pub log: Log,
    pub dataset: Dataset,
    pub serving: Serving,
    pub batch: Batch,
    pub batch_threads: BatchThreads,
    pub speed: Arc<Speed>,
    pub task: Arc<TaskContext>,
    pub functions: Functions,
    pub erasures: Erasures,
    pub snapshots: Snapshots,
}

impl Parts {
    fn served(
        &self,
        definition: Definition,
        plan: Arc<ViewPlan>,
        batch: (Run, u64),
        checkpoint: Option<Run>,
    ) -> Arc<ServedView> {
        let task = Arc::clone(&self.task);
        let speed = Arc::clone(&self.speed);
        let batch = Some(batch);
        Arc::new(ServedView::new(
            definition, plan, task, speed, batch, checkpoint,
        ))
    }

    fn sealed(&self, streams: &[Arc<Stream>]) -> Frontiers {
        let mut sealed = Frontiers::default();
        for stream in streams {
            let manifest = self.dataset.manifest(stream.id);
            sealed.set(stream.id, manifest.frontier.clone());
        }
        sealed
    }
}

pub struct Layers {
    parts: Arc<Parts>,
    holds: Holds,
    compaction: Compaction,
    /// Batch runs take turns: each may use all that there is for batches.
    batching: Arc<tokio::sync::Mutex<()>>,
}

/// Held by those who compute, keep or publish a batch.
type Turn = Arc<tokio::sync::OwnedMutexGuard<()>>;

impl Layers {
    pub fn new(parts: Parts) -> Layers {
        Layers {
            parts: Arc::new(parts),
            holds: Holds::default(),
            compaction: Compaction::default(),
            batching: Arc::default(),
        }
    }

    pub fn log(&self) -> &Log {
        &self.parts.log
    }

    pub fn dataset(&self) -> &Dataset {
        &self.parts.dataset
    }

    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    pub fn compaction(&self) -> &Compaction {
        &self.compaction
    }

    pub fn serving(&self) -> &Serving {
        &self.parts.serving
    }

    /// The views whose rows are made anew by their batch and stand until the next.
    pub fn renewed_by_batch(&self) -> Vec<Arc<RecomputedView>> {
        let views = self.parts.serving.views();
        let renewed = views.values().filter_map(|view| match view {
            Served::Recomputed(view) => view.batch_frontier().map(|_| Arc::clone(view)),
            Served::Kept(_) => None,
        });
        renewed.collect()
    }

    pub fn batch(&self) -> &Batch {
        &self.parts.batch
    }

    pub fn erasures(&self) -> &Erasures {
        &self.parts.erasures
    }

    pub fn snapshots(&self) -> &Snapshots {
        &self.parts.snapshots
    }

    /// No batch is computed or kept as long as this is held.
    pub async fn batch_turn(&self) -> Turn {
        Arc::new(Arc::clone(&self.batching).lock_owned().await)
    }

    /// True if records in the view's runs were erased since.
    pub fn is_outdated(&self, view: &ServedView) -> bool {
        view.is_outdated(&view.runs(), &self.parts.log.snapshot().erasures())
    }

    pub fn functions(&self) -> &Functions {
        &self.parts.functions
    }

    /// Serves a view of the catalog after a start.
    pub async fn open_view(&self, definition: Definition, planned: Planned) -> anyhow::Result<()> {
        let view = self.made(&definition, planned, Make::Open).await?;
        self.parts.serving.put(view);
        Ok(())
    }

    /// The view with its batch views, or those of its parts.
    async fn made(
        &self,
        definition: &Definition,
        planned: Planned,
        make: Make,
    ) -> Result<Served, Error> {
        match planned {
            Planned::Kept(plan) => Ok(Served::Kept(self.made_one(definition, plan, make).await?)),
            Planned::Recomputed(plan) => {
                let mut parts = Vec::with_capacity(plan.parts.len());
                for (index, part) in plan.parts.iter().enumerate() {
                    let definition = definition.for_part(index);
                    let made = self.made_one(&definition, Arc::clone(part), make);
                    parts.push(made.await?);
                }
                let frontier = self.batch_frontier(definition, &plan.streams, make).await?;
                let view = RecomputedView::new(definition.clone(), plan, parts, frontier);
                Ok(Served::Recomputed(Arc::new(view)))
            }
        }
    }

    /// Up to where the rows of a recomputed view go, if it is served as of its last batch.
    async fn batch_frontier(
        &self,
        definition: &Definition,
        streams: &[Arc<Stream>],
        make: Make,
    ) -> Result<Option<Frontiers>, Error> {
        if definition.freshness == Freshness::Now {
            return Ok(None);
        }
        let heads = self.parts.log.snapshot();
        if make == Make::Open {
            let kept = self.parts.batch.load_frontier(definition).await;
            let kept = kept.map_err(batch_error)?;
            // An older copy of the log may have been restored.
            if let Some(kept) = kept.filter(|kept| heads.heads().covers(kept)) {
                return Ok(Some(kept));
            }
        }
        let mut frontier = Frontiers::default();
        for stream in streams {
            frontier.set(stream.id, heads.head(stream.id));
        }
        self.keep_frontier(definition, &frontier).await?;
        Ok(Some(frontier))
    }

    async fn made_one(
        &self,
        definition: &Definition,
        plan: Arc<ViewPlan>,
        make: Make,
    ) -> Result<Arc<ServedView>, Error> {
        let loaded = match make {
            Make::New => None,
            Make::Open | Make::Reopen => self.loaded(definition, &plan, make).await?,
        };
        // A batch view that the log does not reach is brought nearer from the dataset.
        let log = self.parts.log.snapshot();
        let reaches = |run: &Run| {
            plan.inputs
                .iter()
                .all(|s| run.to.of(s.id).covers(&log.start(s.id)))
        };
        let batch = match loaded {
            Some((run, number)) if reaches(&run) => (run, number),
            Some((run, number)) => self.brought_up(definition, &plan, run, number).await?,
            None => self.computed(definition, &plan).await?,
        };
        let checkpoint = match make {
            Make::Open => self.checkpointed(definition, &plan, &batch.0).await?,
            Make::New | Make::Reopen => None,
        };
        let definition = definition.clone();
        Ok(self.parts.served(definition, plan, batch, checkpoint))
    }

    /// The batch view that was kept; one that is damaged or from before an erasure is removed, because it can be
    /// computed again. Where that erasure is not finished, it computes the view, and a start does not wait for that: until
    /// then the view is read from history.
    async fn loaded(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        make: Make,
    ) -> Result<Option<(Run, u64)>, Error> {
        let erasures = plan.erasures_of(&self.parts.log.snapshot().erasures());
        let pending = &self.parts.erasures;
        let mut inputs = plan.inputs.iter();
        let is_followed = make == Make::Open && inputs.any(|input| pending.is_pending(input.id));
        match self.parts.batch.load(Kept::Batch, definition, plan).await {
            Ok(Some((run, _))) if run.erasures != erasures && !is_followed => {
                let forgotten = self.parts.batch.forget(definition).await;
                forgotten.map_err(batch_error)?;
                Ok(None)
            }
            Ok(loaded) => {
                // An older copy of the log may have been restored, and have other records there.
                let heads = self.parts.log.snapshot().heads();
                Ok(loaded.filter(|(run, _)| heads.covers(&run.to)))
            }
            Err(error @ lambic_batch::Error::Damaged { .. }) => {
                warn!(view = %definition.name, %error, "batch view is damaged: recomputing it from the dataset");
                let forgotten = self.parts.batch.forget(definition).await;
                forgotten.map_err(batch_error)?;
                Ok(None)
            }
            Err(error) => Err(batch_error(error)),
        }
    }

    /// What was kept of the states after `batch`. Without it they are computed from the log again, so one that does not
    /// fit, or is damaged, is deleted.
    async fn checkpointed(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        batch: &Run,
    ) -> Result<Option<Run>, Error> {
        let loaded = self.parts.batch.load(Kept::Checkpoint, definition, plan);
        let loaded = match loaded.await {
            Ok(loaded) => loaded,
            Err(error @ lambic_batch::Error::Damaged { .. }) => {
                warn!(view = %definition.name, %error, "checkpoint is damaged: its states are computed again from the log");
                None
            }
            Err(error) => return Err(batch_error(error)),
        };
        // An older copy of the log may have been restored.
        let heads = self.parts.log.snapshot().heads();
        let fits = |run: &Run| {
            run.from == batch.to && run.erasures == batch.erasures && heads.covers(&run.to)
        };
        let checkpoint = loaded.map(|(run, _)| run).filter(fits);
        if checkpoint.is_none() {
            // It may seem to fit another time, when other records stand where those of its states stood.
            let forgotten = self.parts.batch.forget_checkpoint(definition).await;
            forgotten.map_err(batch_error)?;
        }
        if let Some(run) = &checkpoint {
            let streams = plan.inputs.iter().map(|stream| stream.id);
            let records: u64 = streams
                .map(|id| run.to.of(id).since(&run.from.of(id)))
                .sum();
            info!(view = %definition.name, records, "went on from a checkpoint");
        }
        Ok(checkpoint)
    }

    /// Keeps what the speed layer has computed, so that a start goes on from there.
    ///
    /// Of a view without batches it becomes the batch view: nothing else would ever let go of the log.
    pub async fn checkpoint(&self, view: &ServedView) -> Result<(), Error> {
        let _turn = self.batch_turn().await;
        let runs = view.runs();
        if view.is_outdated(&runs, &self.parts.log.snapshot().erasures()) {
            return Ok(());
        }
        let (definition, plan, batch) = (view.definition(), view.plan(), &self.parts.batch);
        if definition.batch_every == NEVER {
            let folded = view.folded(&runs).await.map_err(Error::internal)?;
            let kept = batch.keep(Kept::Batch, definition, plan, &folded).await;
            let number = kept.map_err(batch_error)?;
            let published = view.publish(folded, number).await;
            published.map_err(Error::internal)?;
        } else if let Some(run) = view.checkpoint(&runs).await.map_err(Error::internal)? {
            let kept = batch.keep(Kept::Checkpoint, definition, plan, &run).await;
            kept.map_err(batch_error)?;
        }
        Ok(())
    }

    /// Makes a view up to the head; the log keeps what it has yet to read meanwhile.
    async fn built(
        &self,
        definition: &Definition,
        planned: Planned,
        make: Make,
    ) -> Result<Box<dyn BuiltView>, Error> {
        let hold = self.holds.take(self.parts.sealed(planned.streams()));
        let view = self.made(definition, planned, make).await?;
        // Caught up before it takes over, so that the first reader does not pay for it.
        let heads = self.parts.log.snapshot().heads();
        for kept in view.kept() {
            kept.advance(&heads).await.map_err(Error::internal)?;
        }
        Ok(Box::new(Built {
            view,
            parts: Arc::clone(&self.parts),
            _hold: hold,
        }))
    }

    /// Seals a stream up to the head.
    pub async fn seal(&self, stream: StreamId) -> Result<Frontier, lambic_dataset::Error> {
        let log = self.parts.log.snapshot();
        Ok(self
            .parts
            .dataset
            .seal(stream, &log)
            .await?
            .frontier
            .clone())
    }

    /// A batch run over all records.
    async fn computed(
        &self,
        definition: &Definition,
        plan: &Arc<ViewPlan>,
    ) -> Result<(Run, u64), Error> {
        let turn = self.batch_turn().await;
        let computed = self.compute(&turn, definition, plan, None).await?;
        Ok(computed.expect("without a base there is always a run"))
    }

    /// A batch run over what was sealed since `run`, merged into it.
    async fn brought_up(
        &self,
        definition: &Definition,
        plan: &Arc<ViewPlan>,
        run: Run,
        number: u64,
    ) -> Result<(Run, u64), Error> {
        let base = Arc::new(run);
        let turn = self.batch_turn().await;
        if let Some(newer) = self.compute(&turn, definition, plan, Some(&base)).await? {
            return Ok(newer);
        }
        let run = Arc::into_inner(base).expect("nobody else holds it");
        Ok((run, number))
    }

    /// `None` if nothing was sealed since `base`. Who has the turn keeps it until the run is published, so that none
    /// takes the place of one that reaches further.
    async fn compute(
        &self,
        turn: &Turn,
        definition: &Definition,
        plan: &Arc<ViewPlan>,
        base: Option<&Arc<Run>>,
    ) -> Result<Option<(Run, u64)>, Error> {
        for stream in &plan.inputs {
            self.seal(stream.id).await.map_err(dataset_error)?;
        }
        let started = std::time::Instant::now();
        let (batch, turn) = (self.parts.batch.clone(), Arc::clone(turn));
        let (of, plan, base) = (definition.clone(), Arc::clone(plan), base.cloned());
        let published = self.parts.batch_threads.run(async move {
            // Of one that is cancelled, the turn lasts until it has really ended.
            let _turn = turn;
            batch.publish(&of, &plan, base.as_ref()).await
        });
        let Some((run, number)) = published.await?.map_err(batch_error)? else {
            return Ok(None);
        };
        self.compaction.note(definition.directory(), run.to.clone());
        info!(
            view = %definition.name,
            number,
            state_rows = run.rows(),
            seconds = started.elapsed().as_secs_f64(),
            "batch run published"
        );
        Ok(Some((run, number)))
    }

    /// Goes on with the batches of a server that was killed.
    pub async fn resume_batches(&self) {
        for view in self.parts.serving.kept() {
            let (definition, plan) = (view.definition(), view.plan());
            let from = match self.parts.batch.unfinished(definition, plan).await {
                Ok(Some(from)) => from,
                Ok(None) => continue,
                Err(error) => {
                    warn!(view = %definition.name, %error, "what a batch has finished cannot be looked at");
                    continue;
                }
            };
            let full = from != view.runs().batch_frontier();
            if let Err(error) = self.run_batch(&view, full).await {
                error!(view = %definition.name, %error, "batch run failed; the former batch view is still served");
            }
        }
    }

    /// Runs a view's batch and lets the result take the place of the former batch view: over what was
    /// sealed since, or `full`, over all records.
    pub async fn run_batch(&self, view: &ServedView, full: bool) -> Result<(), Error> {
        let turn = self.batch_turn().await;
        let mut base = view.runs().batch.clone().filter(|_| !full);
        loop {
            let computed = self.compute(&turn, view.definition(), view.plan(), base.as_ref());
            let Some((run, number)) = computed.await? else {
                return Ok(());
            };
            if view.publish(run, number).await.map_err(Error::internal)? {
                return Ok(());
            }
            // Records were erased meanwhile.
            base = None;
        }
    }
}

/// How a view comes to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    /// From the records.
    New,
    /// From what is kept of it, at a start.
    Open,
    /// From what is kept of a former version.
    Reopen,
}

/// A view with its batch view, not yet among those that are served.
struct Built {
    view: Served,
    parts: Arc<Parts>,
    _hold: Hold,
}

impl BuiltView for Built {
    fn serve(self: Box<Self>) {
        self.parts.serving.put(self.view);
    }
}

struct Held {
    held: lambic_log::AppendsHeld,
    parts: Arc<Parts>,
}

impl AppendsHeld for Held {
    fn change_stream(&self, stream: Arc<Stream>) {
        // What seals must know the columns before the first record has them.
        self.parts.dataset.change_stream(Arc::clone(&stream));
        self.parts.log.change_stream(stream, &self.held);
    }
}

fn gone(name: &str) -> Error {
    Error::new(
        sqlstate::UNDEFINED_TABLE,
        format!("there is no view \"{name}\""),
    )
}

fn batch_info(info: lambic_batch::BatchInfo) -> BatchInfo {
    let state = match info.state {
        BatchState::Computing => "computing".to_owned(),
        BatchState::Merging => "merging".to_owned(),
        BatchState::Publishing => "publishing".to_owned(),
        BatchState::Finished => "finished".to_owned(),
        BatchState::Cancelled => "cancelled".to_owned(),
        BatchState::Failed(reason) => format!("failed: {reason}"),
    };
    let kind = if info.full { "full" } else { "incremental" };
    BatchInfo {
        batch: info.number,
        view: info.view,
        version: info.version,
        part: info.part.map(|part| part as u64),
        kind: kind.to_owned(),
        state,
        records: info.records,
        records_total: info.records_total,
        slices: info.slices,
        slices_total: info.slices_total,
        slices_resumed: info.slices_resumed,
        bytes_spilled: info.bytes_spilled,
        started_at_us: info.started_at_us,
        finished_at_us: info.ended_at_us,
        eta_us: info.eta_us,
    }
}

#[async_trait]
impl Lifecycle for Layers {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        self.parts
            .dataset
            .add_stream(Arc::clone(&stream))
            .await
            .map_err(dataset_error)?;
        self.parts.log.add_stream(stream);
        Ok(())
    }

    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        let removed = self.parts.log.remove_stream(stream.id).await;
        removed.map_err(|error| Error::new(sqlstate::UNAVAILABLE, error.to_string()))?;
        let erased = self.parts.dataset.erase_stream(stream.id, &stream.name);
        erased.await.map_err(dataset_error)
    }

    async fn hold_appends(&self) -> Box<dyn AppendsHeld> {
        Box::new(Held {
            held: self.parts.log.hold_appends().await,
            parts: Arc::clone(&self.parts),
        })
    }

    async fn build_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error> {
        // What a dropped view of the same name may have left is not this one's, but for slices of its own batch.
        let forgotten = self.parts.batch.forget_published(definition).await;
        forgotten.map_err(batch_error)?;
        self.built(definition, planned, Make::New).await
    }

    async fn reopen_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error> {
        self.built(definition, planned, Make::Reopen).await
    }

    fn functions_of_view(
        &self,
        definition: &Definition,
    ) -> Result<Vec<Arc<dyn ScalarFunction>>, Error> {
        let each = definition.functions.iter().map(|(name, digest)| {
            self.parts.functions.scalar_of(name, digest).ok_or_else(|| {
                let message = format!(
                    "view \"{}\" needs function {name} with code {digest}, which is gone",
                    definition.name
                );
                Error::new(sqlstate::UNDEFINED_FUNCTION, message).with_hint(
                    "deploy that code again, or create the view anew over the present function",
                )
            })
        });
        each.collect()
    }

    async fn drop_view(&self, definition: &Definition) -> Result<(), Error> {
        self.compaction.forget(&definition.directory());
        self.parts
            .batch
            .forget(definition)
            .await
            .map_err(batch_error)
    }

    async fn refresh_view(&self, name: &str, full: bool) -> Result<(), Error> {
        let view = self.parts.serving.view(name).ok_or_else(|| gone(name))?;
        for kept in view.kept() {
            self.run_batch(&kept, full).await?;
        }
        Ok(())
    }

    async fn keep_frontier(
        &self,
        definition: &Definition,
        frontier: &Frontiers,
    ) -> Result<(), Error> {
        let kept = self.parts.batch.keep_frontier(definition, frontier).await;
        kept.map_err(batch_error)
    }

    async fn erase(&self, to_erase: ToErase) -> Result<Box<dyn Erasing>, Error> {
        self.parts.erasures.erase(&self.parts.log, to_erase).await
    }

    fn erasures(&self) -> Vec<ErasureInfo> {
        self.parts.erasures.infos()
    }

    async fn backup(&self, target: &str) -> Result<BackupInfo, Error> {
        self.parts.snapshots.backup(self, target).await
    }

    fn backups(&self) -> Vec<BackupInfo> {
        self.parts.snapshots.infos()
    }

    fn batches(&self) -> Vec<BatchInfo> {
        let infos = self.parts.batch.progress().infos();
        infos.into_iter().map(batch_info).collect()
    }

    async fn compact(&self, stream: StreamId) -> Result<Compacted, Error> {
        self.compact_all(stream).await
    }

    async fn expiring(&self, stream: StreamId, keep: Keep) -> Result<Expiring, Error> {
        self.expiring_of(stream, keep).await
    }

    fn start_of(&self, stream: StreamId) -> Frontier {
        self.parts.erasures.start_of(stream)
    }

    fn expired_until(&self, stream: StreamId) -> Option<i64> {
        self.parts.erasures.expired_until(stream)
    }

    fn functions_of(&self, stream: &str) -> Vec<String> {
        let functions = self.parts.functions.list().into_iter().filter(|function| {
            function
                .output
                .as_ref()
                .is_some_and(|output| output.as_str() == stream)
                || function
                    .triggers
                    .iter()
                    .any(|trigger| trigger.stream.as_str() == stream)
        });
        functions
            .map(|function| function.name.to_string())
            .collect()
    }
}
