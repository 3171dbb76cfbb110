//! The batch layer: computes a view's states from the dataset and publishes them.
//!
//! A batch run is what the view's own plan gives over every sealed record; most read only what was
//! sealed since the one before and merge it into that. It is written as Parquet
//! and becomes the view's batch view with one numbered manifest (compare-and-swap), so a crash leaves
//! either the old batch view or the new one. The work itself goes through DataFusion in this process.

mod error;
mod frontier;
mod history;
mod narrow;
mod store;

use std::{collections::HashMap, sync::Arc, time::Instant};

use datafusion::{
    catalog::TableProvider, error::DataFusionError, execution::SessionState, physical_plan::collect,
};
use lambic_dataset::{Dataset, Pin, Reader, StreamTable};
use lambic_model::{Erasures, Frontiers, StreamId};
use lambic_view::{Definition, Run, Source, ViewPlan};
use tracing::debug;

pub use error::Error;
pub use history::PinnedHistory;
pub use store::{BatchManifest, Kept, RunFile};

/// Computes, keeps and loads batch views.
#[derive(Clone)]
pub struct Batch {
    reader: Reader,
    state: SessionState,
}

impl Batch {
    /// `state` brings settings, functions and the memory that batches may use.
    pub fn new(reader: Reader, state: SessionState) -> Batch {
        Batch { reader, state }
    }

    fn threads(&self) -> usize {
        self.state.config().target_partitions()
    }

    fn dataset(&self) -> &Dataset {
        self.reader.dataset()
    }

    /// States of every record sealed so far. With a `base`, a batch run of the same plan, only the
    /// records sealed since are read and merged into it: states merge to the same bits either way.
    /// `None` if nothing was sealed since. A base that does not know the newest erasures is not used.
    pub async fn compute(
        &self,
        plan: &ViewPlan,
        base: Option<&Arc<Run>>,
    ) -> Result<Option<Run>, Error> {
        let pin = self.reader.pin();
        let erasures = plan.erasures_of(&pin.log().erasures());
        let mut to = Frontiers::default();
        for stream in &plan.inputs {
            to.set(stream.id, pin.manifest(stream.id).frontier.clone());
        }
        // States do not give back what was erased: a base that still has it is of no use.
        let base = base.filter(|base| base.erasures == erasures);
        if let (Some(base), Some(join)) = (base, plan.join()) {
            if base.to == to {
                return Ok(None);
            }
            let history = PinnedHistory::new(pin, Arc::new(self.state.clone()));
            let task = self.state.task_ctx();
            let new = plan.run_between(join, &base.to, &to, &history, Arc::clone(&task));
            let runs = [Arc::clone(base), Arc::new(new.await?)];
            return Ok(Some(plan.merge(&runs, task).await?));
        }
        let base = match base.map(|base| (base, since(&pin, plan, &base.to))) {
            Some((base, Some(_))) if base.to == to => return Ok(None),
            Some((base, Some(tables))) => Some((base, tables)),
            _ => None,
        };
        let Some((base, tables)) = base else {
            let each = plan.inputs.iter();
            let tables = each.map(|stream| (stream.id, pin.sealed(stream))).collect();
            let run = self.run(plan, tables, Frontiers::default(), to).await?;
            return Ok(Some(run.knowing(erasures)));
        };
        let new = self.run(plan, tables, base.to.clone(), to).await?;
        let runs = [Arc::clone(base), Arc::new(new.knowing(erasures))];
        Ok(Some(plan.merge(&runs, self.state.task_ctx()).await?))
    }

    async fn run(
        &self,
        plan: &ViewPlan,
        tables: HashMap<StreamId, StreamTable>,
        from: Frontiers,
        to: Frontiers,
    ) -> Result<Run, Error> {
        let table = |source: Source| -> Result<Arc<dyn TableProvider>, DataFusionError> {
            match source {
                Source::Stream(stream) => {
                    let table = tables[&stream.id].clone();
                    Ok(Arc::new(table.with_text_views(&plan.texts_only_grouped_by)))
                }
                other => Err(DataFusionError::Plan(format!("{other:?} is not a stream"))),
            }
        };
        let started = Instant::now();
        let states = plan.states_from(&self.state, &table).await?;
        let states = collect(states, self.state.task_ctx()).await?;
        let computed = started.elapsed();
        let from_records: u64 = from.0.values().map(|frontier| frontier.records()).sum();
        let run = plan.sorted(states, self.threads(), from, to)?;
        debug!(
            from_records,
            computing_s = computed.as_secs_f64(),
            sorting_s = (started.elapsed() - computed).as_secs_f64(),
            states = run.rows(),
            "states of a batch run"
        );
        Ok(run)
    }

    /// Keeps `run` as the view's batch view, or as its checkpoint; returns its number, from 1.
    pub async fn keep(
        &self,
        kept: Kept,
        definition: &Definition,
        plan: &ViewPlan,
        run: &Run,
    ) -> Result<u64, Error> {
        let store = self.dataset().store();
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
        store::forget(self.dataset().store(), Kept::Batch, definition).await
    }

    /// Deletes the view's checkpoint.
    pub async fn forget_checkpoint(&self, definition: &Definition) -> Result<(), Error> {
        store::forget(self.dataset().store(), Kept::Checkpoint, definition).await
    }
}

/// The records sealed since `from`; `None` if the files do not part there.
fn since(pin: &Pin, plan: &ViewPlan, from: &Frontiers) -> Option<HashMap<StreamId, StreamTable>> {
    let each = plan.inputs.iter().map(|stream| {
        let table = pin.sealed_since(stream, &from.of(stream.id));
        Some((stream.id, table?))
    });
    each.collect()
}
