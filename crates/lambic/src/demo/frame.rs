//! One picture of the running system, taken a few times a second.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use lambic_query::ViewInfo;
use tokio::sync::watch;

use super::Stage;
use crate::{engine::Engine, output::Rows, server::rows};

const EVERY: Duration = Duration::from_millis(250);
/// Rates are means over this long.
const RATE_OVER: Duration = Duration::from_secs(2);

const BUSIEST: &str = "SELECT origin, destination, flights, round(distance_avg) AS miles \
                       FROM busiest_routes ORDER BY flights DESC, origin, destination LIMIT 8";
const ALERTS: &str =
    "SELECT date, origin, destination, delay FROM alerts ORDER BY _offset DESC LIMIT 6";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    History,
    Live,
    Settling,
    Auditing,
    Serving,
    Done,
}

impl Phase {
    pub fn title(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::History => "appending history",
            Phase::Live => "live, in time-lapse",
            Phase::Settling => "waiting for the function",
            Phase::Auditing => "auditing: every view from scratch",
            Phase::Serving => "serving",
            Phase::Done => "done",
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Frame {
    pub phase: Phase,
    pub elapsed: Duration,
    /// Name and records of every stream of the project.
    pub streams: Vec<(String, u64)>,
    pub rows_per_s: f64,
    /// The last rates, oldest first.
    pub rates: Vec<u64>,
    pub views: Vec<ViewInfo>,
    pub busiest: Rows,
    pub alerts: Rows,
    pub events: Vec<String>,
}

impl Frame {
    pub fn records(&self, stream: &str) -> u64 {
        self.streams
            .iter()
            .find(|(name, _)| name == stream)
            .map_or(0, |(_, records)| *records)
    }

    pub fn lag(&self) -> u64 {
        self.views
            .iter()
            .map(|view| view.lag_records)
            .max()
            .unwrap_or(0)
    }
}

/// Takes frames until the demo is done.
pub async fn sample(stage: Arc<Stage>, frames: watch::Sender<Frame>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut history: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut rates: VecDeque<u64> = VecDeque::new();
    loop {
        ticks.tick().await;
        let heads = stage.engine.log.snapshot();
        let streams: Vec<(String, u64)> = stage
            .engine
            .database
            .streams()
            .iter()
            .filter(|stream| !stream.name.as_str().starts_with("lambic_"))
            .map(|stream| (stream.name.to_string(), heads.head(stream.id).records()))
            .collect();
        let flights = streams
            .iter()
            .find(|(name, _)| name == "flights")
            .map_or(0, |(_, n)| *n);
        let now = Instant::now();
        history.push_back((now, flights));
        while history.len() > 2 && now - history[0].0 > RATE_OVER {
            history.pop_front();
        }
        let (since, before) = history[0];
        let seconds = (now - since).as_secs_f64();
        let rows_per_s = if seconds > 0.0 {
            (flights - before) as f64 / seconds
        } else {
            0.0
        };
        rates.push_back(rows_per_s as u64);
        if rates.len() > 120 {
            rates.pop_front();
        }
        let phase = *stage.phase.lock().expect("no holder of the phase panics");
        let ask = |sql: &'static str| {
            let database = &stage.engine.database;
            async move { rows(database, sql).await.unwrap_or_default() }
        };
        // While the views are being made there is nothing to ask yet, which is no error here; while
        // they are audited nothing changes, and the audit gets the whole machine.
        let (busiest, alerts) = if phase == Phase::Auditing {
            let last = frames.borrow();
            (last.busiest.clone(), last.alerts.clone())
        } else {
            (ask(BUSIEST).await, ask(ALERTS).await)
        };
        let frame = Frame {
            phase,
            elapsed: stage.started.elapsed(),
            streams,
            rows_per_s,
            rates: rates.iter().copied().collect(),
            views: stage.engine.database.views(),
            busiest,
            alerts,
            events: stage
                .events
                .lock()
                .expect("no holder of the events panics")
                .clone(),
        };
        if frames.send(frame).is_err() || phase == Phase::Done {
            return;
        }
    }
}

/// Records of `flights` that the function has not seen.
pub fn function_lag(engine: &Engine) -> u64 {
    let Some(flights) = engine.database.stream("flights") else {
        return 0;
    };
    let head = engine.log.snapshot().head(flights.id);
    engine
        .functions
        .cursors()
        .0
        .get(&flights.id)
        .map_or(0, |seen| head.since(seen))
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(super::grouped(number), text);
        }
    }
}
