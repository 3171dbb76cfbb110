//! The three stages of an aggregation: records to states, states to states, states to answers.

use std::{collections::HashSet, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    datasource::memory::MemorySourceConfig,
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

use crate::{Error, shared::Shared};

#[derive(Debug)]
pub(crate) struct Aggregation {
    groups: PhysicalGroupBy,
    /// All of them, for the answers.
    functions: Vec<Function>,
    /// The schema of what is aggregated.
    raw: SchemaRef,
    shared: Shared,
}

#[derive(Debug, Clone)]
struct Function {
    function: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

impl Aggregation {
    /// `input`: a plan that gives what is aggregated.
    pub fn new(
        aggregate: &Aggregate,
        input: &Arc<dyn ExecutionPlan>,
        state: &SessionState,
    ) -> Result<Aggregation, Error> {
        let logical = aggregate.input.schema();
        let raw = input.schema();
        let context = PhysicalPlanningContext::default();
        let props = state.execution_props();
        let mut groups = Vec::with_capacity(aggregate.group_expr.len());
        for expr in &aggregate.group_expr {
            let name = expr.schema_name().to_string();
            groups.push((create_physical_expr(expr, logical, props, &context)?, name));
        }
        let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut widths = Vec::with_capacity(aggregate.aggr_expr.len());
        for expr in &aggregate.aggr_expr {
            let lowered =
                LoweredAggregateBuilder::new(expr, logical, &raw, props, &context).build()?;
            widths.push(lowered.aggregate.state_fields()?.len());
            functions.push(Function {
                function: lowered.aggregate,
                filter: lowered.filter,
            });
        }
        let mut aggregation = Aggregation {
            groups: PhysicalGroupBy::new_single(groups),
            functions,
            raw,
            shared: Shared::of(aggregate, &widths)?,
        };
        // DataFusion may turn functions around while it makes the first stage; the later ones follow it.
        let first = AggregateMode::Partial;
        let made = aggregation.made(first, &aggregation.functions, Arc::clone(input))?;
        let turned = made.aggr_expr().iter().zip(&mut aggregation.functions);
        turned.for_each(|(turned, function)| function.function = Arc::clone(turned));
        Ok(aggregation)
    }

    /// From what is aggregated to states.
    pub fn partial(&self, input: Arc<dyn ExecutionPlan>) -> Result<AggregateExec, Error> {
        self.made(AggregateMode::Partial, &self.kept(), input)
    }

    /// From states to one of each key.
    pub fn reduced(&self, states: Arc<dyn ExecutionPlan>) -> Result<AggregateExec, Error> {
        self.made(AggregateMode::PartialReduce, &self.kept(), states)
    }

    /// From states to answers.
    pub fn answers(
        &self,
        states: &[RecordBatch],
        schema: &SchemaRef,
    ) -> Result<AggregateExec, Error> {
        let columns = self.columns_of_all();
        let states = states.iter().map(|states| states.project(&columns));
        let states: Vec<RecordBatch> = states.collect::<Result<_, _>>()?;
        let schema = Arc::new(schema.project(&columns)?);
        let states = MemorySourceConfig::try_new_exec(&[states], schema, None)?;
        self.made(AggregateMode::Final, &self.functions, states)
    }

    fn kept(&self) -> Vec<Function> {
        let kept = self.shared.kept.iter();
        kept.map(|&index| self.functions[index].clone()).collect()
    }

    /// The key columns, and those of the states of every aggregate.
    fn columns_of_all(&self) -> Vec<usize> {
        let keys = self.groups.expr().len();
        let states = self.shared.columns.iter().map(|column| keys + column);
        (0..keys).chain(states).collect()
    }

    fn made(
        &self,
        mode: AggregateMode,
        functions: &[Function],
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<AggregateExec, Error> {
        let filters = functions.iter().map(|function| function.filter.clone());
        let (groups, filters) = match mode {
            AggregateMode::Partial => (self.groups.clone(), filters.collect()),
            _ => (self.groups_of(&input.schema()), vec![None; functions.len()]),
        };
        let functions = functions
            .iter()
            .map(|function| Arc::clone(&function.function));
        Ok(AggregateExec::try_new(
            mode,
            groups,
            functions.collect(),
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

    /// Where the states of the aggregates `chosen` start, each place once.
    pub fn state_columns(&self, chosen: &HashSet<usize>) -> Result<Vec<usize>, Error> {
        let columns = self.columns_of_all();
        let mut at = self.groups.expr().len();
        let mut found = Vec::new();
        for (index, function) in self.functions.iter().enumerate() {
            if chosen.contains(&index) && !found.contains(&columns[at]) {
                found.push(columns[at]);
            }
            at += function.function.state_fields()?.len();
        }
        Ok(found)
    }
}
