//! Which of several rows comes first when the view's `ORDER BY` does not say.
//!
//! SQL leaves that to chance: `LIMIT 10` may keep either of two rows that tie at place 10, and `row_number()` may count
//! them either way. A view has to give the same rows whenever and wherever it is run, so the other columns decide. What
//! is added to an order changes no order that the user gave, and functions that know about ties (`rank`, sums over
//! `RANGE` frames) keep theirs.
//!
//! Windows over windows go by one order, as where one sort serves both: a session's sum of beginnings would count a row
//! before the one that begins the session. So the lower one numbers its rows, and among ties the upper one goes by that.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, DFSchemaRef, Result,
        tree_node::{Transformed, TreeNode},
    },
    functions_window::row_number::row_number,
    logical_expr::{
        Distinct, DistinctOn, Expr, ExprFunctionExt, Filter, LogicalPlan, Projection, Sort,
        SortExpr, SubqueryAlias, Window, WindowFrameUnits, expr::WindowFunction,
    },
};

/// The column of numbers that a lower window gives its rows; a level of nesting has one of its own.
const NUMBER: &str = "__lambic_row_number";

/// The plan with every order that decides about rows made a total one.
pub fn settled(plan: LogicalPlan) -> Result<LogicalPlan> {
    let settled = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(mut limit) => {
            limit.input = Arc::new(in_total_order(Arc::unwrap_or_clone(limit.input)));
            Ok(Transformed::yes(LogicalPlan::Limit(limit)))
        }
        LogicalPlan::Distinct(Distinct::On(on)) => Ok(Transformed::yes(distinct_on(on)?)),
        LogicalPlan::Window(window) => windows(window),
        other => Ok(Transformed::no(other)),
    });
    Ok(settled?.data)
}

/// Below a `LIMIT`: the sort that it cuts off, or one that it gets.
fn in_total_order(plan: LogicalPlan) -> LogicalPlan {
    match plan {
        LogicalPlan::Sort(mut sort) => {
            extend(&mut sort.expr, sort.input.schema());
            LogicalPlan::Sort(sort)
        }
        // The order below has more columns: rows that tie in all of those are alike above, too.
        LogicalPlan::Projection(mut projection) => {
            projection.input = Arc::new(in_total_order(Arc::unwrap_or_clone(projection.input)));
            LogicalPlan::Projection(projection)
        }
        LogicalPlan::SubqueryAlias(mut alias) => {
            alias.input = Arc::new(in_total_order(Arc::unwrap_or_clone(alias.input)));
            LogicalPlan::SubqueryAlias(alias)
        }
        other => {
            let mut expr = Vec::new();
            extend(&mut expr, other.schema());
            if expr.is_empty() {
                return other;
            }
            LogicalPlan::Sort(Sort {
                expr,
                input: Arc::new(other),
                fetch: None,
            })
        }
    }
}

/// Adds the columns of `schema` by which the order does not go yet.
fn extend(order: &mut Vec<SortExpr>, schema: &DFSchemaRef) {
    for (qualifier, field) in schema.iter() {
        let column = Expr::Column((qualifier, field).into());
        let is_there = order.iter().any(|by| by.expr == column);
        // Lists have no order that every operator knows.
        if !is_there && !field.data_type().is_nested() {
            order.push(column.sort(true, false));
        }
    }
}

fn distinct_on(on: DistinctOn) -> Result<LogicalPlan> {
    let mut order = match on.sort_expr {
        Some(order) => order,
        None => {
            let each = on.on_expr.iter();
            each.map(|expr| expr.clone().sort(true, false)).collect()
        }
    };
    extend(&mut order, on.input.schema());
    let on = DistinctOn::try_new(on.on_expr, on.select_expr, Some(order), on.input)?;
    Ok(LogicalPlan::Distinct(Distinct::On(on)))
}

/// Windows whose functions ask for one row after the other; all of one node have the same order, so they get a node of
/// their own.
fn windows(window: Window) -> Result<Transformed<LogicalPlan>> {
    let (by_row, others): (Vec<Expr>, Vec<Expr>) =
        window.window_expr.iter().cloned().partition(counts_rows);
    if by_row.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let columns = output(&window.schema);
    let (input, number) = match numbered(&window.input)? {
        Some((input, number)) => (Arc::new(input), Some(number)),
        None => (window.input, None),
    };
    let schema = Arc::clone(input.schema());
    let by_row = by_row.into_iter().map(|expr| {
        // The order is part of the name by which other nodes know it.
        let name = expr.schema_name().to_string();
        let settled = expr.transform_down(|part| match part {
            Expr::WindowFunction(mut function) => {
                let order = &mut function.params.order_by;
                order.extend(number.iter().map(|number| by(number.clone())));
                extend(order, &schema);
                Ok(Transformed::yes(Expr::WindowFunction(function)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(settled.data.unalias().alias(name))
    });
    let by_row = by_row.collect::<Result<Vec<_>>>()?;
    let input = match others.is_empty() {
        true => input,
        false => Arc::new(LogicalPlan::Window(Window::try_new(others, input)?)),
    };
    let settled = LogicalPlan::Window(Window::try_new(by_row, input)?);
    if number.is_none() {
        return Ok(Transformed::yes(settled));
    }
    // Nobody above knows of the numbers.
    let settled = Projection::try_new(columns, Arc::new(settled))?;
    Ok(Transformed::yes(LogicalPlan::Projection(settled)))
}

fn output(schema: &DFSchemaRef) -> Vec<Expr> {
    schema
        .iter()
        .map(|(qualifier, field)| Expr::Column((qualifier, field).into()))
        .collect()
}

fn by(column: Column) -> SortExpr {
    Expr::Column(column).sort(true, false)
}

/// The same rows with their numbers in the order of the window below that they come from, if they come from one as
/// they are. Its order is a total one already.
fn numbered(plan: &LogicalPlan) -> Result<Option<(LogicalPlan, Column)>> {
    Ok(match plan {
        LogicalPlan::Projection(projection) => {
            let Some((input, number)) = numbered(&projection.input)? else {
                return Ok(None);
            };
            let mut columns = projection.expr.clone();
            columns.push(Expr::Column(number.clone()));
            let projection = Projection::try_new(columns, Arc::new(input))?;
            Some((LogicalPlan::Projection(projection), number))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some((input, number)) = numbered(&alias.input)? else {
                return Ok(None);
            };
            let number = Column::new(Some(alias.alias.clone()), number.name);
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Some((LogicalPlan::SubqueryAlias(alias), number))
        }
        LogicalPlan::Filter(filter) => {
            let Some((input, number)) = numbered(&filter.input)? else {
                return Ok(None);
            };
            let filter = Filter::try_new(filter.predicate.clone(), Arc::new(input))?;
            Some((LogicalPlan::Filter(filter), number))
        }
        LogicalPlan::Window(window) => {
            let Some(lower) = window.window_expr.iter().find(|expr| counts_rows(expr)) else {
                return match numbered(&window.input)? {
                    Some((input, number)) => {
                        let window = Window::try_new(window.window_expr.clone(), Arc::new(input))?;
                        Ok(Some((LogicalPlan::Window(window), number)))
                    }
                    None => Ok(None),
                };
            };
            let Expr::WindowFunction(function) = lower.clone().unalias() else {
                return Ok(None);
            };
            let number = Column::from_name(free_name(&window.schema));
            let row_number = row_number()
                .partition_by(function.params.partition_by)
                .order_by(function.params.order_by)
                .build()?
                .alias(&number.name);
            let mut functions = window.window_expr.clone();
            functions.push(row_number);
            let window = Window::try_new(functions, Arc::clone(&window.input))?;
            Some((LogicalPlan::Window(window), number))
        }
        _ => None,
    })
}

fn free_name(schema: &DFSchemaRef) -> String {
    let is_taken = |name: &String| schema.fields().iter().any(|field| field.name() == name);
    let mut names = (0..).map(|level| format!("{NUMBER}_{level}"));
    names
        .find(|name| !is_taken(name))
        .expect("a schema has fewer fields than there are numbers")
}

fn counts_rows(expr: &Expr) -> bool {
    let function: &WindowFunction = match expr {
        Expr::WindowFunction(function) => function,
        Expr::Alias(alias) => return counts_rows(&alias.expr),
        _ => return false,
    };
    let frame = &function.params.window_frame;
    let is_whole = frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded();
    match function.fun.name() {
        "row_number" | "ntile" | "lag" | "lead" => true,
        "rank" | "dense_rank" | "percent_rank" | "cume_dist" => false,
        "first_value" | "last_value" | "nth_value" | "array_agg" | "string_agg" => {
            frame.units == WindowFrameUnits::Rows
        }
        // Over the whole partition, the order does not matter to them.
        _ => frame.units == WindowFrameUnits::Rows && !is_whole,
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// The answer over the same rows in another order.
    async fn answer(rows: &[&str], sql: &str) -> String {
        let config = SessionConfig::new().with_target_partitions(1);
        let context = SessionContext::new_with_config(config);
        let table = format!(
            "CREATE TABLE t (a int, b int, c text) AS VALUES {}",
            rows.join(", ")
        );
        context.sql(&table).await.unwrap().collect().await.unwrap();
        let plan = context.sql(sql).await.unwrap().logical_plan().clone();
        let plan = settled(plan).unwrap();
        let answer = context.execute_logical_plan(plan).await.unwrap();
        let batches = answer.collect().await.unwrap();
        let shown = pretty_format_batches(&batches).unwrap().to_string();
        let mut lines: Vec<&str> = shown.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    #[tokio::test]
    async fn equal_rows_in_any_order_give_equal_answers() {
        let rows = [
            "(1, 1, 'x')",
            "(1, 2, 'y')",
            "(1, 3, 'z')",
            "(2, 1, 'x')",
            "(2, 1, 'w')",
        ];
        let mut turned = rows;
        turned.reverse();
        for sql in [
            "SELECT a, c FROM t ORDER BY a LIMIT 2",
            "SELECT c FROM t ORDER BY a DESC LIMIT 1",
            "SELECT b FROM t LIMIT 2",
            "SELECT c FROM (SELECT * FROM t ORDER BY a LIMIT 3 OFFSET 1) AS s",
            "SELECT a, c FROM t WHERE b IN (SELECT b FROM t ORDER BY a LIMIT 1)",
            "SELECT c, row_number() OVER (ORDER BY a) AS n, rank() OVER (ORDER BY a) AS r FROM t",
            "SELECT c, lag(c) OVER (PARTITION BY a ORDER BY b) AS before FROM t",
            "SELECT c, sum(b) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) AS so_far FROM t",
            "SELECT DISTINCT ON (a) a, c FROM t ORDER BY a",
            "SELECT DISTINCT ON (b) b, c FROM t",
        ] {
            let straight = answer(&rows, sql).await;
            assert_eq!(straight, answer(&turned, sql).await, "{sql}");
        }
    }

    /// `begins` is made by one window and summed by another; rows that tie, or are alike in everything, must not be summed
    /// in another order than they were compared in.
    #[tokio::test]
    async fn windows_over_windows_go_by_one_order() {
        let rows = [
            "(1, 1, 'x')",
            "(9, 1, 'x')",
            "(9, 1, 'x')",
            "(9, 2, 'x')",
            "(9, 0, 'w')",
        ];
        let mut turned = rows;
        turned.reverse();
        let begins = "CASE WHEN lag(a) OVER (PARTITION BY {by} ORDER BY a) >= a - 2 THEN 0 ELSE 1 END AS begins";
        for by in ["true", "c"] {
            let begins = begins.replace("{by}", by);
            let sessions = format!(
                "SELECT c, a, sum(begins) OVER (PARTITION BY {by} ORDER BY a ROWS UNBOUNDED PRECEDING) AS s \
                 FROM (SELECT c, a, {begins} FROM t) q WHERE a > 0"
            );
            let sql = format!(
                "SELECT min(a) AS first, max(a) AS last, count(*) AS n FROM ({sessions}) q GROUP BY s{}",
                if by == "c" { ", c" } else { "" }
            );
            let nested = format!(
                "SELECT first, last, n FROM ({sql}) q \
                 WHERE n IN (SELECT count(*) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) FROM t)"
            );
            for sql in [sql, nested] {
                let straight = answer(&rows, &sql).await;
                assert!(
                    straight.contains("| 1     | 1    | 1 |"),
                    "{sql}: {straight}"
                );
                let n = if by == "c" { 3 } else { 4 };
                assert!(
                    straight.contains(&format!("| 9     | 9    | {n} |")),
                    "{sql}: {straight}"
                );
                assert_eq!(straight, answer(&turned, &sql).await, "{sql}");
            }
        }
        let thrice = "SELECT n, count(*) AS rows FROM (SELECT sum(m) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) AS n FROM \
                      (SELECT a, sum(e) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) - row_number() OVER (ORDER BY a) AS m FROM \
                      (SELECT a, lag(1, 1, 0) OVER (ORDER BY a) AS e FROM t) q) q) q GROUP BY n";
        assert_eq!(answer(&rows, thrice).await, answer(&turned, thrice).await);
    }

    #[tokio::test]
    async fn functions_that_know_ties_keep_them() {
        let rows = ["(1, 1, 'x')", "(1, 2, 'y')", "(2, 4, 'z')"];
        let sql = "SELECT c, rank() OVER (ORDER BY a) AS r, sum(b) OVER (ORDER BY a) AS s, \
                   row_number() OVER (ORDER BY a) AS n, rank() OVER () AS o FROM t";
        let shown = answer(&rows, sql).await;
        for row in [
            "| x | 1 | 3 | 1 |",
            "| y | 1 | 3 | 2 |",
            "| z | 3 | 7 | 3 |",
        ] {
            assert!(shown.contains(row), "{shown}");
        }
    }
}
