//! A view's `SELECT` run as plain SQL over the streams, not split into states; what audits and comparisons take as
//! the truth. Views that it selects from are run from scratch in turn.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, plan_datafusion_err},
    datasource::{TableType, memory::MemorySourceConfig},
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan},
    physical_plan::{ExecutionPlan, collect},
};
use lambic_serving::Served;
use lambic_view::{Planned, Source};

use crate::{
    pinned::{Pinned, view_error},
    provider::session_state,
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
                Ok(Arc::new(Scratch {
                    pinned: pinned.seen_by(&served),
                    served,
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

/// A view whose rows are computed from scratch.
struct Scratch {
    served: Served,
    pinned: Arc<Pinned>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scratch").field(&self.served).finish()
    }
}

#[async_trait]
impl TableProvider for Scratch {
    fn schema(&self) -> SchemaRef {
        self.served.as_source().schema
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
        let planned = self.served.planned();
        let rows = Box::pin(rows(&planned, &self.pinned, session_state(state)?)).await?;
        let exec = MemorySourceConfig::try_new_exec(&[rows], self.schema(), projection.cloned())?;
        Ok(exec)
    }
}
