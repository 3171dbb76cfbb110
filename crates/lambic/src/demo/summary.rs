//! What a demo showed, in a few lines, and what to try next.

use std::{fmt::Write, time::Duration};

use serde_json::Value;

use super::{
    Stage,
    frame::grouped,
    replay::{Audit, Replayed},
};
use crate::server::{Addresses, rows};

pub struct Result {
    pub history_rows: u64,
    pub history: Duration,
    pub replayed: Replayed,
    pub audits: Vec<Audit>,
    pub alerts: u64,
    /// Finished and failed runs of the Python function.
    pub invocations: (u64, u64),
    pub elapsed: Duration,
}

impl Result {
    /// Every view was audited and agreed.
    pub fn agreed(&self) -> bool {
        !self.audits.is_empty() && self.audits.iter().all(|audit| audit.agrees)
    }

    pub fn verdict(&self) -> String {
        let agreed = self.audits.iter().filter(|audit| audit.agrees).count();
        format!(
            "{agreed} of {} views agree with a recompute from scratch",
            self.audits.len()
        )
    }
}

pub async fn gather(
    stage: &Stage,
    history_rows: u64,
    history: Duration,
    replayed: Replayed,
    audits: Vec<Audit>,
) -> anyhow::Result<Result> {
    let database = &stage.engine.database;
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
    let alerts = rows(database, "SELECT count(*) FROM alerts").await?;
    let invocations = rows(
        database,
        "SELECT count(*), count(*) FILTER (WHERE outcome <> 'success') \
         FROM lambic_invocations WHERE function = 'flag_long_delays'",
    )
    .await?;
    let first = invocations.rows.first();
    Ok(Result {
        history_rows,
        history,
        replayed,
        audits,
        alerts: number(alerts.rows.first().and_then(|row| row.first())),
        invocations: (
            number(first.and_then(|row| row.first())),
            number(first.and_then(|row| row.get(1))),
        ),
        elapsed: stage.started.elapsed(),
    })
}

pub fn text(result: &Result, addresses: &Addresses) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{content}");
    };
    line(String::new());
    line("Summary".to_owned());
    line(format!(
        "  history    {} flights appended with fsync in {:.1} s ({} rows/s)",
        grouped(result.history_rows),
        result.history.as_secs_f64(),
        grouped((result.history_rows as f64 / result.history.as_secs_f64().max(1e-9)) as u64)
    ));
    line(format!(
        "  live       {} flights in time-lapse",
        grouped(result.replayed.rows)
    ));
    if let Some(batch) = result.replayed.batch {
        line(format!(
            "  batch      all views in {:.1} s while the stream went on",
            batch.as_secs_f64()
        ));
    }
    let (invocations, failed) = result.invocations;
    line(format!(
        "  function   {} invocations ({} failed) flagged {} long delays into alerts",
        grouped(invocations),
        grouped(failed),
        grouped(result.alerts)
    ));
    for audit in &result.audits {
        let verdict = if audit.agrees { "agrees" } else { "DISAGREES" };
        line(format!(
            "  audit      {:<18} {verdict}  {} rows {}",
            audit.view, audit.rows, audit.detail
        ));
    }
    line(format!(
        "  {} in {:.1} s",
        result.verdict(),
        result.elapsed.as_secs_f64()
    ));
    line(String::new());
    line("Try next (while a server runs: `lambic demo` without --for keeps serving)".to_owned());
    line(format!(
        "  psql -h {} -p {} -U me lambic -c 'SELECT * FROM busiest_routes ORDER BY flights DESC LIMIT 5'",
        addresses.pg.ip(),
        addresses.pg.port()
    ));
    line(format!(
        "  curl 'http://{}/v1/views/latest_departure?origin=ATL'",
        addresses.http
    ));
    line(format!("  open http://{}/ in a browser", addresses.http));
    text
}
