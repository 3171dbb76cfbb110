//! Brings the statements of a project into an order in which each stands behind what it reads.
//!
//! A view may select from views, and the names of files say nothing about that.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use datafusion::sql::sqlparser::{
    ast::{ObjectName, visit_relations},
    parser::Parser,
};
use lambic_view::postgres::Postgres;

use super::statement::{Creates, Statement};

/// As given as far as that can be: a statement moves only behind what it selects from. Where that goes in a circle,
/// running the statements tells what is wrong with them.
pub fn by_dependency(statements: Vec<Statement>) -> Vec<Statement> {
    let created: HashMap<String, usize> = statements
        .iter()
        .enumerate()
        .filter_map(|(index, statement)| match statement.creates()? {
            Creates::Stream(name) | Creates::View(name) => Some((name, index)),
        })
        .collect();
    let reads: Vec<Vec<usize>> = statements
        .iter()
        .map(|statement| {
            let names = relations(&statement.sql).into_iter();
            names
                .filter_map(|name| created.get(&name).copied())
                .collect()
        })
        .collect();
    let mut order = Order {
        reads: &reads,
        visited: HashSet::new(),
        sorted: Vec::with_capacity(statements.len()),
    };
    (0..statements.len()).for_each(|index| order.visit(index));
    let mut taken: Vec<Option<Statement>> = statements.into_iter().map(Some).collect();
    order
        .sorted
        .iter()
        .filter_map(|index| taken[*index].take())
        .collect()
}

struct Order<'a> {
    /// For each statement, those that create what it reads.
    reads: &'a [Vec<usize>],
    visited: HashSet<usize>,
    sorted: Vec<usize>,
}

impl Order<'_> {
    /// As deep as views stand on views, each a statement of the project.
    fn visit(&mut self, index: usize) {
        if !self.visited.insert(index) {
            return;
        }
        for read in &self.reads[index] {
            self.visit(*read);
        }
        self.sorted.push(index);
    }
}

/// The tables that a statement names, without their schema; none of one that does not parse.
fn relations(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let statements = Parser::parse_sql(&Postgres, sql).unwrap_or_default();
    let _ = visit_relations(&statements, |name: &ObjectName| {
        let last = name.0.last().and_then(|part| part.as_ident());
        found.extend(last.map(|ident| match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_ascii_lowercase(),
        }));
        ControlFlow::<()>::Continue(())
    });
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::project::statement::split;

    #[test]
    fn statements_stand_behind_what_they_read() {
        let check = |source: &str, expected: &[&str]| {
            let sorted = by_dependency(split(Path::new("x.sql"), source));
            let names = sorted.iter().map(|statement| match statement.creates() {
                Some(Creates::Stream(name) | Creates::View(name)) => name,
                None => "-".to_owned(),
            });
            assert_eq!(names.collect::<Vec<_>>(), expected, "{source}");
        };
        let view = "CREATE MATERIALIZED VIEW IF NOT EXISTS";
        check(
            &format!("{view} a AS SELECT 1 FROM s; {view} b AS SELECT 1 FROM s"),
            &["a", "b"],
        );
        check(
            &format!(
                "{view} a AS SELECT 1 FROM public.B JOIN \"C\" ON true; SELECT 1;
                 {view} b AS SELECT (SELECT max(x) FROM \"C\") FROM s; {view} \"C\" AS SELECT 1 AS x FROM s"
            ),
            &["C", "b", "a", "-"],
        );
        // Columns and text are no tables.
        check(
            &format!(
                "{view} a AS SELECT s.b AS b, 'b' FROM s -- b\n; {view} b AS SELECT a.b FROM a"
            ),
            &["a", "b"],
        );
        // A circle is told when the statements run.
        check(
            &format!("{view} a AS SELECT 1 FROM b; {view} b AS SELECT 1 FROM a"),
            &["b", "a"],
        );
    }
}
