//! Functions that exist in plans only: `coalesce` stands for a `CASE`, `arrow_cast` for a cast.
//!
//! DataFusion's optimizer puts there what they stand for. What it never sees, an aggregation and what comes after
//! it in a kept view, would ask them for values.

use std::sync::Arc;

use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Expr, LogicalPlan,
        expr::ScalarFunction,
        expr_rewriter::NamePreserver,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::meaning::schema_of_inputs;

/// `plan`, analysed, with the expressions that such functions stand for. Nothing else is simplified: aggregates stay
/// what they are, and so does `now()`.
pub fn expanded(plan: LogicalPlan, options: &Arc<ConfigOptions>) -> Result<LogicalPlan> {
    let mut changed = false;
    let expanded = plan.transform_up_with_subqueries(|node| {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema_of_inputs(&node)?))
            .with_config_options(Arc::clone(options))
            .build();
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            if matches!(expr, Expr::GroupingSet(_)) {
                // It has no name to keep, and is always left to the optimizer.
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            let expanded = expr.transform_up(|part| expanded_call(part, &context))?;
            Ok(expanded.update_data(|expr| name.restore(expr)))
        })?;
        changed |= node.transformed;
        // What may be NULL can change, also for those above.
        match changed {
            true => Ok(Transformed::yes(node.data.recompute_schema()?)),
            false => Ok(node),
        }
    })?;
    Ok(expanded.data)
}

fn expanded_call(expr: Expr, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else {
        return Ok(Transformed::no(expr));
    };
    Ok(match func.simplify(args, context)? {
        ExprSimplifyResult::Simplified(expr) => Transformed::yes(expr),
        ExprSimplifyResult::Original(args) => {
            Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
    })
}
