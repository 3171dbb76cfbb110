//! Invoke and InvokeAsync.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lambic_functions::{CODE_BROKEN, Error, Event, Form, InvokeResult, RUNTIME_GONE};
use tracing::{Instrument, info_span};

use super::{
    super::{App, Shared},
    answer::{self, Answer, REQUEST_ID, TRACE_ID, put},
    check::Violations,
    error::AwsError,
    names::Target,
};

/// The functions' own limits are tighter for events and exact; this one bounds what is read at all.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// What records are written in.
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// AWS's, in base64.
const CLIENT_CONTEXT_BYTES_MAX: usize = 3_583;
const LOG_TAIL_BYTES: usize = 4 << 10;

pub const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");

const KINDS: [&str; 3] = ["Event", "RequestResponse", "DryRun"];

/// What the headers of an invocation ask for.
#[derive(Debug, PartialEq)]
pub struct Asked {
    pub kind: Kind,
    pub with_log: bool,
    /// JSON.
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    pub form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Sync,
    Queued,
    Dry,
}

impl Asked {
    /// `kinds`: those that the operation takes.
    pub fn of(headers: &HeaderMap, kinds: &[&str]) -> Result<Asked, AwsError> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let kind = text("x-amz-invocation-type");
        let log = text("x-amz-log-type");
        let mut violations = Violations::default();
        violations.one_of("invocationType", kind, kinds);
        violations.one_of("logType", log, &["None", "Tail"]);
        violations.end()?;
        Ok(Asked {
            kind: match kind {
                Some("Event") => Kind::Queued,
                Some("DryRun") => Kind::Dry,
                _ => Kind::Sync,
            },
            with_log: log == Some("Tail"),
            client_context: text("x-amz-client-context")
                .map(client_context)
                .transpose()?
                .flatten(),
            trace_id: text(TRACE_ID.as_str()).map(str::to_owned),
            form: form_of(headers),
        })
    }
}

/// What is not Arrow is taken for JSON, whatever it says: some clients send no type, or curl's.
fn form_of(headers: &HeaderMap) -> Form {
    let content_type = headers.get("content-type");
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next());
    match media_type {
        Some(media_type) if media_type.trim().eq_ignore_ascii_case(ARROW) => Form::Arrow,
        _ => Form::Json,
    }
}

fn client_context(base64: &str) -> Result<Option<String>, AwsError> {
    if base64.is_empty() {
        return Ok(None);
    }
    if base64.len() > CLIENT_CONTEXT_BYTES_MAX {
        return Err(AwsError::bad_content(format!(
            "Client context must be no more than {CLIENT_CONTEXT_BYTES_MAX} bytes when base64-encoded."
        )));
    }
    let decoded = BASE64_STANDARD.decode(base64).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let json = text.filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    json.map(Some).ok_or_else(|| {
        AwsError::bad_content("Client context must be a valid Base64-encoded JSON object.")
    })
}

pub async fn invoke(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let asked = Asked::of(&headers, &KINDS)?;
    let payload = payload(&app, &headers, body).await?;
    let functions = &app.services.functions;
    let refuse = |error| not_invoked(&target, &headers, error);
    let Target {
        name, qualifier, ..
    } = &target;
    let span = info_span!("invoke", function = %name, kind = ?asked.kind);
    match asked.kind {
        Kind::Sync => {
            let trace_id = asked.trace_id.clone();
            let form = asked.form;
            let event = Event {
                payload,
                form,
                client_context: asked.client_context,
                trace_id: asked.trace_id,
            };
            let invoked = functions
                .invoke_at(name, qualifier.clone(), event)
                .instrument(span);
            let result = invoked.await.map_err(refuse)?;
            ran(&result)?;
            let mut response = invoked_answer(&result, form, asked.with_log);
            if let Some(trace_id) = trace_id {
                put(&mut response, TRACE_ID, &trace_id);
            }
            Ok(response)
        }
        // The queue is a stream of texts.
        Kind::Queued if asked.form == Form::Arrow => Err(AwsError::unsupported_media(
            "batches of Arrow records are not queued; wait for the answer (RequestResponse), or append the records to a stream that triggers the function",
        )),
        Kind::Queued => {
            let trace_id = asked.trace_id.clone();
            let event = Event {
                payload,
                trace_id: asked.trace_id,
                ..Event::default()
            };
            let queued = functions.invoke_async_with(name, qualifier.clone(), event);
            let queued = queued.instrument(span).await;
            let id = queued.map_err(|error| not_queued(&target, &headers, error))?;
            let mut response = answer::empty(StatusCode::ACCEPTED);
            put(&mut response, REQUEST_ID, &id);
            if let Some(trace_id) = trace_id {
                put(&mut response, TRACE_ID, &trace_id);
            }
            Ok(response)
        }
        Kind::Dry => dry(&app, &target),
    }
}

/// Whether it would be invoked.
pub fn dry(app: &App, target: &Target) -> Answer {
    let functions = &app.services.functions;
    let invocable = functions.check_invocable(&target.name, target.qualifier.as_ref());
    invocable.map_err(|error| target.place.refuse(error))?;
    let function = target.function(app)?;
    let version = target.info(&function)?.version;
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    put(&mut response, EXECUTED_VERSION, &version.to_string());
    Ok(response)
}

/// The older way to queue an event.
pub async fn invoke_async(
    State(app): Shared,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let payload = payload(&app, &headers, body).await?;
    let span = info_span!("invoke", function = %target.name, kind = ?Kind::Queued);
    let functions = &app.services.functions;
    let trace_id = headers.get(TRACE_ID).and_then(|value| value.to_str().ok());
    let event = Event {
        payload,
        trace_id: trace_id.map(str::to_owned),
        ..Event::default()
    };
    let queued = functions.invoke_async_with(&target.name, target.qualifier.clone(), event);
    let id = queued.instrument(span).await;
    let id = id.map_err(|error| not_queued(&target, &headers, error))?;
    let mut response = answer::empty(StatusCode::ACCEPTED);
    put(&mut response, REQUEST_ID, &id);
    Ok(response)
}

fn not_queued(target: &Target, headers: &HeaderMap, error: Error) -> AwsError {
    match error {
        Error::PayloadTooLarge { bytes, limit } => {
            AwsError::payload_too_large(bytes, limit, "Event")
        }
        error => not_invoked(target, headers, error),
    }
}

/// What refuses an event before it reaches the function.
pub fn not_invoked(target: &Target, headers: &HeaderMap, error: Error) -> AwsError {
    let other = other_than_json(headers);
    match (error, other) {
        (Error::PayloadNotJson { .. }, Some(other)) => AwsError::unsupported_media(format!(
            "The content type of the request body, {other}, is not JSON."
        )),
        (error, _) if error.is_of_runtime() => AwsError::invalid_runtime(error.to_string()),
        (error, _) => target.place.refuse(error),
    }
}

/// Whether it ran at all: what was deployed may be lost by now.
pub fn ran(result: &InvokeResult) -> Result<(), AwsError> {
    let error_type = result.error_type().unwrap_or_default();
    if ![CODE_BROKEN, RUNTIME_GONE].contains(&error_type) {
        return Ok(());
    }
    let told = serde_json::from_slice::<serde_json::Value>(result.payload()).unwrap_or_default();
    let reason = told["errorMessage"].as_str().unwrap_or_default();
    Err(match error_type == RUNTIME_GONE {
        true => AwsError::invalid_runtime(reason),
        false => AwsError::invalid_zip(reason),
    })
}

/// The content type of a request, if it says of its body that it is something else. Many clients say nothing, or
/// that they send bytes or a form, and send JSON.
fn other_than_json(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = said.split(';').next().unwrap_or_default().trim();
    let is_unsure = [
        "",
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
    ]
    .contains(&kind);
    (!is_unsure && !kind.contains("json")).then_some(said)
}

/// AWS takes an empty body for an empty event.
pub async fn payload(app: &App, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, AwsError> {
    let body = app.bounds.read(body, headers, PAYLOAD_BYTES_MAX).await;
    let body = body.map_err(|unread| {
        AwsError::unread(unread, || {
            AwsError::too_large(
                "RequestTooLargeException",
                PAYLOAD_BYTES_MAX,
                "InvokeFunction",
            )
        })
    })?;
    let is_nothing = body.bytes.is_empty() && form_of(headers) == Form::Json;
    Ok(match is_nothing {
        true => b"{}".to_vec(),
        false => body.bytes.to_vec(),
    })
}

fn invoked_answer(result: &InvokeResult, form: Form, with_log: bool) -> Response {
    // A failure is told in JSON.
    let content_type = match form {
        Form::Arrow if result.is_success() => ARROW,
        _ => "application/json",
    };
    let mut response = (
        StatusCode::OK,
        [("content-type", content_type)],
        result.payload().to_vec(),
    )
        .into_response();
    put(&mut response, REQUEST_ID, &result.request_id);
    put(&mut response, EXECUTED_VERSION, &result.version.to_string());
    if !result.is_success() {
        put(&mut response, FUNCTION_ERROR, "Unhandled");
    }
    if with_log {
        put(&mut response, LOG_RESULT, &log_result(result));
    }
    response
}

pub fn log_result(result: &InvokeResult) -> String {
    let tail = result.log_tail.as_bytes();
    BASE64_STANDARD.encode(&tail[tail.len().saturating_sub(LOG_TAIL_BYTES)..])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(headers: &[(&'static str, &str)]) -> Result<Asked, AwsError> {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        Asked::of(&headers.collect(), &KINDS)
    }

    #[test]
    fn only_what_says_to_be_something_else_is_no_json() {
        let other = |value: &'static str| {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(value))];
            other_than_json(&headers.into_iter().collect()).is_some()
        };
        for fine in [
            "application/json",
            "application/json; charset=utf-8",
            "application/cloudevents+json",
            "application/x-amz-json-1.1 ",
            "application/octet-stream",
        ] {
            assert!(!other(fine), "{fine}");
        }
        assert!(other("text/xml") && other("text/plain; charset=utf-8"));
        assert_eq!(other_than_json(&HeaderMap::new()), None);
    }

    #[test]
    fn headers_say_how_to_invoke() {
        let plain = asked(&[]).unwrap();
        assert_eq!((plain.kind, plain.with_log), (Kind::Sync, false));
        let tail = asked(&[("x-amz-log-type", "Tail"), ("x-amz-client-context", "e30=")]).unwrap();
        assert!(tail.with_log);
        assert_eq!(tail.client_context.as_deref(), Some("{}"));
        let kind = |kind| asked(&[("x-amz-invocation-type", kind)]).map(|asked| asked.kind);
        assert_eq!(kind("Event"), Ok(Kind::Queued));
        assert_eq!(kind("DryRun"), Ok(Kind::Dry));
        assert_eq!(kind("Never").unwrap_err().kind, "ValidationException");
        for context in ["?", "e30", "bm8="] {
            let error = asked(&[("x-amz-client-context", context)]).unwrap_err();
            assert_eq!(error.kind, "InvalidRequestContentException", "{context}");
        }
        for (content_type, form) in [
            ("application/vnd.apache.arrow.stream", Form::Arrow),
            ("Application/vnd.Apache.Arrow.Stream; v=1", Form::Arrow),
            ("application/json", Form::Json),
            ("application/vnd.apache.arrow.file", Form::Json),
        ] {
            let asked = asked(&[("content-type", content_type)]).unwrap();
            assert_eq!(asked.form, form, "{content_type}");
        }
        let long = asked(&[("x-amz-client-context", &"A".repeat(3_584))]).unwrap_err();
        assert!(long.message.contains("3583"), "{}", long.message);
    }
}
