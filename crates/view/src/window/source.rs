//! What a window is taken of, as a query: the planner resolves tables before it plans what is in `FROM`.

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
        ObjectName, Query, SetExpr, Statement, TableAlias, TableFactor,
    },
    parser::Parser,
};

use super::Kind;
use crate::postgres::Postgres;

/// What [`super::readable`] writes for `PARTITION BY`.
pub const PARTITIONED: BinaryOperator = BinaryOperator::PGRegexMatch;

/// Brings a call of a window function into the one form that [`super::Windows`] plans.
pub fn adapt(table: &mut TableFactor) {
    let (name, mut args, mut alias) = match table {
        TableFactor::Table {
            name,
            args: Some(args),
            alias,
            ..
        } => (name.clone(), args.args.clone(), alias.clone()),
        TableFactor::TableFunction {
            expr:
                Expr::Function(Function {
                    name,
                    args: FunctionArguments::List(list),
                    ..
                }),
            alias,
        } => (name.clone(), list.args.clone(), alias.clone()),
        _ => return,
    };
    if Kind::named(&name).is_none() {
        return;
    }
    let named = args.iter_mut().find_map(source).and_then(as_query);
    if let (None, Some(name)) = (&alias, named) {
        alias = Some(TableAlias {
            explicit: true,
            name,
            columns: Vec::new(),
            at: None,
        });
    }
    *table = TableFactor::Function {
        lateral: false,
        name,
        args,
        with_ordinality: false,
        alias,
    };
}

/// The argument, if it is the source: the one called so, or the first.
fn source(arg: &mut FunctionArg) -> Option<&mut Expr> {
    let is_source = |name: &Ident| name.value.eq_ignore_ascii_case("data");
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        FunctionArg::Named {
            name,
            arg: FunctionArgExpr::Expr(expr),
            ..
        } if is_source(name) => Some(expr),
        FunctionArg::ExprNamed {
            name: Expr::Identifier(name),
            arg: FunctionArgExpr::Expr(expr),
            ..
        } if is_source(name) => Some(expr),
        _ => None,
    }
}

/// Makes a query of a table's name; returns the last part of the name.
fn as_query(expr: &mut Expr) -> Option<Ident> {
    let parts = match expr {
        Expr::BinaryOp { left, op, .. } if *op == PARTITIONED => return as_query(left),
        Expr::Identifier(name) => vec![name.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return None,
    };
    let last = parts.last().cloned();
    *expr = Expr::Subquery(Box::new(all_of(ObjectName::from(parts))));
    last
}

fn all_of(table: ObjectName) -> Query {
    let parsed = Parser::parse_sql(&Postgres, "SELECT * FROM t");
    let parsed = parsed.expect("a statement").remove(0);
    let Statement::Query(mut query) = parsed else {
        unreachable!("SELECT is a query");
    };
    if let SetExpr::Select(select) = query.body.as_mut() {
        for from in &mut select.from {
            if let TableFactor::Table { name, .. } = &mut from.relation {
                *name = table.clone();
            }
        }
    }
    *query
}
