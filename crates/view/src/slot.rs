//! The place in a view's plan where a stream's records go in.
//!
//! A view is planned once over slots; the speed layer fills them with new records, the batch layer
//! replaces them by a scan of the dataset.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, internal_err, tree_node::Transformed},
    datasource::{TableType, provider_as_source, source_as_provider},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    physical_plan::ExecutionPlan,
};
use lambic_model::{Stream, StreamId};

use crate::{ViewSource, hole::Hole};

type Slot = Hole<StreamId>;

/// A stream as a table without records.
#[derive(Debug)]
pub struct SlotTable {
    pub stream: Arc<Stream>,
    /// The user's columns, with or without the system columns after them.
    pub schema: SchemaRef,
}

impl SlotTable {
    pub fn new(stream: Arc<Stream>, with_system: bool) -> SlotTable {
        let schema = if with_system {
            stream.schema_with_system()
        } else {
            Arc::clone(&stream.schema)
        };
        SlotTable { stream, schema }
    }
}

#[async_trait]
impl TableProvider for SlotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Hole::plan(self.stream.id, &self.schema, projection)
    }
}

/// Where rows of a view come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    Stream(&'a Arc<Stream>),
    View(&'a str),
    Part(usize),
}

/// The table of each source; those of streams have the system columns after the user's.
pub type TableOf<'a> = &'a (dyn Fn(Source) -> Result<Arc<dyn TableProvider>> + Sync);

/// Puts real tables in place of slots.
pub(crate) fn filled(plan: LogicalPlan, table: TableOf) -> Result<LogicalPlan> {
    let filled = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = &node else {
            return Ok(Transformed::no(node));
        };
        let provider = source_as_provider(&scan.source)?;
        let (real, columns) = if let Some(slot) = provider.downcast_ref::<SlotTable>() {
            (
                table(Source::Stream(&slot.stream))?,
                slot.schema.fields().len(),
            )
        } else if let Some(source) = provider.downcast_ref::<SourceTable>() {
            let real = match &source.kind {
                Kind::View(name) => table(Source::View(name))?,
                Kind::Part(index) => table(Source::Part(*index))?,
            };
            (real, source.schema.fields().len())
        } else {
            return Ok(Transformed::no(node));
        };
        let projection = scan.projection.clone();
        let projection = projection.unwrap_or_else(|| (0..columns).collect());
        let source = provider_as_source(real);
        let scan =
            LogicalPlanBuilder::scan(scan.table_name.clone(), source, Some(projection))?.build()?;
        Ok(Transformed::yes(scan))
    })?;
    Ok(filled.data)
}

/// The plan over `records`, batches in the streams' schema with system columns. Streams that are not
/// named have no records.
pub fn fill(
    plan: &Arc<dyn ExecutionPlan>,
    records: &HashMap<StreamId, Vec<RecordBatch>>,
    schemas: &HashMap<StreamId, SchemaRef>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Slot::filled(plan, |slot| {
        let batches = records.get(&slot.of).cloned().unwrap_or_default();
        slot.rows(batches, &schemas[&slot.of])
    })
}

/// The columns, by index, that a physical plan over one slot takes of it; `None` if it takes nothing.
pub fn columns_of(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<usize>> {
    match plan.downcast_ref::<Slot>() {
        Some(slot) => Some(slot.projection.clone()),
        None => plan.children().into_iter().find_map(columns_of),
    }
}

/// The plan over one slot with what gives these columns in its place.
pub fn fill_one(
    plan: &Arc<dyn ExecutionPlan>,
    records: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Slot::filled(plan, |_| Ok(Arc::clone(records)))
}

/// The columns of `stream` that a physical plan over slots takes.
pub fn columns_read(plan: &Arc<dyn ExecutionPlan>, stream: StreamId) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![plan];
    while let Some(node) = open.pop() {
        if let Some(slot) = node.downcast_ref::<Slot>()
            && slot.of == stream
        {
            let fields = slot.schema.fields().iter();
            names.extend(fields.map(|field| field.name().clone()));
        }
        open.extend(node.children());
    }
    names
}

/// A view or a part as a table without rows, in whose place a real one is put.
#[derive(Debug)]
pub(crate) struct SourceTable {
    pub kind: Kind,
    pub schema: SchemaRef,
}

#[derive(Debug)]
pub(crate) enum Kind {
    View(String),
    Part(usize),
}

impl SourceTable {
    pub(crate) fn of_view(view: &ViewSource) -> SourceTable {
        SourceTable {
            kind: Kind::View(view.name.clone()),
            schema: Arc::clone(&view.schema),
        }
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("a source is filled before its plan runs")
    }
}
