//! `GET /v1/views/{name}/changes`: a view's changes as server-sent events.
//!
//! First `snapshot` with all rows, then `change` with the rows added and removed, at most every `?every_ms`, and
//! `progress` where there were none. The `id` of an event is its frontier; a browser sends it back as `Last-Event-ID`
//! when it connects again, and `?from=` does the same. Many rows come in parts, of which the last one has the id.

use std::{convert::Infallible, sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use lambic_query::{Change, Follow, Followed, Message, sqlstate};
use metrics::gauge;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    Shared,
    answer::{columns, internal, json_rows},
    error::Failure,
    views,
};
use crate::executor::Messages;

/// Rows of one event.
const PART_ROWS_MAX: usize = 10_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    #[serde(default = "every_ms")]
    every_ms: u64,
    from: Option<String>,
    #[serde(default = "yes")]
    snapshot: bool,
}

fn every_ms() -> u64 {
    250
}

fn yes() -> bool {
    true
}

pub async fn follow(
    State(app): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(parameters) = parameters.map_err(|error| {
        Failure::bad_request(error.body_text()).with_hint(
            "the parameters are every_ms=250, from= the id of an event, and snapshot=false",
        )
    })?;
    views::find(&app, &name)?;
    let permit = Arc::clone(&app.changes).try_acquire_owned().map_err(|_| {
        let message = format!(
            "{} clients follow changes already",
            app.options.changes_clients_max
        );
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).with_retry()
    })?;
    // A client that connects again repeats its first request, and says in the header how far it has come since.
    let last = headers.get(LAST_EVENT_ID).map(|last| last.to_str());
    let last = last.transpose().map_err(|_| {
        Failure::bad_request("Last-Event-ID is not the id of an event")
            .with_hint("begin without it")
    })?;
    let last = last.filter(|last| !last.is_empty()).map(str::to_owned);
    let from = last.or(parameters.from);
    let follow = Follow {
        snapshot: parameters.snapshot && from.is_none(),
        snapshot_after_reset: parameters.snapshot,
        from,
        rows_max: app.options.changes_rows_max,
        every: Duration::from_millis(parameters.every_ms.clamp(10, 3_600_000)),
        progress_every: PROGRESS_EVERY,
    };
    // The first message is made before the head goes out, so that its errors have a status.
    let followed = Followed::Named(name.clone());
    let messages = app.executor.follow(followed, follow).await;
    let messages = messages.map_err(failure)?;
    let (events, receiver) = mpsc::channel::<Event>(8);
    tokio::spawn(async move {
        let _following = Following::new(permit);
        let mut stopped = app.stopped.clone();
        tokio::select! {
            () = send(messages, &events) => {}
            () = events.closed() => {}
            () = async { let _ = stopped.wait_for(|stop| *stop).await; } => {}
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

fn failure(error: lambic_query::Error) -> Failure {
    let sqlstate = error.sqlstate;
    let mut failure = Failure {
        position: None,
        ..Failure::from(error)
    };
    if sqlstate == sqlstate::LIMIT_EXCEEDED {
        failure.status = StatusCode::UNPROCESSABLE_ENTITY;
        failure.code = "too_many_rows";
    }
    failure
}

async fn send(mut messages: Messages, events: &mpsc::Sender<Event>) {
    let mut is_first = true;
    while let Some(message) = messages.next().await {
        let made = message.map_err(failure).and_then(|message| {
            let with_columns =
                std::mem::take(&mut is_first) || matches!(message.change, Change::Snapshot(_));
            parts(message, with_columns)
        });
        let (parts, failed) = match made {
            Ok(parts) => (parts, false),
            Err(failure) => {
                let error = json!({ "error": failure.to_json() }).to_string();
                (vec![Event::default().event("error").data(error)], true)
            }
        };
        for event in parts {
            if events.send(event).await.is_err() {
                return;
            }
        }
        if failed {
            return;
        }
    }
}

/// The events of a message; the last one has the id.
fn parts(message: Message, with_columns: bool) -> Result<Vec<Event>, Failure> {
    let Message {
        frontier,
        schema,
        change,
    } = message;
    let columns = with_columns.then(|| columns(&schema));
    let mut part = Part::new(&frontier, columns);
    match change {
        Change::Snapshot(rows) => part.rows("snapshot", &[("rows", rows)]),
        Change::Rows { added, removed } => {
            part.rows("change", &[("added", added), ("removed", removed)])
        }
        Change::Progress => Ok(vec![part.event("progress", "", true)]),
        Change::Reset(why) => {
            let why = format!(",\"reason\":{}", Value::from(why));
            Ok(vec![part.event("reset", &why, false)])
        }
        Change::Dropped => Ok(vec![part.event("dropped", "", false)]),
    }
}

/// Makes the events of one message.
struct Part<'a> {
    frontier: &'a str,
    /// Of the first event.
    columns: Option<Value>,
}

impl Part<'_> {
    fn new(frontier: &str, columns: Option<Value>) -> Part<'_> {
        Part { frontier, columns }
    }

    /// `members` begin with a comma. Without an id, a client that connects again goes back to the event before.
    fn event(&mut self, name: &str, members: &str, with_id: bool) -> Event {
        let columns = self.columns.take();
        let columns = columns.map_or(String::new(), |columns| format!(",\"columns\":{columns}"));
        let frontier = Value::from(self.frontier);
        let data = format!("{{\"frontier\":{frontier}{columns}{members}}}");
        let event = Event::default().event(name).data(data);
        match with_id {
            true => event.id(self.frontier),
            false => event,
        }
    }

    /// All lists of rows, in as many events as they need.
    fn rows(
        &mut self,
        name: &str,
        lists: &[(&str, Vec<RecordBatch>)],
    ) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        let mut room = PART_ROWS_MAX;
        let mut texts = vec![Vec::new(); lists.len()];
        let members = |texts: &mut Vec<Vec<u8>>, more: bool| -> Result<String, Failure> {
            let mut members = String::new();
            for ((list, _), text) in lists.iter().zip(texts) {
                let rows = String::from_utf8(std::mem::take(text)).map_err(|error| {
                    internal(arrow::error::ArrowError::JsonError(error.to_string()))
                })?;
                members.push_str(&format!(",\"{list}\":[{rows}]"));
            }
            if more {
                members.push_str(",\"more\":true");
            }
            Ok(members)
        };
        for (list, (_, batches)) in lists.iter().enumerate() {
            for batch in batches {
                let mut from = 0;
                while from < batch.num_rows() {
                    if room == 0 {
                        let full = members(&mut texts, true)?;
                        events.push(self.event(name, &full, false));
                        room = PART_ROWS_MAX;
                    }
                    let rows = room.min(batch.num_rows() - from);
                    let text = json_rows(&batch.slice(from, rows)).map_err(internal)?;
                    if !texts[list].is_empty() {
                        texts[list].push(b',');
                    }
                    texts[list].extend(text);
                    from += rows;
                    room -= rows;
                }
            }
        }
        let last = members(&mut texts, false)?;
        events.push(self.event(name, &last, true));
        Ok(events)
    }
}
