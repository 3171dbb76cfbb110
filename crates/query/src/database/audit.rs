//! `AUDIT MATERIALIZED VIEW name`, `AUDIT ALL`: what is served against the view's `SELECT` run from scratch.
//!
//! The `SELECT` runs as plain SQL over the streams at the statement's frontier, not split into states;
//! views that it selects from are run from scratch in turn. A view that expects no rows disagrees with every
//! row it has: what it selects is what its owner says must not be. Percentiles come from randomised sketches:
//! their states are computed anew and compared by rank.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{common::Result as PlanResult, execution::SessionState, physical_plan::collect};
use lambic_serving::Served;
use lambic_view::{
    Exactness, TOLERANCE,
    audit::{self, Comparison},
};

use super::{Database, rows};
use crate::{
    Error, Outcome, as_of,
    drift::{self, Drift},
    error::find_word,
    pinned::{Pinned, view_error},
    provider::view_table,
    scratch, sqlstate,
};

/// How an audit ended.
#[derive(Debug, Clone)]
pub struct AuditResult {
    pub view: String,
    pub agrees: bool,
    pub rows: u64,
    pub differences: u64,
    pub detail: String,
    pub frontier: String,
}

impl Database {
    pub(super) async fn audit(&self, name: Option<&str>, sql: &str) -> Result<Outcome, Error> {
        let names = match name {
            Some(name) => vec![self.existing_view(name, sql)?.name.to_string()],
            None => self
                .definitions()
                .into_iter()
                .map(|view| view.name.to_string())
                .collect(),
        };
        let mut results = Vec::with_capacity(names.len());
        for view in names {
            match self.audit_view(&view).await {
                Ok(result) => results.push(result),
                // One that cannot be read does not keep the others from being audited.
                Err(error) if name.is_none() => results.push(AuditResult {
                    view,
                    agrees: false,
                    rows: 0,
                    differences: 0,
                    detail: format!("it could not be audited: {error}"),
                    frontier: String::new(),
                }),
                Err(error) => return Err(error),
            }
        }
        outcome(&results)
    }

    /// Recomputes from scratch and compares with what is served.
    pub async fn audit_view(&self, name: &str) -> Result<AuditResult, Error> {
        let pinned = Arc::new(Pinned::take(&self.0.sources));
        // From the pinned views: the version that is audited is the one that is pinned.
        let served = match pinned.views.get(name) {
            Some(served) => served.clone(),
            None => self.served(name, "")?,
        };
        if served.is_approximate() {
            return self.audit_approximate(name, &served, &pinned).await;
        }
        let pinned = pinned.seen_by(&served);
        let state = self.pinned_to(Arc::clone(&pinned), false);
        let compared = compare(&served, &pinned, &state).await;
        let compared = compared.map_err(|error| Error::from_datafusion(error, "", &[]))?;
        Ok(AuditResult {
            view: name.to_owned(),
            agrees: compared.agrees(),
            rows: compared.rows,
            differences: compared.differences,
            detail: tolerated(&served)
                .into_iter()
                .chain(compared.examples)
                .collect::<Vec<_>>()
                .join("; "),
            frontier: as_of::frontier_text(served.streams(), &pinned.heads()),
        })
    }

    /// What is measured is told, and is no failure.
    async fn audit_approximate(
        &self,
        name: &str,
        served: &Served,
        pinned: &Arc<Pinned>,
    ) -> Result<AuditResult, Error> {
        let (drift, exact_rows) = self.drift_of(served, pinned).await?;
        let is_expected = !served.definition().expects_no_rows || exact_rows == 0;
        let told = match is_expected {
            true => drift.summary(),
            false => format!(
                "{exact_rows} rows, where none are expected; {}",
                drift.summary()
            ),
        };
        Ok(AuditResult {
            view: name.to_owned(),
            agrees: is_expected,
            rows: drift.rows,
            differences: drift.differences(),
            detail: told,
            frontier: as_of::frontier_text(served.streams(), &pinned.heads()),
        })
    }

    /// `AUDIT MATERIALIZED VIEW name WITH (drift)`: how far what is served approximately is off.
    pub(super) async fn drift(&self, name: &str, sql: &str) -> Result<Outcome, Error> {
        self.existing_view(name, sql)?;
        let pinned = Arc::new(Pinned::take(&self.0.sources));
        let served = match pinned.views.get(name) {
            Some(served) => served.clone(),
            None => self.served(name, sql)?,
        };
        if !served.is_approximate() {
            let message = format!("view \"{name}\" has no drift: what is served of it is exact");
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, message)
                .with_position(find_word(sql, name))
                .with_hint(
                    "AUDIT MATERIALIZED VIEW proves it; a view WITH (speed_as = …) has drift",
                ));
        }
        let (drift, _) = self.drift_of(&served, &pinned).await?;
        rows(drift::schema(), drift.into_columns())
    }

    /// At the pin, and how many rows the `SELECT` has there.
    async fn drift_of(
        &self,
        served: &Served,
        pinned: &Arc<Pinned>,
    ) -> Result<(Drift, usize), Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let state = self.pinned_to(Arc::clone(pinned), false);
        let planned = served.planned();
        let key = match &served.definition().speed_as {
            Some(speed_as) => speed_as.key.clone(),
            None => Vec::new(),
        };
        let read = async {
            let table = view_table(served, pinned);
            let read = table.scan(&state, None, &[], None).await?;
            collect(read, state.task_ctx()).await
        };
        let shown = read.await.map_err(wrong)?;
        let schema = planned.schema();
        let shown = with_schema(shown, schema)?;
        let exact = scratch::rows(&planned, pinned, &state)
            .await
            .map_err(wrong)?;
        let exact_rows = exact.iter().map(RecordBatch::num_rows).sum();
        let drift = Drift::between(schema, &key, &shown, &exact).map_err(Error::internal)?;
        let drift = drift.map_err(|twice| {
            Error::new(
                sqlstate::INVALID_PARAMETER,
                format!("the drift cannot be measured: several rows have the key {twice}"),
            )
            .with_hint("create the view anew with a speed_key that tells its rows apart")
        })?;
        Ok((drift, exact_rows))
    }
}

fn with_schema(batches: Vec<RecordBatch>, schema: &SchemaRef) -> Result<Vec<RecordBatch>, Error> {
    let each = batches.into_iter().map(|batch| {
        let (_, columns, _) = batch.into_parts();
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(Error::internal)
    });
    each.collect()
}

/// Says which columns are not compared bit for bit.
fn tolerated(served: &Served) -> Option<String> {
    let source = served.as_source();
    let columns = source.schema.fields().iter().zip(&source.exactness);
    let rounded: Vec<&str> = columns
        .filter(|(_, exactness)| **exactness == Exactness::Rounded)
        .map(|(field, _)| field.name().as_str())
        .collect();
    (!rounded.is_empty()).then(|| {
        let columns = rounded.join(", ");
        format!(
            "compared within {TOLERANCE:e} of their size, as sums of doubles are fast: {columns}"
        )
    })
}

async fn compare(
    served: &Served,
    pinned: &Arc<Pinned>,
    state: &SessionState,
) -> PlanResult<Comparison> {
    let table = view_table(served, pinned);
    let read = table.scan(state, None, &[], None).await?;
    let read = collect(read, state.task_ctx()).await?;
    let scratch = scratch::rows(&served.planned(), pinned, state).await?;
    let source = served.as_source();
    let compared = audit::compare_finished(&source.schema, &source.exactness, &read, &scratch);
    let mut compared = compared.map_err(view_error)?;
    if served.definition().expects_no_rows {
        audit::expect_no_rows(&scratch, &mut compared);
    }
    if let Served::Kept(view) = served
        && !view.plan().percentile_states.is_empty()
    {
        let plan = view.plan();
        let kept = pinned.merged_states(view, state).await?;
        let fresh = pinned.states_from_scratch(plan, state).await?;
        audit::compare_sketches(plan, &kept, &fresh, &mut compared).map_err(view_error)?;
    }
    Ok(compared)
}

fn outcome(results: &[AuditResult]) -> Result<Outcome, Error> {
    let text = |of: &dyn Fn(&AuditResult) -> String| -> ArrayRef {
        Arc::new(
            results
                .iter()
                .map(|result| Some(of(result)))
                .collect::<StringArray>(),
        )
    };
    let number = |of: &dyn Fn(&AuditResult) -> u64| -> ArrayRef {
        Arc::new(
            results
                .iter()
                .map(|result| Some(of(result) as i64))
                .collect::<Int64Array>(),
        )
    };
    let agrees = results
        .iter()
        .map(|result| Some(result.agrees))
        .collect::<BooleanArray>();
    let columns = vec![
        text(&|r| r.view.clone()),
        Arc::new(agrees) as ArrayRef,
        number(&|r| r.rows),
        number(&|r| r.differences),
        text(&|r| r.detail.clone()),
        text(&|r| r.frontier.clone()),
    ];
    rows(schema(), columns)
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("view", DataType::Utf8, false),
        Field::new("agrees", DataType::Boolean, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("differences", DataType::Int64, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("frontier", DataType::Utf8, false),
    ]))
}
