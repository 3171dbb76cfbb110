//! The demo without a terminal: a line when something happened, and one every few seconds.

use std::{io::Write, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    Stage,
    display::Viewer,
    frame::{Frame, Phase, grouped},
};

const EVERY: Duration = Duration::from_secs(2);

pub fn start(stage: Arc<Stage>, mut frames: watch::Receiver<Frame>) -> Viewer {
    Viewer::Plain(tokio::spawn(async move {
        let mut shown = 0;
        let mut next = Duration::ZERO;
        while frames.changed().await.is_ok() {
            let frame = frames.borrow_and_update().clone();
            shown = print_events(&frame.events, shown);
            if frame.phase == Phase::Live && frame.elapsed >= next {
                say(&line(&frame));
                next = frame.elapsed + EVERY;
            }
            if frame.phase == Phase::Done {
                break;
            }
        }
        let events = stage
            .events
            .lock()
            .expect("no holder of the events panics")
            .clone();
        print_events(&events, shown);
    }))
}

/// Whoever reads may go away; the demo goes on.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn print_events(events: &[String], shown: usize) -> usize {
    for event in &events[shown..] {
        say(event);
    }
    events.len()
}

fn line(frame: &Frame) -> String {
    let top = frame.busiest.rows.first().map(|row| {
        let text = |column| {
            frame
                .busiest
                .get(row, column)
                .as_str()
                .unwrap_or("?")
                .to_owned()
        };
        format!(
            "busiest {}-{} {}",
            text("origin"),
            text("destination"),
            frame.busiest.get(row, "flights")
        )
    });
    let frontier = frame
        .views
        .iter()
        .find(|view| view.name == "delays_per_hour")
        .map_or("-", |view| view.batch_frontier.as_str());
    format!(
        "{:6.1} s  flights {}  {} rows/s  lag {}  batch frontier {}  alerts {}  {}",
        frame.elapsed.as_secs_f64(),
        grouped(frame.records("flights")),
        grouped(frame.rows_per_s as u64),
        frame.lag(),
        frontier,
        grouped(frame.records("alerts")),
        top.unwrap_or_default(),
    )
}
