//! A planned view: row work and partial aggregation to states, merge of states, final row work.
//!
//! The split is DataFusion's own: `AggregateExec` in the modes `Partial`, `PartialReduce` and `Final`.
//! States are record batches with the key columns first (`k0`, `k1`, …), then every aggregate's state
//! columns (`s0`, `s1`, …); the names are ours because DataFusion's may repeat.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray, BooleanArray},
    compute::filter_record_batch,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
    row::Rows,
};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
        MemorySchemaProvider, SchemaProvider, TableProvider,
    },
    common::{
        DFSchema,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{memory::MemorySourceConfig, provider_as_source, source_as_provider},
    execution::{SessionState, SessionStateBuilder, TaskContext},
    logical_expr::physical_planning_context::PhysicalPlanningContext,
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder},
    physical_expr::{
        PhysicalExpr,
        aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder},
        create_physical_expr,
    },
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties, Partitioning,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
        coalesce_partitions::CoalescePartitionsExec,
        collect,
        expressions::Column,
        repartition::RepartitionExec,
    },
    sql::parser::Statement,
};
use lambic_model::{Frontiers, Stream, StreamId, SystemColumn};

use crate::{
    Error, Run, postgres,
    run::KeyCodec,
    session,
    slot::{self, SlotTable},
    split::{self, Split, Step, Steps},
    wildcard,
};

/// How a view is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Filter and project: the view's rows are its states.
    Rows,
    /// Aggregates whose states merge.
    Mergeable,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Rows => "rows",
            Class::Mergeable => "mergeable",
        }
    }
}

/// Records of each stream, in its schema with system columns.
pub type Records = HashMap<StreamId, Vec<RecordBatch>>;

/// A view's `SELECT`, planned.
#[derive(Debug)]
pub struct ViewPlan {
    pub class: Class,
    pub inputs: Vec<Arc<Stream>>,
    /// The columns that readers see.
    pub schema: SchemaRef,
    /// The columns of states.
    pub state_schema: SchemaRef,
    /// By output column: the key column that it shows unchanged.
    pub key_of_output: Vec<Option<usize>>,
    /// By output column: true if it comes from a randomised sketch.
    pub randomised: Vec<bool>,
    /// State columns that hold percentile sketches, with the share asked for.
    pub percentile_states: Vec<usize>,
    pub key_codec: KeyCodec,
    key_columns: usize,
    /// From streams to what is aggregated, as a logical plan over slots.
    row_work: LogicalPlan,
    /// The same, physical: cheap to fill with a few new records.
    row_template: Arc<dyn ExecutionPlan>,
    record_schemas: HashMap<StreamId, SchemaRef>,
    aggregation: Option<Aggregation>,
    after: Vec<After>,
}

#[derive(Debug)]
struct Aggregation {
    groups: PhysicalGroupBy,
    functions: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// The schema of what is aggregated.
    raw: SchemaRef,
}

/// One step of the final row work, ready to run.
#[derive(Debug)]
enum After {
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    Filter(Arc<dyn PhysicalExpr>),
}

impl ViewPlan {
    /// Plans `sql`, one `SELECT`, over `streams`. `base` brings settings and functions.
    pub async fn new(
        sql: &str,
        base: &SessionState,
        streams: &[Arc<Stream>],
    ) -> Result<ViewPlan, Error> {
        let names_system = SystemColumn::ALL
            .iter()
            .any(|column| mentions(sql, column.name()));
        let state = planning_state(base, streams, names_system)?;
        let mut statement =
            state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
        postgres::adapt_planned(&mut statement);
        if names_system && let Statement::Statement(select) = &mut statement {
            wildcard::spell_out(select, &|name| {
                let stream = streams.iter().find(|stream| stream.name.as_str() == name)?;
                Some(stream.column_names())
            });
        }
        let plan = state.statement_to_plan(statement).await?;
        let plan = state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})?;
        match split::split(plan)? {
            Split::Rows(plan) => ViewPlan::rows(plan, &state).await,
            Split::Mergeable {
                aggregate,
                above,
                output,
            } => ViewPlan::mergeable(aggregate, above, &output, &state).await,
        }
    }

    async fn rows(plan: LogicalPlan, state: &SessionState) -> Result<ViewPlan, Error> {
        let schema = unqualified(plan.schema());
        let (inputs, record_schemas) = inputs(&plan)?;
        Ok(ViewPlan {
            class: Class::Rows,
            inputs,
            state_schema: renamed(&schema, 0),
            key_of_output: vec![None; schema.fields().len()],
            randomised: vec![false; schema.fields().len()],
            percentile_states: Vec::new(),
            key_codec: KeyCodec::new(&schema, 0)?,
            key_columns: 0,
            row_template: state.create_physical_plan(&plan).await?,
            row_work: plan,
            record_schemas,
            aggregation: None,
            after: Vec::new(),
            schema,
        })
    }

    async fn mergeable(
        aggregate: Aggregate,
        above: Steps,
        output: &DFSchema,
        state: &SessionState,
    ) -> Result<ViewPlan, Error> {
        let row_work = aggregate.input.as_ref().clone();
        let (inputs, record_schemas) = inputs(&row_work)?;
        let row_template = state.create_physical_plan(&row_work).await?;
        let aggregation = Aggregation::new(&aggregate, row_template.schema(), state)?;
        let partial = aggregation.exec(AggregateMode::Partial, Arc::clone(&row_template))?;
        // DataFusion may turn functions around while it makes the first stage; the later ones follow it.
        let aggregation = Aggregation {
            functions: partial.aggr_expr().to_vec(),
            ..aggregation
        };
        let reduced = aggregation.exec(AggregateMode::PartialReduce, Arc::new(partial))?;
        let key_columns = aggregate.group_expr.len();
        let state_schema = renamed(&reduced.schema(), key_columns);
        let percentiles: HashSet<usize> = aggregate
            .aggr_expr
            .iter()
            .enumerate()
            .filter(|(_, expr)| split::is_percentile(expr))
            .map(|(index, _)| index)
            .collect();
        let sources = percentiles
            .iter()
            .map(|index| key_columns + index)
            .collect();
        Ok(ViewPlan {
            class: Class::Mergeable,
            inputs,
            schema: unqualified(output),
            key_of_output: split::key_of_output(&aggregate, &above, output),
            randomised: split::depends_on(&aggregate, &above, &sources),
            percentile_states: aggregation.state_columns(key_columns, &percentiles)?,
            key_codec: KeyCodec::new(&state_schema, key_columns)?,
            state_schema,
            key_columns,
            row_work,
            row_template,
            record_schemas,
            after: after(above, state)?,
            aggregation: Some(aggregation),
        })
    }

    /// States of `records`, as one run.
    pub async fn run_over(
        &self,
        records: &Records,
        from: Frontiers,
        to: Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        let input = slot::fill(&self.row_template, records, &self.record_schemas)?;
        let states = match &self.aggregation {
            None => collect(input, task).await?,
            Some(aggregation) => {
                let partial: Arc<dyn ExecutionPlan> =
                    Arc::new(aggregation.exec(AggregateMode::Partial, input)?);
                let single = in_one_partition(partial);
                collect(
                    Arc::new(aggregation.exec(AggregateMode::PartialReduce, single)?),
                    task,
                )
                .await?
            }
        };
        self.sorted(states, from, to)
    }

    /// A plan that computes states in parallel from tables; `table` gives each stream's records with
    /// system columns. Its partitions hold distinct keys.
    pub async fn states_from(
        &self,
        state: &SessionState,
        table: &(dyn Fn(StreamId) -> Arc<dyn TableProvider> + Sync),
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let plan = self.row_work.clone().transform_up(|node| {
            let LogicalPlan::TableScan(scan) = &node else {
                return Ok(Transformed::no(node));
            };
            let provider = source_as_provider(&scan.source)?;
            let Some(slot) = provider.downcast_ref::<SlotTable>() else {
                return Ok(Transformed::no(node));
            };
            let projection = scan
                .projection
                .clone()
                .unwrap_or_else(|| (0..slot.schema.fields().len()).collect());
            let source = provider_as_source(table(slot.stream.id));
            let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, Some(projection))?
                .build()?;
            Ok(Transformed::yes(scan))
        })?;
        let input = state.create_physical_plan(&plan.data).await?;
        let Some(aggregation) = &self.aggregation else {
            return Ok(input);
        };
        let partial: Arc<dyn ExecutionPlan> =
            Arc::new(aggregation.exec(AggregateMode::Partial, input)?);
        let partitions = partial.output_partitioning().partition_count();
        let gathered: Arc<dyn ExecutionPlan> = if partitions == 1 || self.key_columns == 0 {
            in_one_partition(partial)
        } else {
            let schema = partial.schema();
            let keys = (0..self.key_columns).map(|index| {
                Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>
            });
            let by_key = Partitioning::Hash(keys.collect(), partitions);
            Arc::new(RepartitionExec::try_new(partial, by_key)?)
        };
        Ok(Arc::new(
            aggregation.exec(AggregateMode::PartialReduce, gathered)?,
        ))
    }

    /// Makes a run of states in any order, at most one of each key.
    pub fn sorted(
        &self,
        states: Vec<RecordBatch>,
        from: Frontiers,
        to: Frontiers,
    ) -> Result<Run, Error> {
        let states = states
            .into_iter()
            .map(|batch| self.as_states(batch))
            .collect::<Result<Vec<_>, _>>()?;
        Run::sorted(&self.key_codec, &self.state_schema, &states, from, to)
    }

    fn as_states(&self, batch: RecordBatch) -> Result<RecordBatch, Error> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, columns, _) = batch.into_parts();
        RecordBatch::try_new_with_options(Arc::clone(&self.state_schema), columns, &options)
            .map_err(|error| Error::State(error.to_string()))
    }

    /// One run of several that follow one another.
    pub async fn merge(&self, runs: &[Arc<Run>], task: Arc<TaskContext>) -> Result<Run, Error> {
        let from = runs.first().map(|run| run.from.clone()).unwrap_or_default();
        let to = runs.last().map(|run| run.to.clone()).unwrap_or_default();
        let states: Vec<RecordBatch> = runs.iter().map(|run| run.states.clone()).collect();
        let merged = match &self.aggregation {
            None => states,
            Some(aggregation) => {
                let input = self.memory(states)?;
                collect(
                    Arc::new(aggregation.exec(AggregateMode::PartialReduce, input)?),
                    task,
                )
                .await?
            }
        };
        self.sorted(merged, from, to)
    }

    /// What readers see of `states` (in any order, several of one key allowed).
    pub async fn finish(
        &self,
        states: Vec<RecordBatch>,
        task: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let answers = match &self.aggregation {
            None => states,
            Some(aggregation) => {
                let input = self.memory(states)?;
                collect(
                    Arc::new(aggregation.exec(AggregateMode::Final, input)?),
                    task,
                )
                .await?
            }
        };
        let mut finished = Vec::with_capacity(answers.len());
        for batch in answers {
            let batch = self
                .after
                .iter()
                .try_fold(batch, |batch, step| step.apply(&batch))?;
            if batch.num_rows() > 0 {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let (_, columns, _) = batch.into_parts();
                finished.push(RecordBatch::try_new_with_options(
                    Arc::clone(&self.schema),
                    columns,
                    &options,
                )?);
            }
        }
        Ok(finished)
    }

    fn memory(&self, states: Vec<RecordBatch>) -> Result<Arc<dyn ExecutionPlan>, Error> {
        Ok(MemorySourceConfig::try_new_exec(
            &[states],
            Arc::clone(&self.state_schema),
            None,
        )?)
    }

    /// The output columns that hold the whole key, in key order; `None` if readers cannot see all of it.
    pub fn key_outputs(&self) -> Option<Vec<usize>> {
        if self.key_columns == 0 {
            return None;
        }
        (0..self.key_columns)
            .map(|key| {
                self.key_of_output
                    .iter()
                    .position(|shown| *shown == Some(key))
            })
            .collect()
    }

    pub fn key_columns(&self) -> usize {
        self.key_columns
    }

    /// Encodes one key, its values in the order of the group expressions.
    pub fn encode_key(&self, values: &[arrow::array::ArrayRef]) -> Result<Option<Rows>, Error> {
        self.key_codec.encode(values)
    }
}

impl Aggregation {
    fn new(
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

    fn exec(
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
    fn state_columns(
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

impl After {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        match self {
            After::Project(exprs, schema) => {
                let rows = batch.num_rows();
                let columns = exprs
                    .iter()
                    .map(|expr| expr.evaluate(batch)?.into_array(rows));
                let columns = columns.collect::<datafusion::common::Result<Vec<_>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                Ok(RecordBatch::try_new_with_options(
                    Arc::clone(schema),
                    columns,
                    &options,
                )?)
            }
            After::Filter(expr) => {
                let chosen = expr.evaluate(batch)?.into_array(batch.num_rows())?;
                let chosen: &BooleanArray = chosen.as_boolean();
                Ok(filter_record_batch(batch, chosen)?)
            }
        }
    }
}

fn after(above: Steps, state: &SessionState) -> Result<Vec<After>, Error> {
    let context = PhysicalPlanningContext::default();
    let props = state.execution_props();
    let mut steps = Vec::with_capacity(above.len());
    for (step, input) in above {
        let physical = |expr: &Expr| create_physical_expr(expr, &input, props, &context);
        steps.push(match step {
            Step::Filter(expr) => After::Filter(physical(&expr)?),
            Step::Project(exprs) => {
                let mut columns = Vec::with_capacity(exprs.len());
                let mut fields = Vec::with_capacity(exprs.len());
                for expr in &exprs {
                    let column = physical(expr)?;
                    let data_type = column.data_type(input.as_arrow())?;
                    fields.push(Field::new(expr.schema_name().to_string(), data_type, true));
                    columns.push(column);
                }
                After::Project(columns, Arc::new(Schema::new(fields)))
            }
        });
    }
    Ok(steps)
}

fn in_one_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.output_partitioning().partition_count() {
        1 => plan,
        _ => Arc::new(CoalescePartitionsExec::new(plan)),
    }
}

/// The state for planning: the streams as slots, one partition, nothing else to select from.
fn planning_state(
    base: &SessionState,
    streams: &[Arc<Stream>],
    with_system: bool,
) -> Result<SessionState, Error> {
    let schema = MemorySchemaProvider::new();
    for stream in streams {
        let table = SlotTable::new(Arc::clone(stream), with_system);
        schema.register_table(stream.name.to_string(), Arc::new(table))?;
    }
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(session::SCHEMA, Arc::new(schema))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(session::CATALOG.to_owned(), Arc::new(catalog));
    let config = base.config().clone().with_target_partitions(1);
    Ok(SessionStateBuilder::new_from_existing(base.clone())
        .with_config(config)
        .with_catalog_list(Arc::new(catalogs))
        .build())
}

/// The streams that a plan reads, each once, and the schemas of their records.
type Inputs = (Vec<Arc<Stream>>, HashMap<StreamId, SchemaRef>);

fn inputs(plan: &LogicalPlan) -> Result<Inputs, Error> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut streams: Vec<Arc<Stream>> = Vec::new();
    let mut schemas = HashMap::new();
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            if let Some(slot) = provider.downcast_ref::<SlotTable>() {
                schemas.insert(slot.stream.id, slot.stream.schema_with_system());
                if streams.iter().all(|stream| stream.id != slot.stream.id) {
                    streams.push(Arc::clone(&slot.stream));
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((streams, schemas))
}

/// Everything may be NULL: what an outer expression declares is not what a state can promise.
fn unqualified(schema: &DFSchema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn renamed(schema: &SchemaRef, key_columns: usize) -> SchemaRef {
    let fields = schema.fields().iter().enumerate().map(|(index, field)| {
        let name = if index < key_columns {
            format!("k{index}")
        } else {
            format!("s{}", index - key_columns)
        };
        Field::new(name, field.data_type().clone(), true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// True if `word` stands in `sql` outside of other words.
fn mentions(sql: &str, word: &str) -> bool {
    sql.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .any(|part| part.eq_ignore_ascii_case(word))
}

/// True for types whose values audits compare bit for bit.
pub fn is_comparable(data_type: &DataType) -> bool {
    arrow::row::RowConverter::supports_fields(&[arrow::row::SortField::new(data_type.clone())])
}
