//! Plain SQL: any `SELECT`, and what clients ask of the catalog.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::{
    dataframe::DataFrame, physical_plan::stream::RecordBatchStreamAdapter, scalar::ScalarValue,
};

use super::{Database, names_system_column, returns_rows, with_parameters};
use crate::{Error, Outcome, PLAN_CHANGED, Prepared, Session, names, sqlstate, statement::Plain};

impl Database {
    pub(super) async fn query(
        &self,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
        prepared: Option<&Prepared>,
    ) -> Result<Outcome, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let state = self
            .state_for(session, plain, &parameters, names_system_column(sql))
            .await?;
        let plan = self.plan(&state, &plain.ast, sql).await?;
        if let Some(prepared) = prepared {
            // The client was told of other columns.
            let now = names::shown_schema(plan.schema().inner());
            let columns = |schema: &Schema| {
                let fields = schema.fields().iter();
                let columns = fields.map(|field| (field.name().clone(), field.data_type().clone()));
                columns.collect::<Vec<_>>()
            };
            if returns_rows(&plan) && columns(&now) != columns(&prepared.schema) {
                return Err(
                    Error::new(sqlstate::FEATURE_NOT_SUPPORTED, PLAN_CHANGED).with_hint(
                        "a stream or view has other columns by now; prepare the statement again",
                    ),
                );
            }
        }
        let plan = with_parameters(plan, parameters).map_err(wrong)?;
        if !returns_rows(&plan) {
            return Err(Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "this statement is not supported",
            )
            .with_hint("there are: CREATE STREAM, ALTER STREAM, CREATE [OR REPLACE] MATERIALIZED VIEW, DROP STREAM, DROP MATERIALIZED VIEW, REFRESH, AUDIT and EXPLAIN MATERIALIZED VIEW, INSERT and SELECT"));
        }
        let frame = DataFrame::new(state, plan);
        let rows = frame.execute_stream().await.map_err(wrong)?;
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
