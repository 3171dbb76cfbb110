//! A planned view: row work and partial aggregation to states, merge of states, final row work.
//!
//! The split is DataFusion's own: `AggregateExec` in the modes `Partial`, `PartialReduce` and `Final`.
//! States are record batches with the key columns first (`k0`, `k1`, …), then every aggregate's state
//! columns (`s0`, `s1`, …); the names are ours because DataFusion's may repeat.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray, BooleanArray},
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
    row::Rows,
};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{memory::MemorySourceConfig, source_as_provider},
    execution::{SessionState, TaskContext},
    logical_expr::physical_planning_context::PhysicalPlanningContext,
    logical_expr::{Aggregate, Expr, LogicalPlan},
    physical_expr::{PhysicalExpr, create_physical_expr},
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties, Partitioning,
        coalesce_partitions::CoalescePartitionsExec, collect, expressions::Column,
        repartition::RepartitionExec,
    },
};
use lambic_base::parallel;
use lambic_model::{Erasures, Frontiers, Stream, StreamId};

use crate::{
    Error, Exactness, Run, TableOf,
    aggregation::Aggregation,
    join::{History, Join},
    planned::analysed,
    run::{self, KeyCodec},
    slot::{self, SlotTable},
    split::{self, Split, Step, Steps},
    texts,
};

/// How a view is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Filter and project: the view's rows are its states.
    Rows,
    /// Aggregates whose states merge.
    Mergeable,
    /// The same over an inner join of streams.
    JoinMergeable,
    /// Anything else: the `SELECT` is run when the view is read.
    Recompute,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Rows => "rows",
            Class::Mergeable => "mergeable",
            Class::JoinMergeable => "join-mergeable",
            Class::Recompute => "recompute",
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
    /// By output column.
    pub exactness: Vec<Exactness>,
    /// State columns that hold percentile sketches.
    pub percentile_states: Vec<usize>,
    pub key_codec: KeyCodec,
    /// Columns of its stream that only become keys: [`ViewPlan::states_from`] takes them as `Utf8View` as well.
    pub texts_only_grouped_by: Vec<String>,
    key_columns: usize,
    /// The `SELECT` as one logical plan over slots, not split.
    whole: LogicalPlan,
    /// From streams to what is aggregated, as a logical plan over slots.
    row_work: LogicalPlan,
    /// The same, physical: cheap to fill with a few new records; of a join, what is done with the rows of its sides.
    row_template: Arc<dyn ExecutionPlan>,
    join: Option<Join>,
    record_schemas: HashMap<StreamId, SchemaRef>,
    aggregation: Option<Aggregation>,
    after: Vec<After>,
}

/// One step of the final row work, ready to run.
#[derive(Debug)]
enum After {
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    Filter(Arc<dyn PhysicalExpr>),
}

impl ViewPlan {
    /// Plans `sql`, one `SELECT`, over `streams`; refuses what has no incremental form.
    pub async fn new(
        sql: &str,
        base: &SessionState,
        streams: &[Arc<Stream>],
    ) -> Result<ViewPlan, Error> {
        let (plan, state) = analysed(sql, base, streams, &[]).await?;
        ViewPlan::of_split(split::split(plan, &state)?, &state).await
    }

    /// Plans what was split already.
    pub(crate) async fn of_split(split: Split, state: &SessionState) -> Result<ViewPlan, Error> {
        match split {
            Split::Rows(plan) => ViewPlan::rows(plan, state).await,
            Split::Mergeable {
                aggregate,
                above,
                output,
                whole,
                join,
            } => {
                let join = match join {
                    Some(apart) => Some(Join::new(*apart, state).await?),
                    None => None,
                };
                ViewPlan::mergeable(aggregate, above, &output, whole, join, state).await
            }
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
            exactness: vec![Exactness::Exact; schema.fields().len()],
            percentile_states: Vec::new(),
            key_codec: KeyCodec::new(&schema, 0)?,
            texts_only_grouped_by: Vec::new(),
            key_columns: 0,
            row_template: state.create_physical_plan(&plan).await?,
            whole: plan.clone(),
            row_work: plan,
            join: None,
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
        whole: LogicalPlan,
        join: Option<Join>,
        state: &SessionState,
    ) -> Result<ViewPlan, Error> {
        let row_work = aggregate.input.as_ref().clone();
        let (inputs, record_schemas) = inputs(&row_work)?;
        let row_template = match &join {
            Some(join) => Arc::clone(join.template()),
            None => state.create_physical_plan(&row_work).await?,
        };
        let aggregation = Aggregation::new(&aggregate, &row_template, state)?;
        let partial = aggregation.partial(Arc::clone(&row_template))?;
        let reduced = aggregation.reduced(Arc::new(partial))?;
        let key_columns = aggregate.group_expr.len();
        let state_schema = renamed(&reduced.schema(), key_columns);
        let percentiles = positions(&aggregate, split::is_percentile);
        let depend_on = |sources: &HashSet<usize>| {
            let columns = sources.iter().map(|index| key_columns + index).collect();
            split::depends_on(&aggregate, &above, &columns)
        };
        let randomised = depend_on(&percentiles);
        let rounded = depend_on(&positions(&aggregate, split::rounds_in_order));
        let schema = unqualified(output);
        let exactness = schema.fields().iter().enumerate().map(|(column, field)| {
            Exactness::of(randomised[column], rounded[column], field.data_type())
        });
        Ok(ViewPlan {
            class: match join {
                Some(_) => Class::JoinMergeable,
                None => Class::Mergeable,
            },
            join,
            inputs,
            exactness: exactness.collect(),
            schema,
            key_of_output: split::key_of_output(&aggregate, &above, output),
            percentile_states: aggregation.state_columns(&percentiles)?,
            key_codec: KeyCodec::new(&state_schema, key_columns)?,
            texts_only_grouped_by: texts::only_grouped_by(&aggregate),
            state_schema,
            key_columns,
            row_work,
            whole,
            row_template,
            record_schemas,
            after: after(above, state)?,
            aggregation: Some(aggregation),
        })
    }

    /// States of `records`, as one run. Those of a join depend on other records too: [`ViewPlan::run_between`].
    pub async fn run_over(
        &self,
        records: &Records,
        from: Frontiers,
        to: Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        if self.join.is_some() {
            let message = "new records of a join are nothing without the others".to_owned();
            return Err(Error::Records(message));
        }
        let threads = threads(&task);
        let input = slot::fill(&self.row_template, records, &self.record_schemas)?;
        let states = match &self.aggregation {
            None => collect(input, task).await?,
            Some(aggregation) => {
                let single = in_one_partition(Arc::new(aggregation.partial(input)?));
                collect(Arc::new(aggregation.reduced(single)?), task).await?
            }
        };
        self.sorted(states, threads, from, to)
    }

    /// The join that it aggregates, if there is one: then its states are made by [`ViewPlan::run_between`].
    pub fn join(&self) -> Option<&Join> {
        self.join.as_ref()
    }

    /// States of what came with the records in `from..to`, from a history that reaches `to`.
    pub async fn run_between(
        &self,
        join: &Join,
        from: &Frontiers,
        to: &Frontiers,
        history: &dyn History,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        // Whoever asks need not have the room on its stack.
        Box::pin(join.run_between(self, from, to, history, task)).await
    }

    /// The columns of `stream` that its rows depend on.
    pub(crate) fn columns_read(&self, stream: StreamId) -> BTreeSet<String> {
        match &self.join {
            Some(join) => join.columns_read(stream),
            None => slot::columns_read(&self.row_template, stream),
        }
    }

    /// The `SELECT` as it was understood, in text: states belong to it.
    pub fn described(&self) -> String {
        self.whole.display_indent().to_string()
    }

    /// The `SELECT` as plain SQL, as if it were not a view: what audits compare with.
    pub fn from_scratch(&self, table: TableOf) -> Result<LogicalPlan, Error> {
        Ok(slot::filled(self.whole.clone(), table)?)
    }

    /// A plan that computes states in parallel from tables, several of one key: where its task has no more memory for
    /// them it hands on what it has. Their columns are those of [`ViewPlan::as_states`].
    pub async fn partial_states_from(
        &self,
        state: &SessionState,
        table: TableOf<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let plan = slot::filled(self.row_work.clone(), table)?;
        let plan = plan.transform_up(|node| node.recompute_schema().map(Transformed::yes))?;
        self.partial(state.create_physical_plan(&plan.data).await?)
    }

    /// A plan that computes states in parallel from tables. Its partitions hold distinct keys.
    pub async fn states_from(
        &self,
        state: &SessionState,
        table: TableOf<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        self.reduced_in_parallel(self.partial_states_from(state, table).await?)
    }

    /// What computes the states of the rows that `input` gives, in parallel. Its partitions hold distinct keys.
    pub(crate) fn aggregated(
        &self,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        self.reduced_in_parallel(self.partial(input)?)
    }

    fn partial(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, Error> {
        match &self.aggregation {
            None => Ok(input),
            Some(aggregation) => Ok(Arc::new(aggregation.partial(input)?)),
        }
    }

    fn reduced_in_parallel(
        &self,
        partial: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let Some(aggregation) = &self.aggregation else {
            return Ok(partial);
        };
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
        Ok(Arc::new(aggregation.reduced(gathered)?))
    }

    /// Makes a run of states in any order, at most one of each key, on at most so many threads.
    pub fn sorted(
        &self,
        states: Vec<RecordBatch>,
        threads: usize,
        from: Frontiers,
        to: Frontiers,
    ) -> Result<Run, Error> {
        let threads = run::worth(&states, threads);
        let states = parallel::each(threads, states, |batch| self.as_states(batch));
        let states = states.into_iter().collect::<Result<Vec<_>, _>>()?;
        Run::sorted(
            &self.key_codec,
            &self.state_schema,
            &states,
            threads,
            from,
            to,
        )
    }

    /// What the plans for states give, in the columns of states.
    pub fn as_states(&self, batch: RecordBatch) -> Result<RecordBatch, Error> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, mut columns, _) = batch.into_parts();
        for (key, field) in columns.iter_mut().zip(self.state_schema.fields()) {
            if *key.data_type() == DataType::Utf8View && *field.data_type() == DataType::Utf8 {
                *key = cast(key, &DataType::Utf8)?;
            }
        }
        RecordBatch::try_new_with_options(Arc::clone(&self.state_schema), columns, &options)
            .map_err(|error| Error::State(error.to_string()))
    }

    /// One run of several that follow one another and know the same erasures.
    pub async fn merge(&self, runs: &[Arc<Run>], task: Arc<TaskContext>) -> Result<Run, Error> {
        let erasures = runs.first().map(|run| run.erasures.clone());
        let from = runs.first().map(|run| run.from.clone()).unwrap_or_default();
        let to = runs.last().map(|run| run.to.clone()).unwrap_or_default();
        let states: Vec<RecordBatch> = runs.iter().map(|run| run.states.clone()).collect();
        let threads = threads(&task);
        let merged = self.reduced(states, task).await?;
        let merged = self.sorted(merged, threads, from, to)?;
        Ok(merged.knowing(erasures.unwrap_or_default()))
    }

    /// One state of each key, in any order; rows as they are.
    pub async fn reduced(
        &self,
        states: Vec<RecordBatch>,
        task: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let Some(aggregation) = &self.aggregation else {
            return Ok(states);
        };
        let schema = Arc::clone(&self.state_schema);
        let states = MemorySourceConfig::try_new_exec(&[states], schema, None)?;
        Ok(collect(Arc::new(aggregation.reduced(states)?), task).await?)
    }

    /// Of `erasures`, those that took records of its streams.
    pub fn erasures_of(&self, erasures: &Erasures) -> Erasures {
        erasures.of_streams(self.inputs.iter().map(|stream| stream.id))
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
                let answers = aggregation.answers(&states, &self.state_schema)?;
                collect(Arc::new(answers), task).await?
            }
        };
        let mut finished = Vec::with_capacity(answers.len());
        for batch in answers {
            let batch = self
                .after
                .iter()
                .try_fold(batch, |batch, step| step.apply(&batch))?;
            if batch.num_rows() > 0 {
                finished.push(with_schema(batch, &self.schema)?);
            }
        }
        Ok(finished)
    }

    /// Rows of the plain `SELECT` as readers see them: every column may be NULL.
    pub fn finished(&self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, Error> {
        let rows = rows.into_iter().filter(|batch| batch.num_rows() > 0);
        rows.map(|batch| with_schema(batch, &self.schema)).collect()
    }

    /// The output columns that hold the whole key, in key order; `None` if readers cannot see all of it.
    pub fn key_outputs(&self) -> Option<Vec<usize>> {
        if self.key_columns == 0 {
            return None;
        }
        (0..self.key_columns)
            .map(|key| self.output_of_key(key))
            .collect()
    }

    pub fn key_columns(&self) -> usize {
        self.key_columns
    }

    /// The output column that shows a key column unchanged.
    pub fn output_of_key(&self, key: usize) -> Option<usize> {
        self.key_of_output
            .iter()
            .position(|shown| *shown == Some(key))
    }

    /// Encodes one key, its values in the order of the group expressions.
    pub fn encode_key(&self, values: &[arrow::array::ArrayRef]) -> Result<Option<Rows>, Error> {
        self.key_codec.encode(values)
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

/// Which aggregates are `chosen`.
fn positions(aggregate: &Aggregate, chosen: fn(&Expr) -> bool) -> HashSet<usize> {
    let all = aggregate.aggr_expr.iter().enumerate();
    all.filter(|(_, expr)| chosen(expr))
        .map(|(index, _)| index)
        .collect()
}

/// The same columns under another schema.
pub(crate) fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let (_, columns, _) = batch.into_parts();
    let schema = Arc::clone(schema);
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// How many threads a statement may use.
fn threads(task: &TaskContext) -> usize {
    task.session_config().target_partitions()
}

fn in_one_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.output_partitioning().partition_count() {
        1 => plan,
        _ => Arc::new(CoalescePartitionsExec::new(plan)),
    }
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
pub(crate) fn unqualified(schema: &DFSchema) -> SchemaRef {
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
