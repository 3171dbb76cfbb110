//! A view's `SELECT` run as plain SQL over the streams, not split into states; what audits and comparisons take as
//! the truth. Views that it selects from are run from scratch in turn.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, plan_datafusion_err},
    datasource::TableType,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan},
    physical_plan::{ExecutionPlan, collect},
};
use lambic_view::{Planned, Source};

use crate::{
    pinned::{Pinned, view_error},
    provider::{projected, session_state, view_table},
};

/// The rows at `pinned`.
pub async fn rows(
    planned: &Planned,
    pinned: &Arc<Pinned>,
    state: &SessionState,
) -> Result<Vec<RecordBatch>> {
    let plan = state.create_physical_plan(&plan(planned, pinned)?).await?;
    let rows = collect(plan, state.task_ctx()).await?;
    let finished = match planned {
        Planned::Kept(plan) => plan.finished(rows),
        Planned::Recomputed(plan) => plan.finished(rows),
    };
    finished.map_err(view_error)
}

fn plan(planned: &Planned, pinned: &Arc<Pinned>) -> Result<LogicalPlan> {
    let table = |source: Source| -> Result<Arc<dyn TableProvider>> {
        match source {
            Source::View(name) => {
                let served = pinned.views.get(name).cloned();
                let served =
                    served.ok_or_else(|| plan_datafusion_err!("table '{name}' not found"))?;
                // What is served approximately is what it is for those that select from it.
                if served.is_approximate() && !pinned.looks_back() {
                    return Ok(view_table(&served, pinned));
                }
                Ok(Arc::new(Scratch {
                    pinned: pinned.seen_by(&served),
                    planned: served.planned(),
                }))
            }
            other => pinned.records(other),
        }
    };
    match planned {
        Planned::Kept(plan) => plan.from_scratch(&table).map_err(view_error),
        Planned::Recomputed(plan) => plan.from_scratch(&table),
    }
}

/// A view whose rows are computed from scratch, as their reader takes them.
pub struct Scratch {
    planned: Planned,
    pinned: Arc<Pinned>,
}

impl Scratch {
    pub fn new(planned: Planned, pinned: Arc<Pinned>) -> Scratch {
        Scratch { planned, pinned }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Scratch {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.planned.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.pinned.check(self.planned.streams())?;
        let plan = plan(&self.planned, &self.pinned)?;
        let plan = session_state(state)?.create_physical_plan(&plan).await?;
        projected(plan, self.planned.schema(), projection)
    }
}
