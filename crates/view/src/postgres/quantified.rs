//! Comparisons with all or any of a subquery's rows: `n > ALL (SELECT …)`, `n = ANY (SELECT …)`.
//!
//! Those that ask for membership are said with `IN`. Of the others only the extreme of the rows decides, and whether
//! there are rows and NULLs among them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Statement,
        TableAlias, TableAliasColumnDef, TableFactor, Value, VisitMut, VisitorMut,
        visit_expressions,
    },
    parser::Parser,
};

use super::Postgres;

/// The rows of the subquery as the templates below name them, and what is compared with them.
const ROWS: &str = "compared";
const VALUE: &str = "v";
const OPERAND: &str = "operand";

/// Says `= ANY (SELECT …)` and `<> ALL (SELECT …)` with `IN`, which nobody takes for a question about an array, and those
/// over an array that is written out, whose elements are then compared as others are.
pub fn memberships(statement: &mut Statement) {
    struct Memberships;
    impl VisitorMut for Memberships {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some(Compared {
                left,
                op,
                query,
                all,
            }) = Compared::of(expr)
                && let Some(membership) = membership(left, op, query, all)
            {
                *expr = membership;
            } else if let Some(membership) = listed(expr) {
                *expr = membership;
            }
            ControlFlow::Continue(())
        }
    }
    // Nothing breaks off the visit.
    let _ = statement.visit(&mut Memberships);
}

/// The same comparison in other words, if `expr` compares with a subquery's rows.
pub fn adapted(expr: &Expr) -> Option<Expr> {
    let Compared {
        left,
        op,
        query,
        all,
    } = Compared::of(expr)?;
    if let Some(membership) = membership(left, op, query, all) {
        return Some(membership);
    }
    let extreme =
        |function: &str| format!("{OPERAND} {op} (SELECT {function}({VALUE}) FROM {ROWS})");
    let decisive = match (op, all) {
        (BinaryOperator::Gt | BinaryOperator::GtEq, true)
        | (BinaryOperator::Lt | BinaryOperator::LtEq, false) => extreme("max"),
        (BinaryOperator::Lt | BinaryOperator::LtEq, true)
        | (BinaryOperator::Gt | BinaryOperator::GtEq, false) => extreme("min"),
        (BinaryOperator::Eq, true) => format!("{} AND {}", extreme("min"), extreme("max")),
        (BinaryOperator::NotEq, false) => format!("{} OR {}", extreme("min"), extreme("max")),
        _ => return None,
    };
    let rows = format!("(SELECT count(*) FROM {ROWS})");
    let values = format!("(SELECT count({VALUE}) FROM {ROWS})");
    // NULL among the rows makes unknown what the others leave open.
    let template = match all {
        true => format!(
            "({rows} = 0 OR (({decisive}) AND ({rows} = {values} OR CAST(NULL AS BOOLEAN))))"
        ),
        false => format!(
            "({rows} <> 0 AND (({decisive}) OR ({rows} <> {values} AND CAST(NULL AS BOOLEAN))))"
        ),
    };
    let parser = Parser::new(&Postgres).try_with_sql(&template);
    let mut comparison = parser.and_then(|mut parser| parser.parse_expr()).ok()?;
    // Nothing breaks off the visit.
    let _ = comparison.visit(&mut Fill {
        left,
        query,
        plain: plain(query),
    });
    Some(comparison)
}

struct Compared<'a> {
    left: &'a Expr,
    op: &'a BinaryOperator,
    query: &'a Query,
    /// With all rows, not with any.
    all: bool,
}

impl<'a> Compared<'a> {
    fn of(expr: &'a Expr) -> Option<Compared<'a>> {
        let (left, op, right, all) = match expr {
            Expr::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => (left, compare_op, right, false),
            Expr::AllOp {
                left,
                compare_op,
                right,
            } => (left, compare_op, right, true),
            _ => return None,
        };
        let mut right = right.as_ref();
        while let Expr::Nested(inner) = right {
            right = inner;
        }
        match right {
            Expr::Subquery(query) => Some(Compared {
                left,
                op,
                query,
                all,
            }),
            _ => None,
        }
    }
}

/// The same comparison as an `IN`, if `expr` compares with the elements of an array that is written out.
fn listed(expr: &Expr) -> Option<Expr> {
    let (left, right, negated) = match expr {
        Expr::AnyOp {
            left,
            compare_op: BinaryOperator::Eq,
            right,
            ..
        } => (left, right, false),
        Expr::AllOp {
            left,
            compare_op: BinaryOperator::NotEq,
            right,
        } => (left, right, true),
        _ => return None,
    };
    let mut right = right.as_ref();
    while let Expr::Nested(inner) = right {
        right = inner;
    }
    let list = match right {
        Expr::Array(array) => array.elem.clone(),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => elements(text)?,
            _ => return None,
        },
        _ => return None,
    };
    let is_flat = !list.is_empty() && !list.iter().any(|item| matches!(item, Expr::Array(_)));
    is_flat.then(|| Expr::InList {
        expr: left.clone(),
        list,
        negated,
    })
}

/// Of an array that is written as text, such as `{1,2,NULL}`, without quotes or further arrays in it.
fn elements(text: &str) -> Option<Vec<Expr>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() || inner.contains(['"', '\\', '{', '}']) {
        return None;
    }
    let each = inner.split(',').map(str::trim);
    // Refused as such an array is.
    if each.clone().any(str::is_empty) {
        return None;
    }
    let each = each.map(|element| match element.eq_ignore_ascii_case("null") {
        true => Expr::value(Value::Null),
        false => Expr::value(Value::SingleQuotedString(element.to_owned())),
    });
    Some(each.collect())
}

fn membership(left: &Expr, op: &BinaryOperator, query: &Query, all: bool) -> Option<Expr> {
    let negated = match (op, all) {
        (BinaryOperator::Eq, false) => false,
        (BinaryOperator::NotEq, true) => true,
        _ => return None,
    };
    Some(Expr::InSubquery {
        expr: Box::new(left.clone()),
        subquery: Box::new(query.clone()),
        negated,
    })
}

/// Puts the operand and the subquery into a template. What was put there is not visited.
struct Fill<'a> {
    left: &'a Expr,
    query: &'a Query,
    /// The subquery and its one column, if it can be aggregated where it stands.
    plain: Option<(&'a Select, &'a Expr)>,
}

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if let Some((plain, _)) = self.plain {
            let aggregate = std::mem::take(&mut select.projection);
            *select = plain.clone();
            select.projection = aggregate;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if self.plain.is_none() {
            *table = TableFactor::Derived {
                lateral: false,
                subquery: Box::new(self.query.clone()),
                alias: Some(TableAlias {
                    explicit: true,
                    name: Ident::new(ROWS),
                    columns: vec![TableAliasColumnDef {
                        name: Ident::new(VALUE),
                        data_type: None,
                    }],
                    at: None,
                }),
                sample: None,
            };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = &*expr {
            match (name.value.as_str(), self.plain) {
                (OPERAND, _) => *expr = Expr::Nested(Box::new(self.left.clone())),
                (VALUE, Some((_, column))) => *expr = column.clone(),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// A `SELECT` of one column without functions, which an aggregate can be put around: other than a query around it, that
/// keeps what it says of the query around it where DataFusion can make a join of it.
fn plain(query: &Query) -> Option<(&Select, &Expr)> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let whole = query.with.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty())
        && select.having.is_none()
        && select.distinct.is_none()
        && select.qualify.is_none();
    let column = match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] => {
            column
        }
        _ => return None,
    };
    let calls = visit_expressions(column, |part| match part {
        Expr::Function(_) | Expr::Subquery(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    (whole && ungrouped && !select.from.is_empty() && calls.is_continue())
        .then_some((select.as_ref(), column))
}
