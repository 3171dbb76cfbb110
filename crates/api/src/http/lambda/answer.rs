//! What every answer has: a request id, times as AWS writes them, JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use lambic_functions::Error;
use serde_json::Value;
use tracing::Instrument;

use super::error::AwsError;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
pub const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

pub type Answer = Result<Response, AwsError>;

pub fn json(status: StatusCode, body: &Value) -> Response {
    with_id((status, Json(body)).into_response())
}

pub fn empty(status: StatusCode) -> Response {
    with_id(status.into_response())
}

fn with_id(mut response: Response) -> Response {
    response.headers_mut().insert(REQUEST_ID, request_id());
    response
}

pub fn put(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub fn request_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string())
        .unwrap_or(HeaderValue::from_static("-"))
}

/// Does it to the end also if the client goes away.
pub async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, AwsError>> + Send + 'static,
) -> Result<T, AwsError> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|_| Err(AwsError::from(Error::Closed)))
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

/// As AWS writes when functions and layers were changed: `2026-11-23T21:00:00.000+0000`.
pub fn modified(us: i64) -> String {
    formatted(us, "%Y-%m-%dT%H:%M:%S%.3f+0000")
}

/// By a format of `chrono`, UTC.
pub fn formatted(us: i64, format: &str) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map(|time| time.format(format).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_aws_writes_them() {
        assert_eq!(
            modified(1_700_000_000_123_456),
            "2023-11-14T22:13:20.123+0000"
        );
    }
}
