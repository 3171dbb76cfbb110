//! Events that nobody waits for: kept in `lambic_async`, run, retried, then done or a dead letter.
//!
//! The stream is the queue. An event is a row `queued`; its end is a row `done` or `dead`, appended together with
//! the dead letter and the move of the cursor, which stands at the oldest event that has not ended. After a crash
//! everything from there that has no end is run again: at least once, as in AWS.
//!
//! A failed event is tried again as AWS does it ([`retry`]).
//!
//! One task decides ([`Queue`]); what waits for the disk, for a function or for the log are tasks of its own. An event
//! takes a turn for an attempt and until its end is kept, none while it waits for the next attempt or for its function's
//! concurrency ([`lines`]).

mod attempt;
mod ends;
mod intake;
mod lines;
mod retry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lambic_base::retry::Backoff;
use lambic_model::{Append, InvocationKind, Offset, PartitionId, Producer, Write};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tracing::error;

use self::{
    attempt::{Attempt, Found, attempt},
    ends::{Ended, Follow, undelivered},
    intake::EndedBefore,
    lines::{Lines, Queued},
    retry::{Cause, Next},
};
use crate::{
    Error, Inner,
    append::{NotKept, append_patiently},
    destination::{Condition, record},
    entry::{Entry, Turn, kind_name},
    records::{self, DeadLetter, QueueRow},
    traces::new_trace_id,
};

pub const CURSOR: &str = "functions/async";
pub(crate) const PARTITION: PartitionId = PartitionId(0);
/// A caller's trace that is longer is not kept: X-Ray's have some 100.
const TRACE_BYTES_MAX: usize = 1 << 10;
/// How often it is looked whether a function that is full was deployed again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Appends the event durably; returns when it is on disk.
/// `function`: its name, and the version or alias if one was asked for (`f:live`). `trace_id`: the caller's.
pub async fn enqueue(
    inner: &Inner,
    function: String,
    payload: String,
    trace_id: Option<String>,
) -> Result<String, Error> {
    // All attempts have the same.
    let trace_id = trace_id.filter(|trace_id| trace_id.len() <= TRACE_BYTES_MAX);
    let trace_id = trace_id.unwrap_or_else(new_trace_id);
    let request_id = uuid::Uuid::new_v4().to_string();
    let row = QueueRow {
        at_us: inner.options.clock.now_us(),
        request_id: request_id.clone(),
        function,
        state: "queued".to_owned(),
        event: Some(payload),
        trace_id: Some(trace_id),
    };
    let queue = &inner.options.streams.queue;
    let append = Append {
        writes: vec![Write {
            stream: queue.id,
            partition: Some(PARTITION),
            batch: records::queue(queue, &[&row]),
            schema: None,
        }],
        producer: None,
        cursors: Vec::new(),
    };
    inner.options.log.append(append).await?;
    Ok(request_id)
}

/// Runs until the service stops.
///
/// A queue before this one may have panicked: nothing is read before all that it ran has ended, and all ends that it
/// began to append are kept or refused. So no event runs twice at one time, and none that has ended runs again.
pub async fn run(inner: Arc<Inner>) {
    inner.queue_busy.closed().await;
    Queue::new(inner).run().await;
}

/// What a task of the queue brings back.
enum Done {
    Start(Result<Option<EndedBefore>, lambic_log::Error>),
    Scan(Scan, Result<Vec<Queued>, lambic_log::Error>),
    Attempt(Attempt),
    /// A turn of the function, if it still gives any.
    Free(String, Option<Turn>),
    /// The outer error: the append panicked.
    Kept(Result<Result<(), NotKept>, JoinError>),
}

/// Ends that are being appended.
struct Keeping {
    task: Id,
    part: Vec<Ended>,
    append: Arc<Append>,
}

/// A stretch of the stream that is looked through.
#[derive(Debug)]
struct Scan {
    from: u64,
    to: u64,
    /// One that was behind; `None`: new events of all.
    function: Option<String>,
}

struct Queue {
    inner: Arc<Inner>,
    /// The next record of the stream to look at.
    position: u64,
    /// `None` until it could be read.
    ended_before: Option<Arc<EndedBefore>>,
    lines: Lines,
    /// The offsets of events in memory.
    open: BTreeSet<u64>,
    /// Events between two attempts, by when the next one is due.
    waiting: BTreeMap<(Instant, u64), Queued>,
    /// Turns that functions gave just now, to be used at once or given back.
    free: HashMap<String, Turn>,
    tasks: JoinSet<Done>,
    running: HashMap<Id, Queued>,
    /// Functions that are full, by the task that waits for a turn of theirs.
    asking: HashMap<Id, String>,
    /// The task that reads the stream.
    reading: Option<Id>,
    /// The last look was at new events.
    was_new: bool,
    read_again_at: Option<Instant>,
    read_waits: Backoff,
    ended: Vec<Ended>,
    parts: Vec<Vec<Ended>>,
    keeping: Option<Keeping>,
    producer: Producer,
}

impl Queue {
    fn new(inner: Arc<Inner>) -> Queue {
        let options = &inner.options;
        let queue = options.streams.queue.id;
        let start = options.log.snapshot().start(queue).offset(PARTITION);
        let cursor = options.log.cursor(CURSOR);
        let position = cursor
            .filter(|cursor| cursor.stream == queue)
            .map_or(start, |cursor| cursor.frontier.offset(PARTITION))
            .max(start);
        Queue {
            position: position.0,
            ended_before: None,
            lines: Lines::new(options.async_max.max(1)),
            open: BTreeSet::new(),
            waiting: BTreeMap::new(),
            free: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            asking: HashMap::new(),
            reading: None,
            was_new: false,
            read_again_at: None,
            read_waits: Backoff::new(options.retry_wait, options.retry_wait_max, 0),
            ended: Vec::new(),
            parts: Vec::new(),
            keeping: None,
            producer: Producer {
                id: format!("functions/async/{}", uuid::Uuid::now_v7()),
                sequence: 0,
            },
            inner,
        }
    }

    async fn run(mut self) {
        let mut stop = self.inner.stop.subscribe();
        let mut commits = self.inner.options.log.commits();
        loop {
            if *stop.borrow_and_update() {
                break;
            }
            commits.borrow_and_update();
            self.wake();
            self.read();
            self.try_events();
            self.end_too_old();
            self.keep();
            let ended = self.cursor_without(&[]).0;
            self.inner.queue_ended.store(ended, Ordering::Relaxed);
            let due = self.waiting.keys().map(|&(at, _)| at).next();
            // Events of a function that is full may become too old.
            let look = self.lines.has_full().then(|| Instant::now() + LOOK_AGAIN);
            let due = due.into_iter().chain(self.read_again_at).chain(look).min();
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stop.changed() => break,
                () = due => {}
                changed = commits.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(done) = self.tasks.join_next_with_id() => self.take(done),
            }
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.take(done);
            }
        }
        // What runs may end, so that it need not run again.
        let inner = self.inner.clone();
        let mut is_over = std::pin::pin!(inner.drain.over());
        while !self.running.is_empty() {
            self.keep();
            tokio::select! {
                biased;
                () = &mut is_over => break,
                Some(done) = self.tasks.join_next_with_id() => self.take(done),
            }
        }
        // What has ended need not run again; and an append is not cancelled: it may be kept all the same, and the next
        // queue reads the cursor.
        loop {
            self.keep();
            if self.keeping.is_none() {
                break;
            }
            if let Some(done) = self.tasks.join_next_with_id().await {
                self.take(done);
            }
        }
        self.tasks.shutdown().await;
    }

    /// Events whose wait is over.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            self.lines.try_again(first.remove());
        }
        self.read_again_at = self.read_again_at.filter(|&at| at > now);
    }

    /// Looks for more events if there is anything to look at and room for them.
    fn read(&mut self) {
        if self.reading.is_some() || self.read_again_at.is_some() {
            return;
        }
        let (snapshot, queue) = (
            self.inner.options.log.snapshot(),
            self.inner.options.streams.queue.id,
        );
        let Some(ended_before) = self.ended_before.clone() else {
            let (first, stop) = (self.position, self.inner.stop.subscribe());
            let task = self.tasks.spawn_blocking(move || {
                let ids_max = intake::IDS_MAX;
                Done::Start(EndedBefore::read(&snapshot, queue, first, ids_max, &stop))
            });
            self.reading = Some(task.id());
            return;
        };
        let head = snapshot.head(queue).offset(PARTITION).0;
        let Some(scan) = self.next_scan(head) else {
            return;
        };
        self.was_new = scan.function.is_none();
        let task = self.tasks.spawn_blocking(move || {
            let function = scan.function.as_deref();
            let (from, to) = (scan.from, scan.to);
            let found = intake::events(&snapshot, queue, from, to, &ended_before, function);
            Done::Scan(scan, found)
        });
        self.reading = Some(task.id());
    }

    /// New events and those of functions that are behind, in turns.
    fn next_scan(&self, head: u64) -> Option<Scan> {
        let stretch = |from: u64, end: u64, function: Option<&str>| Scan {
            from,
            to: end.min(from + intake::RECORDS_MAX),
            function: function.map(str::to_owned),
        };
        let new = (self.position < head).then(|| stretch(self.position, head, None));
        let behind = self.lines.furthest_behind();
        let behind = behind.map(|(function, from)| stretch(from, self.position, Some(function)));
        if self.was_new {
            behind.or(new)
        } else {
            new.or(behind)
        }
    }

    /// Starts attempts as long as there are turns.
    fn try_events(&mut self) {
        while let Some(event) = self.lines.next_event() {
            let found = match self.inner.chosen(&event.function) {
                Err(_) => Found::Gone,
                Ok(entry) => {
                    let turn = self.free.remove(&event.function);
                    let turn = turn.filter(|turn| Arc::ptr_eq(&turn.entry, &entry));
                    let Some(turn) = turn.or_else(|| entry.turn_now()) else {
                        let function = event.function.clone();
                        self.lines.set_full(event);
                        let turn = next_turn(self.inner.clone(), entry);
                        let asked = function.clone();
                        let task = self
                            .tasks
                            .spawn(async move { Done::Free(function, turn.await) });
                        self.asking.insert(task.id(), asked);
                        continue;
                    };
                    Found::Turn(turn)
                }
            };
            self.start(event, found);
        }
        self.free.clear();
    }

    fn start(&mut self, event: Queued, found: Found) {
        let attempt = attempt(self.inner.clone(), event.clone(), found);
        let busy = self.inner.queue_busy.subscribe();
        let task = self.tasks.spawn(async move {
            // Goes last, when nothing of the event runs any more.
            let _busy = busy;
            Done::Attempt(attempt.await)
        });
        self.running.insert(task.id(), event);
    }

    /// Ends events whose functions gave them no turn until they were too old.
    fn end_too_old(&mut self) {
        let inner = self.inner.clone();
        let now_us = inner.options.clock.now_us();
        let oldest_us = |function: &str| {
            let settings = inner.async_settings(function).unwrap_or_default();
            let age_max = attempt::age_max(&inner, &settings).as_micros();
            now_us.saturating_sub(i64::try_from(age_max).unwrap_or(i64::MAX))
        };
        while let Some(event) = self.lines.next_too_old(oldest_us) {
            let found = match inner.chosen(&event.function) {
                Ok(entry) => Found::TooOld(entry),
                Err(_) => Found::Gone,
            };
            self.start(event, found);
        }
    }

    /// Appends ends, one append at a time.
    fn keep(&mut self) {
        if self.keeping.is_some() {
            return;
        }
        if self.parts.is_empty() {
            self.parts = ends::parts(std::mem::take(&mut self.ended), ends::BYTES_MAX);
        }
        let Some(mut part) = self.parts.pop() else {
            return;
        };
        self.producer.sequence += 1;
        let cursor = self.cursor_without(&part);
        let append = ends::append(&self.inner, &mut part, cursor, self.producer.clone());
        self.append(part, Arc::new(append), Duration::ZERO);
    }

    /// Appends in a task that goes on whatever becomes of this queue: an append is not taken back.
    fn append(&mut self, part: Vec<Ended>, append: Arc<Append>, wait: Duration) {
        let (inner, busy) = (self.inner.clone(), self.inner.queue_busy.subscribe());
        let appended = append.clone();
        let kept = tokio::spawn(async move {
            let _busy = busy;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let stopped = async {
                let _ = inner.stop.subscribe().wait_for(|&stopped| stopped).await;
            };
            let log = &inner.options.log;
            append_patiently(log, &appended, usize::MAX, stopped).await
        });
        let task = self.tasks.spawn(async move { Done::Kept(kept.await) });
        self.keeping = Some(Keeping {
            task: task.id(),
            part,
            append,
        });
    }

    /// Where the cursor stands once `ended` are kept: at the oldest event that has not ended.
    fn cursor_without(&self, ended: &[Ended]) -> Offset {
        let ended: HashSet<u64> = ended.iter().map(|end| end.offset).collect();
        let open = self.open.iter().find(|offset| !ended.contains(offset));
        let oldest = open.copied().into_iter().chain(self.lines.oldest_behind());
        Offset(oldest.chain([self.position]).min().unwrap_or_default())
    }

    fn take(&mut self, done: Result<(Id, Done), JoinError>) {
        match done {
            Ok((_, Done::Start(read))) => {
                self.reading = None;
                if let Some(Some(ended_before)) = self.read_or_wait(read) {
                    self.ended_before = Some(Arc::new(ended_before));
                }
            }
            Ok((_, Done::Scan(scan, found))) => {
                self.reading = None;
                if let Some(found) = self.read_or_wait(found) {
                    self.take_in(scan, found);
                }
            }
            Ok((id, Done::Attempt(attempt))) => {
                if let Some(event) = self.running.remove(&id) {
                    self.take_attempt(event, attempt);
                }
            }
            Ok((id, Done::Free(function, turn))) => {
                self.asking.remove(&id);
                self.lines.set_free(&function);
                self.free.extend(turn.map(|turn| (function, turn)));
            }
            Ok((_, Done::Kept(kept))) => {
                let Some(keeping) = self.keeping.take() else {
                    return;
                };
                match kept {
                    Ok(kept) => self.take_kept(keeping.part, kept),
                    Err(error) => self.keep_again(keeping, &error),
                }
            }
            Err(error) => self.take_lost(&error),
        }
    }

    /// A task panicked, which its thread has reported, or was stopped: nothing of it runs any more.
    fn take_lost(&mut self, error: &JoinError) {
        let id = error.id();
        if let Some(event) = self.running.remove(&id) {
            self.take_attempt(event, Attempt::Unread(error.to_string()));
        } else if self.reading == Some(id) {
            self.reading = None;
            self.read_later(error);
        } else if let Some(function) = self.asking.remove(&id) {
            self.lines.set_free(&function);
        } else if let Some(keeping) = self.keeping.take_if(|keeping| keeping.task == id) {
            self.keep_again(keeping, error);
        }
    }

    /// Whether the append was kept is not known. The same one again has no second effect.
    fn keep_again(&mut self, keeping: Keeping, error: &JoinError) {
        if *self.inner.stop.borrow() {
            error!(%error, "ends of queued events were not kept; they run again after a restart");
            return;
        }
        error!(%error, "an append of ends of queued events ended badly and is repeated");
        let wait = self.inner.options.retry_wait;
        self.append(keeping.part, keeping.append, wait);
    }

    fn read_or_wait<T>(&mut self, read: Result<T, lambic_log::Error>) -> Option<T> {
        match read {
            Ok(read) => {
                self.read_waits.reset();
                Some(read)
            }
            Err(error) => {
                self.read_later(&error);
                None
            }
        }
    }

    fn read_later(&mut self, error: &dyn std::fmt::Display) {
        error!(%error, "queued events cannot be read; it is tried again");
        let wait = self.read_waits.next();
        let wait = wait.unwrap_or(self.inner.options.retry_wait_max);
        self.read_again_at = Some(Instant::now() + wait);
    }

    fn take_in(&mut self, scan: Scan, found: Vec<Queued>) {
        let mut passed = scan.to;
        for event in found {
            // New events of a function that is behind are found when it is their turn.
            if scan.function.is_none() && self.lines.is_behind(&event.function) {
                continue;
            }
            let offset = event.offset;
            if self.lines.take(event) {
                self.open.insert(offset);
            } else if scan.function.is_some() {
                passed = offset;
                break;
            }
        }
        match scan.function {
            None => self.position = passed,
            Some(function) => {
                let behind = Some(passed).filter(|&passed| passed < self.position);
                self.lines.set_behind(&function, behind);
            }
        }
    }

    fn take_attempt(&mut self, mut event: Queued, attempt: Attempt) {
        let at_us = self.inner.options.clock.now_us();
        let mut invocation = None;
        let (failure, condition, follow) = match attempt {
            Attempt::Success { follow, row } => {
                invocation = row;
                (None, Condition::Success, follow)
            }
            Attempt::Unread(reason) => {
                error!(
                    request_id = event.request_id,
                    reason, "a queued event cannot be read; it is tried again"
                );
                return self.wait(event, Cause::Platform);
            }
            Attempt::Failure {
                cause,
                error_type,
                message,
                payload,
                retries,
                age_max,
                follow,
            } => {
                if matches!(cause, Cause::Function | Cause::Gone) {
                    event.attempts = event.attempts.saturating_add(1);
                }
                let is_too_old = retry::is_too_old(at_us - event.at_us, age_max);
                match retry::next(cause, event.attempts, retries, is_too_old) {
                    Next::Again => return self.wait(event, cause),
                    Next::End(condition) => {
                        (Some((error_type, message, payload)), condition, follow)
                    }
                }
            }
        };
        // With those that were not the function's fault.
        let failed = event.attempts.saturating_add(event.waits);
        let attempts = failed.saturating_add(u32::from(condition == Condition::Success));
        let state = if failure.is_some() { "dead" } else { "done" };
        let row = QueueRow {
            at_us,
            request_id: event.request_id,
            function: event.function,
            state: state.to_owned(),
            event: None,
            trace_id: None,
        };
        let follow = follow.into_iter().map(|attempt::Follow { to, last }| {
            let (id, function) = (&row.request_id, &row.function);
            match record(at_us, id, function, condition, attempts, &last) {
                Some(record) => Follow::To {
                    destination: to,
                    record,
                    attempts,
                },
                None => {
                    let reason = "destinations lead in a circle";
                    Follow::Refused(undelivered(&row, &to, last.request, attempts, reason))
                }
            }
        });
        let follow = follow.collect();
        let dead_letter = failure.map(|(error_type, error_message, payload)| DeadLetter {
            at_us,
            function: row.function.clone(),
            request_id: row.request_id.clone(),
            kind: kind_name(InvocationKind::Async),
            source: None,
            error_type,
            error_message,
            attempts: i32::try_from(failed).unwrap_or(i32::MAX),
            event: payload,
        });
        self.ended.push(Ended {
            offset: event.offset,
            row,
            invocation,
            dead_letter,
            follow,
            to_house: false,
            is_short: false,
        });
    }

    /// Until the next attempt; its turn is free.
    fn wait(&mut self, mut event: Queued, cause: Cause) {
        self.lines.stop_running(&event.function);
        let options = &self.inner.options;
        let wait = match cause {
            Cause::Function => retry::wait_of_function(options, event.attempts),
            _ => {
                let wait = retry::wait_of_platform(options, event.waits, event.offset);
                event.waits = event.waits.saturating_add(1);
                wait
            }
        };
        let due = Instant::now() + wait;
        self.waiting.insert((due, event.offset), event);
    }

    fn take_kept(&mut self, part: Vec<Ended>, kept: Result<(), NotKept>) {
        let refused = match kept {
            Ok(()) => {
                for end in part {
                    self.open.remove(&end.offset);
                    self.lines.stop_running(&end.row.function);
                    self.lines.end(&end.row.function);
                }
                return;
            }
            // Only when the service stops: they run again.
            Err(NotKept::GivenUp(_)) => return,
            Err(NotKept::Refused(error) | NotKept::Forgotten(error)) => error,
        };
        // Nothing of them is kept: they stay open, so the cursor does not pass them.
        match ends::smaller(part, &refused.to_string()) {
            Ok(smaller) => self.parts.extend(smaller),
            Err(end) => {
                self.lines.stop_running(&end.row.function);
                error!(request_id = end.row.request_id, error = %refused,
                    "the end of a queued event was refused; it runs again after a restart");
            }
        }
    }
}

/// The next turn that the deployment gives; `None` if another one took over meanwhile.
async fn next_turn(inner: Arc<Inner>, entry: Arc<Entry>) -> Option<Turn> {
    let turn = entry.turn(InvocationKind::Async);
    tokio::pin!(turn);
    loop {
        if let Ok(turn) = tokio::time::timeout(LOOK_AGAIN, &mut turn).await {
            return turn.ok();
        }
        if !inner.serves(&entry) {
            return None;
        }
    }
}
