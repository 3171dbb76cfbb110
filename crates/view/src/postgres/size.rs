//! How large the plan of a statement becomes, told before it is planned.
//!
//! A query of `WITH` stands in the plan as often as it is named, and some expressions stand there several times for
//! each time that they are written. A few hundred characters can so ask for a plan that no memory holds, in a step
//! that nobody can cancel. What grows only while a plan is optimised is [`super::growth`]'s.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
};

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, ObjectName, ObjectNamePart, Query, Statement, Visit, Visitor,
};

use super::ValueError;

/// Tables that a plan reads, each as often as it reads it.
const TABLES_MAX: u64 = 1_000;
/// How deep expressions may stand in one another that are written once and computed in two places.
const REPEATED_MAX: usize = 10;
/// How often `a < ALL (SELECT …)` reads its query at most: for its rows, its values and its extremes.
const READS_OF_QUANTIFIED: u64 = 6;
/// How often `a IN (SELECT …)` does where NULL matters: for the value, for rows at all and for NULLs.
const READS_OF_MEMBERSHIP: u64 = 3;
/// They become a `CASE` that names its values twice.
const TWICE: [&str; 4] = ["coalesce", "ifnull", "nvl", "nvl2"];

/// What to do about expressions that stand for too much.
pub(super) const IN_STEPS: &str = "compute it in steps, one view over another";

/// Refuses a statement whose plan becomes too large.
pub fn check(statement: &Statement) -> Result<(), ValueError> {
    let mut size = Size {
        queries: vec![Open::default()],
        repeated: 0,
    };
    let too_large = match statement.visit(&mut size) {
        ControlFlow::Break(error) => Some(error),
        ControlFlow::Continue(()) => size.queries.pop().and_then(|all| too_many(all.tables)),
    };
    too_large.map_or(Ok(()), Err)
}

fn too_many(tables: u64) -> Option<ValueError> {
    (tables > TABLES_MAX).then(|| {
        let message = format!("tables are read more than {TABLES_MAX} times");
        ValueError::new("54001", message).with_hint(
            "a query of WITH is read as often as it is named; make a materialized view of what is read often",
        )
    })
}

/// A query that is being visited.
struct Open {
    tables: u64,
    /// How often what is being visited stands in the query's plan.
    times: u64,
    /// Those of its `WITH` that are still to come: they are visited first, in their order.
    pending: VecDeque<String>,
    /// What the others read.
    known: HashMap<String, u64>,
}

impl Default for Open {
    fn default() -> Open {
        Open {
            tables: 0,
            times: 1,
            pending: VecDeque::new(),
            known: HashMap::new(),
        }
    }
}

struct Size {
    /// Each in the one before.
    queries: Vec<Open>,
    repeated: usize,
}

impl Size {
    fn read(&mut self, tables: u64) {
        if let Some(query) = self.queries.last_mut() {
            let tables = tables.saturating_mul(query.times);
            query.tables = query.tables.saturating_add(tables);
        }
    }

    fn scaled(&mut self, scale: impl Fn(u64) -> u64) {
        if let Some(query) = self.queries.last_mut() {
            query.times = scale(query.times);
        }
    }
}

impl Visitor for Size {
    type Break = ValueError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<ValueError> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.queries.push(Open {
            pending: tables.map(|table| folded(&table.alias.name)).collect(),
            ..Open::default()
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<ValueError> {
        let Some(query) = self.queries.pop() else {
            return ControlFlow::Continue(());
        };
        // One without tables is still a query to plan.
        let tables = query.tables.max(1);
        if let Some(error) = too_many(tables) {
            return ControlFlow::Break(error);
        }
        let around = self.queries.last_mut();
        match around.and_then(|around| Some((around.pending.pop_front()?, around))) {
            Some((name, around)) => {
                around.known.insert(name, tables);
            }
            None => self.read(tables),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<ValueError> {
        let known = match name.0.as_slice() {
            [ObjectNamePart::Identifier(name)] => {
                let name = folded(name);
                let mut known = self.queries.iter().rev();
                known.find_map(|query| query.known.get(&name).copied())
            }
            _ => None,
        };
        self.read(known.unwrap_or(1));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<ValueError> {
        let Some(copies) = copies(expr) else {
            return ControlFlow::Continue(());
        };
        self.scaled(|times| times.saturating_mul(copies));
        self.repeated += 1;
        if self.repeated > REPEATED_MAX {
            let message = format!(
                "BETWEEN, coalesce, IN, ANY and ALL are nested more than {REPEATED_MAX} deep"
            );
            let hint = format!("coalesce takes many values: coalesce(a, b, c); {IN_STEPS}");
            return ControlFlow::Break(ValueError::new("54001", message).with_hint(hint));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<ValueError> {
        if let Some(copies) = copies(expr) {
            self.scaled(|times| times / copies);
            self.repeated -= 1;
        }
        ControlFlow::Continue(())
    }
}

/// How often what is in `expr` stands in the plan at most, if `expr` is written in another way there.
fn copies(expr: &Expr) -> Option<u64> {
    match expr {
        // `IN` and `NOT IN`, and lists.
        Expr::InSubquery { .. }
        | Expr::AnyOp {
            compare_op: BinaryOperator::Eq,
            ..
        }
        | Expr::AllOp {
            compare_op: BinaryOperator::NotEq,
            ..
        } => Some(READS_OF_MEMBERSHIP),
        Expr::AnyOp { .. } | Expr::AllOp { .. } => Some(READS_OF_QUANTIFIED),
        Expr::Between { .. } => Some(2),
        Expr::Function(function) => {
            let [ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else {
                return None;
            };
            TWICE.contains(&folded(name).as_str()).then_some(2)
        }
        _ => None,
    }
}

/// As Postgres compares names.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::postgres::Postgres;

    fn check_sql(sql: &str) -> Result<(), ValueError> {
        let statements = Parser::parse_sql(&Postgres, sql);
        check(&statements.unwrap_or_else(|error| panic!("{sql}: {error}"))[0])
    }

    /// Each of so many queries of `WITH` names the one before twice.
    fn doubled(queries: usize) -> String {
        let more = (1..=queries).map(|n| {
            let before = n - 1;
            format!(", C{n} AS (SELECT * FROM c{before} UNION ALL SELECT * FROM c{before} AS d)")
        });
        let more: String = more.collect();
        format!("WITH c0 AS (SELECT * FROM s){more} SELECT count(*) FROM c{queries}")
    }

    #[test]
    fn tables_are_counted_as_often_as_they_are_read() {
        assert_eq!(check_sql(&doubled(9)), Ok(()));
        for sql in [
            doubled(10),
            doubled(64),
            format!("SELECT 1 WHERE EXISTS ({})", doubled(10)),
            format!("CREATE VIEW v AS {}", doubled(10)),
            format!("INSERT INTO s {}", doubled(10)),
            // Two of 512 each.
            format!("SELECT * FROM ({0}) a, ({0}) b", doubled(9)),
            format!("SELECT 1 < ALL ({})", doubled(8)),
            format!("SELECT 1 = ALL ({})", doubled(8)),
            format!("SELECT 1 IN ({})", doubled(9)),
            format!("SELECT {}k{}", "1 IN (SELECT ".repeat(7), ")".repeat(7)),
            format!("SELECT {}k{}", "1 < ALL (SELECT ".repeat(4), ")".repeat(4)),
            format!("SELECT coalesce(({}), 1)", doubled(9)),
        ] {
            let refused = check_sql(&sql).expect_err(&sql);
            assert_eq!(refused.sqlstate, "54001", "{sql}");
        }
    }

    #[test]
    fn names_are_those_of_their_scope() {
        let sql = doubled(9);
        for fine in [
            // Of another schema, in other quotes, out of scope, of itself.
            format!("SELECT * FROM ({sql}) a, public.c9"),
            format!("SELECT * FROM ({sql}) a, \"C9\""),
            format!("SELECT * FROM ({sql}) a, c9"),
            format!(
                "SELECT 1 = ANY ({}), 1 <> ALL (SELECT 1 = ANY (SELECT 2))",
                doubled(8)
            ),
            "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM r) SELECT * FROM r, r AS s"
                .to_owned(),
        ] {
            assert_eq!(check_sql(&fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn what_is_computed_twice_is_not_nested_deep() {
        let nested = |around: &str, levels| {
            let (open, close) = around.split_once('@').unwrap();
            format!("SELECT {}k{}", open.repeat(levels), close.repeat(levels))
        };
        for (around, levels) in [
            ("COALESCE(@, 'a')", REPEATED_MAX),
            ("nvl(@, 'a')", REPEATED_MAX),
            ("(1 = ANY (ARRAY[@]))", REPEATED_MAX),
            ("(@ BETWEEN 1 AND 2)", REPEATED_MAX),
        ] {
            assert_eq!(check_sql(&nested(around, levels)), Ok(()), "{around}");
            let refused = check_sql(&nested(around, levels + 1)).expect_err(around);
            assert_eq!(refused.sqlstate, "54001", "{around}");
        }
        let beside = "coalesce(k, 'a'), ".repeat(10_000);
        assert_eq!(check_sql(&format!("SELECT {beside} 1")), Ok(()));
    }
}
