//! Columns of one name in an answer, as `SELECT count(*), count(*)` asks for.
//!
//! The planner wants every name once. So all but the first get an alias that ends in a mark and a number, and
//! what stands from the mark on is taken away again before anyone sees it.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    datatypes::{Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    execution::SendableRecordBatchStream,
    physical_plan::stream::RecordBatchStreamAdapter,
    sql::sqlparser::ast::{Expr, Ident, Query, Select, SelectItem, SetExpr, Statement},
};
use futures::TryStreamExt;

/// No SQL has this character (it separates, and is invisible).
const MARK: char = '\u{2063}';

/// Gives the columns of the answer names that differ.
pub fn tell_apart(statement: &mut Statement) {
    if let Statement::Query(query) = statement {
        in_query(query);
    }
}

fn in_query(query: &mut Query) {
    in_set(&mut query.body);
}

fn in_set(set: &mut SetExpr) {
    match set {
        SetExpr::Select(select) => in_select(select),
        SetExpr::Query(query) => in_query(query),
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
    let folded = |ident: &Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    };
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(folded(ident)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(folded),
        SelectItem::UnnamedExpr(expr) => Some(expr.to_string().to_ascii_lowercase()),
        _ => None,
    }
}

/// The names as they were asked for.
pub fn shown_schema(schema: &SchemaRef) -> SchemaRef {
    if !schema
        .fields()
        .iter()
        .any(|field| field.name().contains(MARK))
    {
        return Arc::clone(schema);
    }
    let fields = schema.fields().iter().map(|field| {
        let name = field.name().split(MARK).next().unwrap_or_default();
        Field::new(name, field.data_type().clone(), field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows under the names that were asked for.
pub fn shown(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = shown_schema(&rows.schema());
    if schema == rows.schema() {
        return rows;
    }
    let named = Arc::clone(&schema);
    let rows = rows.and_then(move |batch| {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, columns, _) = batch.into_parts();
        let batch = RecordBatch::try_new_with_options(Arc::clone(&named), columns, &options);
        std::future::ready(batch.map_err(Into::into))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, parser::Parser};

    use super::*;

    #[test]
    fn names_differ_and_are_shown_the_same() {
        for (sql, expected) in [
            (
                "SELECT count(*), count(*) FROM t",
                "SELECT count(*), count(*) AS \"count(*)\u{2063}2\" FROM t",
            ),
            (
                "SELECT 1 AS a, 2 AS A, 3 AS \"A\"",
                "SELECT 1 AS a, 2 AS \"a\u{2063}2\", 3 AS \"A\"",
            ),
            (
                "SELECT t.a, a FROM t UNION SELECT b, b FROM t",
                "SELECT t.a, a AS \"a\u{2063}2\" FROM t UNION SELECT b, b AS \"b\u{2063}2\" FROM t",
            ),
            ("SELECT *, a FROM t", "SELECT *, a FROM t"),
        ] {
            let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
                .unwrap()
                .remove(0);
            tell_apart(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new(
            "a\u{2063}2",
            arrow::datatypes::DataType::Int64,
            true,
        )]));
        assert_eq!(shown_schema(&schema).field(0).name(), "a");
    }
}
