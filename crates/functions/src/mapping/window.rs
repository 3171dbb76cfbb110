//! Tumbling windows: what a function makes of the records of one stretch of time, handed on from batch to batch.
//!
//! A record belongs to the window in which it was appended. The state of an open window is a small file, named by the
//! offset at which it holds: it is written before the cursor moves there, so whoever reads the cursor finds the state
//! that belongs to it, whatever was killed in between. When a window is over, the function has a last invocation with
//! its state; it is repeated until it succeeds, as in AWS, and may run again after a kill, while its output is kept
//! once.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use lambic_base::{file, retry::Backoff};
use lambic_model::{Append, InvocationKind, Offset, OffsetRange, Outcome, PartitionId, Producer};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{Stopped, batch::Batches};
use crate::{
    Error, answers,
    append::{NotKept, append_patiently},
    arn::stream_arn,
    entry::{Call, Entry},
    events::{self, Event},
    records::error_message,
    registry,
};

/// AWS's: a window whose state is larger ends early.
const STATE_BYTES_MAX: usize = 1 << 20;
/// A record may be seen this long after its time.
const LATE_US: i64 = 1_000_000;

/// An open window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Microseconds since 1970; the end is none of it.
    start_us: i64,
    end_us: i64,
    /// JSON, an object.
    state: String,
}

impl Window {
    /// The one of this length to which a time belongs.
    fn of(at_us: i64, length_s: u32) -> Window {
        let length_us = i64::from(length_s) * 1_000_000;
        let start_us = at_us.div_euclid(length_us) * length_us;
        Window {
            start_us,
            end_us: start_us + length_us,
            state: "{}".to_owned(),
        }
    }

    fn has(&self, at_us: i64) -> bool {
        (self.start_us..self.end_us).contains(&at_us)
    }

    fn is_too_large(&self) -> bool {
        self.state.len() > STATE_BYTES_MAX
    }

    /// What the event of a batch has beside its records.
    fn members(&self, stream: &str, partition: PartitionId, end: Option<End>) -> String {
        format!(
            r#","window":{{"start":"{}","end":"{}"}},"state":{},"shardId":"{}","eventSourceARN":"{}","isFinalInvokeForWindow":{},"isWindowTerminatedEarly":{}"#,
            seconds(self.start_us),
            seconds(self.end_us),
            self.state,
            shard_id(partition),
            stream_arn(stream),
            end == Some(End::Over),
            end == Some(End::Early),
        )
    }
}

/// Why a window has an invocation without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Over,
    /// Its state became too large: it goes on with a fresh one.
    Early,
}

/// Pure. Whether the window ends before the next record, or because of the time if there is none.
fn end_before(window: &Window, next: Option<&Event>, now_us: i64) -> Option<End> {
    let is_over = match next {
        Some(event) => !window.has(event.at_us),
        None => now_us >= window.end_us + LATE_US,
    };
    match (is_over, window.is_too_large()) {
        (true, _) => Some(End::Over),
        (false, true) => Some(End::Early),
        (false, false) => None,
    }
}

/// A partition as AWS names one.
pub fn shard_id(partition: PartitionId) -> String {
    format!("shardId-{:012}", partition.0)
}

/// As AWS writes a window's bounds: `2020-12-09T07:04:00Z`.
fn seconds(us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// The folder of a mapping's windows; its cursor ends with an id that no other has.
fn folder(dir: &Path, cursor: &str) -> PathBuf {
    let id = cursor.rsplit('/').next().unwrap_or(cursor);
    dir.join("windows").join(id)
}

/// Every state that is kept, with what is wrong with it.
pub fn inspect(dir: &Path) -> io::Result<Vec<(PathBuf, Option<Error>)>> {
    let mut found = Vec::new();
    for mapping in listed(&dir.join("windows"))? {
        for path in listed(&mapping)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let trouble = registry::read::<Window>(&path).err();
                found.push((path, trouble));
            }
        }
    }
    Ok(found)
}

fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Removes states that nobody will ask for: at once, or when nobody copies states any more.
///
/// Whoever takes a moment of the log finds the states that belong to it afterwards, because none goes meanwhile.
#[derive(Debug, Default)]
pub struct Forgetting(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    holders: usize,
    later: BTreeSet<PathBuf>,
}

impl Forgetting {
    pub fn hold(self: &Arc<Self>) -> StatesHeld {
        self.0.lock().expect("held shortly").holders += 1;
        StatesHeld(Arc::clone(self))
    }

    fn forget(&self, path: PathBuf) {
        {
            let mut held = self.0.lock().expect("held shortly");
            if held.holders > 0 {
                held.later.insert(path);
                return;
            }
        }
        forget(&path);
    }
}

/// No state of a window goes as long as it is there.
#[derive(Debug)]
pub struct StatesHeld(Arc<Forgetting>);

impl Drop for StatesHeld {
    fn drop(&mut self) {
        let later = {
            let mut held = self.0.0.lock().expect("held shortly");
            held.holders -= 1;
            match held.holders {
                0 => std::mem::take(&mut held.later),
                _ => return,
            }
        };
        later.iter().for_each(|path| forget(path));
    }
}

/// What is left behind is removed with the mapping.
fn forget(path: &Path) {
    if std::fs::remove_file(path).is_ok()
        && let Some(folder) = path.parent()
    {
        let _ = file::sync_dir(folder);
    }
}

/// Of a mapping that is removed.
pub fn remove(dir: &Path, cursor: &str) {
    let folder = folder(dir, cursor);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(%error, folder = %folder.display(), "the windows of a removed mapping stay on disk");
        }
        _ => {}
    }
}

impl Batches {
    fn is_windowed(&self) -> bool {
        self.worker.rules.window_s > 0
    }

    fn window_path(&self, at: Offset) -> PathBuf {
        let dir = &self.worker.inner.options.dir;
        folder(dir, &self.worker.mapping.cursor).join(format!("{}.{at}.json", self.partition))
    }

    pub(super) fn window_now(&self) -> Option<Window> {
        self.window.lock().expect("held shortly").clone()
    }

    /// The window that is open at the offset, from disk.
    pub(super) fn find_window(&self) {
        if !self.is_windowed() {
            return;
        }
        let path = self.window_path(self.offset());
        let found = path.exists().then(|| registry::read(&path));
        let found = found.and_then(|found| {
            found
                .inspect_err(|error| {
                    error!(%error, function = %self.worker.function, stream = %self.worker.stream.name, partition = %self.partition,
                        "the state of a window cannot be read; the window begins anew");
                })
                .ok()
        });
        *self.window.lock().expect("held shortly") = found;
    }

    /// When the window that is open has its last invocation, if no record comes before.
    pub fn window_closes_at(&self, now: Instant) -> Option<Instant> {
        let window = self.window.lock().expect("held shortly");
        let window = window.as_ref()?;
        if window.is_too_large() {
            return Some(now);
        }
        let left_us = window.end_us + LATE_US - self.worker.inner.options.clock.now_us();
        Some(now + Duration::from_micros(left_us.max(0) as u64))
    }

    /// What the event of these records has beside them.
    pub(super) fn window_members(&self, events: &[Event]) -> String {
        match self.window_for(events) {
            Some(window) => window.members(self.worker.stream.name.as_str(), self.partition, None),
            None => String::new(),
        }
    }

    /// The window that these records belong to, which begins with them if none is open.
    fn window_for(&self, events: &[Event]) -> Option<Window> {
        let first = events.first().filter(|_| self.is_windowed())?;
        let open = self.window_now();
        Some(open.unwrap_or_else(|| Window::of(first.at_us, self.worker.rules.window_s)))
    }

    /// The same, with the state that the function gave it.
    pub(super) fn window_with(&self, events: &[Event], state: Option<&str>) -> Option<Window> {
        let window = self.window_for(events)?;
        Some(Window {
            state: state?.to_owned(),
            ..window
        })
    }

    /// Keeps the state that holds at an offset, before the cursor moves there.
    pub(super) async fn keep_window(&self, window: &Window, at: Offset) -> Result<(), Stopped> {
        let path = self.window_path(at);
        loop {
            let (path, window) = (path.clone(), window.clone());
            let write = move || {
                let folder = path.parent().unwrap_or(&path);
                file::create_dirs(folder).map_err(Error::io("create", folder))?;
                registry::keep(&path, &window)
            };
            match crate::blocking(write).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    warn!(%error, function = %self.worker.function, "the state of a window cannot be kept; it is tried again");
                    let wait = self.worker.inner.options.retry_wait;
                    self.worker.wait(tokio::time::sleep(wait)).await?;
                }
            }
        }
    }

    /// The cursor has left this offset: nobody will ask for the state there.
    pub(super) async fn forget_window(&self, at: Offset) {
        let path = self.window_path(at);
        let forgetting = Arc::clone(&self.worker.inner.forgetting);
        // It waits for the disk.
        let _ = tokio::task::spawn_blocking(move || forgetting.forget(path)).await;
    }

    /// The cursor comes to this offset without a window: a state there is of a batch that was not kept, and would be found
    /// by the next start. Nobody who copies states needs it.
    pub(super) async fn clear_window(&self, at: Offset) {
        if self.is_windowed() {
            let path = self.window_path(at);
            let _ = tokio::task::spawn_blocking(move || forget(&path)).await;
        }
    }

    /// Ends the open window if the next record is none of it; true if there was an end.
    pub(super) async fn close_window_before(&self, next: Option<&Event>) -> Result<bool, Stopped> {
        let Some(window) = self.window_now() else {
            return Ok(false);
        };
        let now_us = self.worker.inner.options.clock.now_us();
        let Some(end) = end_before(&window, next, now_us) else {
            return Ok(false);
        };
        self.last_word(&window, end).await?;
        let at = self.offset();
        let open = match end {
            End::Over => {
                self.forget_window(at).await;
                None
            }
            End::Early => {
                let fresh = Window {
                    state: "{}".to_owned(),
                    ..window
                };
                self.keep_window(&fresh, at).await?;
                Some(fresh)
            }
        };
        *self.window.lock().expect("held shortly") = open;
        Ok(true)
    }

    /// The invocation at the end of a window, until it succeeds.
    async fn last_word(&self, window: &Window, end: End) -> Result<(), Stopped> {
        let worker = &self.worker;
        let members = window.members(worker.stream.name.as_str(), self.partition, Some(end));
        let payload = events::payload(&[], &members);
        let options = &worker.inner.options;
        let at = self.offset();
        let mut waits = Backoff::new(options.retry_wait, options.retry_wait_max, at.0);
        let mut attempt = 0_u32;
        loop {
            attempt = attempt.saturating_add(1);
            let said = match worker.inner.chosen(&worker.target) {
                Ok(entry) => self.say_last(&entry, attempt, &payload, end).await?,
                Err(error) => Err(error.to_string()),
            };
            let Err(reason) = said else {
                worker.set_result("OK");
                return Ok(());
            };
            warn!(function = %worker.function, stream = %worker.stream.name, partition = %self.partition, reason,
                "the last invocation of a window failed; it is tried again");
            worker.set_result("PROBLEM: Function call failed");
            let wait = waits.next().unwrap_or(options.retry_wait_max);
            worker.wait(tokio::time::sleep(wait)).await?;
        }
    }

    async fn say_last(
        &self,
        entry: &Arc<Entry>,
        attempt: u32,
        payload: &[u8],
        end: End,
    ) -> Result<Result<(), String>, Stopped> {
        let worker = &self.worker;
        let request_id = uuid::Uuid::new_v4().to_string();
        let call = Call::new(&request_id, InvocationKind::Stream, attempt);
        let answer = match self.invoke(entry, call, payload).await? {
            Ok((Outcome::Success(answer), row)) => {
                self.record(row).await;
                answer
            }
            Ok((Outcome::Failure { payload, .. }, _)) => return Ok(Err(error_message(&payload))),
            Err(reason) => return Ok(Err(reason)),
        };
        let at = self.offset();
        let none = OffsetRange {
            partition: self.partition,
            first: at,
            end: at,
        };
        let has_output = entry.info.output.is_some();
        let parsed = answers::parse_answer(&worker.stream, none, &answer, has_output, false);
        let writes = parsed.and_then(|answer| self.writes(entry, &answer.output));
        let writes = match writes {
            Ok(writes) if writes.is_empty() => return Ok(Ok(())),
            Ok(writes) => writes,
            Err(reason) => return Ok(Err(reason)),
        };
        let append = Append {
            writes,
            // A window ends but once at an offset, and early before it is over.
            producer: Some(Producer {
                id: format!("{}/window/{}", worker.mapping.cursor, self.partition),
                sequence: 2 * at.0 + u64::from(end == End::Over),
            }),
            cursors: Vec::new(),
        };
        let log = &worker.inner.options.log;
        match append_patiently(log, &append, usize::MAX, worker.stopped()).await {
            Ok(()) => Ok(Ok(())),
            Err(NotKept::Refused(error) | NotKept::Forgotten(error)) => Ok(Err(error.to_string())),
            Err(NotKept::GivenUp(_)) => Err(Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    fn event(at_us: i64) -> Event {
        Event {
            offset: Offset(0),
            at_us,
            json: "{}".to_owned(),
        }
    }

    #[test]
    fn a_window_ends_with_the_first_record_behind_it_or_by_the_clock() {
        let window = Window::of(90_000_000, 60);
        assert_eq!((window.start_us, window.end_us), (MINUTE_US, 2 * MINUTE_US));
        let end = |next: Option<i64>, now_us| end_before(&window, next.map(event).as_ref(), now_us);
        assert_eq!(
            end(Some(2 * MINUTE_US - 1), 9 * MINUTE_US),
            None,
            "it is read late"
        );
        assert_eq!(end(Some(2 * MINUTE_US), 2 * MINUTE_US), Some(End::Over));
        assert_eq!(end(None, 2 * MINUTE_US), None, "a record may still come");
        assert_eq!(end(None, 2 * MINUTE_US + LATE_US), Some(End::Over));
        let large = Window {
            state: "x".repeat(STATE_BYTES_MAX + 1),
            ..window
        };
        assert_eq!(end_before(&large, None, MINUTE_US), Some(End::Early));
        assert_eq!(end_before(&large, None, 3 * MINUTE_US), Some(End::Over));
    }

    #[test]
    fn no_state_goes_while_somebody_copies_states() {
        let dir = tempfile::tempdir().unwrap();
        let state = |at: u64| {
            let path = dir.path().join(format!("0.{at}.json"));
            registry::keep(&path, &Window::of(0, 60)).unwrap();
            path
        };
        let forgetting = Arc::new(Forgetting::default());
        let (first, second, third) = (state(1), state(2), state(3));
        forgetting.forget(first.clone());
        assert!(!first.exists());
        let held = forgetting.hold();
        let other = forgetting.hold();
        forgetting.forget(second.clone());
        drop(held);
        forgetting.forget(third.clone());
        assert!(second.exists() && third.exists());
        drop(other);
        assert!(!second.exists() && !third.exists());
    }

    #[test]
    fn states_are_looked_through_also_those_of_older_servers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(inspect(dir.path()).unwrap().is_empty());
        let folder = folder(dir.path(), "functions/f/17");
        file::create_dirs(&folder).unwrap();
        let old = serde_json::to_vec(&Window::of(0, 60)).unwrap();
        std::fs::write(folder.join("0.1.json"), old).unwrap();
        let path = folder.join("1.2.json");
        registry::keep(&path, &Window::of(0, 60)).unwrap();
        let troubles = || {
            let found = inspect(dir.path()).unwrap().into_iter();
            found.filter_map(|(path, trouble)| trouble.map(|_| path))
        };
        assert_eq!(troubles().count(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("60000000", "60000001")).unwrap();
        assert_eq!(troubles().collect::<Vec<_>>(), [path]);
    }

    #[test]
    fn an_event_says_what_aws_s_does() {
        let window = Window {
            state: r#"{"n":1}"#.to_owned(),
            ..Window::of(1_607_497_475_000_000, 120)
        };
        let members = window.members("s", PartitionId(6), Some(End::Over));
        let event: serde_json::Value =
            serde_json::from_slice(&events::payload(&[], &members)).unwrap();
        assert_eq!(
            event,
            serde_json::json!({
                "Records": [],
                "window": { "start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z" },
                "state": { "n": 1 },
                "shardId": "shardId-000000000006",
                "eventSourceARN": "arn:aws:lambic:us-east-1:000000000000:stream/s",
                "isFinalInvokeForWindow": true,
                "isWindowTerminatedEarly": false,
            })
        );
    }
}
