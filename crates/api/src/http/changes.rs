//! `GET /v1/views/{name}/changes`: a view's changes as server-sent events.
//!
//! First `snapshot` with all rows, then `change` with the rows added and removed whenever a commit changes the
//! view, at most every `?every_ms`. Each event's rows are those of one frontier. It reads the view again after
//! commits and compares, so it is bounded to views of `Options::changes_rows_max` rows.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use metrics::gauge;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    App, Shared,
    answer::{columns, json_rows_of},
    error::Failure,
    views,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    #[serde(default = "every_ms")]
    every_ms: u64,
}

fn every_ms() -> u64 {
    250
}

/// Rows as JSON text, and how often each occurs.
type Rows = HashMap<String, usize>;

pub async fn follow(
    State(app): Shared,
    Path(name): Path<String>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(parameters) = parameters.map_err(|error| {
        Failure::bad_request(error.body_text()).with_hint("the only parameter is every_ms=250")
    })?;
    views::find(&app, &name)?;
    let permit = Arc::clone(&app.changes).try_acquire_owned().map_err(|_| {
        let message = format!(
            "{} clients follow changes already",
            app.options.changes_clients_max
        );
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).with_retry()
    })?;
    let every = Duration::from_millis(parameters.every_ms.clamp(10, 3_600_000));
    // The first read happens before the head goes out, so that its errors have a status.
    let mut commits = app.services.log.commits();
    commits.borrow_and_update();
    let (head, rows) = read(&app, &name).await?;
    let (events, receiver) = mpsc::channel::<Event>(8);
    tokio::spawn(async move {
        let _following = Following::new(permit);
        let list = expand(&rows);
        let snapshot = format!("{{\"columns\":{head},\"rows\":{list}}}");
        if events
            .send(Event::default().event("snapshot").data(snapshot))
            .await
            .is_ok()
        {
            let mut stopped = app.stopped.clone();
            tokio::select! {
                () = changes(&app, &name, every, rows, commits, &events) => {}
                () = events.closed() => {}
                () = async { let _ = stopped.wait_for(|stop| *stop).await; } => {}
            }
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// Counts the clients that follow.
struct Following(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Following {
    fn new(permit: OwnedSemaphorePermit) -> Following {
        gauge!("lambic_changes_clients").increment(1.0);
        Following(permit)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        gauge!("lambic_changes_clients").decrement(1.0);
    }
}

async fn changes(
    app: &App,
    name: &str,
    every: Duration,
    mut sent: Rows,
    mut commits: tokio::sync::watch::Receiver<u64>,
    events: &mpsc::Sender<Event>,
) {
    loop {
        if commits.changed().await.is_err() {
            return;
        }
        let commit = *commits.borrow_and_update();
        let event = match read(app, name).await {
            Ok((_, rows)) => {
                let (added, removed) = difference(&sent, &rows);
                if added.is_empty() && removed.is_empty() {
                    None
                } else {
                    sent = rows;
                    let (added, removed) = (expand(&added), expand(&removed));
                    let change = format!("{{\"added\":{added},\"removed\":{removed}}}");
                    Some((
                        Event::default()
                            .event("change")
                            .id(commit.to_string())
                            .data(change),
                        false,
                    ))
                }
            }
            Err(failure) => {
                let error = json!({ "error": failure.to_json() });
                Some((
                    Event::default().event("error").data(error.to_string()),
                    true,
                ))
            }
        };
        if let Some((event, is_last)) = event
            && (events.send(event).await.is_err() || is_last)
        {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

async fn read(app: &App, name: &str) -> Result<(Value, Rows), Failure> {
    let rows_max = app.options.changes_rows_max;
    let (schema, batches) = views::select(app, name, &[], rows_max + 1, None).await?;
    let count: usize = batches
        .iter()
        .map(arrow::array::RecordBatch::num_rows)
        .sum();
    if count > rows_max {
        let message = format!(
            "view {name} has more than {rows_max} rows, which is as many as can be followed"
        );
        return Err(
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_rows", message)
                .with_hint("follow a view that summarises this one or has a filter"),
        );
    }
    let mut rows = Rows::new();
    for row in json_rows_of(&batches)? {
        *rows.entry(row.get().to_owned()).or_default() += 1;
    }
    Ok((columns(&schema), rows))
}

/// As a JSON array; the rows stay the text that they were written in, digit for digit.
fn expand(rows: &Rows) -> String {
    let mut list: Vec<(&String, usize)> = rows.iter().map(|(row, count)| (row, *count)).collect();
    list.sort();
    let list: Vec<&str> = list
        .into_iter()
        .flat_map(|(row, count)| std::iter::repeat_n(row.as_str(), count))
        .collect();
    format!("[{}]", list.join(","))
}

/// The rows that came and the rows that went, each as often as it did.
fn difference(before: &Rows, after: &Rows) -> (Rows, Rows) {
    let more = |from: &Rows, to: &Rows| -> Rows {
        to.iter()
            .filter_map(|(row, count)| {
                let more = count.saturating_sub(from.get(row).copied().unwrap_or_default());
                (more > 0).then(|| (row.clone(), more))
            })
            .collect()
    };
    (more(before, after), more(after, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_count_equal_rows() {
        let rows = |list: &[(&str, usize)]| {
            list.iter()
                .map(|(row, count)| ((*row).to_owned(), *count))
                .collect::<Rows>()
        };
        let before = rows(&[("[1]", 2), ("[2]", 1)]);
        let after = rows(&[("[1]", 1), ("[3]", 2)]);
        let (added, removed) = difference(&before, &after);
        assert_eq!(
            (expand(&added), expand(&removed)),
            ("[[3],[3]]".to_owned(), "[[1],[2]]".to_owned())
        );
        assert_eq!(difference(&after, &after), (rows(&[]), rows(&[])));
        assert_eq!(expand(&rows(&[])), "[]");
    }
}
