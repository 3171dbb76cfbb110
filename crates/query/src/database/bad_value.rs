//! Which value of an `INSERT … VALUES` it was that its column cannot take.

use arrow::datatypes::FieldRef;
use datafusion::sql::sqlparser::ast::{self, Spanned};

use super::Database;
use crate::{
    Error,
    create::folded,
    error::position_of,
    statement::{Plain, name_of},
    types,
};

/// Of a statement with more values the first are looked at.
const LOOKED_AT_MAX: usize = 2_000;

impl Database {
    /// `error` with the row, the column and the position of the first value that fails alone as well.
    pub(super) async fn at_its_value(&self, error: Error, plain: &Plain, sql: &str) -> Error {
        if !error.sqlstate.starts_with("22") {
            return error;
        }
        for value in self.values(plain, sql).unwrap_or_default() {
            if (self.runs(&value.alone).await).is_err_and(|alone| alone.sqlstate == error.sqlstate)
            {
                let Value { row, column, .. } = value;
                return Error {
                    message: format!("row {row}, column \"{column}\": {}", error.message),
                    position: value.position.or(error.position),
                    ..error
                };
            }
        }
        error
    }

    /// The values that are inserted.
    fn values(&self, plain: &Plain, sql: &str) -> Option<Vec<Value>> {
        let ast::Statement::Insert(insert) = &plain.ast else {
            return None;
        };
        let ast::TableObject::TableName(name) = &insert.table else {
            return None;
        };
        let ast::SetExpr::Values(values) = insert.source.as_ref()?.body.as_ref() else {
            return None;
        };
        let stream = self.stream(&name_of(name).ok()?)?;
        let all = stream.schema.fields();
        let mut fields: Vec<&FieldRef> = all.iter().collect();
        if !insert.columns.is_empty() {
            let named = insert.columns.iter().map(|column| {
                let name = folded(column.0.last()?.as_ident()?);
                all.iter().find(|field| *field.name() == name)
            });
            fields = named.collect::<Option<_>>()?;
        }
        let mut found = Vec::new();
        for (row, exprs) in (1..).zip(&values.rows) {
            for (expr, field) in exprs.iter().zip(&fields) {
                let data_type = types::sql_name(field.data_type());
                let start = expr.span().start;
                found.push(Value {
                    row,
                    column: field.name().clone(),
                    alone: format!("SELECT CAST(({expr}) AS {data_type})"),
                    position: (start.line > 0).then(|| position_of(sql, start.line, start.column)),
                });
            }
            if found.len() >= LOOKED_AT_MAX {
                break;
            }
        }
        Some(found)
    }

    async fn runs(&self, sql: &str) -> Result<(), Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &[]);
        let frame = self.0.context.sql(sql).await.map_err(wrong)?;
        frame.collect().await.map_err(wrong)?;
        Ok(())
    }
}

/// One that is inserted.
struct Value {
    row: usize,
    column: String,
    /// A statement that fails if it does not fit its column.
    alone: String,
    position: Option<usize>,
}
