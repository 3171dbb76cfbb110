//! The three stages of an aggregation: records to states, states to states, states to answers.

use std::{collections::HashSet, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    execution::SessionState,
    logical_expr::{Aggregate, physical_planning_context::PhysicalPlanningContext},
    physical_expr::{
        PhysicalExpr,
        aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder},
        create_physical_expr,
    },
    physical_plan::{
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
        expressions::Column,
    },
};

use crate::Error;

#[derive(Debug)]
pub(crate) struct Aggregation {
    groups: PhysicalGroupBy,
    functions: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// The schema of what is aggregated.
    raw: SchemaRef,
}

impl Aggregation {
    pub fn new(
        aggregate: &Aggregate,
        raw: SchemaRef,
        state: &SessionState,
    ) -> Result<Aggregation, Error> {
        let logical = aggregate.input.schema();
        let context = PhysicalPlanningContext::default();
        let props = state.execution_props();
        let mut groups = Vec::with_capacity(aggregate.group_expr.len());
        for expr in &aggregate.group_expr {
            let name = expr.schema_name().to_string();
            groups.push((create_physical_expr(expr, logical, props, &context)?, name));
        }
        let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut filters = Vec::with_capacity(aggregate.aggr_expr.len());
        for expr in &aggregate.aggr_expr {
            let lowered =
                LoweredAggregateBuilder::new(expr, logical, &raw, props, &context).build()?;
            functions.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        Ok(Aggregation {
            groups: PhysicalGroupBy::new_single(groups),
            functions,
            filters,
            raw,
        })
    }

    pub fn with_functions(self, functions: Vec<Arc<AggregateFunctionExpr>>) -> Aggregation {
        Aggregation { functions, ..self }
    }

    pub fn exec(
        &self,
        mode: AggregateMode,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<AggregateExec, Error> {
        let (groups, filters) = match mode {
            AggregateMode::Partial => (self.groups.clone(), self.filters.clone()),
            _ => (
                self.groups_of(&input.schema()),
                vec![None; self.functions.len()],
            ),
        };
        Ok(AggregateExec::try_new(
            mode,
            groups,
            self.functions.clone(),
            filters,
            input,
            Arc::clone(&self.raw),
        )?)
    }

    /// The groups as the first columns of states, by the names that these have there: DataFusion
    /// finds states by position but insists on the names of keys.
    fn groups_of(&self, states: &SchemaRef) -> PhysicalGroupBy {
        let named = self.groups.expr().iter().enumerate();
        let groups = named.map(|(index, (_, name))| {
            let column = Column::new(states.field(index).name(), index);
            (Arc::new(column) as Arc<dyn PhysicalExpr>, name.clone())
        });
        PhysicalGroupBy::new_single(groups.collect())
    }

    /// Where the states of the aggregates `chosen` start.
    pub fn state_columns(
        &self,
        key_columns: usize,
        chosen: &HashSet<usize>,
    ) -> Result<Vec<usize>, Error> {
        let mut at = key_columns;
        let mut found = Vec::new();
        for (index, function) in self.functions.iter().enumerate() {
            if chosen.contains(&index) {
                found.push(at);
            }
            at += function.state_fields()?.len();
        }
        Ok(found)
    }
}
