//! `INSERT INTO stream VALUES …` and `… SELECT …`.

use std::sync::Arc;

use arrow::{
    compute::{CastOptions, cast_with_options},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    execution::SessionState,
    logical_expr::{LogicalPlan, WriteOp},
    scalar::ScalarValue,
    sql::{
        parser::Statement as PlannerStatement,
        sqlparser::{
            ast::{self, Ident, Spanned},
            tokenizer::Location,
        },
    },
};
use futures::TryStreamExt;
use lambic_model::{AppendError, Named, Stream};

use super::{Database, done};
use crate::{
    Catalog, Error, Modes, Outcome, Session, Transaction,
    create::folded,
    error::{find_word, position_of, undefined_table},
    kept::Slot,
    message,
    provider::PinnedStream,
    sqlstate,
    statement::{Plain, name_of},
};

impl Database {
    /// The records become part of the session's transaction, or of one of their own that is committed.
    pub(super) async fn insert(
        &self,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
        kept: Option<&Slot>,
    ) -> Result<Outcome, Error> {
        let alone = match &session.transaction {
            Some(_) => None,
            None => Some(self.begin(Modes::default())),
        };
        let transaction = session.transaction.as_ref().or(alone.as_ref());
        let transaction = transaction.expect("it has one of its own otherwise");
        let inserted = self.insert_in(transaction, session, plain, sql, parameters, kept);
        let rows = match inserted.await {
            Ok(rows) => rows,
            Err(error) => return Err(self.at_its_value(error, plain, sql).await),
        };
        if let Some(alone) = &alone {
            self.commit(alone).await?;
        }
        Ok(done(&format!("INSERT 0 {rows}")))
    }

    /// How many columns an `INSERT` has values for; `None` of other statements, and where rows are of several lengths.
    pub(super) async fn insert_width(
        &self,
        state: &SessionState,
        statement: &ast::Statement,
    ) -> Option<usize> {
        let ast::Statement::Insert(insert) = statement else {
            return None;
        };
        let source = insert.source.as_ref()?;
        let told = width(source);
        if told.is_some() || matches!(source.body.as_ref(), ast::SetExpr::Values(_)) {
            return told;
        }
        // `SELECT *`: only the plan tells.
        let query = PlannerStatement::Statement(Box::new(ast::Statement::Query(source.clone())));
        let plan = state.statement_to_plan(query).await.ok()?;
        Some(plan.schema().fields().len())
    }

    async fn insert_in(
        &self,
        transaction: &Transaction,
        session: &Session,
        plain: &Plain,
        sql: &str,
        parameters: Vec<ScalarValue>,
        kept: Option<&Slot>,
    ) -> Result<usize, Error> {
        let wrong = |error| Error::from_datafusion(error, sql, &self.names());
        let ready = self
            .bound(session, plain, sql, parameters, kept, false)
            .await?;
        let LogicalPlan::Dml(dml) = &ready.plan else {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "INSERT INTO stream VALUES … or SELECT … is expected",
            ));
        };
        let name = dml.table_name.table();
        // As it was planned for: the log brings the records into the columns that the stream has by then.
        let planned_for = datafusion::datasource::source_as_provider(&dml.target).ok();
        let planned_for = planned_for
            .as_ref()
            .and_then(|table| table.downcast_ref::<PinnedStream>());
        let stream = planned_for.map(|table| Arc::clone(&table.stream));
        let stream = match stream.or_else(|| self.stream(name)) {
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
        let mut staged = transaction.stage(Arc::clone(&stream));
        let mut batches = ready.start(&dml.input).await.map_err(wrong)?;
        while let Some(batch) = batches.try_next().await.map_err(wrong)? {
            if batch.num_rows() > 0 {
                staged.push(in_schema(&batch, &stream)?).await?;
            }
        }
        staged.keep()
    }
}

/// An `INSERT` as the stream takes it by now, with values for `width` columns: whoever appends may name a column as it
/// was called before, and without names need not know the columns at the end. Refused if there are values for more
/// columns, or for fewer than are named.
pub(super) fn in_present_columns(
    statement: &mut ast::Statement,
    width: Option<usize>,
    sql: &str,
    stream: &dyn Fn(&str) -> Option<Arc<Stream>>,
) -> Result<(), Error> {
    let ast::Statement::Insert(insert) = statement else {
        return Ok(());
    };
    let ast::TableObject::TableName(name) = &insert.table else {
        return Ok(());
    };
    let Some(stream) = name_of(name).ok().and_then(|name| stream(&name)) else {
        return Ok(());
    };
    let quoted = |index: usize| Ident::with_quote('"', stream.schema.field(index).name());
    for column in &mut insert.columns {
        let [part] = column.0.as_slice() else {
            continue;
        };
        let Some(known) = part.as_ident() else {
            continue;
        };
        let known = folded(known);
        if let Named::Column(index) = stream.named(&known)
            && *stream.schema.field(index).name() != known
        {
            *column = vec![quoted(index)].into();
        }
    }
    let Some(width) = width else {
        return match insert.source.as_deref().map(|source| source.body.as_ref()) {
            Some(ast::SetExpr::Values(_)) => Err(message::of_ragged_values()),
            _ => Ok(()),
        };
    };
    check_width(insert, width, &stream, sql)?;
    if insert.columns.is_empty() && width < stream.schema.fields().len() {
        let columns = (0..width).map(|index| vec![quoted(index)].into());
        insert.columns = columns.collect();
    }
    Ok(())
}

/// Whether each value has its column, and each column that is named its value.
fn check_width(
    insert: &ast::Insert,
    width: usize,
    stream: &Stream,
    sql: &str,
) -> Result<(), Error> {
    let all = stream.schema.fields().len();
    let named = insert.columns.len();
    let (targets, whose) = match named {
        0 => (all, "the stream has"),
        named => (named, "the statement names"),
    };
    let (message, place) = if width > targets {
        let source = insert.source.as_deref();
        let place = source.and_then(|source| place_of(source, targets));
        ("INSERT has more expressions than target columns", place)
    } else if width < named {
        let place = insert.columns[width].span().start;
        (
            "INSERT has more target columns than expressions",
            Some(place),
        )
    } else {
        return Ok(());
    };
    let place = place.filter(|place| place.line > 0);
    let position = place.map(|place| position_of(sql, place.line, place.column));
    let hint = format!(
        "stream \"{}\": {whose} {targets} columns, and there are values for {width}",
        stream.name
    );
    Err(Error::new(sqlstate::SYNTAX_ERROR, message)
        .with_position(position)
        .with_hint(hint))
}

/// Where the value for the column `index` stands in the text.
fn place_of(source: &ast::Query, index: usize) -> Option<Location> {
    let span = match source.body.as_ref() {
        ast::SetExpr::Values(values) => values.rows.first()?.get(index)?.span(),
        ast::SetExpr::Select(select) => select.projection.get(index)?.span(),
        _ => return None,
    };
    Some(span.start)
}

/// How many columns the rows have, where the text tells.
fn width(source: &ast::Query) -> Option<usize> {
    match source.body.as_ref() {
        ast::SetExpr::Values(values) => {
            let first = values.rows.first()?.len();
            values
                .rows
                .iter()
                .all(|row| row.len() == first)
                .then_some(first)
        }
        ast::SetExpr::Select(select) => {
            let plain = |item: &ast::SelectItem| {
                matches!(
                    item,
                    ast::SelectItem::UnnamedExpr(_) | ast::SelectItem::ExprWithAlias { .. }
                )
            };
            let all = select.projection.iter().all(plain);
            all.then_some(select.projection.len())
        }
        _ => None,
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
