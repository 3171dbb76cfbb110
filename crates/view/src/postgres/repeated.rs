//! Columns of one name, as `SELECT count(*), count(*)` asks for.
//!
//! The planner wants every name once. So all but the first get an alias that ends in a mark and a number. Where a
//! list of columns follows, as in `WITH t(a, b) AS (SELECT k, k …)`, it gives them other names; at the end of a query
//! what stands from the mark on is taken away again before anyone sees it.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins,
};

use super::statement::folded;

/// No SQL has this character (it separates, and is invisible).
pub const MARK: char = '\u{2063}';

/// Gives the columns of `query` names that differ.
pub fn tell_apart(query: &mut Query) {
    in_set(&mut query.body);
}

/// The same for the queries in `WITH` and `FROM` of `query` whose columns a list names, and for the right of `UNION`.
pub fn tell_apart_under_lists(query: &mut Query) {
    let ctes = query.with.iter_mut().flat_map(|with| &mut with.cte_tables);
    for cte in ctes.filter(|cte| lists(&cte.alias)) {
        tell_apart(&mut cte.query);
    }
    in_from(&mut query.body);
}

fn lists(alias: &TableAlias) -> bool {
    !alias.columns.is_empty()
}

fn in_from(set: &mut SetExpr) {
    match set {
        SetExpr::Select(select) => select.from.iter_mut().for_each(in_tables),
        SetExpr::SetOperation { left, right, .. } => {
            in_from(left);
            in_from(right);
            // The columns are named as on the left.
            in_set(right);
        }
        // Queries in parentheses are visited by themselves.
        _ => {}
    }
}

fn in_tables(tables: &mut TableWithJoins) {
    let joined = tables.joins.iter_mut().map(|join| &mut join.relation);
    for table in std::iter::once(&mut tables.relation).chain(joined) {
        match table {
            TableFactor::Derived {
                subquery,
                alias: Some(alias),
                ..
            } if lists(alias) => tell_apart(subquery),
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => in_tables(table_with_joins),
            _ => {}
        }
    }
}

fn in_set(set: &mut SetExpr) {
    match set {
        SetExpr::Select(select) => in_select(select),
        SetExpr::Query(query) => tell_apart(query),
        SetExpr::SetOperation { left, right, .. } => {
            in_set(left);
            in_set(right);
        }
        _ => {}
    }
}

fn in_select(select: &mut Select) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for item in &mut select.projection {
        let Some(name) = name_of(item) else { continue };
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 {
            continue;
        }
        let alias = Ident::with_quote('"', format!("{name}{MARK}{times}"));
        let former = std::mem::replace(
            item,
            SelectItem::UnnamedExpr(Expr::Identifier(Ident::new("replaced"))),
        );
        *item = match former {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                SelectItem::ExprWithAlias { expr, alias }
            }
            other => other,
        };
    }
}

fn name_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(expr) => Some(name_of_expr(expr)),
        _ => None,
    }
}

fn name_of_expr(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(String::new, folded),
        // The planner names it as what is cast.
        Expr::Cast { expr, .. } | Expr::Nested(expr) => name_of_expr(expr),
        expr => expr.to_string().to_ascii_lowercase(),
    }
}
