//! The batch layer: computes a view's states from the dataset and publishes them.
//!
//! A batch run is what the view's own plan gives over every sealed record; most read only what was
//! sealed since the one before and merge it into that. It is written as Parquet
//! and becomes the view's batch view with one numbered manifest (compare-and-swap), so a crash leaves
//! either the old batch view or the new one. The work itself goes through DataFusion in this process.

mod error;
mod fair;
mod frontier;
mod gather;
mod history;
mod job;
mod limits;
mod made_by;
mod merge;
mod narrow;
mod progress;
mod size;
mod slices;
mod spill;
mod store;
mod streamed;
mod throttle;
mod unfinished;

use std::sync::Arc;

use datafusion::execution::{
    SessionState,
    object_store::DefaultObjectStoreRegistry,
    runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
};
use lambic_dataset::{Dataset, Pin, Reader};
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Definition, Run, ViewPlan};
use object_store::ObjectStore;

use job::Job;
use throttle::Throttled;
use unfinished::Manifests;

pub use error::Error;
pub use history::PinnedHistory;
pub use limits::Limits;
pub use made_by::MadeBy;
pub use progress::{BatchInfo, BatchState, Progress};
pub use store::{BatchManifest, Kept, RunFile};
pub use unfinished::FOLDER as SLICES_FOLDER;

/// Computes, keeps and loads batch views.
#[derive(Clone)]
pub struct Batch {
    reader: Reader,
    state: SessionState,
    /// Its plans read the dataset through `store`.
    runtime: Arc<RuntimeEnv>,
    store: Arc<dyn ObjectStore>,
    limits: Limits,
    progress: Progress,
}

impl Batch {
    /// `state` brings settings, functions and the number of threads.
    pub fn new(reader: Reader, state: SessionState, limits: Limits) -> Result<Batch, Error> {
        let mut store = reader.dataset().store();
        if let Some(bytes_per_s) = limits.io_bytes_per_s {
            store = Arc::new(Throttled::new(store, bytes_per_s));
        }
        let runtime = RuntimeEnvBuilder::from_runtime_env(state.runtime_env())
            .with_object_store_registry(Arc::new(DefaultObjectStoreRegistry::new()))
            .build_arc()?;
        reader.read_through(&runtime, Arc::clone(&store));
        Ok(Batch {
            reader,
            state,
            runtime,
            store,
            limits,
            progress: Progress::default(),
        })
    }

    /// How batches get on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    fn threads(&self) -> usize {
        self.state.config().target_partitions()
    }

    fn dataset(&self) -> &Dataset {
        self.reader.dataset()
    }

    /// Publishes the states of every record sealed so far as the view's batch view; returns the run and its number. With
    /// a `base`, a batch run of the same plan, only the records sealed since are read and merged into it: states merge to
    /// the same bits either way. `None` if nothing was sealed since. A base that does not know the newest erasures is not
    /// used. No other batch of the view may be computed meanwhile.
    pub async fn publish(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        base: Option<&Arc<Run>>,
    ) -> Result<Option<(Run, u64)>, Error> {
        let pin = self.reader.pin();
        let erasures = plan.erasures_of(&pin.log().erasures());
        let mut to = Frontiers::default();
        for stream in &plan.inputs {
            to.set(stream.id, pin.manifest(stream.id).frontier.clone());
        }
        // States do not give back what was erased: a base that still has it is of no use.
        let base = base.filter(|base| base.erasures == erasures && goes_on(&pin, plan, &base.to));
        if base.is_some_and(|base| base.to == to) {
            return Ok(None);
        }
        let from = base.map(|base| base.to.clone()).unwrap_or_default();
        let records = to.since(&from);
        let running = self.progress.begin(definition, base.is_none(), records);
        let own_memory = definition.batch_memory;
        let job = Job {
            batch: self,
            definition,
            plan,
            pin,
            base: base.cloned(),
            from,
            to,
            erasures,
            limits: Limits {
                memory_bytes: own_memory.unwrap_or(self.limits.memory_bytes),
                ..self.limits
            },
            running: &running,
        };
        let published = job.run().await;
        running.ended(match &published {
            Ok(_) => BatchState::Finished,
            Err(error) => BatchState::Failed(error.to_string()),
        });
        published.map(Some)
    }

    /// From where a batch of the view goes on that was killed; `None` if none was, or it cannot go on.
    pub async fn unfinished(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
    ) -> Result<Option<Frontiers>, Error> {
        let folder = unfinished::folder(definition);
        let found = Manifests::of(Arc::clone(&self.store), folder)
            .load()
            .await?;
        let erasures = plan.erasures_of(&self.reader.pin().log().erasures());
        let found = found.filter(|found| {
            found.made_by.fits(definition, plan, &found.to) && found.erasures == erasures
        });
        Ok(found.map(|found| found.from))
    }

    /// Removes what killed batches left that is of no use. No batch may run meanwhile.
    pub async fn tidy(&self) -> Result<(), Error> {
        job::tidy(self.dataset().store()).await
    }

    /// Keeps `run` as the view's batch view, or as its checkpoint; returns its number, from 1.
    pub async fn keep(
        &self,
        kept: Kept,
        definition: &Definition,
        plan: &ViewPlan,
        run: &Run,
    ) -> Result<u64, Error> {
        let store = Arc::clone(&self.store);
        store::keep(store, kept, definition, plan, run, self.threads()).await
    }

    /// The newest batch view or checkpoint that was kept, if it fits the plan.
    pub async fn load(
        &self,
        kept: Kept,
        definition: &Definition,
        plan: &ViewPlan,
    ) -> Result<Option<(Run, u64)>, Error> {
        store::load(
            self.dataset().store(),
            kept,
            definition,
            plan,
            self.threads(),
        )
        .await
    }

    /// Keeps up to where the rows of a recomputed view go that is served as of its last batch.
    pub async fn keep_frontier(
        &self,
        definition: &Definition,
        frontier: &Frontiers,
    ) -> Result<(), Error> {
        frontier::keep(self.dataset().store(), definition, frontier).await
    }

    /// The frontier that was kept.
    pub async fn load_frontier(&self, definition: &Definition) -> Result<Option<Frontiers>, Error> {
        frontier::load(self.dataset().store(), definition).await
    }

    /// Deletes every kept batch view that does not know the erasures from its streams, and what cut-off runs left.
    /// No batch may be kept meanwhile.
    pub async fn forget_outdated(&self, erasures: &Erasures) -> Result<(), Error> {
        store::forget_outdated(self.dataset().store(), erasures).await
    }

    /// Deletes everything kept of this version of the view.
    pub async fn forget(&self, definition: &Definition) -> Result<(), Error> {
        store::forget(self.dataset().store(), Kept::Batch, definition, None).await
    }

    /// The same, but for what a batch has finished that was killed: it says itself what it fits to.
    pub async fn forget_published(&self, definition: &Definition) -> Result<(), Error> {
        let slices = unfinished::folder(definition);
        let store = self.dataset().store();
        store::forget(store, Kept::Batch, definition, Some(slices)).await
    }

    /// Deletes the view's checkpoint.
    pub async fn forget_checkpoint(&self, definition: &Definition) -> Result<(), Error> {
        store::forget(self.dataset().store(), Kept::Checkpoint, definition, None).await
    }
}

/// True if no file holds records of both sides of `frontiers`. What is new of a join is found by offsets.
fn goes_on(pin: &Pin, plan: &ViewPlan, frontiers: &Frontiers) -> bool {
    let mut streams = plan.inputs.iter();
    let parts = streams.all(|stream| {
        let since = pin.sealed_since(stream, &frontiers.of(stream.id));
        since.is_some()
    });
    parts || plan.join().is_some()
}
