//! `ORDER BY 2`, where the second column is a window over groups.
//!
//! DataFusion looks such a column up by its text, in which an aggregate has another name by then; by a name of its own it
//! is found.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderByKind, Query, SelectItem, SetExpr, Value,
};

/// Names the windows of `query` that are ordered by their number as Postgres does: after their function.
pub fn name_windows(query: &mut Query) {
    let Some(OrderByKind::Expressions(orders)) = query.order_by.as_ref().map(|order| &order.kind)
    else {
        return;
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    for order in orders {
        let Some(number) = number(&order.expr) else {
            continue;
        };
        let Some(place) = number.checked_sub(1) else {
            continue;
        };
        let Some(SelectItem::UnnamedExpr(Expr::Function(call))) = select.projection.get(place)
        else {
            continue;
        };
        if call.over.is_none() {
            continue;
        }
        let name = call.name.to_string().to_lowercase();
        let is_taken = |item: &SelectItem| match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.eq_ignore_ascii_case(&name),
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => {
                column.value.eq_ignore_ascii_case(&name)
            }
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                let last = parts.last();
                last.is_some_and(|column| column.value.eq_ignore_ascii_case(&name))
            }
            SelectItem::UnnamedExpr(_) => false,
            _ => true,
        };
        if select.projection.iter().any(is_taken) {
            continue;
        }
        let expr = Expr::Function(call.clone());
        let alias = Ident::with_quote('"', name);
        select.projection[place] = SelectItem::ExprWithAlias { expr, alias };
    }
}

fn number(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}
