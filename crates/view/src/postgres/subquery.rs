//! The rule before all others: subqueries whose answer is NULL.
//!
//! DataFusion joins with what `IN (SELECT …)` looks in, and whether a row was found is true or false, where SQL also knows
//! NULL: the row is not there, but there are NULLs. That is the same to who asks only if it is true, as `WHERE` does, but
//! not under `NOT`, `IS NULL` or `coalesce`. And it takes a subquery of a value that is never NULL for one itself, though
//! without rows there is no value.
//!
//! It joins for conditions of a filter only. In what is selected, rows are counted instead: `(SELECT count(*) …) > 0`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, ExprSchema, Result,
        config::ConfigOptions,
        plan_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    functions_aggregate::count::count_udaf,
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, ExprSchemable, FetchType, LogicalPlan, LogicalPlanBuilder,
        Operator, Subquery,
        expr::{Exists, InSubquery},
        expr_rewriter::NamePreserver,
        lit, when,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

use super::{
    ValueError,
    function::{self, Meaning},
    meaning::schema_of_inputs,
};

#[derive(Debug)]
pub struct PostgresSubqueries;

impl AnalyzerRule for PostgresSubqueries {
    fn name(&self) -> &str {
        "postgres_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewritten)?.data)
    }
}

/// What matters of an expression where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Whether it is true, and it is one of the conditions of a filter.
    Condition,
    /// Whether it is true.
    Truth,
    Value,
    /// The value, in what is selected.
    Selected,
}

fn rewritten(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Join(join) = &node
        && [&join.left, &join.right]
            .into_iter()
            .any(|side| has_a_condition_on_a_total(side))
    {
        return Err(unsupported(
            "LATERAL over an aggregation with HAVING and without groups",
        ));
    }
    let schema = schema_of_inputs(&node)?;
    let asked = match node {
        LogicalPlan::Filter(_) => Asked::Condition,
        LogicalPlan::Join(_) => Asked::Truth,
        LogicalPlan::Projection(_) => Asked::Selected,
        _ => Asked::Value,
    };
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = known(expr, asked, &schema)?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    match node.transformed {
        true => Ok(Transformed::yes(node.data.recompute_schema()?)),
        false => Ok(node),
    }
}

fn known(expr: Expr, asked: Asked, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if function::called::<MayBeNull>(&expr).is_some() {
        return Ok(Transformed::no(expr));
    }
    let of_value = match asked {
        Asked::Selected => Asked::Selected,
        _ => Asked::Value,
    };
    let value = |child| known(child, of_value, schema);
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::And, ..
        }) => expr.map_children(|child| known(child, asked, schema)),
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Or, ..
        }) if matches!(asked, Asked::Condition | Asked::Truth) => {
            expr.map_children(|child| known(child, Asked::Truth, schema))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(within) => {
                let turned = InSubquery {
                    negated: !within.negated,
                    ..within
                };
                let turned = known(Expr::InSubquery(turned), asked, schema)?;
                Ok(Transformed::yes(turned.data))
            }
            inner => Expr::Not(Box::new(inner)).map_children(value),
        },
        Expr::InSubquery(within) => {
            if has_one_row(&within.subquery.subquery) {
                let op = match within.negated {
                    true => Operator::NotEq,
                    false => Operator::Eq,
                };
                let row = Box::new(Expr::ScalarSubquery(within.subquery));
                let compared = Expr::BinaryExpr(BinaryExpr::new(within.expr, op, row));
                let compared = known(compared, asked, schema)?;
                return Ok(Transformed::yes(compared.data));
            }
            refuse_lost(&within.subquery, false)?;
            let is_correlated = !within.subquery.outer_ref_columns.is_empty();
            // DataFusion's anti join knows NULLs of one column.
            let is_of_rows = !within.expr.column_refs().is_empty();
            let is_answered = match asked {
                Asked::Condition => !within.negated || !is_correlated && is_of_rows,
                Asked::Truth => !within.negated,
                Asked::Value | Asked::Selected => false,
            };
            match is_answered {
                true => Expr::InSubquery(within).map_children(value),
                false => with_null(within, asked, schema),
            }
        }
        Expr::Exists(exists) if has_one_row(&exists.subquery.subquery) => {
            Ok(Transformed::yes(lit(!exists.negated)))
        }
        Expr::Exists(exists) if asked == Asked::Selected => {
            refuse_lost(&exists.subquery, true)?;
            let rows = counted(&exists.subquery)?;
            Ok(Transformed::yes(match exists.negated {
                true => rows.eq(lit(0i64)),
                false => rows.gt(lit(0i64)),
            }))
        }
        Expr::Exists(exists) => {
            refuse_lost(&exists.subquery, true)?;
            Ok(Transformed::no(Expr::Exists(exists)))
        }
        Expr::Case(mut case) if case.expr.is_none() => {
            let mut changed = false;
            let mut replace = |part: &mut Expr, asked| -> Result<()> {
                let other = known(std::mem::take(part), asked, schema)?;
                changed |= other.transformed;
                *part = other.data;
                Ok(())
            };
            let of_condition = match asked {
                Asked::Selected => Asked::Selected,
                _ => Asked::Truth,
            };
            for (condition, then) in &mut case.when_then_expr {
                replace(condition, of_condition)?;
                replace(then, of_value)?;
            }
            if let Some(other) = &mut case.else_expr {
                replace(other, of_value)?;
            }
            Ok(Transformed::new_transformed(Expr::Case(case), changed))
        }
        Expr::ScalarSubquery(subquery) => {
            let is_null = subquery.subquery.schema().field(0).is_nullable();
            let expr = Expr::ScalarSubquery(subquery.clone());
            Ok(match is_null || has_one_row(&subquery.subquery) {
                true => Transformed::no(expr),
                false => Transformed::yes(function::call(MayBeNull, vec![expr])),
            })
        }
        other => other.map_children(value),
    }
}

/// Of `x NOT IN` the answers are turned: `CASE WHEN x IN (SELECT y …) THEN true WHEN x IS NULL AND EXISTS (…) OR EXISTS (… y IS NULL) THEN NULL ELSE false END`
fn with_null(within: InSubquery, asked: Asked, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let InSubquery {
        expr,
        subquery,
        negated,
    } = within;
    let rows = &subquery.subquery;
    let Some((qualifier, field)) = rows.schema().iter().next() else {
        return plan_err!("a subquery of no column");
    };
    let column = Expr::from((qualifier, field));
    let only = |condition: Expr| -> Result<Arc<LogicalPlan>> {
        let rows = LogicalPlanBuilder::from(Arc::clone(rows));
        Ok(Arc::new(rows.filter(condition)?.build()?))
    };
    let exists = |rows: Arc<LogicalPlan>, outer: Vec<Expr>| -> Result<Expr> {
        let mut subquery = Subquery {
            subquery: rows,
            ..subquery.clone()
        };
        subquery.outer_ref_columns.extend(outer);
        Ok(match asked {
            Asked::Selected => counted(&subquery)?.gt(lit(0i64)),
            _ => Expr::Exists(Exists {
                subquery,
                negated: false,
            }),
        })
    };
    let found = match asked {
        Asked::Selected => {
            let (outer, columns) = from_outside(expr.as_ref(), schema)?;
            exists(only(column.clone().eq(outer))?, columns)?
        }
        _ => Expr::InSubquery(InSubquery {
            expr: expr.clone(),
            subquery: subquery.clone(),
            negated: false,
        }),
    };
    let mut unknown = Vec::new();
    if expr.nullable(schema)? {
        let any = exists(Arc::clone(rows), Vec::new())?;
        unknown.push(expr.is_null().and(any));
    }
    if field.is_nullable() {
        unknown.push(exists(only(column.is_null())?, Vec::new())?);
    }
    let mut answer = when(found, lit(!negated));
    if let Some(unknown) = unknown.into_iter().reduce(Expr::or) {
        let null = Expr::Literal(ScalarValue::Boolean(None), None);
        answer = answer.when(unknown, null);
    }
    Ok(Transformed::yes(answer.otherwise(lit(negated))?))
}

/// How many rows there are, or, if they are the same for all rows outside, whether there are any.
fn counted(subquery: &Subquery) -> Result<Expr> {
    let mut rows = LogicalPlanBuilder::from(Arc::clone(&subquery.subquery));
    if subquery.outer_ref_columns.is_empty() {
        rows = rows.limit(0, Some(1))?;
    }
    let count = count_udaf().call(vec![lit(1i64)]);
    let counted = rows.aggregate(Vec::<Expr>::new(), vec![count])?.build()?;
    Ok(Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(counted),
        ..subquery.clone()
    }))
}

/// `expr` as a subquery names it, and the columns outside that are in it.
fn from_outside(expr: &Expr, schema: &DFSchema) -> Result<(Expr, Vec<Expr>)> {
    let mut columns = Vec::new();
    let outer = expr.clone().transform(|part| {
        Ok(match part {
            Expr::Column(column) => {
                let field = Arc::clone(schema.field_from_column(&column)?);
                let outer = Expr::OuterReferenceColumn(field, column);
                columns.push(outer.clone());
                Transformed::yes(outer)
            }
            other => Transformed::no(other),
        })
    })?;
    Ok((outer.data, columns))
}

/// Refuses what DataFusion would leave out where it joins with the rows that belong to one row outside: limits among
/// them, and conditions on a total of them. `exists`: it only matters whether there is a row.
fn refuse_lost(subquery: &Subquery, exists: bool) -> Result<()> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(());
    }
    let top = without_names(&subquery.subquery);
    if is_condition_on_a_total(top) {
        return Err(unsupported(
            "HAVING without groups over rows that depend on the query around it",
        ));
    }
    let mut is_lost = false;
    subquery.subquery.apply(|node| {
        if let LogicalPlan::Limit(limit) = node {
            // Whether there is one of the first rows is whether there is one.
            let is_harmless = exists && std::ptr::eq(node, top) && limit.skip.is_none();
            is_lost |= !is_harmless && depends_on_outside(&limit.input)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match is_lost {
        true => Err(unsupported(
            "LIMIT or OFFSET over rows that depend on the query around it",
        )),
        false => Ok(()),
    }
}

fn depends_on_outside(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| {
        let mut depends = false;
        node.apply_expressions(|expr| {
            depends |= expr.exists(|part| Ok(matches!(part, Expr::OuterReferenceColumn(..))))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(depends)
    })
}

/// Whether it is LATERAL, and one row that may be left out.
fn has_a_condition_on_a_total(side: &LogicalPlan) -> bool {
    let LogicalPlan::Subquery(lateral) = without_names(side) else {
        return false;
    };
    is_condition_on_a_total(without_names(&lateral.subquery))
}

fn is_condition_on_a_total(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(having) = plan else {
        return false;
    };
    matches!(without_names(&having.input), LogicalPlan::Aggregate(total) if total.group_expr.is_empty())
}

/// Below projections and names.
fn without_names(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(projection) => without_names(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => without_names(&alias.input),
        other => other,
    }
}

fn unsupported(what: &str) -> DataFusionError {
    let message = format!("{what} is not supported");
    ValueError::new("0A000", message)
        .with_hint("aggregate and limit in a subquery in FROM, and join with it")
        .into()
}

/// Whatever is in its tables.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Sort(sort) => has_one_row(&sort.input),
        LogicalPlan::Distinct(distinct) => has_one_row(distinct.input()),
        LogicalPlan::Limit(limit) => {
            let takes = matches!(
                limit.get_fetch_type(),
                Ok(FetchType::Literal(None | Some(1..)))
            );
            limit.skip.is_none() && takes && has_one_row(&limit.input)
        }
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        LogicalPlan::Values(values) => values.values.len() == 1,
        _ => false,
    }
}

/// Its argument, which is never NULL by its type, and is where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct MayBeNull;

impl Meaning for MayBeNull {
    fn name(&self) -> &'static str {
        "may_be_null"
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [argument] => Ok(argument.clone()),
            _ => plan_err!("{} takes one argument", self.name()),
        }
    }

    fn makes_null(&self) -> bool {
        true
    }

    fn compute(&self, arguments: &[ColumnarValue], _rows: usize) -> Result<ColumnarValue> {
        match arguments {
            [argument] => Ok(argument.clone()),
            _ => plan_err!("{} takes one argument", self.name()),
        }
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        arguments.first().cloned()
    }
}
