//! What `*` means in a statement that names a system column.
//!
//! As in Postgres, a stream's system columns are there when they are named and never part of `*`. The
//! planner knows no such columns, so a statement that names one is planned over tables that show them,
//! and its wildcards are spelled out first.

use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, Statement, TableFactor, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

/// The columns of a stream without its system columns; `None` for anything else.
pub type ColumnsOf<'a> = &'a dyn Fn(&str) -> Option<Vec<String>>;

/// Spells out the wildcards over streams, in every `SELECT` of `statement`.
///
/// Wildcards over joins that drop columns (`USING`, `NATURAL`) stay.
pub fn spell_out(statement: &mut Statement, columns_of: ColumnsOf) {
    let mut wildcards = Wildcards {
        columns_of,
        names_taken: HashSet::new(),
    };
    let _ = statement.visit(&mut wildcards);
}

struct Wildcards<'a> {
    columns_of: ColumnsOf<'a>,
    /// Names of common table expressions: they hide streams of the same name.
    names_taken: HashSet<String>,
}

impl VisitorMut for Wildcards<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.names_taken
            .extend(tables.map(|table| folded(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if let Some(tables) = self.tables(select) {
            let projection = std::mem::take(&mut select.projection);
            select.projection = projection
                .into_iter()
                .flat_map(|item| spelled_out(item, &tables))
                .collect();
        }
        ControlFlow::Continue(())
    }
}

/// What stands in `FROM`: its name there, and the columns that `*` gives if it is a stream.
struct Table {
    qualifier: Ident,
    columns: Option<Vec<String>>,
}

impl Wildcards<'_> {
    fn tables(&self, select: &Select) -> Option<Vec<Table>> {
        let mut tables = Vec::new();
        for from in &select.from {
            tables.push(self.table(&from.relation)?);
            for join in &from.joins {
                if drops_columns(&join.join_operator) {
                    return None;
                }
                tables.push(self.table(&join.relation)?);
            }
        }
        Some(tables)
    }

    fn table(&self, factor: &TableFactor) -> Option<Table> {
        match factor {
            TableFactor::Table { name, alias, .. } => {
                let own = name.0.last()?.as_ident()?;
                let columns = match self.names_taken.contains(&folded(own)) {
                    true => None,
                    false => (self.columns_of)(&folded(own)),
                };
                let qualifier = alias.as_ref().map_or(own, |alias| &alias.name).clone();
                Some(Table { qualifier, columns })
            }
            TableFactor::Derived {
                alias: Some(alias), ..
            }
            | TableFactor::Function {
                alias: Some(alias), ..
            } => Some(Table {
                qualifier: alias.name.clone(),
                columns: None,
            }),
            _ => None,
        }
    }
}

fn spelled_out(item: SelectItem, tables: &[Table]) -> Vec<SelectItem> {
    match &item {
        SelectItem::Wildcard(_) => tables.iter().flat_map(all_of).collect(),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
            let wanted = name.0.last().and_then(|part| part.as_ident()).map(folded);
            let table = tables
                .iter()
                .find(|table| Some(folded(&table.qualifier)) == wanted);
            table.map_or(vec![item], all_of)
        }
        _ => vec![item],
    }
}

fn all_of(table: &Table) -> Vec<SelectItem> {
    let Some(columns) = &table.columns else {
        let name = ObjectName::from(vec![table.qualifier.clone()]);
        return vec![SelectItem::QualifiedWildcard(
            SelectItemQualifiedWildcardKind::ObjectName(name),
            WildcardAdditionalOptions::default(),
        )];
    };
    let column = |name: &String| {
        let name = Ident::with_quote('"', name);
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(vec![
            table.qualifier.clone(),
            name,
        ]))
    };
    columns.iter().map(column).collect()
}

fn drops_columns(join: &JoinOperator) -> bool {
    let constraint = match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint) => constraint,
        // Semi and anti joins show one side only.
        _ => return true,
    };
    matches!(
        constraint,
        JoinConstraint::Using(_) | JoinConstraint::Natural
    )
}

fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;
    use crate::postgres::Postgres;

    #[test]
    fn wildcards_leave_system_columns_out() {
        let cases = [
            (
                "SELECT *, _offset FROM s",
                "SELECT s.\"a\", s.\"B\", _offset FROM s",
            ),
            (
                "SELECT S.* FROM s WHERE _offset > 1",
                "SELECT s.\"a\", s.\"B\" FROM s WHERE _offset > 1",
            ),
            (
                "SELECT * FROM s AS x JOIN v ON x.a = v.a AND _offset > 1",
                "SELECT x.\"a\", x.\"B\", v.* FROM s AS x JOIN v ON x.a = v.a AND _offset > 1",
            ),
            (
                "SELECT * FROM s JOIN s AS t USING(a)",
                "SELECT * FROM s JOIN s AS t USING(a)",
            ),
            (
                "WITH s AS (SELECT 1 AS _offset) SELECT * FROM s",
                "WITH s AS (SELECT 1 AS _offset) SELECT s.* FROM s",
            ),
            (
                "SELECT * FROM (SELECT *, _offset FROM s) AS i",
                "SELECT i.* FROM (SELECT s.\"a\", s.\"B\", _offset FROM s) AS i",
            ),
            ("SELECT count(*) FROM s", "SELECT count(*) FROM s"),
            (
                "SELECT *, _offset FROM s JOIN LATERAL f(1) AS g ON true",
                "SELECT s.\"a\", s.\"B\", g.*, _offset FROM s JOIN LATERAL f(1) AS g ON true",
            ),
        ];
        for (sql, expected) in cases {
            let mut statements = Parser::parse_sql(&Postgres, sql).unwrap();
            spell_out(&mut statements[0], &|name| {
                (name == "s").then(|| vec!["a".to_owned(), "B".to_owned()])
            });
            // `S.*` is spelled by the name in FROM, where case does not matter.
            assert_eq!(statements[0].to_string(), expected);
        }
    }
}
