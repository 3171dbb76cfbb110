//! Events that nobody waits for: kept in `lambic_async`, run, retried, then done or a dead letter.
//!
//! The stream is the queue. An event is a row `queued`; its end is a row `done` or `dead`, appended together with
//! the dead letter and the move of the cursor, which stands at the oldest event that has not ended. After a crash
//! everything from there that has no end is run again: at least once, as in AWS.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use lambic_base::retry::Backoff;
use lambic_model::{
    Append, Cursor, Frontier, FunctionName, InvocationKind, Offset, OffsetRange, Outcome,
    PartitionId, Producer, Write,
};
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, warn};

use crate::{
    Error, Inner,
    append::{NotKept, append_patiently},
    entry::{Call, kind_name},
    records::{self, DeadLetter, QueueRow, error_message},
};

pub const CURSOR: &str = "functions/async";
/// Events in memory; more wait in the stream.
const PENDING_MAX: usize = 1_000;
/// The same in bytes, passed by less than one event.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Ends in one append, with the events of dead letters: well below what the log takes.
const END_BYTES_MAX: usize = 8 << 20;
const PARTITION: PartitionId = PartitionId(0);

/// Appends the event durably; returns when it is on disk.
pub async fn enqueue(
    inner: &Inner,
    name: &FunctionName,
    payload: String,
) -> Result<String, Error> {
    let request_id = uuid::Uuid::new_v4().to_string();
    let row = QueueRow {
        at_us: inner.options.clock.now_us(),
        request_id: request_id.clone(),
        function: name.to_string(),
        state: "queued".to_owned(),
        event: Some(payload),
    };
    let queue = &inner.options.streams.queue;
    let append = Append {
        writes: vec![Write {
            stream: queue.id,
            partition: Some(PARTITION),
            batch: records::queue(queue, &[&row]),
        }],
        producer: None,
        cursors: Vec::new(),
    };
    inner.options.log.append(append).await?;
    Ok(request_id)
}

struct Ended {
    offset: u64,
    row: QueueRow,
    dead_letter: Option<DeadLetter>,
    /// Its dead letter goes to the house's stream, since its function's own refused it.
    to_house: bool,
}

impl Ended {
    /// About what it takes in an append.
    fn bytes(&self) -> usize {
        let letter = self.dead_letter.as_ref();
        512 + letter.map_or(0, |letter| letter.event.len() + letter.error_message.len())
    }
}

/// Runs until the service stops.
pub async fn run(inner: Arc<Inner>) {
    let log = inner.options.log.clone();
    let mut stop = inner.stop.subscribe();
    let mut commits = log.commits();
    let mut intake = Intake::new(&inner);
    let wait_max = inner.options.retry_wait_max;
    let mut waits = Backoff::new(inner.options.retry_wait, wait_max, 0);
    let mut retry_at: Option<tokio::time::Instant> = None;
    let producer = format!("functions/async/{}", uuid::Uuid::now_v7());
    let mut sequence = 0;
    let turns = Arc::new(Semaphore::new(inner.options.async_max.max(1)));
    let (ends, mut ended) = mpsc::channel::<Ended>(PENDING_MAX);
    loop {
        if *stop.borrow_and_update() {
            return;
        }
        commits.borrow_and_update();
        if retry_at.is_none_or(|at| at <= tokio::time::Instant::now()) {
            let begin = |offset, row| {
                let work = work(inner.clone(), offset, row, turns.clone(), ends.clone());
                tokio::spawn(work);
            };
            retry_at = match intake.take(&inner, begin) {
                Ok(()) => {
                    waits.reset();
                    None
                }
                Err(error) => {
                    error!(%error, "queued events cannot be read; it is tried again");
                    Some(tokio::time::Instant::now() + waits.next().unwrap_or(wait_max))
                }
            };
        }
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut batch = Vec::new();
        tokio::select! {
            _ = stop.changed() => return,
            () = retry => continue,
            changed = commits.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            _ = ended.recv_many(&mut batch, 256) => {}
        }
        let mut parts = parts(batch, END_BYTES_MAX);
        while let Some(part) = parts.pop() {
            sequence += 1;
            let producer = Producer {
                id: producer.clone(),
                sequence,
            };
            let append = end_append(&inner, &part, intake.cursor_without(&part), producer);
            let stopped = async {
                let _ = inner.stop.subscribe().wait_for(|&stopped| stopped).await;
            };
            let refused = match append_patiently(&log, &append, usize::MAX, stopped).await {
                Ok(()) => {
                    intake.end(&part);
                    continue;
                }
                Err(NotKept::GivenUp(_)) => return,
                Err(NotKept::Refused(error)) => error,
            };
            // Nothing of them is kept: they stay pending, so the cursor does not pass them.
            match smaller(part) {
                Ok(smaller) => parts.extend(smaller),
                Err(end) => error!(request_id = end.row.request_id, error = %refused,
                    "the end of a queued event was refused; it runs again after a restart"),
            }
        }
    }
}

/// Which events of the stream were taken in, and have not ended.
struct Intake {
    /// The next record of the stream to look at.
    position: Offset,
    /// Events that ended before this start, from the cursor on; `None` until they could be read.
    known_ended: Option<HashSet<String>>,
    /// By offset, with about their bytes in memory.
    pending: BTreeMap<u64, usize>,
    pending_bytes: usize,
}

impl Intake {
    fn new(inner: &Inner) -> Intake {
        let (log, queue) = (&inner.options.log, inner.options.streams.queue.id);
        let start = log.snapshot().start(queue).offset(PARTITION);
        Intake {
            position: log
                .cursor(CURSOR)
                .filter(|cursor| cursor.stream == queue)
                .map_or(start, |cursor| cursor.frontier.offset(PARTITION))
                .max(start),
            known_ended: None,
            pending: BTreeMap::new(),
            pending_bytes: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.pending.len() < PENDING_MAX && self.pending_bytes < PENDING_BYTES_MAX
    }

    /// Begins events while there is room for them. After an error it goes on where it stopped.
    fn take(
        &mut self,
        inner: &Inner,
        mut begin: impl FnMut(u64, QueueRow),
    ) -> Result<(), lambic_log::Error> {
        let queue = inner.options.streams.queue.id;
        if self.known_ended.is_none() {
            self.known_ended = Some(ended_since(inner, self.position)?);
        }
        let snapshot = inner.options.log.snapshot();
        let head = snapshot.head(queue).offset(PARTITION);
        while self.has_room() && self.position < head {
            let range = OffsetRange {
                partition: PARTITION,
                first: self.position,
                end: self.position.plus(PENDING_MAX as u64).min(head),
            };
            // One batch at a time, since events may be large; mostly it holds one.
            for batches in snapshot.read_chunks(queue, range, 1) {
                for row in batches?.iter().flat_map(records::queue_rows) {
                    self.take_row(row, &mut begin);
                }
                if !self.has_room() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn take_row(&mut self, row: QueueRow, begin: &mut impl FnMut(u64, QueueRow)) {
        let offset = self.position.0;
        self.position = self.position.plus(1);
        let known_ended = self.known_ended.get_or_insert_default();
        if row.state == "queued" && !known_ended.remove(&row.request_id) {
            let bytes = row.event.as_ref().map_or(0, String::len);
            self.pending.insert(offset, bytes);
            self.pending_bytes += bytes;
            begin(offset, row);
        }
    }

    /// Where the cursor stands once `ended` are kept: at the oldest event that has not ended.
    fn cursor_without(&self, ended: &[Ended]) -> Offset {
        let ended: HashSet<u64> = ended.iter().map(|end| end.offset).collect();
        let mut left = self.pending.keys();
        left.find(|offset| !ended.contains(offset))
            .map_or(self.position, |&offset| Offset(offset))
    }

    fn end(&mut self, ended: &[Ended]) {
        for end in ended {
            self.pending_bytes -= self.pending.remove(&end.offset).unwrap_or(0);
        }
    }
}

/// Cuts ends into parts of about `bytes_max`, at least one each.
fn parts(ended: Vec<Ended>, bytes_max: usize) -> Vec<Vec<Ended>> {
    let mut parts = Vec::new();
    let mut bytes = usize::MAX;
    for end in ended {
        bytes = bytes.saturating_add(end.bytes());
        if bytes > bytes_max {
            bytes = end.bytes();
            parts.push(Vec::new());
        }
        parts.last_mut().expect("the first end opens one").push(end);
    }
    parts
}

/// What to try after the log refused `ended`: its halves; or, for one alone, the house's stream of dead letters
/// instead of the function's own. If that was refused too, the end is given back.
fn smaller(mut ended: Vec<Ended>) -> Result<Vec<Vec<Ended>>, Box<Ended>> {
    if ended.len() > 1 {
        let second = ended.split_off(ended.len() / 2);
        return Ok(vec![second, ended]);
    }
    let mut end = ended.pop().expect("no part is empty");
    if end.dead_letter.is_none() || end.to_house {
        return Err(Box::new(end));
    }
    end.to_house = true;
    Ok(vec![vec![end]])
}

/// Ids of events that ended at or after `position`.
fn ended_since(inner: &Inner, position: Offset) -> Result<HashSet<String>, lambic_log::Error> {
    let queue = &inner.options.streams.queue;
    let snapshot = inner.options.log.snapshot();
    let range = OffsetRange {
        partition: PARTITION,
        first: position,
        end: snapshot.head(queue.id).offset(PARTITION),
    };
    let mut ended = HashSet::new();
    for batches in snapshot.read_chunks(queue.id, range, 8 << 20) {
        ended.extend(
            batches?
                .iter()
                .flat_map(records::queue_rows)
                .filter(|row| row.state != "queued")
                .map(|row| row.request_id),
        );
    }
    Ok(ended)
}

fn end_append(inner: &Inner, ended: &[Ended], cursor: Offset, producer: Producer) -> Append {
    let queue = &inner.options.streams.queue;
    let mut rows = Vec::new();
    let mut letters: BTreeMap<_, (_, Vec<&DeadLetter>)> = BTreeMap::new();
    for end in ended {
        if let Some(letter) = &end.dead_letter {
            let stream = if end.to_house {
                inner.options.streams.dead_letters.clone()
            } else {
                inner.dead_letter_stream(&letter.function)
            };
            letters
                .entry(stream.id)
                .or_insert_with(|| (stream, Vec::new()))
                .1
                .push(letter);
        }
        rows.push(&end.row);
    }
    let mut writes = vec![Write {
        stream: queue.id,
        partition: Some(PARTITION),
        batch: records::queue(queue, &rows),
    }];
    writes.extend(letters.into_values().map(|(stream, letters)| Write {
        stream: stream.id,
        partition: None,
        batch: records::dead_letters(&stream, &letters),
    }));
    Append {
        writes,
        producer: Some(producer),
        cursors: vec![Cursor {
            name: CURSOR.to_owned(),
            stream: queue.id,
            frontier: Frontier(vec![cursor]),
        }],
    }
}

/// One event until its end.
async fn work(
    inner: Arc<Inner>,
    offset: u64,
    mut row: QueueRow,
    turns: Arc<Semaphore>,
    ends: mpsc::Sender<Ended>,
) {
    let Ok(_turn) = turns.acquire().await else {
        return;
    };
    let mut stop = inner.stop.subscribe();
    let event = row.event.take().unwrap_or_default();
    let mut waits = Backoff::new(
        inner.options.retry_wait,
        inner.options.retry_wait_max,
        offset,
    );
    let mut attempt = 0;
    let failure = loop {
        attempt += 1;
        let Some(entry) = inner.entry(&row.function) else {
            break Some((
                "ResourceNotFoundException".to_owned(),
                format!("there is no function `{}` any more", row.function),
            ));
        };
        let call = Call {
            request_id: &row.request_id,
            kind: InvocationKind::Async,
            attempt,
        };
        let result = tokio::select! {
            result = entry.run(call, event.as_bytes(), &inner.recorder) => result,
            _ = stop.wait_for(|&stopped| stopped) => return,
        };
        let failure = match result {
            Ok(result) => match result.outcome {
                Outcome::Success(_) => break None,
                Outcome::Failure {
                    error_type,
                    payload,
                } => (error_type, error_message(&payload)),
            },
            Err(error) => {
                warn!(function = %row.function, %error, "a queued event could not be run");
                ("ServiceException".to_owned(), error.to_string())
            }
        };
        if attempt > entry.info.retries {
            break Some(failure);
        }
        let wait = waits.next().unwrap_or(inner.options.retry_wait_max);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|&stopped| stopped) => return,
        }
    };
    let at_us = inner.options.clock.now_us();
    let state = if failure.is_some() { "dead" } else { "done" };
    let ended = Ended {
        offset,
        to_house: false,
        dead_letter: failure.map(|(error_type, error_message)| DeadLetter {
            at_us,
            function: row.function.clone(),
            request_id: row.request_id.clone(),
            kind: kind_name(InvocationKind::Async),
            source: None,
            error_type,
            error_message,
            attempts: i32::try_from(attempt).unwrap_or(i32::MAX),
            event,
        }),
        row: QueueRow {
            at_us,
            state: state.to_owned(),
            event: None,
            ..row
        },
    };
    // Fails only when the service has stopped: the event runs again.
    let _ = ends.send(ended).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(event_bytes: usize) -> Ended {
        Ended {
            offset: 0,
            row: QueueRow {
                at_us: 0,
                request_id: String::new(),
                function: String::new(),
                state: "dead".to_owned(),
                event: None,
            },
            dead_letter: Some(DeadLetter {
                at_us: 0,
                function: String::new(),
                request_id: String::new(),
                kind: "async",
                source: None,
                error_type: String::new(),
                error_message: String::new(),
                attempts: 1,
                event: "x".repeat(event_bytes),
            }),
            to_house: false,
        }
    }

    fn queued(request_id: &str, event_bytes: usize) -> QueueRow {
        QueueRow {
            request_id: request_id.to_owned(),
            state: "queued".to_owned(),
            event: Some("x".repeat(event_bytes)),
            ..ended(0).row
        }
    }

    #[test]
    fn the_cursor_stands_at_the_oldest_event_that_has_not_ended() {
        let mut intake = Intake {
            position: Offset(5),
            known_ended: Some(["b".to_owned()].into()),
            pending: BTreeMap::new(),
            pending_bytes: 0,
        };
        let mut begun = Vec::new();
        let large = PENDING_BYTES_MAX / 2 - 1;
        for (row, has_room) in [
            (queued("a", large), true),
            (queued("b", large), true),
            (ended(0).row, true),
            (queued("c", large), true),
            (queued("d", 2), false),
        ] {
            intake.take_row(row, &mut |offset, _| begun.push(offset));
            assert_eq!(intake.has_room(), has_room, "{begun:?}");
        }
        assert_eq!(begun, [5, 8, 9]);
        let end = |offset| Ended { offset, ..ended(0) };
        for (part, cursor) in [(vec![end(8)], 5), (vec![end(5)], 9), (vec![end(9)], 10)] {
            assert_eq!(intake.cursor_without(&part), Offset(cursor));
            intake.end(&part);
            assert!(intake.has_room());
        }
        assert_eq!(intake.pending_bytes, 0);
    }

    #[test]
    fn ends_are_cut_by_bytes() {
        for (events, expected) in [
            (vec![], vec![]),
            (vec![5_000], vec![1]),
            (vec![100, 100, 100], vec![3]),
            (vec![1_000, 1_000, 1_000], vec![2, 1]),
            (vec![9_000, 10, 9_000, 10, 20], vec![1, 1, 1, 2]),
        ] {
            let parts = parts(events.iter().copied().map(ended).collect(), 4_000);
            let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
            assert_eq!(lengths, expected, "{events:?}");
        }
    }

    #[test]
    fn what_is_refused_is_tried_in_halves_then_in_the_house() {
        let halves = smaller((0..3).map(ended).collect()).ok().unwrap();
        assert_eq!(halves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let mut alone = smaller(vec![ended(0)]).ok().unwrap();
        assert!(alone[0][0].to_house);
        assert!(smaller(alone.remove(0)).is_err());
    }
}
