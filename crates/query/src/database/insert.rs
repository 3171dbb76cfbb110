//! `INSERT INTO stream VALUES …` and `… SELECT …`.

use std::sync::Arc;

use arrow::{
    compute::{CastOptions, cast_with_options},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    dataframe::DataFrame,
    logical_expr::{LogicalPlan, WriteOp},
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use lambic_model::{AppendError, Stream};

use super::{Database, done, with_parameters};
use crate::{
    Catalog, Error, Modes, Outcome, Session, Transaction,
    error::{find_word, undefined_table},
    sqlstate,
    statement::Plain,
};

impl Database {
    /// The records become part of the session's transaction, or of one of their own that is committed.
    pub(super) async fn insert(
        &self,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Error> {
        let rows = match &session.transaction {
            Some(transaction) => {
                self.insert_in(transaction, session, plain, sql, parameters)
                    .await?
            }
            None => {
                let alone = self.begin(Modes::default());
                let rows = self.insert_in(&alone, session, plain, sql, parameters);
                let rows = rows.await?;
                self.commit(&alone).await?;
                rows
            }
        };
        Ok(done(&format!("INSERT 0 {rows}")))
    }

    async fn insert_in(
        &self,
        transaction: &Transaction,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<usize, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let state = self.state_for(session, plain, &parameters, false).await?;
        let plan = self.plan(&state, &plain.ast, sql).await?;
        let plan = with_parameters(plan, parameters).map_err(wrong)?;
        let LogicalPlan::Dml(dml) = &plan else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "INSERT INTO stream VALUES … or SELECT … is expected",
            ));
        };
        let name = dml.table_name.table();
        let stream = match self.stream(name) {
            Some(stream) if Catalog::is_system(&stream) => {
                return Err(Error::new(
                    sqlstate::INSUFFICIENT_PRIVILEGE,
                    format!("\"{name}\" is written by the system"),
                )
                .with_position(find_word(sql, name)));
            }
            Some(stream) => stream,
            None if self.0.sources.serving.view(name).is_some() => {
                return Err(Error::new(
                    sqlstate::WRONG_OBJECT_TYPE,
                    format!("\"{name}\" is a view; it follows its streams"),
                )
                .with_position(find_word(sql, name))
                .with_hint("insert into the stream that the view selects from"));
            }
            None => return Err(undefined_table(name, sql, &self.names())),
        };
        if !matches!(dml.op, WriteOp::Insert(_)) {
            return Err(Error::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "records are immutable: only INSERT is supported",
            ));
        }
        let wrong = |error| wrong(error).with_columns_of(&stream.schema);
        let frame = DataFrame::new(state, dml.input.as_ref().clone());
        let mut staged = transaction.stage(Arc::clone(&stream));
        let mut batches = frame.execute_stream().await.map_err(wrong)?;
        while let Some(batch) = batches.try_next().await.map_err(wrong)? {
            if batch.num_rows() > 0 {
                staged.push(in_schema(&batch, &stream)?).await?;
            }
        }
        staged.keep()
    }
}

/// The rows in the stream's own types; the planner made them castable.
fn in_schema(batch: &RecordBatch, stream: &Stream) -> Result<RecordBatch, Error> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut columns = Vec::with_capacity(stream.schema.fields().len());
    for (field, column) in stream.schema.fields().iter().zip(batch.columns()) {
        let column = cast_with_options(column, field.data_type(), &strict)
            .map_err(|error| Error::from_source(&error, "").in_column(field.name()))?;
        if !field.is_nullable() && column.null_count() > 0 {
            let message = format!(
                "null value in column \"{}\" of stream \"{}\"",
                field.name(),
                stream.name
            );
            return Err(Error::new(sqlstate::NOT_NULL_VIOLATION, message)
                .with_hint("the column is declared NOT NULL"));
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(&stream.schema), columns, &options)
        .map_err(Error::internal)
}

pub(super) fn append_error(error: AppendError) -> Error {
    match error {
        AppendError::Refused(message) | AppendError::SequenceForgotten(message) => {
            Error::new("23000", message)
        }
        AppendError::Busy(message) => {
            Error::new(sqlstate::TOO_BUSY, message).with_hint("try again")
        }
        AppendError::Unavailable(message) => Error::new(sqlstate::UNAVAILABLE, message),
    }
}
