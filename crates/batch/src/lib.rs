//! The batch layer: recomputes a view's states from the whole dataset and publishes them.
//!
//! A batch run is what the view's own plan gives over every sealed record. It is written as Parquet
//! and becomes the view's batch view with one numbered manifest (compare-and-swap), so a crash leaves
//! either the old batch view or the new one. The work itself goes through DataFusion in this process.

mod error;
mod store;

use std::sync::Arc;

use datafusion::{execution::SessionState, physical_plan::collect};
use lambic_dataset::{Dataset, Pin, Reader};
use lambic_model::Frontiers;
use lambic_view::{Definition, Run, ViewPlan};

pub use error::Error;
pub use store::{BatchManifest, RunFile};

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

    fn dataset(&self) -> &Dataset {
        self.reader.dataset()
    }

    /// States of every record sealed so far.
    pub async fn compute(&self, plan: &ViewPlan) -> Result<Run, Error> {
        let mut frontiers = Frontiers::default();
        let mut tables = std::collections::HashMap::new();
        for stream in &plan.inputs {
            let manifest = self.dataset().manifest(stream.id);
            frontiers.set(stream.id, manifest.frontier.clone());
            tables.insert(stream.id, Arc::new(self.reader.sealed(stream, &manifest)));
        }
        let states = plan
            .states_from(&self.state, &|stream| Arc::clone(&tables[&stream]) as _)
            .await?;
        let states = collect(states, self.state.task_ctx()).await?;
        Ok(plan.sorted(states, Frontiers::default(), frontiers)?)
    }

    /// States of every record up to `pin`, sealed or not: what an audit compares with.
    pub async fn recompute(&self, plan: &ViewPlan, pin: &Pin) -> Result<Run, Error> {
        let inputs: std::collections::HashMap<_, _> = plan
            .inputs
            .iter()
            .map(|stream| (stream.id, Arc::new(pin.table(stream))))
            .collect();
        let states = plan
            .states_from(&self.state, &|stream| Arc::clone(&inputs[&stream]) as _)
            .await?;
        let states = collect(states, self.state.task_ctx()).await?;
        Ok(plan.sorted(states, Frontiers::default(), pin.heads())?)
    }

    /// Keeps `run` as the view's batch view; returns its number, from 1.
    pub async fn keep(&self, definition: &Definition, run: &Run) -> Result<u64, Error> {
        store::keep(self.dataset().store(), definition, run).await
    }

    /// The newest batch view that was kept, if it fits the plan.
    pub async fn load(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
    ) -> Result<Option<(Run, u64)>, Error> {
        store::load(self.dataset().store(), definition, plan).await
    }

    /// Deletes everything kept of this version of the view.
    pub async fn forget(&self, definition: &Definition) -> Result<(), Error> {
        store::forget(self.dataset().store(), definition).await
    }
}
