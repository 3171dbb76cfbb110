//! `DIFF MATERIALIZED VIEW name …`: what changes from one version of a view to another, or to a `SELECT` that is to
//! become one.
//!
//! Both are computed at one frontier, from the records; the served version is read as it is served.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::collect;
use lambic_serving::Served;
use lambic_view::{Exactness, Planned, aggregate::FloatSums};

use super::{Database, rows};
use crate::{
    Error, Outcome,
    diff::{Differences, Side, schema},
    pinned::Pinned,
    provider::view_table,
    scratch,
    statement::{Compared, Diff},
};

/// What is compared, ready to be read.
enum Ready {
    Served(Served),
    Planned(Planned),
}

impl Ready {
    fn planned(&self) -> Planned {
        match self {
            Ready::Served(served) => served.planned(),
            Ready::Planned(planned) => planned.clone(),
        }
    }
}

impl Database {
    pub(super) async fn diff(&self, diff: &Diff, sql: &str) -> Result<Outcome, Error> {
        self.existing_view(&diff.name, sql)?;
        let served = self.served(&diff.name, sql)?;
        let old = self.ready(&served, &diff.name, &diff.old).await?;
        let new = self.ready(&served, &diff.name, &diff.new).await?;
        let pinned = match &diff.as_of {
            None => Pinned::take(&self.0.sources),
            Some(as_of) => {
                let both = [old.planned(), new.planned()];
                let streams = both.iter().flat_map(Planned::streams);
                self.streams_as_of(as_of, streams).await?
            }
        };
        // At one frontier, also those that are served as of their last batch.
        let heads = pinned.heads();
        let pinned = Arc::new(pinned.back_to(heads));
        let (old, new) = tokio::try_join!(self.side(&old, &pinned), self.side(&new, &pinned))?;
        let differences = Differences::between(&old, &new).map_err(Error::internal)?;
        rows(schema(), differences.into_columns())
    }

    async fn ready(
        &self,
        served: &Served,
        name: &str,
        compared: &Compared,
    ) -> Result<Ready, Error> {
        let version = match compared {
            Compared::Served => return Ok(Ready::Served(served.clone())),
            Compared::Version(number) if served.definition().version.0 == *number => {
                return Ok(Ready::Served(served.clone()));
            }
            Compared::Version(number) => Some(*number),
            Compared::Former => None,
            Compared::Select(select, at) => {
                let planned = self
                    .plan_view(select, &self.functions_in(select), FloatSums::default())
                    .await;
                return planned.map(Ready::Planned).map_err(|error| Error {
                    position: error.position.map(|position| position + at),
                    ..error
                });
            }
        };
        let former = self.former_version(name, version)?;
        Ok(Ready::Planned(self.planned_again(&former).await?))
    }

    async fn side(&self, ready: &Ready, pinned: &Arc<Pinned>) -> Result<Side, Error> {
        match ready {
            Ready::Planned(planned) => self.computed_side(planned, pinned).await,
            Ready::Served(served) => {
                let state = self.pinned_to(Arc::clone(pinned), false);
                let table = view_table(served, pinned);
                let read = async {
                    let plan = table.scan(&state, None, &[], None).await?;
                    collect(plan, state.task_ctx()).await
                };
                let rows = read.await;
                let rows = rows.map_err(|error| Error::from_datafusion(error, "", &[]))?;
                Ok(side_of(&served.planned(), rows))
            }
        }
    }

    /// What `planned` comes to at `pinned`, computed from the records.
    pub(super) async fn computed_side(
        &self,
        planned: &Planned,
        pinned: &Arc<Pinned>,
    ) -> Result<Side, Error> {
        let state = self.pinned_to(Arc::clone(pinned), false);
        let read = async {
            pinned.check(planned.streams())?;
            scratch::rows(planned, pinned, &state).await
        };
        let rows = read.await;
        let rows = rows.map_err(|error| Error::from_datafusion(error, "", &[]))?;
        Ok(side_of(planned, rows))
    }
}

fn side_of(planned: &Planned, rows: Vec<RecordBatch>) -> Side {
    let exactness = planned.exactness().iter();
    Side {
        schema: Arc::clone(planned.schema()),
        rows,
        key: key_of(planned),
        randomised: exactness.map(|e| *e != Exactness::Exact).collect(),
    }
}

fn key_of(planned: &Planned) -> Vec<String> {
    let Planned::Kept(plan) = planned else {
        return Vec::new();
    };
    let outputs = plan.key_outputs().unwrap_or_default().into_iter();
    let mut names: Vec<String> = outputs
        .map(|index| plan.schema.field(index).name().clone())
        .collect();
    names.sort();
    names
}
