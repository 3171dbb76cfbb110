//! `OFFSET` over an order.
//!
//! DataFusion pushes the sort of an outer `ORDER BY` below a limit and forgets how many rows the limit skips
//! (apache/datafusion pull request 24958), and takes a sort away that only an offset above it needs (issue 23534). So
//! before its rules look at a plan, a limit that skips rows becomes a node that no sort goes through, and that asks for
//! the order of what it skips.

use std::{fmt, sync::Arc};

use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{Distribution, EquivalenceProperties, OrderingRequirements, PhysicalExpr},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
        PlanProperties, limit::GlobalLimitExec, projection::ProjectionExec,
        replace_children_if_necessary,
    },
};

/// Puts [`Skip`] in the place of limits that skip rows.
#[derive(Debug)]
pub(crate) struct KeepOffsets;

impl PhysicalOptimizerRule for KeepOffsets {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            Ok(match node.downcast_ref::<GlobalLimitExec>() {
                Some(limit) if limit.skip() > 0 => {
                    Transformed::yes(skipping(limit.input(), limit)?)
                }
                _ => Transformed::no(node),
            })
        });
        Ok(plan?.data)
    }

    fn name(&self) -> &str {
        "keep_offsets"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Under projections, which may leave out what the rows are ordered by.
fn skipping(
    input: &Arc<dyn ExecutionPlan>,
    limit: &GlobalLimitExec,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(projection) = input.downcast_ref::<ProjectionExec>() {
        let skipping = skipping(projection.input(), limit)?;
        return replace_children_if_necessary(Arc::clone(input), vec![skipping]);
    }
    let order = input.output_ordering().cloned().map(Into::into);
    let skip = Skip::new(Arc::clone(input), order, limit.skip(), limit.fetch());
    Ok(Arc::new(skip))
}

#[derive(Debug)]
struct Skip {
    input: Arc<dyn ExecutionPlan>,
    /// Of the rows that it skips.
    order: Option<OrderingRequirements>,
    skip: usize,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl Skip {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        order: Option<OrderingRequirements>,
        skip: usize,
        fetch: Option<usize>,
    ) -> Skip {
        // What it gives is in order, but who knew that would sort below it.
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Skip {
            input,
            order,
            skip,
            fetch,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for Skip {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Skip: skip={}", self.skip)?;
        self.fetch
            .map_or(Ok(()), |fetch| write!(f, ", fetch={fetch}"))
    }
}

impl ExecutionPlan for Skip {
    fn name(&self) -> &str {
        "Skip"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.order.clone()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        let skip = Skip::new(input, self.order.clone(), self.skip, self.fetch);
        Ok(Arc::new(skip))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        GlobalLimitExec::new(Arc::clone(&self.input), self.skip, self.fetch)
            .execute(partition, context)
    }
}
