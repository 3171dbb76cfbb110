//! `GET /v1/streams` and `/v1/streams/{name}`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use lambic_model::Stream;
use serde_json::{Value, json};

use super::{App, Shared, answer::columns, error::Failure};

pub async fn list(State(app): Shared) -> Response {
    let mut streams = app.services.database.streams();
    streams.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let streams: Vec<Value> = streams
        .iter()
        .map(|stream| describe(&app, stream))
        .collect();
    Json(json!({ "streams": streams })).into_response()
}

pub async fn one(State(app): Shared, Path(name): Path<String>) -> Result<Response, Failure> {
    let stream = find(&app, &name)?;
    Ok(Json(describe(&app, &stream)).into_response())
}

/// The stream, or 404 with the name that was most likely meant.
pub fn find(app: &App, name: &str) -> Result<Arc<Stream>, Failure> {
    if let Some(stream) = app.services.database.stream(name) {
        return Ok(stream);
    }
    let names: Vec<String> = app
        .services
        .database
        .streams()
        .iter()
        .map(|stream| stream.name.to_string())
        .collect();
    if app
        .services
        .database
        .views()
        .iter()
        .any(|view| view.name == name)
    {
        return Err(
            Failure::not_found(format!("{name} is a view, not a stream")).with_hint(format!(
                "GET /v1/views/{name}; records are appended to streams"
            )),
        );
    }
    let hint = match lambic_query::closest(name, &names) {
        Some(best) => format!("did you mean {best}?"),
        None => format!("create it first: CREATE STREAM {name} (…)"),
    };
    Err(Failure::not_found(format!("there is no stream {name}")).with_hint(hint))
}

fn describe(app: &App, stream: &Arc<Stream>) -> Value {
    let snapshot = app.services.log.snapshot();
    let head = snapshot.head(stream.id);
    let retention = app.services.database.retention(stream.name.as_str());
    let start = app.services.database.start_of(stream.id);
    let start = start.max(&lambic_model::Frontier::zero(stream.partitions));
    json!({
        "name": stream.name.to_string(),
        "columns": columns(&stream.schema),
        "partitions": stream.partitions,
        "event_time": stream.event_time,
        "record_id": stream.record_id,
        "partition_by": stream.partition_by,
        "records": app.services.database.records(stream),
        "frontier": head.to_string(),
        "start": start.to_string(),
        "retention": retention.age_shown(),
        "retention_bytes": retention.bytes,
    })
}
