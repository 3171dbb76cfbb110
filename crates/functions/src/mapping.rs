//! An event source mapping: batches of a stream's records invoke a function, exactly once as far as its output goes.
//!
//! The position is a cursor of the log. What the function returns for the output stream is appended in the same
//! atomic append that moves the cursor: either both are kept or neither. A batch that keeps failing is cut in
//! halves until the record that fails stands alone; it becomes a dead letter, and the cursor moves on.
//!
//! A partial batch response keeps nothing at or behind the first failure. Output does not say which record it
//! comes from, so where a response has both, the records before the failure are delivered once more without it.
//!
//! Records that are erased before a batch is read are not delivered. A batch that was read before is: what a function
//! has been given once cannot be taken back, and its retries go with it.

use std::{sync::Arc, time::Duration};

use lambic_base::retry::Backoff;
use lambic_model::{
    Append, Cursor, Frontier, FunctionName, InvocationKind, Offset, OffsetRange, Outcome,
    PartitionId, Producer, Stream, Write,
};
use serde_json::json;
use tokio::sync::watch;
use tracing::{error, warn};

use crate::{
    Inner, Trigger,
    append::{NotKept, append_patiently},
    entry::{Call, Entry, kind_name},
    events,
    records::{self, DeadLetter, error_message},
    registry::Mapping,
};

/// The task that serves one trigger, until the service or the trigger stops.
#[derive(Clone)]
pub struct Worker {
    pub inner: Arc<Inner>,
    pub function: FunctionName,
    /// What runs: the function, or a version or alias of it (`f:live`).
    pub target: String,
    /// How often a batch that fails is tried again.
    pub retries: u32,
    pub trigger: Trigger,
    pub mapping: Mapping,
    pub stream: Arc<Stream>,
    /// Of this trigger alone: its function is removed or deployed again.
    pub stop: watch::Receiver<bool>,
}

/// How often it is looked whether an alias that is gone is there again.
const NOTHING_TO_RUN: Duration = Duration::from_secs(5);

/// Of a worker that was asked to stop.
pub(crate) struct Stopped;

enum Delivery {
    /// The cursor stands at the range's end.
    Done,
    /// The cursor stands at this offset, the first that failed.
    Until(Offset),
    /// Nothing is kept: there is output, and nobody can tell which of it belongs before this offset, the first
    /// that failed. What stands before is delivered alone.
    Apart(Offset),
    Failed {
        error_type: String,
        message: String,
        request_id: String,
        attempts: u32,
    },
}

impl Worker {
    pub async fn run(mut self) {
        // The error says that it was asked to stop.
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> Result<(), Stopped> {
        let log = self.inner.options.log.clone();
        let mut commits = log.commits();
        let mut position = log
            .cursor(&self.mapping.cursor)
            .map(|cursor| cursor.frontier)
            .unwrap_or_default();
        let mut turn = 0;
        let mut waiting_since: Option<tokio::time::Instant> = None;
        loop {
            commits.borrow_and_update();
            let snapshot = log.snapshot();
            let (head, start) = (
                snapshot.head(self.stream.id),
                snapshot.start(self.stream.id),
            );
            for range in start.ranges_since(&position.clone()) {
                if head.offset(range.partition) > Offset::ZERO {
                    warn!(function = %self.function, stream = %self.stream.name, partition = %range.partition,
                        records = range.records(), "a trigger skips records that left the log before it read them");
                }
                position.set(range.partition, range.end);
            }
            let ready: Vec<OffsetRange> = head.ranges_since(&position).collect();
            let records: u64 = ready.iter().map(OffsetRange::records).sum();
            let batch_size = self.trigger.batch_size as u64;
            let window = Duration::from_millis(self.trigger.window_ms);
            if records == 0 {
                waiting_since = None;
                self.wait(commits.changed()).await?.map_err(|_| Stopped)?;
                continue;
            }
            if records < batch_size && !window.is_zero() {
                let since = *waiting_since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() < window {
                    self.wait(async {
                        tokio::select! {
                            _ = commits.changed() => {}
                            () = tokio::time::sleep_until(since + window) => {}
                        }
                    })
                    .await?;
                    continue;
                }
            }
            waiting_since = None;
            // In turns, so that a partition that is always full does not starve the others.
            let next = ready[turn % ready.len()];
            turn = turn.wrapping_add(1);
            let range = OffsetRange {
                end: next.end.min(next.first.plus(batch_size)),
                ..next
            };
            self.process(&snapshot, range, &mut position).await?;
        }
    }

    /// The stream in the columns that it has by now.
    fn stream_now(&self) -> Arc<Stream> {
        let now = (self.inner.options.lookup)(self.stream.name.as_str());
        now.filter(|now| now.id == self.stream.id)
            .unwrap_or_else(|| Arc::clone(&self.stream))
    }

    /// Brings the cursor to the end of `range`, or of what of it fits into one event, whatever the function does.
    async fn process(
        &self,
        snapshot: &lambic_log::Snapshot,
        range: OffsetRange,
        position: &mut Frontier,
    ) -> Result<(), Stopped> {
        // One batch at a time: ten thousand records may be any size.
        let stream = self.stream_now();
        let batches =
            snapshot
                .read_chunks_as(&stream, range, 1)
                .flat_map(|batches| match batches {
                    Ok(batches) => batches.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error.to_string())],
                });
        let bytes_max = self.inner.options.payload_bytes_max;
        let (events, end) = match events::to_events(&stream, range, batches, bytes_max) {
            Ok(read) => read,
            Err(reason) => {
                error!(function = %self.function, stream = %self.stream.name, %reason,
                    "a trigger cannot read its records; it tries again");
                return self
                    .wait(tokio::time::sleep(self.inner.options.retry_wait))
                    .await;
            }
        };
        let range = OffsetRange { end, ..range };
        // Offsets whose records were erased have no event.
        let of = |part: OffsetRange| {
            let at = |offset| events.partition_point(|event| event.offset < offset);
            &events[at(part.first)..at(part.end)]
        };
        let mut work = vec![(range, true)];
        while let Some((part, retry)) = work.pop() {
            if of(part).is_empty() {
                // Without records nothing is refused.
                let _ = self.commit(Vec::new(), part, part.end, position).await?;
                continue;
            }
            let entry = match self.inner.chosen(&self.target) {
                Ok(entry) => entry,
                // Its alias or version was removed, and may come back.
                Err(error) => {
                    warn!(function = %self.function, stream = %self.stream.name, %error,
                        "a trigger has nothing to run; it tries again");
                    self.set_result("PROBLEM: the function, version or alias does not exist");
                    let pause = self.inner.options.retry_wait_max.min(NOTHING_TO_RUN);
                    self.wait(tokio::time::sleep(pause)).await?;
                    work.push((part, retry));
                    continue;
                }
            };
            let attempts_max = if retry || part.records() == 1 {
                self.retries.saturating_add(1)
            } else {
                1
            };
            let delivery = self
                .deliver(&entry, part, of(part), position, attempts_max)
                .await?;
            self.set_processed(&delivery);
            match delivery {
                Delivery::Done => {}
                Delivery::Until(failed) => work.push((
                    OffsetRange {
                        first: failed,
                        ..part
                    },
                    true,
                )),
                Delivery::Apart(failed) => {
                    work.push((
                        OffsetRange {
                            first: failed,
                            ..part
                        },
                        true,
                    ));
                    work.push((
                        OffsetRange {
                            end: failed,
                            ..part
                        },
                        true,
                    ));
                }
                Delivery::Failed { .. } if part.records() > 1 => {
                    let middle = part.first.plus(part.records() / 2);
                    work.push((
                        OffsetRange {
                            first: middle,
                            ..part
                        },
                        false,
                    ));
                    work.push((
                        OffsetRange {
                            end: middle,
                            ..part
                        },
                        false,
                    ));
                }
                Delivery::Failed {
                    error_type,
                    message,
                    request_id,
                    attempts,
                } => {
                    let letter = DeadLetter {
                        at_us: self.inner.options.clock.now_us(),
                        function: self.function.to_string(),
                        request_id,
                        kind: kind_name(InvocationKind::Stream),
                        source: Some(format!(
                            "{}:{}:{}",
                            self.stream.name, part.partition, part.first
                        )),
                        error_type,
                        error_message: message,
                        attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
                        event: of(part)[0].json.clone(),
                    };
                    self.keep_dead_letter(letter, part, position).await?;
                }
            }
        }
        Ok(())
    }

    /// For those who ask how it goes.
    fn set_processed(&self, delivery: &Delivery) {
        self.set_result(match delivery {
            Delivery::Failed { .. } => "PROBLEM: Function call failed",
            _ => "OK",
        });
    }

    fn set_result(&self, result: &'static str) {
        let mut processed = self.inner.processed.lock().expect("held shortly");
        processed.insert(self.mapping.cursor.clone(), result);
    }

    /// Appends the dead letter and moves the cursor behind its record.
    pub(crate) async fn keep_dead_letter(
        &self,
        mut letter: DeadLetter,
        part: OffsetRange,
        position: &mut Frontier,
    ) -> Result<(), Stopped> {
        let own = self.inner.dead_letter_stream(self.function.as_str());
        let house = &self.inner.options.streams.dead_letters;
        let mut refused = String::new();
        // What a stream of the user's refuses, the house's takes; and the record itself stays in its stream, so
        // that a letter without it loses nothing.
        for (stream, with_event) in [(&own, true), (house, true), (house, false)] {
            if !with_event {
                letter.event = json!({
                    "eventSource": "lambic:stream",
                    "stream": self.stream.name.as_str(),
                    "partition": part.partition.0,
                    "offset": part.first.0,
                    "data": null,
                    "leftOut": format!("{} bytes", letter.event.len()),
                })
                .to_string();
            }
            let write = Write {
                stream: stream.id,
                partition: None,
                batch: records::dead_letters(stream, &[&letter]),
                schema: None,
            };
            match self.commit(vec![write], part, part.end, position).await? {
                Ok(()) => return Ok(()),
                Err(reason) => refused = reason,
            }
        }
        error!(function = %self.function, reason = refused,
            "a dead letter was refused; the trigger stops here");
        Err(Stopped)
    }

    async fn deliver(
        &self,
        entry: &Arc<Entry>,
        range: OffsetRange,
        events: &[events::Event],
        position: &mut Frontier,
        attempts_max: u32,
    ) -> Result<Delivery, Stopped> {
        let payload = events::payload(events);
        let mut waits = Backoff::new(
            self.inner.options.retry_wait,
            self.inner.options.retry_wait_max,
            range.first.0,
        );
        let mut attempts = 0;
        loop {
            attempts += 1;
            let request_id = uuid::Uuid::new_v4().to_string();
            let call = Call::new(&request_id, InvocationKind::Stream, attempts);
            // An alias may point elsewhere by now.
            let chosen = self.inner.chosen(&self.target).ok();
            let entry = chosen.as_ref().unwrap_or(entry);
            let result = self
                .wait(async {
                    let turn = entry.turn(call.kind).await?;
                    turn.run(call, &payload, &self.inner).await
                })
                .await?;
            let (error_type, message) = match result {
                Ok(result) => match result.outcome {
                    Outcome::Success(answer) => {
                        match self.accept(entry, range, &answer, position).await? {
                            Ok(delivery) => return Ok(delivery),
                            Err(failure) => failure,
                        }
                    }
                    Outcome::Failure {
                        error_type,
                        payload,
                    } => (error_type, error_message(&payload)),
                },
                Err(error) => ("ServiceException".to_owned(), error.to_string()),
            };
            if attempts >= attempts_max {
                return Ok(Delivery::Failed {
                    error_type,
                    message,
                    request_id,
                    attempts,
                });
            }
            let wait = waits.next().unwrap_or(self.inner.options.retry_wait_max);
            self.wait(tokio::time::sleep(wait)).await?;
        }
    }

    /// Commits what the function answered; the inner error is the function's failure.
    async fn accept(
        &self,
        entry: &Entry,
        range: OffsetRange,
        answer: &[u8],
        position: &mut Frontier,
    ) -> Result<Result<Delivery, (String, String)>, Stopped> {
        let bad = |message: String| Ok(Err(("Lambic.BadOutput".to_owned(), message)));
        let has_output = entry.info.output.is_some();
        let answer = match events::parse_answer(&self.stream, range, answer, has_output) {
            Ok(answer) => answer,
            Err(reason) => return bad(reason),
        };
        if answer.failed == Some(range.first.0) {
            return Ok(Err((
                "Lambic.BatchItemFailure".to_owned(),
                format!(
                    "the function reported the record at offset {} as failed",
                    range.first
                ),
            )));
        }
        let mut writes = Vec::new();
        if let Some(name) = &entry.info.output
            && !answer.output.is_empty()
        {
            let Some(output) = (self.inner.options.lookup)(name.as_str()) else {
                return bad(format!(
                    "the output stream `{name}` does not exist any more"
                ));
            };
            match events::from_objects(&self.inner.options.decode, &output, &answer.output) {
                Ok(batch) => writes.push(Write {
                    stream: output.id,
                    partition: None,
                    batch,
                    schema: Some(output.schema_version()),
                }),
                Err(reason) => return bad(reason),
            }
        }
        if let Some(failed) = answer.failed
            && !writes.is_empty()
        {
            return Ok(Ok(Delivery::Apart(Offset(failed))));
        }
        let end = answer.failed.map_or(range.end, Offset);
        match self.commit(writes, range, end, position).await? {
            Ok(()) if end < range.end => Ok(Ok(Delivery::Until(end))),
            Ok(()) => Ok(Ok(Delivery::Done)),
            Err(reason) => bad(reason),
        }
    }

    /// Appends and moves the cursor to `end` as one; the inner error says why the log refused it.
    pub(crate) async fn commit(
        &self,
        writes: Vec<Write>,
        range: OffsetRange,
        end: Offset,
        position: &mut Frontier,
    ) -> Result<Result<(), String>, Stopped> {
        let mut frontier = position.clone();
        frontier.set(range.partition, end);
        let append = Append {
            writes,
            // The position only grows, so it numbers the appends: a repeated one has no second effect.
            producer: Some(Producer {
                id: self.mapping.cursor.clone(),
                sequence: frontier.records(),
            }),
            cursors: vec![Cursor {
                name: self.mapping.cursor.clone(),
                stream: self.stream.id,
                frontier: frontier.clone(),
            }],
        };
        // Not through `wait`: the worker that follows reads the cursor, so this append must have ended before.
        let stopped = async { self.stopped().await };
        let log = &self.inner.options.log;
        match append_patiently(log, &append, usize::MAX, stopped).await {
            Ok(()) => {
                *position = frontier;
                Ok(Ok(()))
            }
            Err(NotKept::Refused(error)) => Ok(Err(error.to_string())),
            Err(NotKept::GivenUp(_)) => Err(Stopped),
        }
    }

    /// Ends when this worker is to stop.
    async fn stopped(&self) {
        let (mut stop, mut stop_all) = (self.stop.clone(), self.inner.stop.subscribe());
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => {}
            _ = stop_all.wait_for(|&stopped| stopped) => {}
        }
    }

    async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.stopped() => Err(Stopped),
            done = what => Ok(done),
        }
    }
}

/// Where a new trigger starts.
pub fn start_of(snapshot: &lambic_log::Snapshot, stream: &Stream, start: crate::Start) -> Frontier {
    let mut frontier = match start {
        crate::Start::Latest => snapshot.head(stream.id),
        crate::Start::Earliest => snapshot.start(stream.id),
    };
    let last = PartitionId(stream.partitions.saturating_sub(1));
    frontier.set(last, frontier.offset(last));
    frontier
}
