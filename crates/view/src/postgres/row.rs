//! Comparisons of rows, `(a, b) < (c, d)`: what they say of each pair of columns, so that NULLs are what they are there.
//!
//! Postgres, documentation 9.25.5: rows are equal if all columns are, one is less if the first column that differs is; a
//! row is NULL if all its columns are.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator,
    visit_expressions,
};

use super::ValueError;

/// Expressions that the comparisons of rows of a statement may become: each column is written twice for `<`, and once for each row of a list.
const PARTS_MAX: usize = 200_000;

/// `None` if `expr` compares no rows. `parts` are those of the statement's comparisons so far.
pub fn compared(expr: &Expr, parts: &mut usize) -> Result<Option<Expr>, ValueError> {
    let (row, copies) = match expr {
        Expr::BinaryOp { left, .. } => (left, 2),
        Expr::IsDistinctFrom(row, _)
        | Expr::IsNotDistinctFrom(row, _)
        | Expr::IsNull(row)
        | Expr::IsNotNull(row) => (row, 1),
        Expr::InList { expr, list, .. } => (expr, list.len()),
        _ => return Ok(None),
    };
    if columns(row).is_none() {
        return Ok(None);
    }
    let added = count(row)
        .saturating_mul(copies)
        .saturating_add(2 * count(expr));
    *parts = parts.saturating_add(added);
    if *parts > PARTS_MAX {
        let message = format!("comparisons of rows stand for more than {PARTS_MAX} expressions");
        return Err(ValueError::new("54001", message)
            .with_hint("join with VALUES for many rows: FROM s JOIN (VALUES (1, 2), …) AS v (a, b) USING (a, b)"));
    }
    Ok(by_columns(expr))
}

fn count(expr: &Expr) -> usize {
    let mut parts = 0;
    let _ = visit_expressions(expr, |_| {
        parts += 1;
        ControlFlow::<()>::Continue(())
    });
    parts
}

fn by_columns(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } => {
            let (left, right) = pair(left, right)?;
            comparison(&left, op, &right)
        }
        Expr::IsDistinctFrom(left, right) => {
            let (left, right) = pair(left, right)?;
            let columns = left.into_iter().zip(right);
            any(columns.map(|(l, r)| Expr::IsDistinctFrom(inner(l), inner(r))))
        }
        Expr::IsNotDistinctFrom(left, right) => {
            let (left, right) = pair(left, right)?;
            let columns = left.into_iter().zip(right);
            all(columns.map(|(l, r)| Expr::IsNotDistinctFrom(inner(l), inner(r))))
        }
        Expr::IsNull(row) => all(columns(row)?.into_iter().map(|c| Expr::IsNull(inner(c)))),
        Expr::IsNotNull(row) => all(columns(row)?.into_iter().map(|c| Expr::IsNotNull(inner(c)))),
        Expr::InList {
            expr,
            list,
            negated,
        } => {
            let rows = list.iter().map(|row| {
                let (left, right) = pair(expr, row)?;
                comparison(&left, &BinaryOperator::Eq, &right)
            });
            let found = any(rows.collect::<Option<Vec<_>>>()?.into_iter())?;
            Some(match negated {
                true => Expr::UnaryOp {
                    op: UnaryOperator::Not,
                    expr: Box::new(found),
                },
                false => found,
            })
        }
        _ => None,
    }
}

/// Both, if they are rows of one length.
fn pair(left: &Expr, right: &Expr) -> Option<(Vec<Expr>, Vec<Expr>)> {
    let (left, right) = (columns(left)?, columns(right)?);
    (left.len() == right.len()).then_some((left, right))
}

fn columns(row: &Expr) -> Option<Vec<Expr>> {
    match row {
        Expr::Tuple(columns) => Some(columns.clone()),
        Expr::Nested(inner) => columns(inner),
        Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("row") => {
            let FunctionArguments::List(list) = &call.args else {
                return None;
            };
            let columns = list.args.iter().map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(column)) => Some(column.clone()),
                _ => None,
            });
            columns.collect()
        }
        _ => None,
    }
}

fn comparison(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let columns = left.iter().zip(right);
    let mut each = columns.map(|(left, right)| move |op| binary(left.clone(), op, right.clone()));
    match op {
        Eq => all(each.map(|column| column(Eq))),
        NotEq => any(each.map(|column| column(NotEq))),
        Lt | LtEq | Gt | GtEq => {
            let strict = match op {
                Lt | LtEq => Lt,
                _ => Gt,
            };
            let last = each.next_back()?(op.clone());
            Some(each.rev().fold(last, |rest, column| {
                let equal = binary(column(Eq), BinaryOperator::And, rest);
                nested(binary(
                    column(strict.clone()),
                    BinaryOperator::Or,
                    nested(equal),
                ))
            }))
        }
        _ => None,
    }
}

fn all(conditions: impl Iterator<Item = Expr>) -> Option<Expr> {
    joined(&conditions.collect::<Vec<_>>(), &BinaryOperator::And)
}

fn any(conditions: impl Iterator<Item = Expr>) -> Option<Expr> {
    joined(&conditions.collect::<Vec<_>>(), &BinaryOperator::Or)
}

/// As a tree that is not deeper than it must be: lists of rows are long.
fn joined(conditions: &[Expr], op: &BinaryOperator) -> Option<Expr> {
    match conditions {
        [] => None,
        [one] => Some(one.clone()),
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            let (left, right) = (joined(left, op)?, joined(right, op)?);
            Some(nested(binary(left, op.clone(), right)))
        }
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn inner(expr: Expr) -> Box<Expr> {
    Box::new(expr)
}
