//! `lambic batch`: runs batches now and shows how they get on, and lists what they have covered.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Global;
use crate::{
    cli,
    client::{Client, identifier, literal},
    output::{self, Rows, counted},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub fn run(global: &Global, command: cli::Batch) -> anyhow::Result<()> {
    let client = global.client()?;
    match command {
        cli::Batch::Run { views } => {
            let views = if views.is_empty() {
                client.views()?
            } else {
                views
            };
            let mut rows = Rows {
                columns: vec!["view".into(), "seconds".into()],
                ..Rows::default()
            };
            for view in views {
                let start = Instant::now();
                refresh(&client, &view).with_context(|| format!("the batch of {view} failed"))?;
                let seconds = (start.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                rows.rows.push(vec![json!(view), json!(seconds)]);
            }
            output::print_rows(&rows, global.json)
        }
        cli::Batch::Status => {
            let batches = client.rows(
                "SELECT batch, view, version, part, kind, state, records, records_total, slices, slices_total, \
                 slices_resumed, bytes_spilled, started_at, finished_at, eta FROM lambic_batches ORDER BY batch",
            )?;
            output::print_rows(&batches, global.json)
        }
        cli::Batch::List => {
            let views = client.rows("SELECT * FROM lambic_views ORDER BY name")?;
            let wanted = [
                "name",
                "batch_every",
                "batch_runs",
                "batch_frontier",
                "speed_frontier",
                "lag_records",
            ];
            let columns: Vec<String> = wanted
                .iter()
                .filter(|name| views.columns.iter().any(|c| c == *name))
                .map(|n| (*n).to_owned())
                .collect();
            let rows = views
                .rows
                .iter()
                .map(|row| {
                    columns
                        .iter()
                        .map(|column| views.get(row, column).clone())
                        .collect()
                })
                .collect();
            let rows = Rows {
                columns,
                rows,
                ..Rows::default()
            };
            output::print_rows(&rows, global.json)
        }
    }
}

/// Runs a batch, and shows how far it is.
fn refresh(client: &Client, view: &str) -> anyhow::Result<()> {
    let sql = format!("REFRESH MATERIALIZED VIEW {}", identifier(view));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| client.sql(&sql));
        let mut shown = Shown::new();
        while !running.is_finished() {
            std::thread::sleep(LOOK_EVERY);
            if let Some(batch) = Running::of(client, view) {
                shown.update(view, &batch);
            }
        }
        shown.end();
        let answer = running.join();
        answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(())
}

/// A batch that runs, as `lambic_batches` shows it.
#[derive(Debug, Default, PartialEq)]
struct Running {
    state: String,
    records: u64,
    records_total: u64,
    slices: u64,
    slices_total: u64,
    bytes_spilled: u64,
    left_s: Option<f64>,
}

impl Running {
    fn of(client: &Client, view: &str) -> Option<Running> {
        let sql = format!(
            "SELECT state, records, records_total, slices, slices_total, bytes_spilled, \
             extract(epoch FROM eta - now()) AS left_s FROM lambic_batches WHERE view = {} AND finished_at IS NULL",
            literal(view)
        );
        Running::from(client.rows(&sql).ok()?.objects().first()?)
    }

    fn from(row: &Value) -> Option<Running> {
        let number = |name: &str| row[name].as_u64().unwrap_or_default();
        let left_s = match &row["left_s"] {
            Value::String(text) => text.parse().ok(),
            other => other.as_f64(),
        };
        Some(Running {
            state: row["state"].as_str()?.to_owned(),
            records: number("records"),
            records_total: number("records_total"),
            slices: number("slices"),
            slices_total: number("slices_total"),
            bytes_spilled: number("bytes_spilled"),
            left_s: left_s.map(|left: f64| left.max(0.0)),
        })
    }

    /// What a bar does not say.
    fn notes(&self) -> String {
        let mut notes = String::new();
        if self.slices_total > 0 {
            notes += &format!(", slice {} of {}", self.slices, self.slices_total);
        }
        if self.bytes_spilled > 0 {
            let spilled = lambic_base::bytes::shown(self.bytes_spilled);
            notes += &format!(", {spilled} on disk");
        }
        if let Some(left) = self.left_s.filter(|_| self.state == "computing") {
            let left = Duration::from_secs(left.ceil() as u64);
            notes += &format!(", about {} left", humantime::format_duration(left));
        }
        notes
    }

    fn line(&self, view: &str) -> String {
        format!(
            "{view}: {}, {} of {}{}",
            self.state,
            self.records,
            counted(self.records_total, "record"),
            self.notes()
        )
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Shown {
    fn new() -> Shown {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            match ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} records{msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Shown {
            bar,
            said: Instant::now(),
        }
    }

    fn update(&mut self, view: &str, batch: &Running) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{view}: {}", batch.state));
            bar.set_length(batch.records_total);
            bar.set_position(batch.records);
            bar.set_message(batch.notes());
        } else if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            eprintln!("{}", batch.line(view));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_told_of_in_one_line() {
        let row = json!({
            "state": "computing", "records": 12, "records_total": 48, "slices": 1, "slices_total": 4,
            "bytes_spilled": 3 << 20, "left_s": "61.5",
        });
        let batch = Running::from(&row).unwrap();
        let line = "v: computing, 12 of 48 records, slice 1 of 4, 3 MiB on disk, about 1m 2s left";
        assert_eq!(batch.line("v"), line);
        let row = json!({"state": "merging", "records": 1, "records_total": 1, "left_s": -3.0});
        let batch = Running::from(&row).unwrap();
        assert_eq!(batch.line("v"), "v: merging, 1 of 1 record");
        assert_eq!(Running::from(&json!({})), None);
    }
}
