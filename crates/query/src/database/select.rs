//! Plain SQL: any `SELECT`, and what clients ask of the catalog.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::{physical_plan::stream::RecordBatchStreamAdapter, scalar::ScalarValue};

use super::{Database, names_system_column, returns_rows};
use crate::{Error, Outcome, PLAN_CHANGED, Session, kept::Slot, names, sqlstate, statement::Plain};

impl Database {
    /// `columns` are those that the client was told of.
    pub(super) async fn query(
        &self,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
        columns: Option<&SchemaRef>,
        kept: Option<&Slot>,
    ) -> Result<Outcome, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let ready = self
            .bound(
                session,
                plain,
                sql,
                parameters,
                kept,
                names_system_column(sql),
            )
            .await?;
        if let Some(told) = columns {
            let now = names::shown_schema(ready.plan.schema().inner());
            let columns = |schema: &Schema| {
                let fields = schema.fields().iter();
                let columns = fields.map(|field| (field.name().clone(), shown(field.data_type())));
                columns.collect::<Vec<_>>()
            };
            if returns_rows(&ready.plan) && columns(&now) != columns(told) {
                return Err(
                    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, PLAN_CHANGED).with_hint(
                        "a stream or view has other columns by now; prepare the statement again",
                    ),
                );
            }
        }
        if !returns_rows(&ready.plan) {
            return Err(Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "this statement is not supported",
            )
            .with_hint("there are: CREATE STREAM, ALTER STREAM, CREATE [OR REPLACE] MATERIALIZED VIEW, ALTER MATERIALIZED VIEW, DROP STREAM, DROP MATERIALIZED VIEW, REFRESH, AUDIT and EXPLAIN MATERIALIZED VIEW, INSERT and SELECT"));
        }
        let rows = ready.start(&ready.plan).await.map_err(wrong)?;
        let rows = names::shown(rows);
        let schema = rows.schema();
        let sql = sql.to_owned();
        let rows = futures::TryStreamExt::map_err(rows, move |error| {
            Error::from_datafusion(error, &sql, &[]).into()
        });
        Ok(Outcome::Rows {
            schema: Arc::clone(&schema),
            rows: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        })
    }
}

/// What a client is told of a type: of decimals not how many digits they have, which those of parameters can change.
fn shown(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(..) => DataType::Decimal128(1, 0),
        other => other.clone(),
    }
}
