//! The way from new records to states, for rooms that do not know where records come from.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use lambic_model::Frontiers;

use crate::{Error, Run, ViewPlan};

/// Computes states of new records; the speed layer does.
#[async_trait]
pub trait TailSource: Send + Sync {
    /// States of exactly the records of the view's streams in `from..to` that were not erased; the run says which
    /// erasures are known to it.
    async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error>;
}
