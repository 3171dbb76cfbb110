//! Rules that look columns up by their names.
//!
//! DataFusion hands a filter to the inputs of a node under the names of its columns, and takes the first that has one
//! (apache/datafusion issues 21246 and 25296, mended in pull request 25259): above a join of two tables with a column of
//! one name it filters the wrong one. Such a rule is only asked where every name is of one column.

use std::{collections::HashSet, sync::Arc};

use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::ExecutionPlan,
};

/// The rules that are meant.
pub(crate) fn goes_by_names(rule: &dyn PhysicalOptimizerRule) -> bool {
    rule.name().starts_with("FilterPushdown")
}

#[derive(Debug)]
pub(crate) struct WhereNamesAreOfOne(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for WhereNamesAreOfOne {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut is_of_one = true;
        plan.apply(|node| {
            let schema = node.schema();
            let mut names = HashSet::with_capacity(schema.fields().len());
            is_of_one = schema
                .fields()
                .iter()
                .all(|field| names.insert(field.name()));
            Ok(match is_of_one {
                true => TreeNodeRecursion::Continue,
                false => TreeNodeRecursion::Stop,
            })
        })?;
        match is_of_one {
            true => self.0.optimize(plan, config),
            false => Ok(plan),
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}
