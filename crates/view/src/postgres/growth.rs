//! What would grow while a plan is optimised: refused before.
//!
//! The optimizer brings a condition down to the tables, and puts the expression that a column stands for in the place of
//! the column. Where each of many steps (`WITH a AS (SELECT x || x AS x …), b AS (SELECT x || x AS x FROM a), …`) names
//! the one before twice, the condition doubles with each.

use datafusion::{
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
    optimizer::AnalyzerRule,
};

use super::{ValueError, size::IN_STEPS};

/// Expressions that a condition may grow by.
const GROWTH_MAX: u64 = 10_000;
/// Casts in casts: each doubles the time in which DataFusion finds out whether its value may be NULL.
const CASTS_MAX: usize = 16;

/// Changes nothing.
#[derive(Debug)]
pub struct Bounded;

impl AnalyzerRule for Bounded {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        columns(&plan)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "bounded"
    }
}

/// What stands for a column, when all that it names is put in its place.
#[derive(Clone, Copy, Default)]
struct Written {
    expressions: u64,
    /// The casts that it begins with, in one another.
    casts: usize,
}

const ONE: Written = Written {
    expressions: 1,
    casts: 0,
};

/// Those of a plan's columns.
fn columns(plan: &LogicalPlan) -> Result<Vec<Written>> {
    let mut known = Known(Vec::new());
    for input in plan.inputs() {
        known.0.push((input.schema(), columns(input)?));
    }
    let is_condition = matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_));
    let mut written = Vec::new();
    plan.apply_expressions(|expr| {
        let (found, growth) = known.written(expr)?;
        if is_condition && growth > GROWTH_MAX {
            let message = "a condition stands for more than 10,000 operations, once what its columns stand for is put in their place";
            return Err(ValueError::new("54001", message).with_hint(IN_STEPS).into());
        }
        written.push(found);
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut columns = match plan {
        LogicalPlan::Projection(_) => written,
        LogicalPlan::Aggregate(aggregate) => {
            written.truncate(aggregate.group_expr.len());
            written
        }
        LogicalPlan::Union(_) => {
            let width = plan.schema().fields().len();
            let largest = (0..width).map(|column| {
                let all = known
                    .0
                    .iter()
                    .filter_map(|(_, columns)| columns.get(column));
                all.fold(ONE, |a: Written, b| Written {
                    expressions: a.expressions.max(b.expressions),
                    casts: a.casts.max(b.casts),
                })
            });
            largest.collect()
        }
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Join(_) => {
            let inputs = known.0.into_iter();
            inputs.flat_map(|(_, columns)| columns).collect()
        }
        _ => Vec::new(),
    };
    // Joins may leave out a side, and other plans make columns of their own.
    columns.resize(plan.schema().fields().len(), ONE);
    Ok(columns)
}

/// What stands for the columns of a plan's inputs.
struct Known<'a>(Vec<(&'a DFSchema, Vec<Written>)>);

impl Known<'_> {
    /// With how much more it is than as it is written.
    fn written(&self, expr: &Expr) -> Result<(Written, u64)> {
        let mut all = Written::default();
        let mut growth = 0u64;
        expr.apply(|part| {
            let here = self.of_column(part);
            all.expressions = all.expressions.saturating_add(here.expressions);
            growth = growth.saturating_add(here.expressions - 1);
            self.subquery(part)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        all.casts = self.casts(expr)?;
        Ok((all, growth))
    }

    fn of_column(&self, expr: &Expr) -> Written {
        let Expr::Column(column) = expr else {
            return ONE;
        };
        let mut inputs = self.0.iter();
        let found =
            inputs.find_map(|(schema, columns)| columns.get(schema.maybe_index_of_column(column)?));
        found.copied().unwrap_or(ONE)
    }

    fn subquery(&self, expr: &Expr) -> Result<()> {
        let query = match expr {
            Expr::ScalarSubquery(query) => query,
            Expr::Exists(exists) => &exists.subquery,
            Expr::InSubquery(within) => &within.subquery,
            _ => return Ok(()),
        };
        columns(&query.subquery).map(|_| ())
    }

    /// How many casts `expr` begins with, in one another; a function stores what it needs to know of its arguments.
    fn casts(&self, expr: &Expr) -> Result<usize> {
        let mut deepest = self.of_column(expr).casts;
        expr.apply_children(|part| {
            deepest = deepest.max(self.casts(part)?);
            Ok(TreeNodeRecursion::Continue)
        })?;
        let casts = match expr {
            Expr::Cast(_) | Expr::TryCast(_) => deepest + 1,
            Expr::ScalarFunction(_) => 0,
            _ => deepest,
        };
        if casts > CASTS_MAX {
            let message = format!("casts are nested more than {CASTS_MAX} deep");
            return Err(ValueError::new("54001", message).with_hint(IN_STEPS).into());
        }
        Ok(casts)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{execution::runtime_env::RuntimeEnv, logical_expr::LogicalPlan};
    use std::sync::Arc;

    use super::*;
    use crate::session;

    /// Analysed, not optimised.
    async fn planned(sql: &str) -> Result<LogicalPlan> {
        let state = session::state(session::config(2), Arc::new(RuntimeEnv::default()));
        let sql = sql.replace("FROM s", "FROM (VALUES ('a', 1)) AS s(x, n)");
        let plan = state
            .statement_to_plan(crate::postgres::parse(&sql)?)
            .await?;
        let analyzer = state.analyzer();
        analyzer.execute_and_check(plan, state.config_options(), |_, _| {})
    }

    /// So many steps, each of which computes `x` from the one before.
    fn steps(x: &str, steps: usize, last: &str) -> String {
        let more = (1..=steps).map(|n| format!(", c{n} AS (SELECT {x} AS x, n FROM c{})", n - 1));
        let more: String = more.collect();
        format!(
            "WITH c0 AS (SELECT x, n FROM s){more} {}",
            last.replace('#', &steps.to_string())
        )
    }

    #[tokio::test]
    async fn conditions_that_double_with_each_step_are_refused() {
        for last in [
            "SELECT * FROM c# WHERE x = 'a'",
            "SELECT * FROM c# AS a JOIN c# AS b ON a.x < b.x",
            "SELECT * FROM (SELECT * FROM c# UNION ALL SELECT * FROM s) AS u WHERE x = 'a' LIMIT 1",
            "SELECT x, count(*) FROM c# GROUP BY x HAVING x = 'a'",
            "SELECT 1 WHERE EXISTS (SELECT * FROM c# WHERE x = 'a')",
        ] {
            let few = planned(&steps("x || x", 10, last)).await;
            assert!(few.is_ok(), "{last}: {few:?}");
            let many = planned(&steps("x || x", 40, last)).await;
            let error = many.expect_err(last).to_string();
            assert!(error.contains("10,000 operations"), "{last}: {error}");
        }
        // Nothing is put in the place of what an aggregation or no step computes.
        for fine in [
            steps("x || x", 40, "SELECT * FROM c# WHERE n = 1"),
            steps(
                "x || x",
                40,
                "SELECT * FROM (SELECT max(x) AS m FROM c#) AS t WHERE m || m = 'a'",
            ),
            steps("x", 40, "SELECT * FROM c# WHERE x || x = 'a'"),
        ] {
            let planned = planned(&fine).await;
            assert!(planned.is_ok(), "{fine}: {planned:?}");
        }
        let values: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        let long = format!("SELECT * FROM s WHERE n IN ({})", values.join(", "));
        assert!(planned(&long).await.is_ok());
    }

    #[tokio::test]
    async fn casts_in_casts_are_bounded() {
        let nested = |around: &str, levels| {
            let (open, close) = around.split_once('@').expect("a place");
            format!(
                "SELECT {}n{} FROM s",
                open.repeat(levels),
                close.repeat(levels)
            )
        };
        // Each casts twice; once by what `||` takes.
        for (around, is_bounded) in [
            ("CAST(CAST(@ AS text) AS bigint)", true),
            ("(@ || 'a' = 'b')", true),
            ("CAST(abs(@) AS int)", false),
        ] {
            let few = planned(&nested(around, 7)).await;
            assert!(few.is_ok(), "{around}: {few:?}");
            let many = planned(&nested(around, 20)).await;
            assert_eq!(many.is_err(), is_bounded, "{around}: {many:?}");
        }
        let steps = steps("x::bigint::text", 9, "SELECT x FROM c#");
        let error = planned(&steps).await.expect_err("18 casts").to_string();
        assert!(error.contains("casts are nested"), "{error}");
    }
}
