//! `REPLAY MATERIALIZED VIEW …`: a stretch of history run through the served version, another one or a `SELECT`, as
//! if it were all there is. Nothing that is served changes, and nothing is kept.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::{
        DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{
    catalog::TableProvider,
    dataframe::DataFrame,
    error::DataFusionError,
    execution::SessionState,
    physical_plan::{execute_stream, stream::RecordBatchStreamAdapter},
    prelude::{SessionContext, col},
    scalar::ScalarValue,
};
use futures::{TryStreamExt, stream};
use lambic_base::{Clock, SystemClock};
use lambic_model::{Frontiers, Offset, PartitionId, Stream, SystemColumn};
use lambic_view::{Planned, Run, ViewPlan, aggregate::FloatSums};

use super::{Database, rows};
use crate::{
    Error, Outcome,
    as_of::{Unit, frontier_text},
    changes::Difference,
    diff::Differences,
    pinned::{Pinned, view_error},
    replay::{Cutter, Length, Listed, Place, Running, Step},
    scratch::{self, Scratch},
    sqlstate,
    statement::{Replay, Through},
};

impl Database {
    pub(super) async fn replay(
        &self,
        replay: &Replay,
        sql: &str,
        parameters: &[ScalarValue],
    ) -> Result<Outcome, Error> {
        let planned = self.replayed(replay, sql).await?;
        let served = match replay.diff {
            true => Some(self.served(&replay.name, sql)?.planned()),
            false => None,
        };
        let mut streams = planned.streams().to_vec();
        for stream in served.iter().flat_map(Planned::streams) {
            if streams.iter().all(|known| known.id != stream.id) {
                streams.push(Arc::clone(stream));
            }
        }
        let stretch = self.stretch(replay, &streams, parameters).await?;
        if let Some(served) = served {
            return self.compared(replay, &served, &planned, stretch).await;
        }
        match replay.step {
            None => self.at_once(replay, planned, stretch).await,
            Some(length) => self.by_steps(replay, length, planned, stretch).await,
        }
    }

    /// The columns of the answer, and the types of parameters by name.
    pub(super) async fn replay_columns(
        &self,
        replay: &Replay,
        sql: &str,
    ) -> Result<(HashMap<String, Option<DataType>>, SchemaRef), Error> {
        let mut types = HashMap::new();
        for moment in replay.from.iter().chain(&replay.to) {
            let plan = self.plan_moment(moment).await?;
            let found = plan.get_parameter_types();
            types.extend(found.map_err(|error| Error::from_datafusion(error, sql, &[]))?);
        }
        if replay.diff {
            return Ok((types, crate::diff::schema()));
        }
        let planned = self.replayed(replay, sql).await?;
        let schema = match replay.step {
            None => Arc::clone(planned.schema()),
            Some(_) => stepped(planned.schema(), replay.all_rows),
        };
        Ok((types, schema))
    }

    /// What the stretch goes through.
    async fn replayed(&self, replay: &Replay, sql: &str) -> Result<Planned, Error> {
        let placed = |error: Error| error.with_position(Some(replay.place));
        self.existing_view(&replay.name, sql).map_err(placed)?;
        match &replay.through {
            Through::Served => Ok(self.served(&replay.name, sql).map_err(placed)?.planned()),
            Through::Version(number) => {
                let planned = self.planned_version(&replay.name, *number).await;
                planned.map_err(|error| Error {
                    position: Some(replay.place),
                    ..error
                })
            }
            Through::Select(select, at) => {
                let functions = self.functions_in(select);
                let planned = self.plan_view(select, &functions, FloatSums::default());
                planned.await.map_err(|error| Error {
                    position: error.position.map(|position| position + at),
                    ..error
                })
            }
        }
    }

    async fn stretch(
        &self,
        replay: &Replay,
        streams: &[Arc<Stream>],
        parameters: &[ScalarValue],
    ) -> Result<Stretch, Error> {
        let mut from = Frontiers::default();
        for stream in streams {
            from.set(stream.id, lambic_model::Frontier::zero(stream.partitions));
        }
        let mut origin_us = None;
        if let Some(moment) = &replay.from {
            let placed = |error: Error| error.with_position(Some(moment.position));
            let before = self.streams_at(moment, parameters, streams).await;
            let heads = before.map_err(placed)?.heads();
            for stream in streams {
                from.set(stream.id, from.of(stream.id).max(&heads.of(stream.id)));
            }
            if moment.unit == Unit::Timestamp {
                origin_us = Some(self.moment_us(moment, parameters).await.map_err(placed)?);
            }
        }
        let pinned = match &replay.to {
            None => Pinned::take(&self.0.sources),
            Some(moment) => {
                let pinned = self.streams_at(moment, parameters, streams).await;
                let pinned = pinned.map_err(|error| error.with_position(Some(moment.position)))?;
                let known = pinned.check(streams);
                known.map_err(|error| {
                    Error::from_datafusion(error, "", &[]).with_position(Some(moment.position))
                })?;
                pinned
            }
        };
        let heads = pinned.heads();
        let mut to = Frontiers::default();
        for stream in streams {
            let (begin, end) = (from.of(stream.id), heads.of(stream.id));
            if !end.covers(&begin) {
                let at = replay.from.as_ref().map(|from| from.position);
                let message = format!(
                    "the stretch ends before it begins: stream \"{}\" at {end}, from {begin}",
                    stream.name
                );
                return Err(Error::new(sqlstate::INVALID_PARAMETER, message)
                    .with_position(at)
                    .with_hint("FROM names the earlier moment, TO the later one"));
            }
            to.set(stream.id, end);
        }
        Ok(Stretch {
            streams: streams.to_vec(),
            from,
            to,
            origin_us,
            pinned,
        })
    }

    /// `steps` that are to come.
    fn listed(&self, replay: &Replay, stretch: &Stretch, steps: usize) -> Listed {
        let through = match &replay.through {
            Through::Served => "the served version".to_owned(),
            Through::Version(number) => format!("version {number}"),
            Through::Select(..) => "SELECT".to_owned(),
        };
        self.0.sources.replays.begin(Running {
            number: 0,
            label: replay.label.clone(),
            view: replay.name.clone(),
            through,
            started_us: SystemClock.now_us(),
            from: frontier_text(&stretch.streams, &stretch.from),
            to: frontier_text(&stretch.streams, &stretch.to),
            steps: steps as u64,
            steps_done: AtomicU64::new(0),
            records: Arc::default(),
            records_total: stretch.records(),
        })
    }

    /// The rows after the whole stretch.
    async fn at_once(
        &self,
        replay: &Replay,
        planned: Planned,
        stretch: Stretch,
    ) -> Result<Outcome, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let listed = self.listed(replay, &stretch, 1);
        let whole = stretch.between(&stretch.from, &stretch.to, &listed);
        let state = self.pinned_to(Arc::clone(&whole), false);
        let schema = Arc::clone(planned.schema());
        let table = Scratch::new(planned, whole);
        let plan = table.scan(&state, None, &[], None).await.map_err(wrong)?;
        let rows = execute_stream(plan, state.task_ctx()).map_err(wrong)?;
        let named = Arc::clone(&schema);
        let rows = rows.and_then(move |batch| {
            // It is listed as long as its rows are read.
            let _listed = &listed;
            std::future::ready(with_schema(batch, &named).map_err(Into::into))
        });
        Ok(Outcome::Rows {
            schema: Arc::clone(&schema),
            rows: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        })
    }

    /// What is new, gone or other than in the served version.
    async fn compared(
        &self,
        replay: &Replay,
        served: &Planned,
        planned: &Planned,
        stretch: Stretch,
    ) -> Result<Outcome, Error> {
        let listed = self.listed(replay, &stretch, 1);
        let whole = stretch.between(&stretch.from, &stretch.to, &listed);
        let (old, new) = tokio::try_join!(
            self.computed_side(served, &whole),
            self.computed_side(planned, &whole)
        )?;
        let differences = Differences::between(&old, &new).map_err(Error::internal)?;
        rows(crate::diff::schema(), differences.into_columns())
    }

    /// Rows or changes after each step.
    async fn by_steps(
        &self,
        replay: &Replay,
        length: Length,
        planned: Planned,
        stretch: Stretch,
    ) -> Result<Outcome, Error> {
        let steps = self.steps(length, &stretch).await?;
        let listed = self.listed(replay, &stretch, steps.len());
        let schema = stepped(planned.schema(), replay.all_rows);
        let state = self.pinned_to(Arc::new(stretch.pinned.back_to(stretch.to.clone())), false);
        let walk = Walk {
            schema: Arc::clone(&schema),
            all_rows: replay.all_rows,
            done: stretch.from.clone(),
            steps: steps.into_iter().enumerate(),
            planned,
            stretch,
            listed,
            state,
            states: None,
            rows: Vec::new(),
        };
        let rows = stream::try_unfold(walk, |mut walk| async move {
            let next = walk.next().await?;
            Ok::<_, Error>(next.map(|batches| (batches, walk)))
        });
        let rows = rows
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .map_err(DataFusionError::from)
            .try_flatten();
        Ok(Outcome::Rows {
            schema: Arc::clone(&schema),
            rows: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        })
    }

    /// Where the steps of the stretch end.
    async fn steps(&self, length: Length, stretch: &Stretch) -> Result<Vec<Step>, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let pinned = Arc::new(stretch.pinned.back_to(stretch.to.clone()));
        let context = SessionContext::new_with_state(self.pinned_to(Arc::clone(&pinned), false));
        let mut all: Option<DataFrame> = None;
        for (index, stream) in (0i64..).zip(&stretch.streams) {
            let table = pinned.records_since(stream, &stretch.from);
            let places = context.read_table(table).map_err(wrong)?;
            let columns = SystemColumn::ALL.map(|column| col(column.name()));
            let number = datafusion::prelude::lit(index).alias("stream");
            let places = places.select(columns.into_iter().chain([number]));
            let places = places.map_err(wrong)?;
            all = Some(match all {
                None => places,
                Some(others) => others.union(places).map_err(wrong)?,
            });
        }
        let Some(all) = all else {
            return Ok(Vec::new());
        };
        let order = [
            SystemColumn::AppendedAt.name(),
            "stream",
            "_partition",
            "_offset",
        ];
        let order = order.map(|name| col(name).sort(true, false));
        let sorted = all.sort(order.to_vec()).map_err(wrong)?;
        let mut places = sorted.execute_stream().await.map_err(wrong)?;
        let mut cutter = Cutter::new(length, stretch.from.clone(), stretch.origin_us);
        while let Some(batch) = places.try_next().await.map_err(wrong)? {
            let partitions = batch.column(0).as_primitive::<Int32Type>();
            let offsets = batch.column(1).as_primitive::<Int64Type>();
            let times = batch.column(2).as_primitive::<TimestampMicrosecondType>();
            let streams = batch.column(3).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let stream = &stretch.streams[streams.value(row) as usize];
                cutter.push(Place {
                    at_us: times.value(row),
                    stream: stream.id,
                    partition: PartitionId(partitions.value(row).cast_unsigned()),
                    offset: Offset(offsets.value(row).cast_unsigned()),
                })?;
            }
        }
        Ok(cutter.finish(&stretch.to))
    }
}

/// The records from one frontier to another.
struct Stretch {
    streams: Vec<Arc<Stream>>,
    from: Frontiers,
    to: Frontiers,
    /// When it begins, if it was told as a time.
    origin_us: Option<i64>,
    pinned: Pinned,
}

impl Stretch {
    fn records(&self) -> u64 {
        let each = self.streams.iter();
        each.map(|s| self.to.of(s.id).since(&self.from.of(s.id)))
            .sum()
    }

    fn between(&self, from: &Frontiers, to: &Frontiers, listed: &Listed) -> Arc<Pinned> {
        let count = Arc::clone(&listed.running.records);
        Arc::new(self.pinned.stretch(from.clone(), to.clone(), count))
    }
}

/// A replay that goes step by step.
struct Walk {
    schema: SchemaRef,
    all_rows: bool,
    planned: Planned,
    stretch: Stretch,
    steps: std::iter::Enumerate<std::vec::IntoIter<Step>>,
    /// Up to where it has gone.
    done: Frontiers,
    listed: Listed,
    state: SessionState,
    /// Of all steps so far, where the definition has states.
    states: Option<Arc<Run>>,
    /// The rows after the step before.
    rows: Vec<RecordBatch>,
}

impl Walk {
    /// What the next step gives; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>, Error> {
        let wrong = |error| Error::from_datafusion(error, "", &[]);
        let Some((index, step)) = self.steps.next() else {
            return Ok(None);
        };
        let rows = match self.planned.clone() {
            Planned::Kept(plan) if plan.join().is_none() => self.rows_of_states(&plan, &step).await,
            // Also a join: what a step brings to it are not the records of the step alone.
            Planned::Kept(_) | Planned::Recomputed(_) => {
                let pinned = (self.stretch).between(&self.stretch.from, &step.to, &self.listed);
                scratch::rows(&self.planned, &pinned, &self.state).await
            }
        };
        let rows = rows.map_err(wrong)?;
        let number = index as i64 + 1;
        let batches = match self.all_rows {
            true => {
                let each = rows
                    .iter()
                    .map(|batch| self.told(number, &step, None, batch));
                each.collect::<Result<Vec<_>, _>>()?
            }
            false => {
                let schema = self.planned.schema();
                let change = Difference::between(schema, &self.rows, &rows);
                let change = change.map_err(Error::internal)?;
                let removed = change.removed.iter().map(|batch| (-1, batch));
                let added = change.added.iter().map(|batch| (1, batch));
                let each = removed
                    .chain(added)
                    .map(|(diff, batch)| self.told(number, &step, Some(diff), batch));
                each.collect::<Result<Vec<_>, _>>()?
            }
        };
        self.rows = if self.all_rows { Vec::new() } else { rows };
        self.done = step.to;
        self.listed.step_done();
        Ok(Some(batches))
    }

    /// The states of the step's records are merged onto those of the steps before.
    async fn rows_of_states(
        &mut self,
        plan: &ViewPlan,
        step: &Step,
    ) -> datafusion::common::Result<Vec<RecordBatch>> {
        let pinned = self.stretch.between(&self.done, &step.to, &self.listed);
        let run = Arc::new(pinned.states_from_scratch(plan, &self.state).await?);
        let task = self.state.task_ctx();
        let states = match self.states.take() {
            None => run,
            Some(before) => {
                let merged = plan.merge(&[before, run], Arc::clone(&task)).await;
                Arc::new(merged.map_err(view_error)?)
            }
        };
        let rows = plan.finish(vec![states.states.clone()], task).await;
        self.states = Some(states);
        rows.map_err(view_error)
    }

    fn told(
        &self,
        number: i64,
        step: &Step,
        diff: Option<i64>,
        batch: &RecordBatch,
    ) -> Result<RecordBatch, Error> {
        let count = batch.num_rows();
        let frontier = frontier_text(&self.stretch.streams, &step.to);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![number; count])),
            Arc::new(TimestampMicrosecondArray::from(vec![step.at_us; count])),
            Arc::new(Int64Array::from(vec![step.records.cast_signed(); count])),
            Arc::new(StringArray::from(vec![frontier.as_str(); count])),
        ];
        if let Some(diff) = diff {
            columns.push(Arc::new(Int64Array::from(vec![diff; count])));
        }
        columns.extend(batch.columns().iter().cloned());
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(Error::internal)
    }
}

/// What is told of each step, then the row.
fn stepped(schema: &SchemaRef, all_rows: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("lambic_step", DataType::Int64, false),
        Field::new(
            "lambic_at",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            false,
        ),
        Field::new("lambic_records", DataType::Int64, false),
        Field::new("lambic_frontier", DataType::Utf8, false),
    ];
    if !all_rows {
        fields.push(Field::new("lambic_diff", DataType::Int64, false));
    }
    let rows = schema.fields().iter();
    fields.extend(rows.map(|field| field.as_ref().clone().with_nullable(true)));
    Arc::new(Schema::new(fields))
}

fn with_schema(
    batch: RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let (_, columns, _) = batch.into_parts();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
