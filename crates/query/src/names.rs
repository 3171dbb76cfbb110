//! Columns of one name in an answer, as `SELECT count(*), count(*)` asks for: told apart for the planner, and shown
//! as they were asked for.

use std::sync::Arc;

use arrow::{
    datatypes::{Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter,
    sql::sqlparser::ast::Statement,
};
use futures::TryStreamExt;
use lambic_view::postgres::repeated::{self, MARK};

/// Gives the columns of the answer names that differ.
pub fn tell_apart(statement: &mut Statement) {
    match statement {
        Statement::Query(query) => repeated::tell_apart(query),
        Statement::Insert(insert) => insert
            .source
            .iter_mut()
            .for_each(|source| repeated::tell_apart(source)),
        _ => {}
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
    use datafusion::sql::sqlparser::parser::Parser;
    use lambic_view::postgres::Postgres;

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
            (
                "SELECT a, a::text, t.a FROM t",
                "SELECT a, a::TEXT AS \"a\u{2063}2\", t.a AS \"a\u{2063}3\" FROM t",
            ),
            (
                "INSERT INTO t SELECT a, a FROM t",
                "INSERT INTO t SELECT a, a AS \"a\u{2063}2\" FROM t",
            ),
        ] {
            let mut statement = Parser::parse_sql(&Postgres, sql).unwrap().remove(0);
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
