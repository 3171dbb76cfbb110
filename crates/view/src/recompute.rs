//! A view whose `SELECT` has no states that merge: it is run over the whole history when it is read.
//!
//! What can be kept is kept all the same: every aggregation in it whose states merge becomes a *part*,
//! a mergeable view of its own that batch and speed keep, and the `SELECT` runs over the parts. Views
//! that it selects from are sources like streams.

use std::sync::Arc;

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{
        Column, DFSchema, Result as PlanResult, TableReference,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{provider_as_source, source_as_provider},
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use lambic_model::Stream;

use crate::{
    Error, Exactness, Planned, ViewPlan,
    plan::{unqualified, with_schema},
    slot::{self, Kind, SlotTable, SourceTable, TableOf},
    split::{self, Split},
};

/// A view that other views may select from.
#[derive(Debug, Clone)]
pub struct ViewSource {
    pub name: String,
    pub schema: SchemaRef,
    /// The streams that it is made from, also through other views.
    pub streams: Vec<Arc<Stream>>,
    /// By column.
    pub exactness: Vec<Exactness>,
}

/// A `SELECT` that is run when it is read.
#[derive(Debug, Clone)]
pub struct RecomputePlan {
    /// The columns that readers see.
    pub schema: SchemaRef,
    /// All streams that the rows are made from, also through views.
    pub streams: Vec<Arc<Stream>>,
    /// The views that it selects from.
    pub views: Vec<String>,
    /// Aggregations in it whose states are kept.
    pub parts: Vec<Arc<ViewPlan>>,
    /// Why it has no incremental form.
    pub reason: String,
    /// By output column.
    pub exactness: Vec<Exactness>,
    /// What serves the records after its last batch, approximately, if it was declared so.
    pub speed: Option<Planned>,
    /// The `SELECT` over streams and views.
    whole: LogicalPlan,
    /// The same over streams, views and parts.
    over_parts: LogicalPlan,
    /// The columns of each part as the plan over parts knows them.
    part_schemas: Vec<SchemaRef>,
}

impl RecomputePlan {
    /// `plan` is analysed; `reason` is why it could not be split.
    pub async fn new(
        plan: LogicalPlan,
        reason: String,
        views: &[ViewSource],
        state: &SessionState,
    ) -> Result<RecomputePlan, Error> {
        let read = Read::of(&plan, views)?;
        if read.streams.is_empty() && read.views.is_empty() {
            return Err(Error::not_incremental(
                "it reads no stream",
                "select FROM a stream or a view",
            ));
        }
        let (over_parts, part_schemas, parts) = with_parts(plan.clone(), state).await?;
        let schema = unqualified(plan.schema());
        // Which columns a percentile or a sum reaches is not followed through joins and windows: all that could.
        let fields = schema.fields().iter();
        let exactness = fields.map(|field| match field.data_type().is_floating() {
            true => read.exactness,
            false => Exactness::Exact,
        });
        Ok(RecomputePlan {
            exactness: exactness.collect(),
            schema,
            streams: read.streams,
            views: read.views,
            parts,
            reason,
            speed: None,
            whole: plan,
            over_parts,
            part_schemas,
        })
    }

    /// The same, brought up to the head by another way.
    pub fn with_speed(self, speed: Planned) -> RecomputePlan {
        RecomputePlan {
            speed: Some(speed),
            ..self
        }
    }

    /// The output columns that show all that the rows are grouped by; none if they do not.
    pub fn group_key(&self) -> Vec<String> {
        let mut shown: Option<&[Expr]> = None;
        let mut node = &self.whole;
        loop {
            node = match node {
                LogicalPlan::Sort(sort) => &sort.input,
                LogicalPlan::Limit(limit) => &limit.input,
                LogicalPlan::Filter(filter) => &filter.input,
                LogicalPlan::Projection(projection) if shown.is_none() => {
                    shown = Some(&projection.expr);
                    &projection.input
                }
                LogicalPlan::Aggregate(aggregate) => {
                    let shown = shown.unwrap_or_default().iter();
                    let names = aggregate.group_expr.iter().map(|group| {
                        let name = group.schema_name().to_string();
                        let shows = |expr: &&Expr| match (*expr).clone().unalias() {
                            Expr::Column(column) => {
                                column.name == name || column.flat_name() == name
                            }
                            _ => false,
                        };
                        let expr = shown.clone().find(shows)?;
                        Some(match expr {
                            Expr::Column(column) => column.name.clone(),
                            other => other.schema_name().to_string(),
                        })
                    });
                    return names.collect::<Option<Vec<_>>>().unwrap_or_default();
                }
                _ => return Vec::new(),
            };
        }
    }

    /// The streams that it reads itself.
    pub(crate) fn streams_read(&self) -> Vec<Arc<Stream>> {
        streams_in(&self.whole)
    }

    /// Those of them whose records it runs over; what it needs of others is in its parts.
    pub fn streams_run(&self) -> Vec<Arc<Stream>> {
        streams_in(&self.over_parts)
    }

    /// The `SELECT` as it was understood, in text.
    pub fn described(&self) -> String {
        self.whole.display_indent().to_string()
    }

    /// The plan to run; `table` gives the table of each source, of streams with system columns.
    pub fn over_parts(&self, table: TableOf) -> PlanResult<LogicalPlan> {
        slot::filled(self.over_parts.clone(), table)
    }

    /// The plan without parts: everything from the records themselves.
    pub fn from_scratch(&self, table: TableOf) -> PlanResult<LogicalPlan> {
        slot::filled(self.whole.clone(), table)
    }

    /// The columns of part `index` as the plan over parts expects them.
    pub fn part_schema(&self, index: usize) -> &SchemaRef {
        &self.part_schemas[index]
    }

    /// The finished rows of part `index` with those columns.
    pub fn part_rows(
        &self,
        index: usize,
        rows: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let schema = &self.part_schemas[index];
        rows.into_iter()
            .map(|batch| with_schema(batch, schema))
            .collect()
    }

    /// Rows as readers see them: every column may be NULL.
    pub fn finished(&self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, Error> {
        rows.into_iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| with_schema(batch, &self.schema))
            .collect()
    }
}

fn streams_in(plan: &LogicalPlan) -> Vec<Arc<Stream>> {
    let mut read = Read::default();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(slot) = source_as_provider(&scan.source)?.downcast_ref::<SlotTable>()
        {
            read.add_stream(&slot.stream);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.expect("it was walked when it was planned");
    read.streams
}

/// What a plan reads.
#[derive(Default)]
struct Read {
    streams: Vec<Arc<Stream>>,
    views: Vec<String>,
    /// The least of all columns that are read.
    exactness: Exactness,
}

impl Read {
    fn of(plan: &LogicalPlan, views: &[ViewSource]) -> Result<Read, Error> {
        let mut read = Read::default();
        plan.apply_with_subqueries(|node| {
            for expr in node.expressions() {
                expr.apply(|part| {
                    let randomised = split::is_percentile(part);
                    let rounded = split::rounds_in_order(part);
                    read.reaches(Exactness::of(randomised, rounded, &DataType::Float64));
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            if let LogicalPlan::TableScan(scan) = node {
                let provider = source_as_provider(&scan.source)?;
                if let Some(slot) = provider.downcast_ref::<SlotTable>() {
                    read.add_stream(&slot.stream);
                } else if let Some(source) = provider.downcast_ref::<SourceTable>()
                    && let Kind::View(name) = &source.kind
                    && let Some(view) = views.iter().find(|view| view.name == *name)
                {
                    view.exactness
                        .iter()
                        .for_each(|column| read.reaches(*column));
                    view.streams
                        .iter()
                        .for_each(|stream| read.add_stream(stream));
                    if !read.views.contains(name) {
                        read.views.push(name.clone());
                    }
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(read)
    }

    fn reaches(&mut self, exactness: Exactness) {
        self.exactness = self.exactness.max(exactness);
    }

    fn add_stream(&mut self, stream: &Arc<Stream>) {
        if self.streams.iter().all(|known| known.id != stream.id) {
            self.streams.push(Arc::clone(stream));
        }
    }
}

/// The plan over parts, the columns of each part, and the parts.
async fn with_parts(
    plan: LogicalPlan,
    state: &SessionState,
) -> Result<(LogicalPlan, Vec<SchemaRef>, Vec<Arc<ViewPlan>>), Error> {
    let mut nodes: Vec<LogicalPlan> = Vec::new();
    let mut found = Vec::new();
    let mut schemas = Vec::new();
    let over_parts = plan.clone().transform_down_with_subqueries(|node| {
        if !matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_)) {
            return Ok(Transformed::no(node));
        }
        let Ok(split @ Split::Mergeable { .. }) = split::split(node.clone(), state) else {
            return Ok(Transformed::no(node));
        };
        // What a common table expression aggregates stands in the plan once for each of its uses.
        let known = nodes.iter().position(|known| *known == node);
        let (scan, schema) = part_scan(known.unwrap_or(nodes.len()), node.schema())?;
        if known.is_none() {
            nodes.push(node);
            found.push(split);
            schemas.push(schema);
        }
        Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
    })?;
    let mut parts = Vec::with_capacity(found.len());
    for split in found {
        parts.push(Arc::new(ViewPlan::of_split(split, state).await?));
    }
    Ok((over_parts.data, schemas, parts))
}

/// A scan of part `index` whose columns have the names and qualifiers of `output`.
fn part_scan(index: usize, output: &DFSchema) -> PlanResult<(LogicalPlan, SchemaRef)> {
    let fields = output.fields().iter().enumerate().map(|(column, field)| {
        Field::new(
            format!("c{column}"),
            field.data_type().clone(),
            field.is_nullable(),
        )
    });
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let name = TableReference::bare(format!("__part{index}"));
    let table = SourceTable {
        kind: Kind::Part(index),
        schema: Arc::clone(&schema),
    };
    let columns = output
        .iter()
        .enumerate()
        .map(|(column, (qualifier, field))| {
            let own = Column::new(Some(name.clone()), format!("c{column}"));
            Expr::Column(own).alias_qualified(qualifier.cloned(), field.name())
        });
    let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(table)), None)?
        .project(columns)?
        .build()?;
    Ok((scan, schema))
}
