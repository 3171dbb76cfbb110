//! InvokeWithResponseStream: the response as an event stream, a `PayloadChunk` for each piece as it comes and
//! `InvokeComplete` at the end.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use bytes::Bytes;
use futures::{Stream, stream};
use lambic_functions::{Chunk, Error, Event, InvokeResult, Streamed};
use lambic_model::Outcome;
use serde_json::{Value, json};
use tracing::{Instrument, info_span, warn};

use super::{
    super::Shared,
    answer::{Answer, REQUEST_ID, TRACE_ID, put},
    invoke::{Asked, EXECUTED_VERSION, Kind, dry, log_result, not_invoked, payload, ran},
    names::Target,
};
use crate::event_stream;

const KINDS: [&str; 2] = ["RequestResponse", "DryRun"];

pub async fn invoke(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let asked = Asked::of(&headers, &KINDS)?;
    let payload = payload(&app, &headers, body).await?;
    if asked.kind == Kind::Dry {
        return dry(&app, &target);
    }
    let span = info_span!("invoke", function = %target.name, kind = "streamed");
    let event = Event {
        payload,
        form: asked.form,
        client_context: asked.client_context,
        trace_id: asked.trace_id.clone(),
    };
    let functions = &app.services.functions;
    let invoked = functions.invoke_streamed(&target.name, target.qualifier.clone(), event);
    let streamed = invoked.instrument(span).await;
    let streamed = streamed.map_err(|error| not_invoked(&target, &headers, error))?;
    streamed.ended().map_or(Ok(()), ran)?;
    let (request_id, version) = (streamed.request_id.clone(), streamed.version.to_string());
    let content_type = [("content-type", event_stream::CONTENT_TYPE)];
    let body = Body::from_stream(events(streamed, asked.with_log));
    let mut response = (StatusCode::OK, content_type, body).into_response();
    put(&mut response, REQUEST_ID, &request_id);
    put(&mut response, EXECUTED_VERSION, &version);
    if let Some(trace_id) = asked.trace_id {
        put(&mut response, TRACE_ID, &trace_id);
    }
    Ok(response)
}

fn events(
    streamed: Streamed,
    with_log: bool,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(streamed, move |mut streamed| async move {
        let event = match streamed.next().await? {
            Chunk::Bytes(bytes) => {
                event_stream::event("PayloadChunk", "application/octet-stream", &bytes)
            }
            Chunk::End(ended) => {
                let complete = complete(&ended, with_log).to_string();
                event_stream::event("InvokeComplete", "application/json", complete.as_bytes())
            }
        };
        Some((Ok(event), streamed))
    })
}

/// A failure may come after parts of the response: only the last event tells it.
fn complete(ended: &Result<Box<InvokeResult>, Error>, with_log: bool) -> Value {
    let mut complete = json!({});
    match ended {
        Ok(result) => {
            if let Outcome::Failure { payload, .. } = &result.outcome {
                complete["ErrorCode"] = "Unhandled".into();
                complete["ErrorDetails"] = String::from_utf8_lossy(payload).into();
            }
            if with_log {
                complete["LogResult"] = log_result(result).into();
            }
        }
        Err(error) => {
            warn!(%error, "an invocation was lost while its response was streamed");
            complete["ErrorCode"] = "ServiceException".into();
            complete["ErrorDetails"] = error.to_string().into();
        }
    }
    complete
}
