//! The rows of the system streams.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    record_batch::RecordBatch,
};
use lambic_model::{Stream, Write};
use lambic_sandbox::LogLine;
use serde_json::Value;

/// Longer messages are cut.
const ERROR_MESSAGE_BYTES_MAX: usize = 32 << 10;

/// One row of `lambic_invocations`.
#[derive(Debug, Clone)]
pub struct InvocationRow {
    pub at_us: i64,
    pub request_id: String,
    pub function: String,
    pub digest: String,
    pub kind: &'static str,
    /// `None` if it succeeded.
    pub error: Option<(String, String)>,
    pub duration_ms: f64,
    pub billed_ms: i64,
    pub init_ms: Option<f64>,
    pub memory_mb: i64,
    pub cold: bool,
    pub attempt: i32,
    /// Beside start and duration.
    pub overhead_ms: f64,
    pub trace_id: String,
}

/// What appends them.
pub fn told(stream: &Stream, rows: &[InvocationRow]) -> Write {
    Write {
        stream: stream.id,
        partition: None,
        batch: invocations(stream, rows),
        schema: None,
    }
}

fn invocations(stream: &Stream, rows: &[InvocationRow]) -> RecordBatch {
    let error = |row: &InvocationRow, message: bool| {
        let (kind, text) = row.error.clone()?;
        Some(if message { text } else { kind })
    };
    batch(
        stream,
        vec![
            times(rows.iter().map(|row| row.at_us)),
            texts(rows.iter().map(|row| Some(row.request_id.as_str()))),
            texts(rows.iter().map(|row| Some(row.function.as_str()))),
            texts(rows.iter().map(|row| Some(row.digest.as_str()))),
            texts(rows.iter().map(|row| Some(row.kind))),
            texts(rows.iter().map(|row| {
                Some(if row.error.is_some() {
                    "failure"
                } else {
                    "success"
                })
            })),
            texts(rows.iter().map(|row| error(row, false))),
            texts(rows.iter().map(|row| error(row, true))),
            Arc::new(Float64Array::from_iter_values(
                rows.iter().map(|row| row.duration_ms),
            )),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| row.billed_ms),
            )),
            Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.init_ms))),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| row.memory_mb),
            )),
            Arc::new(BooleanArray::from_iter(
                rows.iter().map(|row| Some(row.cold)),
            )),
            Arc::new(Int32Array::from_iter_values(
                rows.iter().map(|row| row.attempt),
            )),
            Arc::new(Float64Array::from_iter_values(
                rows.iter().map(|row| row.overhead_ms),
            )),
            texts(rows.iter().map(|row| Some(row.trace_id.as_str()))),
        ],
    )
}

/// A line of `lambic_logs` with the invocation that it belongs to, if it belongs to one.
#[derive(Debug, Clone)]
pub struct LogRow {
    pub request_id: Option<Arc<str>>,
    pub function: Arc<str>,
    pub line: LogLine,
}

pub fn logs(stream: &Stream, rows: &[LogRow]) -> RecordBatch {
    batch(
        stream,
        vec![
            times(rows.iter().map(|row| row.line.at_us)),
            texts(rows.iter().map(|row| row.request_id.as_deref())),
            texts(rows.iter().map(|row| Some(&*row.function))),
            texts(rows.iter().map(|row| Some(row.line.source.as_str()))),
            texts(rows.iter().map(|row| Some(row.line.line.as_str()))),
        ],
    )
}

/// One row of `lambic_dead_letters`.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub at_us: i64,
    pub function: String,
    pub request_id: String,
    pub kind: &'static str,
    /// For a record: `stream:partition:offset`.
    pub source: Option<String>,
    pub error_type: String,
    pub error_message: String,
    pub attempts: i32,
    pub event: String,
}

pub fn dead_letters(stream: &Stream, rows: &[&DeadLetter]) -> RecordBatch {
    batch(
        stream,
        vec![
            times(rows.iter().map(|row| row.at_us)),
            texts(rows.iter().map(|row| Some(row.function.as_str()))),
            texts(rows.iter().map(|row| Some(row.request_id.as_str()))),
            texts(rows.iter().map(|row| Some(row.kind))),
            texts(rows.iter().map(|row| row.source.as_deref())),
            texts(rows.iter().map(|row| Some(row.error_type.as_str()))),
            texts(rows.iter().map(|row| Some(row.error_message.as_str()))),
            Arc::new(Int32Array::from_iter_values(
                rows.iter().map(|row| row.attempts),
            )),
            texts(rows.iter().map(|row| Some(row.event.as_str()))),
        ],
    )
}

/// One row of `lambic_async`: an event is `queued` once and `done` or `dead` once.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueRow {
    pub at_us: i64,
    pub request_id: String,
    pub function: String,
    pub state: String,
    pub event: Option<String>,
    /// The whole `X-Amzn-Trace-Id` that its attempts have; `None` in ends, and in events of servers before this column.
    pub trace_id: Option<String>,
}

pub fn queue(stream: &Stream, rows: &[&QueueRow]) -> RecordBatch {
    batch(
        stream,
        vec![
            times(rows.iter().map(|row| row.at_us)),
            texts(rows.iter().map(|row| Some(row.request_id.as_str()))),
            texts(rows.iter().map(|row| Some(row.function.as_str()))),
            texts(rows.iter().map(|row| Some(row.state.as_str()))),
            texts(rows.iter().map(|row| row.event.as_deref())),
            texts(rows.iter().map(|row| row.trace_id.as_deref())),
        ],
    )
}

fn batch(stream: &Stream, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(stream.schema.clone(), columns)
        .expect("the rows are built for the system stream's schema")
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

/// `errorMessage` of an error object, cut where it is longer than a message needs to be: hundreds of them stand in
/// one append, and a function may answer megabytes.
pub fn error_message(payload: &[u8]) -> String {
    let message = serde_json::from_slice::<Value>(payload)
        .ok()
        .and_then(|error| error.get("errorMessage")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(payload).into_owned());
    shortened(message, ERROR_MESSAGE_BYTES_MAX)
}

pub fn shortened(mut text: String, bytes_max: usize) -> String {
    let bytes = text.len();
    if bytes > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str(&format!("… ({bytes} bytes in all)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut() {
        assert_eq!(error_message(br#"{"errorMessage":"no"}"#), "no");
        assert_eq!(error_message(b"plain"), "plain");
        // `ä` has two bytes: the cut must not go through one.
        let long = error_message(format!("x{}", "ä".repeat(1 << 20)).as_bytes());
        assert_eq!(
            long.len(),
            ERROR_MESSAGE_BYTES_MAX - 1 + "… (2097153 bytes in all)".len()
        );
        assert!(long.ends_with("ä… (2097153 bytes in all)"));
    }
}
