//! How batches get on: those that run, and the last few that ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use datafusion::physical_plan::ExecutionPlan;
use lambic_base::{Clock, SystemClock};
use lambic_view::Definition;

/// Batches that ended and are still told of.
const ENDED_MAX: usize = 50;

/// A batch as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInfo {
    /// Counts the batches of this process, from 1.
    pub number: u64,
    pub view: String,
    pub version: u32,
    /// Which part of a recomputed view, from 0.
    pub part: Option<usize>,
    /// From the first record on.
    pub full: bool,
    pub records: u64,
    pub records_total: u64,
    /// Of a batch in one piece: none.
    pub slices: u64,
    pub slices_total: u64,
    /// Of `slices`, those that a batch before this one had finished.
    pub slices_resumed: u64,
    pub bytes_spilled: u64,
    pub started_at_us: i64,
    pub ended_at_us: Option<i64>,
    /// When it will have ended, if it goes on as so far.
    pub eta_us: Option<i64>,
    pub state: BatchState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchState {
    Computing,
    /// Its runs become one.
    Merging,
    /// It is written and takes the place of the former.
    Publishing,
    Finished,
    Cancelled,
    Failed(String),
}

/// All batches; clones are of the same.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    last: u64,
    running: BTreeMap<u64, Entry>,
    ended: VecDeque<BatchInfo>,
}

struct Entry {
    info: BatchInfo,
    started: Instant,
    /// Of `info.records`, those that were not read by this batch.
    records_resumed: u64,
    /// What reads records now: it counts them itself.
    reading: Option<Arc<dyn ExecutionPlan>>,
    spilled: Arc<AtomicU64>,
}

/// A batch that runs; dropped, it was cancelled.
pub struct Running {
    progress: Progress,
    number: u64,
    spilled: Arc<AtomicU64>,
}

impl Progress {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, definition: &Definition, full: bool, records_total: u64) -> Running {
        let mut all = self.all();
        all.last += 1;
        let number = all.last;
        let spilled = Arc::new(AtomicU64::new(0));
        let info = BatchInfo {
            number,
            view: definition.name.to_string(),
            version: definition.version.0,
            part: definition.part,
            full,
            records: 0,
            records_total,
            slices: 0,
            slices_total: 0,
            slices_resumed: 0,
            bytes_spilled: 0,
            started_at_us: SystemClock.now_us(),
            ended_at_us: None,
            eta_us: None,
            state: BatchState::Computing,
        };
        let entry = Entry {
            info,
            started: SystemClock.monotonic(),
            records_resumed: 0,
            reading: None,
            spilled: Arc::clone(&spilled),
        };
        all.running.insert(number, entry);
        Running {
            progress: self.clone(),
            number,
            spilled,
        }
    }

    /// The oldest first.
    pub fn infos(&self) -> Vec<BatchInfo> {
        let all = self.all();
        let (now, now_us) = (SystemClock.monotonic(), SystemClock.now_us());
        let running = all.running.values().map(|entry| entry.info_at(now, now_us));
        all.ended.iter().cloned().chain(running).collect()
    }
}

impl Entry {
    fn info_at(&self, now: Instant, now_us: i64) -> BatchInfo {
        let mut info = self.info.clone();
        let reading = self.reading.as_ref().map_or(0, records_read);
        info.records = (info.records + reading).min(info.records_total);
        info.bytes_spilled = self.spilled.load(Ordering::Relaxed);
        info.eta_us = eta_us(
            info.records.saturating_sub(self.records_resumed),
            info.records_total - info.records,
            now.saturating_duration_since(self.started).as_micros(),
            now_us,
        );
        info
    }
}

/// What is left at the pace so far.
fn eta_us(done: u64, left: u64, elapsed_us: u128, now_us: i64) -> Option<i64> {
    if done == 0 {
        return None;
    }
    let left_us = elapsed_us * u128::from(left) / u128::from(done);
    now_us.checked_add(i64::try_from(left_us).ok()?)
}

/// Records that the leaves of a plan have given.
fn records_read(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut open = vec![plan];
    let mut records = 0;
    while let Some(node) = open.pop() {
        let children = node.children();
        if children.is_empty() {
            let given = node.metrics().and_then(|metrics| metrics.output_rows());
            records += given.unwrap_or(0) as u64;
        }
        open.extend(children);
    }
    records
}

impl Running {
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.progress.all().running.get_mut(&self.number) {
            change(entry);
        }
    }

    pub fn spilled(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.spilled)
    }

    pub fn resumes(&self, records: u64, slices: u64) {
        self.change(|entry| {
            entry.records_resumed = records;
            entry.info.records = records;
            entry.info.slices = slices;
            entry.info.slices_resumed = slices;
        });
    }

    pub fn is_sliced(&self, slices_total: u64) {
        self.change(|entry| entry.info.slices_total = slices_total);
    }

    pub fn reads(&self, plan: &Arc<dyn ExecutionPlan>) {
        self.change(|entry| entry.reading = Some(Arc::clone(plan)));
    }

    /// So many records are read and their states made.
    pub fn has_read(&self, records: u64, slices: u64) {
        self.change(|entry| {
            entry.info.records = records;
            entry.info.slices = slices;
            entry.reading = None;
        });
    }

    pub fn is(&self, state: BatchState) {
        self.change(|entry| entry.info.state = state);
    }

    pub fn ended(self, state: BatchState) {
        self.is(state);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.progress.all();
        let Some(mut entry) = all.running.remove(&self.number) else {
            return;
        };
        let now_us = SystemClock.now_us();
        let is_final = matches!(
            entry.info.state,
            BatchState::Finished | BatchState::Failed(_)
        );
        if !is_final {
            entry.info.state = BatchState::Cancelled;
        }
        let mut info = entry.info_at(SystemClock.monotonic(), now_us);
        info.ended_at_us = Some(now_us);
        info.eta_us = None;
        all.ended.push_back(info);
        if all.ended.len() > ENDED_MAX {
            all.ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        serde_json::from_value(serde_json::json!({
            "name": "v", "version": 3, "sql": "SELECT 1",
            "batch_every": {"secs": 3600, "nanos": 0}, "functions": {},
        }))
        .unwrap()
    }

    #[test]
    fn a_batch_is_told_of_from_its_begin_to_its_end() {
        let progress = Progress::default();
        let running = progress.begin(&definition(), true, 100);
        let seen = || progress.infos().pop().unwrap();
        assert_eq!((seen().number, seen().version, seen().eta_us), (1, 3, None));
        running.is_sliced(4);
        running.resumes(40, 2);
        assert_eq!(
            (seen().records, seen().slices, seen().eta_us),
            (40, 2, None)
        );
        running.has_read(70, 3);
        running.spilled().fetch_add(9, Ordering::Relaxed);
        running.is(BatchState::Merging);
        let info = seen();
        assert_eq!((info.records, info.slices, info.slices_resumed), (70, 3, 2));
        assert_eq!((info.bytes_spilled, &info.state), (9, &BatchState::Merging));
        assert!(info.eta_us.is_some() && info.ended_at_us.is_none());
        running.ended(BatchState::Finished);
        assert_eq!(seen().state, BatchState::Finished);
        assert!(seen().ended_at_us.is_some() && seen().eta_us.is_none());
        // One that nobody waits for any more says so.
        drop(progress.begin(&definition(), false, 5));
        assert_eq!(seen().state, BatchState::Cancelled);
        for _ in 0..ENDED_MAX {
            drop(progress.begin(&definition(), false, 5));
        }
        assert_eq!(progress.infos().len(), ENDED_MAX);
    }

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        assert_eq!(eta_us(0, 10, 5, 100), None);
        assert_eq!(eta_us(10, 30, 1_000, 100), Some(3_100));
        assert_eq!(eta_us(10, 0, 1_000, 100), Some(100));
        assert_eq!(eta_us(1, u64::MAX, u128::from(u64::MAX), 0), None);
    }
}
