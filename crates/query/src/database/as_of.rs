//! Finds the frontier that `AS OF` means.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use arrow::{
    array::AsArray,
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
};
use datafusion::{
    dataframe::DataFrame,
    execution::SessionState,
    logical_expr::LogicalPlan,
    scalar::ScalarValue,
    sql::{
        parser::Statement as PlannerStatement,
        sqlparser::{ast, parser::Parser},
    },
};
use lambic_model::{Frontier, Frontiers, PartitionId, Stream, StreamId};
use lambic_serving::ServedView;
use lambic_view::{
    Planned,
    postgres::{self, Postgres},
};

use super::{Database, with_parameters};
use crate::{
    AsOf, Error, Session,
    as_of::{self, Unit},
    error::undefined_table,
    pinned::Pinned,
    provider::Versions,
    sqlstate,
    statement::Plain,
};

impl Database {
    /// The moment that the statement reads at, that of its transaction or the one that it names, and the versions of views
    /// that it names.
    pub(super) async fn reads_at(
        &self,
        session: &Session,
        plain: &Plain,
        parameters: &[ScalarValue],
    ) -> Result<(Arc<Pinned>, Versions), Error> {
        let altered = &self.0.sources.altered;
        loop {
            let before = altered.load(Ordering::SeqCst);
            let versions = self.versions(&plain.versions).await?;
            let pinned = match &plain.as_of {
                None => self.pin(session),
                Some(as_of) => {
                    let pinned = self.pinned_as_of(as_of, &plain.ast, &versions, parameters);
                    Arc::new(pinned.await?)
                }
            };
            // Versions planned before a column was changed could not read records from after it.
            if versions.is_empty() || altered.load(Ordering::SeqCst) == before {
                return Ok((pinned, versions));
            }
        }
    }

    fn pinned_now(&self) -> SessionState {
        self.pinned_to(Arc::new(Pinned::take(&self.0.sources)), false)
    }

    /// All that `statement` reads, at the moment of `as_of`.
    async fn pinned_as_of(
        &self,
        as_of: &AsOf,
        statement: &ast::Statement,
        versions: &Versions,
        parameters: &[ScalarValue],
    ) -> Result<Pinned, Error> {
        let read = self.streams_read(statement, versions)?;
        let take = || Pinned::take(&self.0.sources);
        let pinned = self.back_to(as_of, parameters, &read, take).await;
        pinned.map_err(|error| Error {
            position: Some(as_of.position),
            ..error
        })
    }

    /// The same for one view that is looked up.
    pub(super) async fn view_as_of(
        &self,
        as_of: &AsOf,
        view: &Arc<ServedView>,
    ) -> Result<Pinned, Error> {
        let read: Vec<StreamId> = view.plan().inputs.iter().map(|stream| stream.id).collect();
        let take = || Pinned::of_view(&self.0.sources, view);
        self.back_to(as_of, &[], &read, take).await
    }

    /// The same for what reads these streams.
    pub(super) async fn streams_as_of<'a>(
        &self,
        as_of: &AsOf,
        streams: impl Iterator<Item = &'a Arc<Stream>>,
    ) -> Result<Pinned, Error> {
        let read: Vec<StreamId> = streams.map(|stream| stream.id).collect();
        let take = || Pinned::take(&self.0.sources);
        let pinned = self.back_to(as_of, &[], &read, take).await;
        pinned.map_err(|error| Error {
            position: Some(as_of.position),
            ..error
        })
    }

    /// The same with parameters, without the place of a mistake.
    pub(super) async fn streams_at(
        &self,
        as_of: &AsOf,
        parameters: &[ScalarValue],
        streams: &[Arc<Stream>],
    ) -> Result<Pinned, Error> {
        let read: Vec<StreamId> = streams.iter().map(|stream| stream.id).collect();
        let take = || Pinned::take(&self.0.sources);
        self.back_to(as_of, parameters, &read, take).await
    }

    /// What `take` pins, back at the moment of `as_of`.
    async fn back_to(
        &self,
        as_of: &AsOf,
        parameters: &[ScalarValue],
        read: &[StreamId],
        take: impl FnOnce() -> Pinned,
    ) -> Result<Pinned, Error> {
        let moment = self.moment(as_of, parameters).await?;
        match as_of.unit {
            Unit::Offset => {
                let text = moment.cast_to(&DataType::Utf8).map_err(Error::internal)?;
                let text = text.try_as_str().flatten().unwrap_or_default();
                let pinned = take();
                let text = self.with_name(text, read)?;
                let heads = self.heads_of_text(&text, &pinned.heads())?;
                self.check_not_expired(&heads)?;
                Ok(pinned.back_to(heads))
            }
            Unit::Timestamp => {
                let at_us = microseconds(&moment)?;
                let settled = self.0.sources.reader.settle(at_us).await;
                settled.map_err(unreadable)?;
                // Only now: the pin has all that was appended by then.
                let pinned = take();
                let mut heads = Frontiers::default();
                for &stream in read {
                    let head = pinned.head_at(stream, at_us).await;
                    heads.set(stream, head.map_err(unreadable)?);
                }
                self.check_time_not_expired(read, at_us)?;
                Ok(pinned.back_to(heads))
            }
        }
    }

    /// An offset alone is one of the only partition of the only stream that is read.
    fn with_name<'a>(&self, text: &'a str, read: &[StreamId]) -> Result<Cow<'a, str>, Error> {
        let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        if !is_number {
            return Ok(Cow::Borrowed(text));
        }
        let streams = self.streams();
        let mut read = streams.iter().filter(|stream| read.contains(&stream.id));
        match (read.next(), read.next()) {
            (Some(only), None) if only.partitions == 1 => {
                Ok(Cow::Owned(format!("{}@0:{text}", only.name)))
            }
            _ => Err(Error::new(
                sqlstate::INVALID_PARAMETER,
                format!("offset {text} of which stream and partition?"),
            )
            .with_hint(
                "where more than one is read, each is named: visits@0:1200,1:1187 users@0:40",
            )),
        }
    }

    /// The operand as a time.
    pub(super) async fn moment_us(
        &self,
        as_of: &AsOf,
        parameters: &[ScalarValue],
    ) -> Result<i64, Error> {
        microseconds(&self.moment(as_of, parameters).await?)
    }

    /// The value of the operand: a text, or a time.
    pub(super) async fn moment(
        &self,
        as_of: &AsOf,
        parameters: &[ScalarValue],
    ) -> Result<ScalarValue, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &self.names());
        let state = self.pinned_now();
        let plan = self.plan_moment(as_of).await?;
        let plan = with_parameters(plan, parameters.to_vec()).map_err(wrong)?;
        let rows = DataFrame::new(state, plan).collect().await.map_err(wrong)?;
        let values: Vec<_> = rows.iter().filter(|batch| batch.num_rows() > 0).collect();
        let value = match values.as_slice() {
            [batch] if batch.num_rows() == 1 => ScalarValue::try_from_array(batch.column(0), 0),
            _ => Ok(ScalarValue::Null),
        };
        match value.map_err(wrong)? {
            value if value.is_null() => Err(Error::new(
                sqlstate::INVALID_PARAMETER,
                "AS OF names no moment: its value is NULL",
            )),
            value => Ok(value),
        }
    }

    /// `SELECT` of the operand.
    pub(super) async fn plan_moment(&self, as_of: &AsOf) -> Result<LogicalPlan, Error> {
        let wanted = match as_of.unit {
            Unit::Offset => "text",
            Unit::Timestamp => "timestamptz",
        };
        // The line ends a comment that may stand behind the operand.
        let sql = format!("SELECT CAST({}\n AS {wanted})", as_of.operand);
        let mut statements =
            Parser::parse_sql(&Postgres, &sql).map_err(|error| Error::from_parser(&error, &sql))?;
        let mut statement = statements.swap_remove(0);
        postgres::adapt(&mut statement).map_err(|error| Error::from_source(&error, &sql))?;
        let planned = self.plan(&self.pinned_now(), &statement, &sql).await;
        planned.map_err(|error| Error {
            position: Some(as_of.position),
            ..error
        })
    }

    /// Where the streams end that a frontier names, none past `heads`.
    pub(crate) fn heads_of_text(&self, text: &str, heads: &Frontiers) -> Result<Frontiers, Error> {
        let mut found = Frontiers::default();
        for (name, wanted) in as_of::frontiers(text)? {
            let Some(stream) = self.stream(&name) else {
                return Err(undefined_table(&name, "", &self.names()));
            };
            let head = heads.of(stream.id);
            let partitions = stream.partitions as usize;
            if wanted.0.len() > partitions {
                let message = format!(
                    "stream \"{name}\" has {partitions} partitions, and the frontier {}",
                    wanted.0.len()
                );
                return Err(Error::new(sqlstate::INVALID_PARAMETER, message));
            }
            // One without any partition is how a stream without records is shown.
            if (1..partitions).contains(&wanted.0.len()) {
                return Err(partitions_unknown(&stream, &wanted, &head));
            }
            if !head.covers(&wanted) {
                let message = format!("stream \"{name}\" ends at {head}, before {wanted}");
                return Err(Error::new(sqlstate::INVALID_PARAMETER, message)
                    .with_hint("AS OF looks back: it reads what has been appended"));
            }
            found.set(stream.id, wanted);
        }
        Ok(found)
    }

    /// The streams that a statement reads, also through views, and the views that it names.
    pub(crate) fn read_by(
        &self,
        statement: &ast::Statement,
    ) -> Result<(Vec<Arc<Stream>>, Vec<String>), Error> {
        let (mut streams, mut views) = (Vec::<Arc<Stream>>::new(), Vec::new());
        for name in self.names_read(statement)? {
            let found = match self.0.sources.serving.view(&name) {
                Some(view) => {
                    let found = view.streams().to_vec();
                    views.push(name);
                    found
                }
                None => self.stream(&name).into_iter().collect(),
            };
            for stream in found {
                if streams.iter().all(|known| known.id != stream.id) {
                    streams.push(stream);
                }
            }
        }
        Ok((streams, views))
    }

    /// The same streams by id, and those of `versions`.
    fn streams_read(
        &self,
        statement: &ast::Statement,
        versions: &Versions,
    ) -> Result<Vec<StreamId>, Error> {
        let (streams, _) = self.read_by(statement)?;
        let of_versions = versions.values().flat_map(Planned::streams);
        let mut ids: Vec<StreamId> = streams.iter().chain(of_versions).map(|s| s.id).collect();
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    fn names_read(&self, statement: &ast::Statement) -> Result<Vec<String>, Error> {
        let statement = PlannerStatement::Statement(Box::new(statement.clone()));
        let state = self.0.context.state();
        let named = state.resolve_table_references(&statement);
        let named = named.map_err(|error| Error::from_datafusion(error, "", &[]))?;
        Ok(named.iter().map(|name| name.table().to_owned()).collect())
    }
}

/// `wanted` does not say where the later partitions of the stream ended.
fn partitions_unknown(stream: &Stream, wanted: &Frontier, head: &Frontier) -> Error {
    let (name, partitions) = (&stream.name, stream.partitions);
    let mut whole = wanted.clone();
    let mut missing = Vec::new();
    for partition in (0..partitions).skip(wanted.0.len()).map(PartitionId) {
        whole.set(partition, head.offset(partition));
        missing.push(partition.0.to_string());
    }
    let plural = if missing.len() == 1 { "" } else { "s" };
    let message = format!(
        "stream \"{name}\" has {partitions} partitions, and the frontier does not say where partition{plural} {} ended",
        missing.join(", ")
    );
    Error::new(sqlstate::INVALID_PARAMETER, message).with_hint(format!(
        "name every partition: '{name}@{whole}' reads the missing to their present end, with 0 nothing of them is read"
    ))
}

fn microseconds(moment: &ScalarValue) -> Result<i64, Error> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let time = moment.cast_to(&utc).and_then(|time| time.to_array());
    let time = time.map_err(|error| Error::from_datafusion(error, "", &[]))?;
    Ok(time.as_primitive::<TimestampMicrosecondType>().value(0))
}

fn unreadable(error: lambic_dataset::Error) -> Error {
    use lambic_dataset::Error::{Log, NotYet};
    match &error {
        NotYet { at_us, now_us } => {
            let (at, now) = (time_text(*at_us), time_text(*now_us));
            let message = format!("{at} has not come yet: it is {now} UTC");
            Error::new(sqlstate::INVALID_PARAMETER, message)
                .with_hint("AS OF looks back: without it a statement reads all that was appended")
        }
        Log(_) => Error::new(sqlstate::UNAVAILABLE, error.to_string()),
        _ => Error::new(sqlstate::DATA_CORRUPTED, error.to_string()),
    }
}

fn time_text(us: i64) -> String {
    let time = arrow::temporal_conversions::timestamp_us_to_datetime(us);
    time.map_or_else(|| us.to_string(), |time| time.to_string())
}
