//! A leaf of a physical plan into which rows are put before it runs.

use std::{fmt, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{
        Result, internal_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::memory::MemorySourceConfig,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
    },
};

/// `K` tells what goes in.
#[derive(Debug)]
pub(crate) struct Hole<K> {
    pub of: K,
    pub schema: SchemaRef,
    /// Its columns among those of the table that it stands for.
    pub projection: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl<K: fmt::Debug + Send + Sync + 'static> Hole<K> {
    /// In the place of a table with the columns of `table`.
    pub fn plan(
        of: K,
        table: &SchemaRef,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..table.fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(table.project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(Hole {
            of,
            schema,
            projection,
            properties: Arc::new(properties),
        }))
    }

    /// `rows` have the columns of `table`, which begin with those of the table that the hole stands for.
    pub fn rows(
        &self,
        rows: Vec<RecordBatch>,
        table: &SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = Some(self.projection.clone());
        let source = MemorySourceConfig::try_new_exec(&[rows], Arc::clone(table), projection)?;
        Ok(source)
    }

    /// `plan` with what `give` makes in the place of each of its holes.
    pub fn filled(
        plan: &Arc<dyn ExecutionPlan>,
        give: impl Fn(&Hole<K>) -> Result<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filled = Arc::clone(plan).transform_up(|node| {
            if let Some(hole) = node.downcast_ref::<Hole<K>>() {
                return give(hole).map(Transformed::yes);
            }
            match node.children().len() {
                // A join keeps the side that it has built, which may be of other rows.
                2 => node.reset_state().map(Transformed::yes),
                _ => Ok(Transformed::no(node)),
            }
        })?;
        Ok(filled.data)
    }
}

impl<K: fmt::Debug> DisplayAs for Hole<K> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Hole: of={:?}", self.of)
    }
}

impl<K: fmt::Debug + Send + Sync + 'static> ExecutionPlan for Hole<K> {
    fn name(&self) -> &str {
        "Hole"
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
        internal_err!("a hole is filled before its plan runs")
    }
}
