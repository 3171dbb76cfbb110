//! The batches of one lane of one partition, one behind the other: read, delivered, committed.
//!
//! A partial batch response keeps nothing at or behind the first failure. Output does not say which record it
//! comes from, so where a response has both, the records before the failure are delivered once more without it.
//!
//! Records that are erased before a batch is read are not delivered. A batch that was read before is: what a function
//! has been given once cannot be taken back, and its retries go with it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arrow::record_batch::RecordBatch;
use lambic_base::retry::Backoff;
use lambic_log::Snapshot;
use lambic_model::{
    Append, Cursor, InvocationKind, Offset, OffsetRange, Outcome, PartitionId, Producer, Write,
};
use serde_json::value::RawValue;
use tracing::{error, warn};

use super::{
    Cut, Stopped, Worker,
    given_up::{Failure, Reason},
    lanes::Lane,
    window::Window,
};
use crate::{
    Form, answers,
    append::{NotKept, append_patiently},
    columnar,
    entry::{Call, Entry, Input},
    events::{self, Batch, Event, LaneOf, Wants},
    filter::Filters,
    notices::SERVICE_ERROR,
    records::{self, InvocationRow, error_message},
};

/// How often it is looked whether an alias that is gone is there again.
const NOTHING_TO_RUN: Duration = Duration::from_secs(5);
/// Offsets that are read in one go.
const READ_STEP: u64 = 1_000;
/// Offsets that are looked through for one batch; then it goes out as it is, so that the place moves on.
const LOOKED_THROUGH_MAX: u64 = 100_000;

pub struct Batches {
    pub(super) worker: Arc<Worker>,
    pub(super) lane: Arc<Lane>,
    lane_number: u32,
    lanes: u32,
    pub(super) partition: PartitionId,
    filters: Arc<Filters>,
    /// The tumbling window that is open.
    pub(super) window: Mutex<Option<Window>>,
}

/// How a look ended.
pub enum Looked {
    Moved,
    /// More records may still come into the batch.
    HasRoom,
    Unread,
    Stuck,
}

/// A stretch of records on their way through the function.
struct Part {
    range: OffsetRange,
    /// How often the function had it as it is, and how the last attempt ended.
    attempts: u32,
    /// How often it could not be run, which the function could not help.
    waits: u32,
    failure: Option<Failure>,
    /// Of a batch that failed.
    is_half: bool,
}

impl Part {
    fn new(range: OffsetRange, is_half: bool) -> Part {
        Part {
            range,
            attempts: 0,
            waits: 0,
            failure: None,
            is_half,
        }
    }

    /// For those who are told of its end, with those that were not the function's fault.
    fn tries(&self) -> u32 {
        self.attempts.saturating_add(self.waits)
    }
}

pub(super) enum Delivery {
    /// The cursor stands at the part's end.
    Done,
    /// The cursor stands at this offset, the first that failed.
    Until(Offset),
    /// Nothing is kept: there is output, and nobody can tell which of it belongs before this offset, the first
    /// that failed. What stands before is delivered alone.
    Apart(Offset),
    Failed(Failure),
    /// Before it was tried as often as it may be, its first records became too old.
    TooOld(Failure),
    /// What runs by now takes its batches in another form: they are read again.
    Unlike,
}

/// What a function's answer came to.
pub(super) enum Accepted {
    Delivery(Delivery),
    Failure {
        error_type: &'static str,
        message: String,
        /// It named the record that failed, and did not fail itself.
        is_reported: bool,
    },
}

impl Accepted {
    pub(super) fn bad_output(message: String) -> Accepted {
        Accepted::Failure {
            error_type: "Lambic.BadOutput",
            message,
            is_reported: false,
        }
    }
}

impl Batches {
    /// `lane`: its number, and of how many.
    pub fn new(
        worker: &Arc<Worker>,
        lane: Arc<Lane>,
        (lane_number, lanes): (u32, u32),
        partition: PartitionId,
        filters: Arc<Filters>,
    ) -> Batches {
        let batches = Batches {
            worker: worker.clone(),
            lane,
            lane_number,
            lanes,
            partition,
            filters,
            window: Mutex::default(),
        };
        batches.find_window();
        batches
    }

    /// Where the next batch begins.
    pub fn offset(&self) -> Offset {
        self.lane.offset(self.partition)
    }

    pub fn skip_to(&self, offset: Offset) {
        self.lane.set(self.partition, offset);
    }

    /// Delivers the next batch of `range`, which begins at the offset; one that has room only if it is due.
    pub async fn look(&self, snapshot: Snapshot, range: OffsetRange, is_due: bool) -> Looked {
        match self.look_or_stop(snapshot, range, is_due).await {
            Ok(looked) => looked,
            Err(Stopped) => Looked::Stuck,
        }
    }

    async fn look_or_stop(
        &self,
        snapshot: Snapshot,
        range: OffsetRange,
        is_due: bool,
    ) -> Result<Looked, Stopped> {
        let looked_through = range.first.plus(LOOKED_THROUGH_MAX);
        let may_grow = range.end <= looked_through;
        let range = OffsetRange {
            end: range.end.min(looked_through),
            ..range
        };
        let (batch, columns) = match self.read(snapshot, range).await {
            Ok(read) => read,
            Err(reason) => {
                let worker = &self.worker;
                error!(function = %worker.function, stream = %worker.stream.name, %reason,
                    "a trigger cannot read its records; it tries again");
                return Ok(Looked::Unread);
            }
        };
        if self.close_window_before(batch.events.first()).await? {
            return Ok(Looked::Moved);
        }
        if batch.full_at.is_none() && may_grow && !is_due && !batch.events.is_empty() {
            return Ok(Looked::HasRoom);
        }
        let range = OffsetRange {
            end: batch.full_at.unwrap_or(range.end),
            ..range
        };
        if range.is_empty() {
            return Ok(Looked::Moved);
        }
        let columns = columns.as_ref();
        self.process(range, &batch.events, columns).await?;
        self.worker.count_filtered(batch.filtered);
        Ok(Looked::Moved)
    }

    /// The next records that are wanted, and their columns if that is their form. Reading waits for the disk.
    async fn read(
        &self,
        snapshot: Snapshot,
        range: OffsetRange,
    ) -> Result<(Batch, Option<RecordBatch>), String> {
        let stream = self.worker.stream_now();
        let rules = &self.worker.rules;
        let lane = match (self.lanes, &stream.partition_by) {
            (1, _) => None,
            (of, Some(key)) => Some(LaneOf {
                number: self.lane_number,
                of,
                key: key.clone(),
            }),
            (_, None) => return Err("its records have no key to share them by".to_owned()),
        };
        let wants = Wants {
            filters: self.filters.clone(),
            lane,
            records_max: self.worker.trigger.batch_size,
            bytes_max: self.worker.inner.options.payload_bytes_max,
            window_us: (rules.window_s > 0).then(|| i64::from(rules.window_s) * 1_000_000),
            form: self.form(),
        };
        let read = move || {
            let mut batch = Batch::default();
            let mut next = range.first;
            while next < range.end && batch.full_at.is_none() {
                let part = OffsetRange {
                    first: next,
                    end: next.plus(READ_STEP).min(range.end),
                    ..range
                };
                // One batch of the log at a time: a thousand records may be any size.
                let chunks = snapshot.read_chunks_as(&stream, part, 1);
                let batches = chunks.flat_map(|batches| match batches {
                    Ok(batches) => batches.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error.to_string())],
                });
                batch.add(&stream, range, batches, &wants)?;
                next = part.end;
            }
            let columns = batch.columns(&stream, &wants)?;
            Ok((batch, columns))
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| error.to_string())?
    }

    /// Brings the cursor to the end of `range`, whatever the function does; or less far, if it takes another form now.
    async fn process(
        &self,
        range: OffsetRange,
        events: &[Event],
        columns: Option<&RecordBatch>,
    ) -> Result<(), Stopped> {
        let worker = &self.worker;
        // Offsets whose records were erased or not wanted have no event.
        let of = |part: OffsetRange| {
            let at = |offset| events.partition_point(|event| event.offset < offset);
            let (first, end) = (at(part.first), at(part.end));
            let columns = columns.map(|columns| columns.slice(first, end - first));
            (&events[first..end], columns)
        };
        let mut work = vec![Part::new(range, false)];
        while let Some(mut part) = work.pop() {
            let range = part.range;
            let (events, columns) = of(range);
            let columns = columns.as_ref();
            let from = |first| OffsetRange { first, ..range };
            let to = |end| OffsetRange { end, ..range };
            if events.is_empty() {
                // Without records nothing is refused.
                let _ = self.commit(Vec::new(), range.end, None).await?;
                continue;
            }
            let old = self.too_old(events);
            if old > 0 {
                let end = events.get(old).map_or(range.end, |event| event.offset);
                let reason = Reason::TooOld(part.failure.clone());
                let told = self.told(range, &events[..old], columns);
                self.give_up(to(end), &told, reason, part.tries()).await?;
                if end < range.end {
                    part.range = from(end);
                    work.push(part);
                }
                continue;
            }
            let entry = match worker.inner.chosen(&worker.target) {
                Ok(entry) => entry,
                // Its alias or version was removed, and may come back.
                Err(error) => {
                    warn!(function = %worker.function, stream = %worker.stream.name, %error,
                        "a trigger has nothing to run; it tries again");
                    worker.set_result("PROBLEM: the function, version or alias does not exist");
                    let pause = worker.inner.options.retry_wait_max.min(NOTHING_TO_RUN);
                    worker.wait(tokio::time::sleep(pause)).await?;
                    work.push(part);
                    continue;
                }
            };
            let delivery = self.deliver(&entry, &mut part, events, columns).await?;
            worker.set_result(match delivery {
                Delivery::Failed(_) | Delivery::TooOld(_) => "PROBLEM: Function call failed",
                _ => "OK",
            });
            match delivery {
                Delivery::Done => {}
                Delivery::Unlike => return Ok(()),
                Delivery::Until(failed) => work.push(Part::new(from(failed), false)),
                Delivery::Apart(failed) => {
                    work.push(Part::new(from(failed), false));
                    work.push(Part::new(to(failed), false));
                }
                Delivery::TooOld(failure) => {
                    part.failure = Some(failure);
                    work.push(part);
                }
                Delivery::Failed(_) if self.may_be_cut(events) => {
                    let middle = events[events.len() / 2].offset;
                    work.push(Part::new(from(middle), true));
                    work.push(Part::new(to(middle), true));
                }
                Delivery::Failed(failure) => {
                    let told = self.told(range, events, columns);
                    self.give_up(range, &told, Reason::Failed(failure), part.tries())
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn may_be_cut(&self, events: &[Event]) -> bool {
        self.worker.cut != Cut::Never && events.len() > 1
    }

    fn attempts_max(&self, part: &Part, events: &[Event]) -> u32 {
        let is_once = self.may_be_cut(events) && (self.worker.cut == Cut::AtOnce || part.is_half);
        match is_once {
            true => 1,
            false => self.worker.retries.saturating_add(1),
        }
    }

    /// How many of them, from the first on, are older than the rules allow.
    fn too_old(&self, events: &[Event]) -> usize {
        let Some(age_s_max) = self.worker.rules.age_s_max else {
            return 0;
        };
        let now_us = self.worker.inner.options.clock.now_us();
        let oldest_us = now_us - i64::from(age_s_max) * 1_000_000;
        events.partition_point(|event| event.at_us < oldest_us)
    }

    /// Tries a part until it is done, or was tried as often as it may be. As in the queue of events, what is not the
    /// function's fault uses up none of its attempts: it is tried again as long as the records are not too old.
    async fn deliver(
        &self,
        entry: &Arc<Entry>,
        part: &mut Part,
        events: &[Event],
        columns: Option<&RecordBatch>,
    ) -> Result<Delivery, Stopped> {
        let worker = &self.worker;
        let (form, payload) = match columns {
            None => {
                let payload = events::payload(events, &self.window_members(events));
                (Form::Json, payload)
            }
            Some(columns) => (Form::Arrow, columnar::payload(columns)),
        };
        let attempts_max = self.attempts_max(part, events);
        let mut waits = Backoff::new(
            worker.inner.options.retry_wait,
            worker.inner.options.retry_wait_max,
            part.range.first.0,
        );
        loop {
            let failure = match self.attempt(entry, part, events, form, &payload).await? {
                Ok(delivery) => return Ok(delivery),
                Err(failure) => failure,
            };
            if failure.is_ours() {
                part.waits = part.waits.saturating_add(1);
                warn!(function = %worker.function, stream = %worker.stream.name, error = failure.message,
                    "a batch of a trigger could not be run; it is tried again");
                worker.set_result("PROBLEM: the function could not be run");
            } else {
                part.attempts = part.attempts.saturating_add(1);
                if part.attempts >= attempts_max {
                    return Ok(Delivery::Failed(failure));
                }
            }
            let wait = waits.next().unwrap_or(worker.inner.options.retry_wait_max);
            worker.wait(tokio::time::sleep(wait)).await?;
            if self.too_old(events) > 0 {
                return Ok(Delivery::TooOld(failure));
            }
        }
    }

    /// One invocation and what follows from its answer.
    async fn attempt(
        &self,
        entry: &Arc<Entry>,
        part: &Part,
        events: &[Event],
        form: Form,
        payload: &[u8],
    ) -> Result<Result<Delivery, Failure>, Stopped> {
        let worker = &self.worker;
        let request_id = uuid::Uuid::new_v4().to_string();
        // An alias may point elsewhere by now.
        let chosen = worker.inner.chosen(&worker.target).ok();
        let entry = chosen.as_ref().unwrap_or(entry);
        if self.form_of(&entry.info) != form {
            return Ok(Ok(Delivery::Unlike));
        }
        let call = Call {
            form,
            ..Call::new(
                &request_id,
                InvocationKind::Stream,
                part.attempts.saturating_add(1),
            )
        };
        let result = self.invoke(entry, call, payload).await?;
        let failed = |error_type: String, message: String, status, function_error| Failure {
            error_type,
            message,
            request_id: request_id.clone(),
            version: entry.info.version,
            status,
            function_error,
        };
        Ok(Err(match result {
            Ok((Outcome::Success(answer), mut row)) => {
                let accepted = match form {
                    Form::Json => {
                        self.accept(entry, part.range, events, &answer, &mut row)
                            .await
                    }
                    Form::Arrow => {
                        self.accept_columns(entry, part.range, answer, &mut row)
                            .await
                    }
                };
                self.record(row).await;
                match accepted? {
                    Accepted::Delivery(delivery) => return Ok(Ok(delivery)),
                    Accepted::Failure {
                        error_type,
                        message,
                        is_reported,
                    } => failed(error_type.to_owned(), message, 200, !is_reported),
                }
            }
            Ok((
                Outcome::Failure {
                    error_type,
                    payload,
                },
                _,
            )) => failed(error_type, error_message(&payload), 200, true),
            Err(error) => failed(SERVICE_ERROR.to_owned(), error, Failure::OURS, false),
        }))
    }

    /// Of an invocation whose record went with no append.
    pub(super) async fn record(&self, row: Option<InvocationRow>) {
        if let Some(row) = row {
            self.worker.inner.recorder.record(row, Vec::new()).await;
        }
    }

    /// Waits for a turn of the function and runs it. A success is to be recorded by the caller.
    pub(super) async fn invoke(
        &self,
        entry: &Arc<Entry>,
        call: Call<'_>,
        payload: &[u8],
    ) -> Result<Result<(Outcome, Option<InvocationRow>), String>, Stopped> {
        let worker = &self.worker;
        let result = worker.wait(async {
            let turn = entry.turn(call.kind).await?;
            turn.run_to_keep(call, Input::Event(payload), &worker.inner)
                .await
        });
        let result = result.await?;
        Ok(match result {
            Ok((result, row)) => Ok((result.outcome, row)),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Commits what the function answered, with the record of the invocation, which is taken then.
    async fn accept(
        &self,
        entry: &Entry,
        range: OffsetRange,
        events: &[Event],
        answer: &[u8],
        row: &mut Option<InvocationRow>,
    ) -> Result<Accepted, Stopped> {
        let worker = &self.worker;
        let has_output = entry.info.output.is_some();
        let reports = worker.rules.reports_failures;
        let answer = match answers::parse_answer(&worker.stream, range, answer, has_output, reports)
        {
            Ok(answer) => answer,
            Err(reason) => return Ok(Accepted::bad_output(reason)),
        };
        let first = events.first().map_or(range.first, |event| event.offset);
        if let Some(failed) = answer.failed.filter(|failed| *failed <= first.0) {
            return Ok(Accepted::Failure {
                error_type: "Lambic.BatchItemFailure",
                message: format!("the function reported the record at offset {failed} as failed"),
                is_reported: true,
            });
        }
        if worker.rules.window_s > 0 && answer.state.is_none() {
            return Ok(Accepted::bad_output(
                "the answer of a function with tumbling windows has no `state` that is an object"
                    .to_owned(),
            ));
        }
        let writes = match self.writes(entry, &answer.output) {
            Ok(writes) => writes,
            Err(reason) => return Ok(Accepted::bad_output(reason)),
        };
        if let Some(failed) = answer.failed
            && !writes.is_empty()
        {
            return Ok(Accepted::Delivery(Delivery::Apart(Offset(failed))));
        }
        let end = answer.failed.map_or(range.end, Offset);
        let window = self.window_with(events, answer.state.map(RawValue::get));
        Ok(match self.commit_with(writes, end, window, row).await? {
            Ok(()) if end < range.end => Accepted::Delivery(Delivery::Until(end)),
            Ok(()) => Accepted::Delivery(Delivery::Done),
            Err(reason) => Accepted::bad_output(reason),
        })
    }

    /// What is appended to the output stream.
    pub(super) fn writes(&self, entry: &Entry, output: &[&RawValue]) -> Result<Vec<Write>, String> {
        let options = &self.worker.inner.options;
        let Some(name) = entry.info.output.as_ref().filter(|_| !output.is_empty()) else {
            return Ok(Vec::new());
        };
        let stream = (options.lookup)(name.as_str())
            .ok_or_else(|| format!("the output stream `{name}` does not exist any more"))?;
        Ok(vec![Write {
            stream: stream.id,
            partition: None,
            batch: answers::from_objects(&options.decode, &stream, output)?,
            schema: Some(stream.schema_version()),
        }])
    }

    /// Appends and moves the cursor to `end` as one; the inner error says why the log refused it. `window`: the one
    /// that is open from there on, if it has changed.
    pub(crate) async fn commit(
        &self,
        writes: Vec<Write>,
        end: Offset,
        window: Option<Window>,
    ) -> Result<Result<(), String>, Stopped> {
        self.commit_with(writes, end, window, &mut None).await
    }

    /// The same with the record of the invocation that it comes of, which is taken unless the log refused all of it.
    pub(super) async fn commit_with(
        &self,
        mut writes: Vec<Write>,
        end: Offset,
        window: Option<Window>,
        row: &mut Option<InvocationRow>,
    ) -> Result<Result<(), String>, Stopped> {
        let worker = &self.worker;
        let before = self.offset();
        let invocations = &worker.inner.options.streams.invocations;
        writes.extend(row.as_ref().map(|row| {
            let rows = std::slice::from_ref(row);
            records::told(invocations, rows)
        }));
        let window = window.or_else(|| self.window_now());
        match &window {
            Some(window) => self.keep_window(window, end).await?,
            None => self.clear_window(end).await,
        }
        let _one = self.lane.committing.lock().await;
        let mut frontier = self.lane.position();
        frontier.set(self.partition, end);
        let append = Append {
            writes,
            // The position only grows, so it numbers the appends: a repeated one has no second effect.
            producer: Some(Producer {
                id: self.lane.cursor.clone(),
                sequence: frontier.records(),
            }),
            cursors: vec![Cursor {
                name: self.lane.cursor.clone(),
                stream: worker.stream.id,
                frontier,
            }],
        };
        // Not through `wait`: the worker that follows reads the cursor, so this append must have ended before.
        let log = &worker.inner.options.log;
        match append_patiently(log, &append, usize::MAX, worker.stopped()).await {
            Ok(()) => {
                *row = None;
                self.lane.set(self.partition, end);
                if window.is_some() {
                    *self.window.lock().expect("held shortly") = window;
                    if before != end {
                        self.forget_window(before).await;
                    }
                }
                Ok(Ok(()))
            }
            Err(NotKept::Refused(error) | NotKept::Forgotten(error)) => Ok(Err(error.to_string())),
            Err(NotKept::GivenUp(_)) => {
                // It may be kept all the same; if not, the batch runs again and has another.
                *row = None;
                Err(Stopped)
            }
        }
    }
}
