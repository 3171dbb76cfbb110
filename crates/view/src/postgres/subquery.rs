//! The rule before all others: subqueries whose answer is NULL.
//!
//! DataFusion joins with what `IN (SELECT …)` looks in, and whether a row was found is true or false, where SQL also knows
//! NULL: the row is not there, but there are NULLs. That is the same to who asks only if it is true, as `WHERE` does, but
//! not under `NOT`, `IS NULL` or `coalesce`. And it takes a subquery of a value that is never NULL for one itself, though
//! without rows there is no value.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        plan_err,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
        Subquery,
        expr::{Exists, InSubquery},
        expr_rewriter::NamePreserver,
        lit, when,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

use super::{
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
}

fn rewritten(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = schema_of_inputs(&node)?;
    let asked = match node {
        LogicalPlan::Filter(_) => Asked::Condition,
        LogicalPlan::Join(_) => Asked::Truth,
        _ => Asked::Value,
    };
    let names = NamePreserver::new(&node);
    let node = node.map_expressions(|expr| {
        let name = names.save(&expr);
        let known = known(expr, asked, &schema)?;
        Ok(known.update_data(|expr| name.restore(expr)))
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
    let value = |child| known(child, Asked::Value, schema);
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::And, ..
        }) => expr.map_children(|child| known(child, asked, schema)),
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Or, ..
        }) if asked != Asked::Value => {
            expr.map_children(|child| known(child, Asked::Truth, schema))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(within) => {
                let turned = InSubquery {
                    negated: !within.negated,
                    ..within
                };
                let known = known(Expr::InSubquery(turned), asked, schema)?;
                Ok(Transformed::yes(known.data))
            }
            inner => Expr::Not(Box::new(inner)).map_children(value),
        },
        Expr::InSubquery(within) => {
            let is_correlated = !within.subquery.outer_ref_columns.is_empty();
            let is_answered = match asked {
                Asked::Condition => !within.negated || !is_correlated,
                Asked::Truth => !within.negated,
                Asked::Value => false,
            };
            match is_answered {
                true => Expr::InSubquery(within).map_children(value),
                false => with_null(within, schema),
            }
        }
        Expr::Case(mut case) if case.expr.is_none() => {
            let mut changed = false;
            let mut replace = |part: &mut Expr, asked| -> Result<()> {
                let known = known(std::mem::take(part), asked, schema)?;
                changed |= known.transformed;
                *part = known.data;
                Ok(())
            };
            for (condition, then) in &mut case.when_then_expr {
                replace(condition, Asked::Truth)?;
                replace(then, Asked::Value)?;
            }
            if let Some(other) = &mut case.else_expr {
                replace(other, Asked::Value)?;
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

/// `CASE WHEN x IN (SELECT y …) THEN true WHEN x IS NULL AND EXISTS (…) OR EXISTS (… y IS NULL) THEN NULL ELSE false END`
fn with_null(within: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let InSubquery {
        expr,
        subquery,
        negated,
    } = within;
    let found = Expr::InSubquery(InSubquery {
        expr: expr.clone(),
        subquery: subquery.clone(),
        negated: false,
    });
    let exists = |plan: Arc<LogicalPlan>| {
        Expr::Exists(Exists {
            subquery: Subquery {
                subquery: plan,
                ..subquery.clone()
            },
            negated: false,
        })
    };
    let rows = &subquery.subquery;
    let mut unknown = Vec::new();
    if expr.nullable(schema)? {
        unknown.push(expr.is_null().and(exists(Arc::clone(rows))));
    }
    let Some((qualifier, field)) = rows.schema().iter().next() else {
        return plan_err!("a subquery of no column");
    };
    if field.is_nullable() {
        let is_null = Expr::from((qualifier, field)).is_null();
        let nulls = LogicalPlanBuilder::from(Arc::clone(rows)).filter(is_null)?;
        unknown.push(exists(Arc::new(nulls.build()?)));
    }
    let mut answer = when(found, lit(!negated));
    if let Some(unknown) = unknown.into_iter().reduce(Expr::or) {
        let null = Expr::Literal(ScalarValue::Boolean(None), None);
        answer = answer.when(unknown, null);
    }
    Ok(Transformed::yes(answer.otherwise(lit(negated))?))
}

/// Whatever is in its tables.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
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
