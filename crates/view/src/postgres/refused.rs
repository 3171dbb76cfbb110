//! What DataFusion would take for something else: refused before it answers.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Join, JoinConstraint, JoinOperator, Query, Select, SetExpr, SetOperator, SetQuantifier,
    Statement, TableFactor, Visit, Visitor,
};

use super::ValueError;

/// The first thing in `statement` that would be understood wrongly.
pub fn check(statement: &Statement) -> Result<(), ValueError> {
    match statement.visit(&mut Refusals) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Refusals;

impl Visitor for Refusals {
    type Break = ValueError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<ValueError> {
        of_set(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<ValueError> {
        let joins = select.from.iter().flat_map(|from| &from.joins);
        for join in joins {
            no_merged_column_of(join)?;
        }
        for (clause, filter) in [("WHERE", &select.selection), ("HAVING", &select.having)] {
            if let Some(filter) = filter {
                no_window_in(filter, clause)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<ValueError> {
        match expr {
            // A regular expression without anchors, whose `%` and `_` are plain characters.
            Expr::SimilarTo { .. } => ControlFlow::Break(
                ValueError::new("0A000", "SIMILAR TO is not supported")
                    .with_hint("write a regular expression with anchors, a ~ '^(b|c)', or LIKE"),
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<ValueError> {
        match table {
            TableFactor::Table {
                sample: Some(_), ..
            }
            | TableFactor::Derived {
                sample: Some(_), ..
            } => ControlFlow::Break(
                ValueError::new("0A000", "TABLESAMPLE is not supported")
                    .with_hint("WHERE random() < 0.1 takes about a tenth of the rows"),
            ),
            TableFactor::Table {
                with_ordinality: true,
                ..
            }
            | TableFactor::Function {
                with_ordinality: true,
                ..
            }
            | TableFactor::UNNEST {
                with_ordinality: true,
                ..
            } => ControlFlow::Break(
                ValueError::new("0A000", "WITH ORDINALITY is not supported")
                    .with_hint("number the rows: SELECT *, row_number() OVER () FROM …"),
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The column of both sides is the left one to DataFusion, which is NULL where only the right side has a row.
fn no_merged_column_of(join: &Join) -> ControlFlow<ValueError> {
    let (kind, constraint) = match &join.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
            ("RIGHT JOIN", constraint)
        }
        JoinOperator::FullOuter(constraint) => ("FULL JOIN", constraint),
        _ => return ControlFlow::Continue(()),
    };
    let how = match constraint {
        JoinConstraint::Using(_) => format!("{kind} … USING"),
        JoinConstraint::Natural => format!("NATURAL {kind}"),
        _ => return ControlFlow::Continue(()),
    };
    ControlFlow::Break(
        ValueError::new("0A000", format!("{how} is not supported"))
            .with_hint("write ON a.x = b.x and select coalesce(a.x, b.x) AS x"),
    )
}

/// `EXCEPT ALL` and `INTERSECT ALL`: DataFusion keeps or drops all rows that are alike, whatever their number.
fn of_set(set: &SetExpr) -> ControlFlow<ValueError> {
    let SetExpr::SetOperation {
        op,
        set_quantifier,
        left,
        right,
    } = set
    else {
        return ControlFlow::Continue(());
    };
    if matches!(op, SetOperator::Except | SetOperator::Intersect)
        && matches!(set_quantifier, SetQuantifier::All)
    {
        let message = format!("{op} ALL is not supported");
        return ControlFlow::Break(ValueError::new("0A000", message).with_hint(format!(
            "number equal rows on both sides, row_number() OVER (PARTITION BY all columns) AS n, and use {op}"
        )));
    }
    of_set(left)?;
    of_set(right)
}

fn no_window_in(filter: &Expr, clause: &'static str) -> ControlFlow<ValueError> {
    /// Of an expression without its subqueries.
    struct Windows {
        clause: &'static str,
        subqueries: usize,
    }
    impl Visitor for Windows {
        type Break = ValueError;

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<ValueError> {
            self.subqueries += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<ValueError> {
            self.subqueries -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<ValueError> {
            match expr {
                Expr::Function(function) if function.over.is_some() && self.subqueries == 0 => {
                    let message = format!("window functions are not allowed in {}", self.clause);
                    ControlFlow::Break(ValueError::new("42P20", message).with_hint(
                        "compute it in a subquery: SELECT … FROM (SELECT …, row_number() OVER (…) AS n FROM …) AS t WHERE n = 1",
                    ))
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    filter.visit(&mut Windows {
        clause,
        subqueries: 0,
    })
}
