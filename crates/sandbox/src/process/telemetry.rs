//! AWS's Telemetry API, and the Logs API before it: extensions are sent what happens in their environment.
//!
//! Who has subscribed, what each has still to be sent, and when. Each subscriber has a bound: what finds no room is
//! counted, and told once there is room again. What happened before it subscribed is kept for it until the start has
//! ended. Nothing is sent while the environment stands still; before it does, everything goes out, if that does not
//! take too long. HTTP is [`super::endpoint`]'s, the way to a listener [`deliver`]'s.

mod connector;
mod deliver;
mod events;
mod subscription;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use lambic_base::Backoff;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

pub use self::{
    connector::{Connectors, MAX as CONNECTORS_MAX},
    events::{Event, Report, Status},
    subscription::{Api, Invalid, Subscription, Type},
};

/// Before the start has ended.
const EARLY_MAX: usize = 1_000;
const EARLY_BYTES_MAX: usize = 1 << 20;
const RETRY_WAIT_MIN: Duration = Duration::from_millis(20);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// A subscriber may be behind by this many of its batches.
const BEHIND_MAX: usize = 2;

/// What happens in one environment, for those of its extensions that want to know.
pub struct Telemetry {
    state: Mutex<State>,
    connectors: Connectors,
    deliveries: Mutex<JoinSet<()>>,
    /// Wakes deliveries.
    moved: Notify,
    /// Wakes whoever waits for them.
    delivered: Notify,
}

#[derive(Default)]
struct State {
    early: Vec<Event>,
    /// Of the lines among them.
    early_bytes: usize,
    /// Nobody can subscribe any more.
    is_closed: bool,
    /// It does not stand still.
    is_running: bool,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    extension: String,
    subscription: Subscription,
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// When the oldest of the queue came into it.
    since: Option<Instant>,
    /// Everything is to be sent now.
    is_hurried: bool,
    /// The last attempt was in vain: without haste, the next one is then.
    retry_at: Option<Instant>,
    waits: Backoff,
    dropped_records: u64,
    dropped_bytes: u64,
}

/// What a delivery is to do.
#[derive(Debug, PartialEq)]
enum Due {
    Nothing,
    At(Instant),
    Send(Vec<Bytes>),
}

impl Subscriber {
    fn new(extension: String, subscription: Subscription) -> Subscriber {
        Subscriber {
            extension,
            subscription,
            queue: VecDeque::new(),
            bytes: 0,
            since: None,
            is_hurried: false,
            retry_at: None,
            waits: Backoff::new(RETRY_WAIT_MIN, RETRY_WAIT_MAX, 1),
            dropped_records: 0,
            dropped_bytes: 0,
        }
    }

    fn take(&mut self, event: &Event, now: Instant) {
        if let Some(json) = self.subscription.shown(event) {
            self.push(json, now);
        }
    }

    fn push(&mut self, json: Bytes, now: Instant) {
        let buffering = &self.subscription.buffering;
        if self.queue.len() >= BEHIND_MAX * buffering.items_max
            || self.bytes + json.len() > BEHIND_MAX * buffering.bytes_max
        {
            self.dropped_records += 1;
            self.dropped_bytes += json.len() as u64;
            return;
        }
        self.bytes += json.len();
        self.queue.push_back(json);
        self.since.get_or_insert(now);
    }

    /// The next batch, if it is time for it; it stays in the queue until it was taken.
    fn due(&self, now: Instant) -> Due {
        let buffering = &self.subscription.buffering;
        let Some(since) = self.since else {
            return Due::Nothing;
        };
        let is_full = self.queue.len() >= buffering.items_max || self.bytes >= buffering.bytes_max;
        let at = match self.retry_at {
            Some(retry_at) => retry_at,
            None if is_full => now,
            None => since + buffering.timeout,
        };
        if !self.is_hurried && now < at {
            return Due::At(at);
        }
        let mut bytes = 0;
        let batch = self.queue.iter().take(buffering.items_max);
        let batch = batch.take_while(|event| {
            let has_room = bytes == 0 || bytes + event.len() <= buffering.bytes_max;
            bytes += event.len();
            has_room
        });
        Due::Send(batch.cloned().collect())
    }

    /// So many of the queue were taken.
    fn sent(&mut self, events: usize, now: Instant) {
        self.retry_at = None;
        self.waits.reset();
        for event in self.queue.drain(..events.min(self.queue.len())) {
            self.bytes -= event.len();
        }
        self.since = (!self.queue.is_empty()).then_some(now);
        self.is_hurried &= !self.queue.is_empty();
        if self.dropped_records > 0 {
            let dropped = Event::logs_dropped(self.dropped_records, self.dropped_bytes);
            (self.dropped_records, self.dropped_bytes) = (0, 0);
            self.take(&dropped, now);
        }
    }

    fn failed(&mut self, now: Instant) {
        self.is_hurried = false;
        self.retry_at = Some(now + self.waits.next().unwrap_or(RETRY_WAIT_MAX));
    }
}

impl Telemetry {
    pub fn new(connectors: Connectors) -> Arc<Telemetry> {
        Arc::new(Telemetry {
            state: Mutex::new(State {
                is_running: true,
                ..State::default()
            }),
            connectors,
            deliveries: Mutex::default(),
            moved: Notify::new(),
            delivered: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is held")
    }

    /// Tells what `event` makes, if there is anybody who wants to know or still can.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        let state = self.state();
        let is_wanted = !state.is_closed || !state.subscribers.is_empty();
        drop(state);
        if is_wanted {
            self.emit(event());
        }
    }

    fn emit(&self, event: Event) {
        let now = Instant::now();
        let mut state = self.state();
        for subscriber in &mut state.subscribers {
            subscriber.take(&event, now);
        }
        let bytes = event.record.as_str().map_or(0, str::len);
        if !state.is_closed
            && state.early.len() < EARLY_MAX
            && state.early_bytes + bytes <= EARLY_BYTES_MAX
        {
            state.early_bytes += bytes;
            state.early.push(event);
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// What one extension wants to be sent from now on, and what has been since the environment began.
    pub fn subscribe(
        self: &Arc<Self>,
        extension: &str,
        subscription: Subscription,
    ) -> Result<(), Refused> {
        let api = subscription.api;
        let types = subscription.types.clone();
        {
            let mut state = self.state();
            if state.is_closed {
                return Err(Refused::Closed);
            }
            let known = state.subscribers.iter();
            let mut known = known.filter(|subscriber| subscriber.extension == extension);
            if let Some(known) = known.next() {
                // Asked again it is the same.
                return match known.subscription.api.is_same_as(api) {
                    true => Ok(()),
                    false => Err(Refused::ByOtherApi),
                };
            }
            let connector = self.connectors.take().ok_or(Refused::TooMany)?;
            let number = state.subscribers.len();
            let mut subscriber = Subscriber::new(extension.to_owned(), subscription);
            let now = Instant::now();
            for event in &state.early {
                subscriber.take(event, now);
            }
            state.subscribers.push(subscriber);
            let mut deliveries = self.deliveries.lock().expect("held shortly");
            deliveries.spawn(deliver::run(self.clone(), number, connector));
        }
        self.emit(Event::subscribed(extension, &types));
        Ok(())
    }

    /// Nothing is sent any more.
    pub fn end(&self) {
        self.deliveries.lock().expect("held shortly").abort_all();
    }

    /// The start has ended.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.early = Vec::new();
    }

    pub fn has_subscribers(&self) -> bool {
        !self.state().subscribers.is_empty()
    }

    /// The environment goes on, or is about to stand still.
    pub fn set_running(&self, is_running: bool) {
        self.state().is_running = is_running;
        self.moved.notify_waiters();
    }

    /// Sends everything now, without waiting for it.
    pub fn hurry(&self) {
        for subscriber in &mut self.state().subscribers {
            subscriber.is_hurried = !subscriber.queue.is_empty();
        }
        self.moved.notify_waiters();
    }

    /// Sends everything now, and waits until it was taken, or does not get through, or `time_max` is over.
    pub async fn flush(&self, time_max: Duration) {
        if !self.has_subscribers() {
            return;
        }
        self.hurry();
        let done = async {
            loop {
                let delivered = self.delivered.notified();
                tokio::pin!(delivered);
                delivered.as_mut().enable();
                let is_done = self
                    .state()
                    .subscribers
                    .iter()
                    .all(|subscriber| subscriber.queue.is_empty() || !subscriber.is_hurried);
                if is_done {
                    return;
                }
                delivered.await;
            }
        };
        let _ = tokio::time::timeout(time_max, done).await;
    }

    /// What the delivery of a subscriber is to do now.
    fn due(&self, subscriber: usize) -> Due {
        let state = self.state();
        match state.subscribers.get(subscriber) {
            Some(subscriber) if state.is_running => subscriber.due(Instant::now()),
            _ => Due::Nothing,
        }
    }

    fn is_running(&self) -> bool {
        self.state().is_running
    }

    fn subscription(&self, subscriber: usize) -> Option<Subscription> {
        let state = self.state();
        let subscriber = state.subscribers.get(subscriber)?;
        Some(subscriber.subscription.clone())
    }

    /// How an attempt ended, of so many events.
    fn attempted(&self, subscriber: usize, events: usize, is_taken: bool) {
        if let Some(subscriber) = self.state().subscribers.get_mut(subscriber) {
            match is_taken {
                true => subscriber.sent(events, Instant::now()),
                false => subscriber.failed(Instant::now()),
            }
        }
        self.delivered.notify_waiters();
    }
}

/// Why a subscription that is one is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Closed,
    ByOtherApi,
    TooMany,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn subscriber(types: &str) -> Subscriber {
        let body = format!(
            r#"{{"schemaVersion": "2022-07-01", "types": {types}, "destination": {{"protocol": "HTTP", "URI": "http://sandbox:80"}}}}"#
        );
        let subscription = Subscription::read(Api::Telemetry, body.as_bytes()).unwrap();
        Subscriber::new("e".to_owned(), subscription)
    }

    fn lines(subscriber: &mut Subscriber, count: usize, bytes: usize, now: Instant) {
        for _ in 0..count {
            subscriber.push(Bytes::from(vec![b'x'; bytes]), now);
        }
    }

    fn sizes(due: Due) -> usize {
        match due {
            Due::Send(batch) => batch.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_its_time_is_over_or_there_is_haste() {
        let now = Instant::now();
        let mut one = subscriber(r#"["function"]"#);
        assert_eq!(one.due(now), Due::Nothing);
        lines(&mut one, 3, 10, now);
        let end = now + Duration::from_secs(1);
        assert_eq!(one.due(now), Due::At(end));
        assert_eq!(sizes(one.due(end)), 3);
        one.is_hurried = true;
        assert_eq!(sizes(one.due(now)), 3);
        one.sent(3, now);
        assert_eq!(one.due(end), Due::Nothing);
        assert!(!one.is_hurried);
        lines(&mut one, 10_001, 1, now);
        assert_eq!(sizes(one.due(now)), 10_000);
        one.sent(10_000, now);
        assert_eq!(one.due(now), Due::At(end));
        lines(&mut one, 3, 100_000, now);
        assert_eq!(sizes(one.due(now)), 3, "as many as fit, and the first one");
        // After a failure it waits, however full it is, unless there is haste.
        one.failed(now);
        assert!(matches!(one.due(now), Due::At(at) if at > now && at < end));
        one.is_hurried = true;
        assert_eq!(sizes(one.due(now)), 3);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let now = Instant::now();
        let mut one = subscriber(r#"["platform", "function"]"#);
        lines(&mut one, 6, 100_000, now);
        assert_eq!((one.queue.len(), one.dropped_records), (5, 1));
        one.sent(2, now);
        assert_eq!((one.queue.len(), one.dropped_records), (4, 0));
        let told: Value = serde_json::from_slice(one.queue.back().unwrap()).unwrap();
        assert_eq!(told["type"], "platform.logsDropped");
        assert_eq!(told["record"]["droppedRecords"], 1);
        assert_eq!(told["record"]["droppedBytes"], 100_000);
    }
}
