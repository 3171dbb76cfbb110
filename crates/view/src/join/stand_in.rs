//! The place in a join's plan where the rows of one side go in.

use std::{fmt, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        Result, TableReference, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{TableType, memory::MemorySourceConfig, source_as_provider},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, LogicalPlan},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
    },
};

/// By this name the plan above knows the columns of side `index`.
pub fn name(index: usize) -> TableReference {
    TableReference::bare(format!("__side{index}"))
}

/// A side as a table without rows.
#[derive(Debug)]
pub struct SideTable {
    pub index: usize,
    pub schema: SchemaRef,
}

#[async_trait]
impl TableProvider for SideTable {
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
        let projection = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(SideExec {
            index: self.index,
            schema,
            projection,
            properties: Arc::new(properties),
        }))
    }
}

#[derive(Debug)]
struct SideExec {
    index: usize,
    schema: SchemaRef,
    projection: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for SideExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SideExec: side={}", self.index)
    }
}

impl ExecutionPlan for SideExec {
    fn name(&self) -> &str {
        "SideExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a side is filled before its plan runs")
    }
}

/// The physical plan over these rows of each side, whose first columns are those of the side.
pub fn filled(
    plan: &Arc<dyn ExecutionPlan>,
    rows: &[Vec<RecordBatch>],
    schemas: &[SchemaRef],
) -> Result<Arc<dyn ExecutionPlan>> {
    let filled = Arc::clone(plan).transform_up(|node| {
        let Some(side) = node.downcast_ref::<SideExec>() else {
            // A join keeps the side that it has built, which may be of other rows.
            return match node.children().len() {
                2 => node.reset_state().map(Transformed::yes),
                _ => Ok(Transformed::no(node)),
            };
        };
        let source = MemorySourceConfig::try_new_exec(
            &[rows[side.index].clone()],
            Arc::clone(&schemas[side.index]),
            Some(side.projection.clone()),
        )?;
        Ok(Transformed::yes(source as Arc<dyn ExecutionPlan>))
    })?;
    Ok(filled.data)
}

/// The logical plan with `plan_of` each side in its place.
pub fn replaced(
    plan: LogicalPlan,
    plan_of: impl Fn(usize) -> Result<LogicalPlan>,
) -> Result<LogicalPlan> {
    let replaced = plan.transform_up(|node| {
        if let LogicalPlan::TableScan(scan) = &node
            && let Some(side) = source_as_provider(&scan.source)?.downcast_ref::<SideTable>()
        {
            return Ok(Transformed::yes(plan_of(side.index)?));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(replaced.data)
}
