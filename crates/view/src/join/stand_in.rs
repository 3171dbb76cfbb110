//! The place in a join's plan where the rows of one side go in.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        Result, TableReference,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{TableType, source_as_provider},
    logical_expr::{Expr, LogicalPlan},
    physical_plan::ExecutionPlan,
};

use crate::hole::Hole;

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
        Hole::plan(Side(self.index), &self.schema, projection)
    }
}

/// Which one, from 0.
#[derive(Debug)]
struct Side(usize);

/// The physical plan over these rows of each side, whose first columns are those of the side.
pub fn filled(
    plan: &Arc<dyn ExecutionPlan>,
    rows: &[Vec<RecordBatch>],
    schemas: &[SchemaRef],
) -> Result<Arc<dyn ExecutionPlan>> {
    Hole::filled(plan, |hole: &Hole<Side>| {
        let Side(index) = hole.of;
        hole.rows(rows[index].clone(), &schemas[index])
    })
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
