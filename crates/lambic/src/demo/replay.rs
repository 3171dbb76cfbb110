//! Appends the history, replays the rest in time-lapse, runs the batch in the middle, audits.

use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use lambic_model::{Append, Write};
use lambic_query::Session;
use serde_json::Value;

use super::{Stage, frame::Phase, source::Input};
use crate::server::rows;

/// Records in one append of history.
const HISTORY_BATCH: usize = 10_000;
/// Appends of the live stream in a second.
const TICKS: f64 = 10.0;

/// How long the function may take to catch up after the last flight.
const SETTLING_MAX: Duration = Duration::from_secs(15);

pub struct Replayed {
    pub rows: u64,
    /// Batch runs of all views in the middle of the stream.
    pub batch: Option<Duration>,
}

pub struct Audit {
    pub view: String,
    pub agrees: bool,
    pub rows: String,
    pub detail: String,
}

pub async fn history(stage: &Stage, input: &Input) -> anyhow::Result<Duration> {
    stage.enter(Phase::History);
    append(stage, "airports", input.airports.clone()).await?;
    let start = Instant::now();
    let mut from = 0;
    while from < input.history.num_rows() && !stage.stopped() {
        let length = HISTORY_BATCH.min(input.history.num_rows() - from);
        append(stage, "flights", input.history.slice(from, length)).await?;
        from += length;
    }
    Ok(start.elapsed())
}

/// Appends by the clock, so that a slow moment is caught up and the end comes on time.
pub async fn live(stage: &Stage, input: &Input, during: Duration) -> anyhow::Result<Replayed> {
    stage.enter(Phase::Live);
    let total = input.live.num_rows();
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / TICKS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stop = stage.stop.subscribe();
    let mut sent = 0;
    let mut batch = None;
    let mut running = None;
    while sent < total {
        tokio::select! {
            _ = ticks.tick() => {}
            // The sender lives in the stage.
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let share = (start.elapsed().as_secs_f64() / during.as_secs_f64().max(0.1)).min(1.0);
        let due = ((total as f64 * share) as usize).min(sent + HISTORY_BATCH);
        if due > sent {
            append(stage, "flights", input.live.slice(sent, due - sent)).await?;
            sent = due;
        }
        if running.is_none() && share >= 0.5 {
            stage.tell("batch run begins, the stream goes on".to_owned());
            running = Some(tokio::spawn(refresh(stage.engine.database.clone())));
        }
        if batch.is_none()
            && running
                .as_ref()
                .is_some_and(tokio::task::JoinHandle::is_finished)
            && let Some(task) = running.as_mut()
        {
            batch = Some(batch_ended(stage, task.await)?);
        }
    }
    if batch.is_none()
        && let Some(task) = running
    {
        batch = Some(batch_ended(stage, task.await)?);
    }
    Ok(Replayed {
        rows: sent as u64,
        batch,
    })
}

fn batch_ended(
    stage: &Stage,
    joined: Result<anyhow::Result<Duration>, tokio::task::JoinError>,
) -> anyhow::Result<Duration> {
    let took = joined.context("the batch run broke off")??;
    stage.tell(format!(
        "batch run of all views done in {:.1} s; the batch frontiers moved",
        took.as_secs_f64()
    ));
    Ok(took)
}

async fn refresh(database: lambic_query::Database) -> anyhow::Result<Duration> {
    let start = Instant::now();
    for view in database.views() {
        let sql = format!("REFRESH MATERIALIZED VIEW {}", view.name);
        database
            .execute(&Session::default(), &sql)
            .await
            .map_err(|error| anyhow::anyhow!("batch of {}: {}", view.name, error.message))?;
    }
    Ok(start.elapsed())
}

/// Waits until the function has seen every flight, so that its alerts are complete.
pub async fn settle(stage: &Stage) -> anyhow::Result<()> {
    stage.enter(Phase::Settling);
    let mut commits = stage.engine.log.commits();
    let until = tokio::time::Instant::now() + SETTLING_MAX;
    loop {
        if stage.stopped() || super::frame::function_lag(&stage.engine) == 0 {
            stage.tell("the function has seen every flight; auditing".to_owned());
            return Ok(());
        }
        // The function's progress is a commit, its cursor.
        match tokio::time::timeout_at(until, commits.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                stage.tell(
                    "the function did not finish in time; its alerts go on arriving".to_owned(),
                );
                return Ok(());
            }
        }
    }
}

pub async fn audit(stage: &Stage) -> anyhow::Result<Vec<Audit>> {
    let answer = rows(&stage.engine.database, "AUDIT ALL").await?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let audits: Vec<Audit> = answer
        .rows
        .iter()
        .map(|row| Audit {
            view: text(answer.get(row, "view")),
            agrees: answer.get(row, "agrees").as_bool() == Some(true),
            rows: text(answer.get(row, "rows")),
            detail: text(answer.get(row, "detail")),
        })
        .collect();
    for audit in &audits {
        let verdict = if audit.agrees { "agrees" } else { "DISAGREES" };
        stage.tell(format!(
            "audit of {}: {verdict}, {} rows {}",
            audit.view, audit.rows, audit.detail
        ));
    }
    Ok(audits)
}

async fn append(stage: &Stage, stream: &str, batch: RecordBatch) -> anyhow::Result<()> {
    let stream = stage
        .engine
        .database
        .stream(stream)
        .with_context(|| format!("the example's stream {stream} is missing"))?;
    let write = Write {
        stream: stream.id,
        partition: None,
        batch,
        schema: None,
    };
    stage
        .engine
        .log
        .append(Append {
            writes: vec![write],
            ..Append::default()
        })
        .await?;
    Ok(())
}
