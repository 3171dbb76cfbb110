//! A condition on the records of one stream, as a view's `WHERE` would have it.
//!
//! It is planned by the code that plans views, so it means what it would mean there, and may be no more than that:
//! of a record's own columns, the same whenever it is asked.

use std::sync::Arc;

use datafusion::{
    common::Result as PlanResult, execution::SessionState, logical_expr::LogicalPlan,
};
use lambic_model::Stream;

use crate::{
    Error, TableOf,
    planned::analysed,
    slot,
    split::{self, Split},
};

/// Finds the places of the records that meet a condition.
#[derive(Debug)]
pub struct Predicate(LogicalPlan);

impl Predicate {
    /// `sql` is `SELECT … FROM stream WHERE condition`.
    pub async fn new(
        sql: &str,
        base: &SessionState,
        stream: &Arc<Stream>,
    ) -> Result<Predicate, Error> {
        let (plan, state) = analysed(sql, base, std::slice::from_ref(stream), &[]).await?;
        match split::split(plan, &state)? {
            Split::Rows(plan) => Ok(Predicate(plan)),
            Split::Mergeable { .. } => Err(Error::not_incremental(
                "it aggregates",
                "say of each record alone whether it is meant",
            )),
        }
    }

    /// The `SELECT`, parameters still to be filled in.
    pub fn plan(&self) -> &LogicalPlan {
        &self.0
    }

    /// The same over the stream's records.
    pub fn over(&self, table: TableOf) -> PlanResult<LogicalPlan> {
        slot::filled(self.0.clone(), table)
    }
}
