//! Columns of the query around a subquery, named by an alias that is also a column's name within.
//!
//! DataFusion takes `d.k` for a part of a column `d` before it looks at the tables outside. With the schema before it,
//! only a table can be meant.

use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Select, Statement, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

use super::statement::folded;
use crate::session;

/// Names the schema before every table of a query further outside.
pub fn qualify(statement: &mut Statement) {
    // Nothing breaks off the visit.
    let _ = statement.visit(&mut Scopes::default());
}

/// The names of the tables of each `SELECT` around the present place, the outermost first.
#[derive(Default)]
struct Scopes(Vec<HashSet<String>>);

impl Scopes {
    fn is_outside(&self, table: &str) -> bool {
        match self.0.split_last() {
            Some((own, around)) => {
                !own.contains(table) && around.iter().any(|scope| scope.contains(table))
            }
            None => false,
        }
    }
}

impl VisitorMut for Scopes {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut names = HashSet::new();
        for tables in &select.from {
            add_names(tables, &mut names);
        }
        self.0.push(names);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<()> {
        self.0.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [table, _] = parts.as_slice()
            && self.is_outside(&folded(table))
        {
            parts.insert(0, Ident::new(session::SCHEMA));
        }
        ControlFlow::Continue(())
    }
}

/// The names by which columns can be qualified with one part.
fn add_names(tables: &TableWithJoins, names: &mut HashSet<String>) {
    let joined = tables.joins.iter().map(|join| &join.relation);
    for table in std::iter::once(&tables.relation).chain(joined) {
        match table {
            TableFactor::Table {
                alias: Some(alias), ..
            }
            | TableFactor::Derived {
                alias: Some(alias), ..
            } => {
                names.insert(folded(&alias.name));
            }
            TableFactor::Table {
                name, alias: None, ..
            } => {
                if let [part] = name.0.as_slice()
                    && let Some(name) = part.as_ident()
                {
                    names.insert(folded(name));
                }
            }
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => add_names(table_with_joins, names),
            _ => {}
        }
    }
}
