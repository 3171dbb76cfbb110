//! `SUBSCRIBE`: the changes of a view, a stream or a query as rows that do not end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    logical_expr::LogicalPlan, physical_plan::stream::RecordBatchStreamAdapter, scalar::ScalarValue,
};
use futures::{StreamExt, stream};
use lambic_serving::Served;

use super::{Database, names_system_column};
use crate::{
    Change, Error, Feed, Follow, Followed, Message, Outcome,
    as_of::{Unit, frontier_text},
    names,
    pinned::Pinned,
    sqlstate,
    statement::{Subscribe, Subscribed},
};

/// Rows of one batch.
const BATCH_ROWS_MAX: usize = 8_192;
/// With `progress`, a client hears at least so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The types of parameters by name, as far as they are known, and the columns of the answer.
type Described = (HashMap<String, Option<DataType>>, SchemaRef);

impl Database {
    /// Follows what changes; the first message is ready when this returns.
    pub async fn follow(&self, followed: Followed, follow: Follow) -> Result<Feed, Error> {
        Feed::open(self.clone(), followed, follow).await
    }

    pub(super) async fn subscribe(
        &self,
        subscribe: &Subscribe,
        sql: &str,
        parameters: &[ScalarValue],
    ) -> Result<Outcome, Error> {
        let from = match &subscribe.as_of {
            None => None,
            Some(as_of) => {
                let from = self.frontier_as_of(subscribe, parameters).await;
                Some(from.map_err(|error| error.with_position(Some(as_of.position)))?)
            }
        };
        let at = subscribe.as_of.as_ref().map(|as_of| as_of.position);
        let follow = Follow {
            from,
            snapshot: subscribe.snapshot,
            progress_every: PROGRESS_EVERY,
            ..Follow::default()
        };
        let feed = self.follow(followed(&subscribe.what, sql), follow).await;
        let feed = feed.map_err(|error| match error.sqlstate {
            sqlstate::INVALID_PARAMETER | sqlstate::INVALID_TEXT | sqlstate::SNAPSHOT_TOO_OLD => {
                error.with_position(at)
            }
            _ => subscribe.what.place(error),
        })?;
        let columns = Columns {
            schema: columns(feed.schema()),
            progress: subscribe.progress,
            name: match &subscribe.what {
                Subscribed::Named(name, _) => format!("\"{name}\""),
                Subscribed::Select(_) => "what is selected from".to_owned(),
            },
        };
        let schema = Arc::clone(&columns.schema);
        let rows = stream::try_unfold((feed, columns), |(mut feed, columns)| async move {
            loop {
                let Some(message) = feed.next().await? else {
                    return Ok(None);
                };
                let batches = columns.batches(message)?;
                if !batches.is_empty() {
                    return Ok(Some((batches, (feed, columns))));
                }
            }
        });
        let rows = rows.flat_map(|batches: Result<Vec<RecordBatch>, Error>| {
            stream::iter(match batches {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            })
        });
        Ok(Outcome::Changes {
            schema: Arc::clone(&schema),
            rows: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        })
    }

    pub(super) async fn subscribe_columns(
        &self,
        subscribe: &Subscribe,
        sql: &str,
    ) -> Result<Described, Error> {
        let schema = match &subscribe.what {
            Subscribed::Named(name, place) => {
                let view = self.0.sources.serving.view(name);
                let stream = self.stream(name);
                match (view, stream) {
                    (Some(view), _) => view.as_source().schema,
                    (None, Some(stream)) => Arc::clone(&stream.schema),
                    (None, None) => return Err(self.no_table(name).with_position(Some(*place))),
                }
            }
            Subscribed::Select(ast) => {
                let pinned = Arc::new(Pinned::take(&self.0.sources));
                let state = self.pinned_to(pinned, names_system_column(sql));
                let plan = self.plan(&state, ast, sql).await?;
                if plan
                    .get_parameter_types()
                    .is_ok_and(|types| !types.is_empty())
                {
                    let message = "the query of a SUBSCRIBE takes no parameters";
                    return Err(
                        Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message).with_hint(
                            "write the values into it; behind AS OF a parameter may stand",
                        ),
                    );
                }
                names::shown_schema(plan.schema().inner())
            }
        };
        let types = match &subscribe.as_of {
            None => HashMap::new(),
            Some(as_of) => {
                let moment: LogicalPlan = self.plan_moment(as_of).await?;
                let types = moment.get_parameter_types();
                types.map_err(|error| Error::from_datafusion(error, sql, &[]))?
            }
        };
        Ok((types, columns(&schema)))
    }

    /// The frontier that `AS OF` means.
    async fn frontier_as_of(
        &self,
        subscribe: &Subscribe,
        parameters: &[ScalarValue],
    ) -> Result<String, Error> {
        let Some(as_of) = &subscribe.as_of else {
            return Ok(String::new());
        };
        if as_of.unit == Unit::Offset {
            let moment = self.moment(as_of, parameters).await?;
            let text = moment.cast_to(&DataType::Utf8).map_err(Error::internal)?;
            return Ok(text.try_as_str().flatten().unwrap_or_default().to_owned());
        }
        let streams = match &subscribe.what {
            Subscribed::Named(name, _) => {
                let view = self.0.sources.serving.view(name);
                let streams = view.as_ref().map(Served::streams).map(<[_]>::to_vec);
                streams.unwrap_or_else(|| self.stream(name).into_iter().collect())
            }
            Subscribed::Select(ast) => self.read_by(ast)?.0,
        };
        let pinned = self.streams_at(as_of, parameters, &streams).await?;
        Ok(frontier_text(&streams, &pinned.heads()))
    }
}

fn followed(what: &Subscribed, sql: &str) -> Followed {
    match what {
        Subscribed::Named(name, _) => Followed::Named(name.clone()),
        Subscribed::Select(ast) => Followed::Select(ast.clone(), sql.to_owned()),
    }
}

/// What a subscription tells of each row, then the row.
fn columns(schema: &SchemaRef) -> SchemaRef {
    let own = [
        Field::new("lambic_frontier", DataType::Utf8, false),
        Field::new("lambic_progressed", DataType::Boolean, false),
        Field::new("lambic_diff", DataType::Int64, true),
    ];
    let rows = schema.fields().iter();
    let rows = rows.map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(own.into_iter().chain(rows).collect::<Vec<_>>()))
}

struct Columns {
    schema: SchemaRef,
    progress: bool,
    name: String,
}

impl Columns {
    fn batches(&self, message: Message) -> Result<Vec<RecordBatch>, Error> {
        let Message {
            frontier, change, ..
        } = message;
        let (added, removed) = match change {
            Change::Snapshot(rows) => (rows, Vec::new()),
            Change::Rows { added, removed } => (added, removed),
            Change::Progress => (Vec::new(), Vec::new()),
            Change::Reset(why) => {
                let message = format!("the subscription cannot go on from its frontier: {why}");
                return Err(Error::new(sqlstate::NOT_IN_PREREQUISITE_STATE, message)
                    .with_hint("subscribe again without AS OF, or with a snapshot, and forget the rows from before"));
            }
            Change::Dropped => {
                let message = format!("{} was dropped", self.name);
                return Err(Error::new(sqlstate::UNDEFINED_TABLE, message));
            }
        };
        let mut batches = Vec::new();
        for (diff, rows) in [(-1, removed), (1, added)] {
            for batch in rows {
                for from in (0..batch.num_rows()).step_by(BATCH_ROWS_MAX) {
                    let rows = BATCH_ROWS_MAX.min(batch.num_rows() - from);
                    batches.push(self.batch(&frontier, diff, &batch.slice(from, rows))?);
                }
            }
        }
        if self.progress {
            batches.push(self.progressed(&frontier)?);
        }
        Ok(batches)
    }

    fn batch(&self, frontier: &str, diff: i64, rows: &RecordBatch) -> Result<RecordBatch, Error> {
        let count = rows.num_rows();
        let own: [ArrayRef; 3] = [
            Arc::new(StringArray::from(vec![frontier; count])),
            Arc::new(BooleanArray::from(vec![false; count])),
            Arc::new(Int64Array::from(vec![diff; count])),
        ];
        self.whole(own.into_iter().chain(rows.columns().iter().cloned()))
    }

    fn progressed(&self, frontier: &str) -> Result<RecordBatch, Error> {
        let own: [ArrayRef; 2] = [
            Arc::new(StringArray::from(vec![frontier])),
            Arc::new(BooleanArray::from(vec![true])),
        ];
        let rest = self.schema.fields().iter().skip(own.len());
        let rest = rest.map(|field| new_null_array(field.data_type(), 1));
        self.whole(own.into_iter().chain(rest))
    }

    fn whole(&self, columns: impl Iterator<Item = ArrayRef>) -> Result<RecordBatch, Error> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect());
        batch.map_err(Error::internal)
    }
}
