//! An event source mapping: batches of a stream's records invoke a function, exactly once as far as its output goes.
//!
//! The position is a cursor of the log ([`lanes`]). What the function returns for the output stream is appended in the
//! same atomic append that moves the cursor: either both are kept or neither. Batches of one partition run one behind
//! the other, in each lane; those of others beside them ([`batch`]). What keeps failing is given up as the mapping's
//! rules say ([`given_up`]), and the cursor moves on.
//!
//! Here is decided when a partition is looked at: whether a batch is full, or has waited long enough.

mod batch;
mod columnar;
mod given_up;
pub(crate) mod lanes;
mod window;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

pub(crate) use batch::{Batches, Looked};
use lambic_model::{Frontier, FunctionName, Offset, OffsetRange, PartitionId, Stream};
use lanes::Lanes;
pub(crate) use lanes::{names as cursor_names, position};
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::Instant,
};
use tracing::{error, warn};
pub use window::StatesHeld;
pub(crate) use window::{Forgetting, inspect as inspect_windows, remove as remove_windows};

use crate::{Inner, Trigger, filter::Filters, registry::Mapping, rules::Rules};

/// The task that serves one trigger, until the service or the trigger stops.
#[derive(Clone)]
pub struct Worker {
    pub inner: Arc<Inner>,
    pub function: FunctionName,
    /// What runs: the function, or a version or alias of it (`f:live`).
    pub target: String,
    /// How often a batch that fails is tried again.
    pub retries: u32,
    pub cut: Cut,
    pub rules: Rules,
    pub trigger: Trigger,
    pub mapping: Mapping,
    pub stream: Arc<Stream>,
    /// Of this trigger alone: its function is removed or deployed again.
    pub stop: watch::Receiver<bool>,
}

/// When a batch that fails is cut in halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Never,
    /// As AWS does it: cutting is none of its retries.
    AtOnce,
    /// Its halves are tried once each then, until a record stands alone.
    AfterRetries,
}

/// How batches went, for those who ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processed {
    /// In AWS's words.
    pub last: Option<&'static str>,
    /// Records that no filter let through, since the server started.
    pub filtered: u64,
}

/// Batches of one mapping at one time; each may hold as much as fits into an event.
const BATCHES_MAX: usize = 100;
/// How often a batch with room is looked at again while its window is open: so many times a window.
const LOOKS_OF_A_WINDOW: u32 = 50;
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(20);

/// Of a worker that was asked to stop.
pub(crate) struct Stopped;

/// One lane of one partition.
type Place = (PartitionId, u32);

/// What is known of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Its batch has room, and was seen first then.
    Waiting {
        since: Instant,
        look_at: Instant,
    },
    /// It could not be read.
    Pausing {
        until: Instant,
    },
    Busy,
    /// Its records cannot be given up either: it stands where it is.
    Stuck,
}

/// What to do about a place.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    WaitUntil(Instant),
    Look {
        /// A batch that has room is delivered as well.
        is_due: bool,
    },
}

/// What of the trigger counts for that.
#[derive(Debug, Clone, Copy)]
struct Pace {
    batch_size: u64,
    window: Duration,
    /// Not every record becomes an event, so that a batch is only known to be full once it is read.
    is_selective: bool,
}

/// Pure. `records`: between the position and the head. A place that begins to wait does so in `state`.
fn next(state: &mut State, records: u64, pace: Pace, now: Instant) -> Next {
    let window = pace.window;
    match *state {
        State::Busy | State::Stuck => return Next::Nothing,
        State::Pausing { until } if now < until => return Next::WaitUntil(until),
        _ if records == 0 => {
            *state = State::Idle;
            return Next::Nothing;
        }
        _ if window.is_zero() => return Next::Look { is_due: true },
        State::Waiting { since, .. } if now >= since + window => {
            return Next::Look { is_due: true };
        }
        _ if !pace.is_selective && records >= pace.batch_size => {
            return Next::Look { is_due: true };
        }
        State::Waiting { since, look_at } if now < look_at || !pace.is_selective => {
            let end = since + window;
            return Next::WaitUntil(if pace.is_selective {
                look_at.min(end)
            } else {
                end
            });
        }
        _ => {}
    }
    if pace.is_selective {
        return Next::Look { is_due: false };
    }
    *state = State::Waiting {
        since: now,
        look_at: now,
    };
    Next::WaitUntil(now + window)
}

/// After a look at a place that found room in its batch.
fn waiting(before: State, pace: Pace, now: Instant) -> State {
    let since = match before {
        State::Waiting { since, .. } => since,
        _ => now,
    };
    let pause = (pace.window / LOOKS_OF_A_WINDOW).max(LOOK_PAUSE_MIN);
    State::Waiting {
        since,
        look_at: now + pause,
    }
}

impl Worker {
    pub async fn run(self) {
        // The error says that it was asked to stop.
        let _ = Arc::new(self).serve().await;
    }

    async fn serve(self: Arc<Self>) -> Result<(), Stopped> {
        let filters = match Filters::parse(&self.rules.filters) {
            Ok(filters) => Arc::new(filters),
            Err(reason) => {
                error!(function = %self.function, stream = %self.stream.name, reason,
                    "the filters of a trigger are none; it stops here");
                self.set_result("PROBLEM: a filter pattern is not understood");
                return Err(Stopped);
            }
        };
        let log = self.inner.options.log.clone();
        loop {
            let lanes = Lanes::find(&log, &self.mapping);
            let is_as_wanted = lanes.count() == self.rules.lanes;
            let until = (!is_as_wanted).then(|| lanes.furthest());
            let mut watched = Watched::new(&self, &lanes, filters.clone(), until);
            let ended = watched.run().await;
            // They hear of the stop too. Whoever comes next reads where they came to.
            while watched.running.join_next().await.is_some() {}
            ended?;
            let changed = lanes.change_to(&log, &self.mapping, self.rules.lanes, self.stopped());
            changed.await.map_err(|_| Stopped)?;
        }
    }

    /// For those who ask how it goes.
    fn set_result(&self, result: &'static str) {
        let mut processed = self.inner.processed.lock().expect("held shortly");
        let processed = processed.entry(self.mapping.cursor.clone()).or_default();
        processed.last = Some(result);
    }

    fn count_filtered(&self, records: u64) {
        if records > 0 {
            let mut processed = self.inner.processed.lock().expect("held shortly");
            let processed = processed.entry(self.mapping.cursor.clone()).or_default();
            processed.filtered += records;
        }
    }

    /// The stream in the columns that it has by now.
    fn stream_now(&self) -> Arc<Stream> {
        let now = (self.inner.options.lookup)(self.stream.name.as_str());
        now.filter(|now| now.id == self.stream.id)
            .unwrap_or_else(|| Arc::clone(&self.stream))
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

/// All places of a mapping while its lanes are the same.
struct Watched<'a> {
    worker: &'a Arc<Worker>,
    lanes: &'a Lanes,
    pace: Pace,
    /// Nothing behind it is read.
    until: Option<Frontier>,
    batches: BTreeMap<Place, Arc<Batches>>,
    states: BTreeMap<Place, State>,
    running: JoinSet<Looked>,
    /// Those that run, with their states before.
    by_task: HashMap<Id, (Place, State)>,
    /// In turns, so that places that are always full do not starve the others.
    turn: usize,
}

impl<'a> Watched<'a> {
    fn new(
        worker: &'a Arc<Worker>,
        lanes: &'a Lanes,
        filters: Arc<Filters>,
        until: Option<Frontier>,
    ) -> Watched<'a> {
        let mut batches = BTreeMap::new();
        for partition in (0..worker.stream.partitions).map(PartitionId) {
            for (number, lane) in lanes.all() {
                let of = lanes.count();
                let lane = lane.clone();
                let made = Batches::new(worker, lane, (number, of), partition, filters.clone());
                batches.insert((partition, number), Arc::new(made));
            }
        }
        Watched {
            worker,
            lanes,
            pace: Pace {
                batch_size: worker.trigger.batch_size as u64,
                window: Duration::from_millis(worker.trigger.window_ms),
                is_selective: !filters.is_empty() || lanes.count() > 1 || worker.rules.window_s > 0,
            },
            until,
            states: batches.keys().map(|place| (*place, State::Idle)).collect(),
            batches,
            running: JoinSet::new(),
            by_task: HashMap::new(),
            turn: 0,
        }
    }

    /// Ends well when all lanes have come to `until`, and nothing runs.
    async fn run(&mut self) -> Result<(), Stopped> {
        let mut commits = self.worker.inner.options.log.commits();
        loop {
            commits.borrow_and_update();
            let look_at = self.look();
            let is_there = |until: &Frontier| self.lanes.have_reached(until);
            if self.running.is_empty() && self.until.as_ref().is_some_and(is_there) {
                return Ok(());
            }
            let far = Instant::now() + Duration::from_secs(3_600);
            tokio::select! {
                biased;
                () = self.worker.stopped() => return Err(Stopped),
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                changed = commits.changed() => changed.map_err(|_| Stopped)?,
                () = tokio::time::sleep_until(look_at.unwrap_or(far)) => {}
            }
        }
    }

    /// Starts what is to be done now, and says when to look again if nothing happens before.
    fn look(&mut self) -> Option<Instant> {
        let worker = self.worker;
        let snapshot = worker.inner.options.log.snapshot();
        let start = snapshot.start(worker.stream.id);
        let mut head = snapshot.head(worker.stream.id);
        if let Some(until) = &self.until {
            head = head.min(until);
        }
        let now = Instant::now();
        let mut look_at: Option<Instant> = None;
        let places: Vec<Place> = self.batches.keys().copied().collect();
        let first = self.turn % places.len().max(1);
        let (later, sooner) = places.split_at(first);
        for place in sooner.iter().chain(later) {
            let batches = &self.batches[place];
            let state = self.states.get_mut(place).expect("every place has a state");
            if matches!(state, State::Busy | State::Stuck) {
                continue;
            }
            let mut position = batches.offset();
            let kept_from = start.offset(place.0);
            if position < kept_from {
                if head.offset(place.0) > Offset::ZERO && position > Offset::ZERO {
                    warn!(function = %worker.function, stream = %worker.stream.name, partition = %place.0,
                        records = kept_from.since(position), "a trigger skips records that left the log before it read them");
                }
                batches.skip_to(kept_from);
                position = kept_from;
            }
            let range = OffsetRange {
                partition: place.0,
                first: position,
                end: head.offset(place.0).max(position),
            };
            let closes_at = batches.window_closes_at(now);
            let mut what = next(state, range.records(), self.pace, now);
            // A window that is over has its last invocation also if nothing follows.
            if let (false, Some(closes_at)) = (matches!(what, Next::Look { .. }), closes_at) {
                what = match (closes_at <= now, what) {
                    (true, _) => Next::Look { is_due: false },
                    (false, Next::WaitUntil(at)) => Next::WaitUntil(at.min(closes_at)),
                    (false, _) => Next::WaitUntil(closes_at),
                };
            }
            match what {
                Next::Nothing => {}
                Next::WaitUntil(at) => {
                    look_at = Some(look_at.map_or(at, |other| other.min(at)));
                }
                // The end of a batch brings us here again.
                Next::Look { .. } if self.running.len() >= BATCHES_MAX => {}
                Next::Look { is_due } => {
                    let before = std::mem::replace(state, State::Busy);
                    let (batches, snapshot) = (batches.clone(), snapshot.clone());
                    let task = async move { batches.look(snapshot, range, is_due).await };
                    let task = self.running.spawn(task);
                    self.by_task.insert(task.id(), (*place, before));
                    self.turn = self.turn.wrapping_add(1);
                }
            }
        }
        look_at
    }

    fn ended(&mut self, ended: Result<(Id, Looked), tokio::task::JoinError>) {
        let now = Instant::now();
        let pausing = State::Pausing {
            until: now + self.worker.inner.options.retry_wait,
        };
        let id = ended
            .as_ref()
            .map_or_else(|error| error.id(), |(id, _)| *id);
        let Some((place, before)) = self.by_task.remove(&id) else {
            return;
        };
        let state = match ended {
            Ok((_, Looked::Moved)) => State::Idle,
            Ok((_, Looked::HasRoom)) => waiting(before, self.pace, now),
            Ok((_, Looked::Unread)) => pausing,
            Ok((_, Looked::Stuck)) => State::Stuck,
            Err(error) => {
                error!(%error, function = %self.worker.function, partition = %place.0,
                    "a batch of a trigger ended badly and begins anew");
                pausing
            }
        };
        self.states.insert(place, state);
    }
}

/// Where a new trigger starts.
pub fn start_of(snapshot: &lambic_log::Snapshot, stream: &Stream, start: crate::Start) -> Frontier {
    let mut frontier = match start {
        crate::Start::Latest => snapshot.head(stream.id),
        crate::Start::Earliest => snapshot.start(stream.id),
        crate::Start::AtUs(at_us) => {
            let mut frontier = snapshot.head(stream.id);
            for partition in (0..stream.partitions).map(PartitionId) {
                // What was appended at that very time belongs to it.
                let first = snapshot.first_after(stream.id, partition, at_us.saturating_sub(1));
                if let Some(first) = first {
                    frontier.set(partition, first);
                }
            }
            frontier
        }
    };
    let last = PartitionId(stream.partitions.saturating_sub(1));
    frontier.set(last, frontier.offset(last));
    frontier
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(window: Duration, is_selective: bool) -> Pace {
        Pace {
            batch_size: 10,
            window,
            is_selective,
        }
    }

    #[test]
    fn without_a_window_whatever_is_there_is_due() {
        let now = Instant::now();
        let pace = pace(Duration::ZERO, false);
        let next = |mut state, records| next(&mut state, records, pace, now);
        assert_eq!(next(State::Idle, 0), Next::Nothing);
        assert_eq!(next(State::Idle, 1), Next::Look { is_due: true });
        assert_eq!(next(State::Busy, 1), Next::Nothing);
        assert_eq!(next(State::Stuck, 1), Next::Nothing);
        let until = now + SECOND;
        assert_eq!(next(State::Pausing { until }, 1), Next::WaitUntil(until));
        assert_eq!(
            next(State::Pausing { until: now }, 1),
            Next::Look { is_due: true }
        );
    }

    #[test]
    fn a_batch_waits_until_it_is_full_or_its_window_is_over() {
        let now = Instant::now();
        let pace = pace(SECOND, false);
        let mut state = State::Idle;
        let end = Next::WaitUntil(now + SECOND);
        assert_eq!(next(&mut state, 9, pace, now), end);
        assert_eq!(next(&mut state, 9, pace, now + SECOND / 2), end);
        assert_eq!(
            next(&mut state, 10, pace, now + SECOND / 2),
            Next::Look { is_due: true }
        );
        assert_eq!(
            next(&mut state, 1, pace, now + SECOND),
            Next::Look { is_due: true }
        );
        // Nobody waits for records that are gone.
        assert_eq!(next(&mut state, 0, pace, now + SECOND), Next::Nothing);
        assert_eq!(state, State::Idle);
    }

    #[test]
    fn where_records_are_chosen_a_window_begins_with_the_first_of_them() {
        let now = Instant::now();
        let pace = pace(SECOND, true);
        let mut state = State::Idle;
        assert_eq!(
            next(&mut state, 99, pace, now),
            Next::Look { is_due: false }
        );
        assert_eq!(state, State::Idle);
        state = waiting(state, pace, now);
        let Next::WaitUntil(at) = next(&mut state, 99, pace, now) else {
            panic!("it does not wait");
        };
        assert!(at > now && at < now + SECOND);
        assert_eq!(next(&mut state, 99, pace, at), Next::Look { is_due: false });
        state = waiting(state, pace, at);
        assert_eq!(
            next(&mut state, 99, pace, now + SECOND),
            Next::Look { is_due: true },
            "the window began with the first look"
        );
    }
}
