//! Responses that are streamed: passed on piece by piece, or kept together for whoever wants them whole.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode, body::Incoming, header, header::HeaderMap};
use tokio::sync::mpsc;

use super::{ENDS, RESPONSE_BYTES_MAX, Reported, Said, kind_of, status_of};

const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// Status and headers.
pub type ResponseHead = (StatusCode, HeaderMap);

/// A piece of a streamed response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamPart {
    /// Comes first from a component of HTTP.
    Head(StatusCode, HeaderMap),
    /// Comes first from a process. `application/vnd.awslambda.http-integration-response` says that the bytes begin with a JSON
    /// prelude and 8 NUL bytes.
    ContentType(String),
    Bytes(Bytes),
}

/// Where a streamed response goes as it comes.
#[derive(Debug, Clone)]
pub struct StreamSink {
    /// While it is full, the function waits.
    pub parts: mpsc::Sender<StreamPart>,
    /// A longer response is cut off, and fails.
    pub bytes_max: usize,
}

/// What was heard of a streamed response; the error is the status with which it is refused.
pub(super) async fn heard(
    request: Request<Incoming>,
    sink: Option<StreamSink>,
) -> Result<Said, StatusCode> {
    let (bytes_max, heard) = match sink {
        Some(sink) => (sink.bytes_max, passed_on(request, &sink).await),
        None => (RESPONSE_BYTES_MAX, collected(request).await),
    };
    match heard {
        Err(StatusCode::PAYLOAD_TOO_LARGE) => Ok(Said::StreamTooLarge { bytes_max }),
        heard => heard,
    }
}

/// A streamed response, kept together.
async fn collected(request: Request<Incoming>) -> Result<Said, StatusCode> {
    let collected = Limited::new(request.into_body(), RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| status_of(&*error))?;
    let failure = collected.trailers().and_then(late_failure);
    Ok(failure.map_or_else(|| Said::Raw(collected.to_bytes()), Said::Error))
}

/// Passes a streamed response on; whoever takes it too slowly slows the function down, whoever has gone does not.
async fn passed_on(request: Request<Incoming>, sink: &StreamSink) -> Result<Said, StatusCode> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or(CONTENT_TYPE_DEFAULT);
    let content_type = StreamPart::ContentType(content_type.to_owned());
    let _ = sink.parts.send(content_type).await;
    let mut body = Limited::new(request.into_body(), sink.bytes_max);
    let mut failure = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| status_of(&*error))?.into_data() {
            Ok(bytes) => {
                let _ = sink.parts.send(StreamPart::Bytes(bytes)).await;
            }
            Err(frame) => failure = frame.trailers_ref().and_then(late_failure),
        }
    }
    Ok(failure.map_or(Said::Streamed, Said::Error))
}

/// What went wrong after the first bytes had gone out.
fn late_failure(trailers: &HeaderMap) -> Option<Reported> {
    let kind = kind_of(trailers);
    let body = trailers
        .get("Lambda-Runtime-Function-Error-Body")
        .and_then(|body| BASE64_STANDARD.decode(body).ok());
    if kind.is_none() && body.is_none() {
        return None;
    }
    Some(Reported {
        body: body.unwrap_or_default().into(),
        kind,
        ends: trailers.contains_key(ENDS),
    })
}
