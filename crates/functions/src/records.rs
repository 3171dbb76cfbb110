//! Between records (Arrow) and events (JSON), and the rows of the system streams.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{Int64Type, TimestampMicrosecondType},
    json::{ReaderBuilder, WriterBuilder, writer::JsonArray},
    record_batch::RecordBatch,
};
use lambic_model::{OffsetRange, Stream, SystemColumn};
use lambic_sandbox::LogLine;
use serde_json::{Map, Value, json};

/// Longer messages are cut.
const ERROR_MESSAGE_BYTES_MAX: usize = 32 << 10;

/// Records that become JSON at one time.
const ROWS_AT_ONCE: usize = 64;

/// The elements of an event's `Records`, JSON, for the first records of `range`: as many as fit into `bytes_max`, and
/// at least one. `batches` have the system columns, and are read as far as they are needed.
pub fn to_events(
    stream: &Stream,
    range: OffsetRange,
    batches: impl IntoIterator<Item = Result<RecordBatch, String>>,
    bytes_max: usize,
) -> Result<Vec<String>, String> {
    let mut events = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        let batch = batch?;
        for first in (0..batch.num_rows()).step_by(ROWS_AT_ONCE) {
            let some = batch.slice(first, ROWS_AT_ONCE.min(batch.num_rows() - first));
            for event in events_of(stream, range, &some)? {
                bytes += event.len() + 1;
                if bytes > bytes_max && !events.is_empty() {
                    return Ok(events);
                }
                events.push(event);
            }
        }
    }
    Ok(events)
}

fn events_of(
    stream: &Stream,
    range: OffsetRange,
    batch: &RecordBatch,
) -> Result<Vec<String>, String> {
    let columns = stream.schema.fields().len();
    let user = batch
        .project(&(0..columns).collect::<Vec<_>>())
        .map_err(|error| error.to_string())?;
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    writer.write(&user).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    let rows: Vec<Map<String, Value>> =
        serde_json::from_slice(&writer.into_inner()).map_err(|error| error.to_string())?;
    let offsets = batch
        .column_by_name(SystemColumn::Offset.name())
        .ok_or("records without offsets")?
        .as_primitive::<Int64Type>();
    let appended = batch
        .column_by_name(SystemColumn::AppendedAt.name())
        .ok_or("records without the time of their append")?
        .as_primitive::<TimestampMicrosecondType>();
    let event = |(row, data): (usize, Map<String, Value>)| {
        let offset = offsets.value(row);
        json!({
            "eventSource": "lambic:stream",
            "eventID": item_identifier(stream, range, offset as u64),
            "stream": stream.name.as_str(),
            "partition": range.partition.0,
            "offset": offset,
            "approximateArrivalTimestamp": appended.value(row) as f64 / 1e6,
            "data": data,
        })
        .to_string()
    };
    Ok(rows.into_iter().enumerate().map(event).collect())
}

/// The event of a batch of records.
pub fn payload(events: &[String]) -> Vec<u8> {
    format!("{{\"Records\":[{}]}}", events.join(",")).into_bytes()
}

fn item_identifier(stream: &Stream, range: OffsetRange, offset: u64) -> String {
    format!("{}-{}-{offset}", stream.name, range.partition)
}

/// How much of an answer that is not understood is shown.
const ANSWER_CHARS_SHOWN: usize = 80;

/// What a function made of a batch of records.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub output: Vec<Value>,
    /// The first offset of the batch that failed.
    pub failed: Option<u64>,
}

/// Understands `null`, a list of objects, `{"records": […]}` and `{"batchItemFailures": [{"itemIdentifier": …}]}`.
/// If the function has an output stream, anything else is an error: it was meant for that stream and would be lost.
pub fn parse_answer(
    stream: &Stream,
    range: OffsetRange,
    answer: &[u8],
    has_output: bool,
) -> Result<Answer, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let is_understood = match &answer {
        Value::Null | Value::Array(_) => true,
        Value::Object(object) => {
            object.is_empty()
                || object.contains_key("records")
                || object.contains_key("batchItemFailures")
        }
        _ => false,
    };
    if has_output && !is_understood {
        let mut shown = answer.to_string();
        if shown.chars().count() > ANSWER_CHARS_SHOWN {
            shown = shown.chars().take(ANSWER_CHARS_SHOWN).collect::<String>() + "…";
        }
        return Err(format!(
            "the answer of a function with an output stream is a list of objects, one for each output record, {{\"records\": […]}}, {{\"batchItemFailures\": […]}} or null, not {shown}"
        ));
    }
    let (output, failures) = match answer {
        Value::Array(records) => (records, Vec::new()),
        Value::Object(mut object) => {
            let mut list = |key: &str| match object.remove(key) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(list)) => Ok(list),
                Some(_) => Err(format!("`{key}` of the answer is not a list")),
            };
            (list("records")?, list("batchItemFailures")?)
        }
        // AWS ignores what a handler of a stream returns beside failures; a status text is common.
        _ => (Vec::new(), Vec::new()),
    };
    if let Some(other) = output.iter().find(|record| !record.is_object()) {
        return Err(format!(
            "the answer must be a list of objects, one for each output record; it has {other}"
        ));
    }
    let mut failed = None;
    for failure in failures {
        let identifier = match &failure["itemIdentifier"] {
            Value::String(identifier) => identifier.clone(),
            Value::Number(offset) => offset.to_string(),
            _ => return Err("a batch item failure has no `itemIdentifier`".to_owned()),
        };
        let offset = (range.first.0..range.end.0)
            .find(|&offset| {
                identifier == offset.to_string()
                    || identifier == item_identifier(stream, range, offset)
            })
            .ok_or_else(|| format!("`{identifier}` is not an item of the batch"))?;
        failed = Some(failed.map_or(offset, |earlier: u64| earlier.min(offset)));
    }
    Ok(Answer { output, failed })
}

/// Objects as records of `stream`; the error says which object does not fit and why.
pub fn from_objects(stream: &Stream, objects: &[Value]) -> Result<RecordBatch, String> {
    let decode = |objects: &[Value]| {
        let mut decoder = ReaderBuilder::new(stream.schema.clone())
            .with_strict_mode(true)
            .with_batch_size(objects.len().max(1))
            .build_decoder()?;
        decoder.serialize(objects)?;
        decoder.flush()
    };
    match decode(objects) {
        Ok(batch) => Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(stream.schema.clone()))),
        Err(error) => {
            // The decoder does not tell which: look for the first that fails alone.
            let (index, reason) = objects
                .iter()
                .enumerate()
                .find_map(|(index, object)| {
                    let error = decode(std::slice::from_ref(object)).err()?;
                    Some((index, error.to_string()))
                })
                .unwrap_or((0, error.to_string()));
            Err(format!(
                "output record {index} does not fit stream `{}`: {reason}",
                stream.name
            ))
        }
    }
}

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
}

pub fn invocations(stream: &Stream, rows: &[InvocationRow]) -> RecordBatch {
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
        ],
    )
}

/// A line of `lambic_logs` with the invocation that it belongs to.
#[derive(Debug, Clone)]
pub struct LogRow {
    pub request_id: Arc<str>,
    pub function: Arc<str>,
    pub line: LogLine,
}

pub fn logs(stream: &Stream, rows: &[LogRow]) -> RecordBatch {
    batch(
        stream,
        vec![
            times(rows.iter().map(|row| row.line.at_us)),
            texts(rows.iter().map(|row| Some(&*row.request_id))),
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
        ],
    )
}

pub fn queue_rows(batch: &RecordBatch) -> Vec<QueueRow> {
    use arrow::array::Array;
    let at = batch.column(0).as_primitive::<TimestampMicrosecondType>();
    let text = |column: usize, row: usize| {
        let column = batch.column(column).as_string::<i32>();
        (!column.is_null(row)).then(|| column.value(row).to_owned())
    };
    (0..batch.num_rows())
        .map(|row| QueueRow {
            at_us: at.value(row),
            request_id: text(1, row).unwrap_or_default(),
            function: text(2, row).unwrap_or_default(),
            state: text(3, row).unwrap_or_default(),
            event: text(4, row),
        })
        .collect()
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

fn shortened(mut text: String, bytes_max: usize) -> String {
    let bytes = text.len();
    if bytes > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str(&format!("… ({bytes} bytes in all)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use lambic_model::{Offset, PartitionId, StreamId, StreamName};

    use super::*;

    fn stream() -> Stream {
        Stream {
            id: StreamId(1),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(Schema::new(vec![
                Field::new("a", DataType::Int64, false),
                Field::new("b", DataType::Utf8, true),
            ])),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
        }
    }

    const RANGE: OffsetRange = OffsetRange {
        partition: PartitionId(0),
        first: Offset(5),
        end: Offset(8),
    };

    #[test]
    fn answers_are_understood() {
        for (answer, expected) in [
            ("null", Ok((0, None))),
            ("\"ok\"", Ok((0, None))),
            ("{}", Ok((0, None))),
            (r#"[{"a":1}]"#, Ok((1, None))),
            (r#"{"records":[{"a":1},{"a":2}]}"#, Ok((2, None))),
            (r#"{"batchItemFailures":[]}"#, Ok((0, None))),
            (
                r#"{"batchItemFailures":[{"itemIdentifier":"s-0-7"},{"itemIdentifier":6}]}"#,
                Ok((0, Some(6))),
            ),
            (
                r#"{"batchItemFailures":[{"itemIdentifier":"8"}]}"#,
                Err("`8` is not an item of the batch"),
            ),
            (
                r#"{"batchItemFailures":[{}]}"#,
                Err("a batch item failure has no `itemIdentifier`"),
            ),
            (
                r#"{"records":1}"#,
                Err("`records` of the answer is not a list"),
            ),
            (
                "[1]",
                Err("the answer must be a list of objects, one for each output record; it has 1"),
            ),
        ] {
            let found = parse_answer(&stream(), RANGE, answer.as_bytes(), false)
                .map(|answer| (answer.output.len(), answer.failed));
            assert_eq!(found, expected.map_err(str::to_owned), "{answer}");
        }
    }

    #[test]
    fn a_batch_ends_where_its_bytes_do() {
        let mut stream = stream();
        stream.schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Utf8, true)]));
        let batch = |first: u64, texts: &[&str]| {
            let fields = [
                Field::new("b", DataType::Utf8, true),
                SystemColumn::Offset.field(),
                SystemColumn::AppendedAt.field(),
            ];
            let offsets = (first as i64..).take(texts.len());
            RecordBatch::try_new(
                Arc::new(Schema::new(fields.to_vec())),
                vec![
                    super::texts(texts.iter().copied().map(Some)),
                    Arc::new(Int64Array::from_iter_values(offsets)),
                    times(texts.iter().map(|_| 1_500_000)),
                ],
            )
            .unwrap()
        };
        let long = "x".repeat(1_000);
        let batches = || {
            [
                Ok(batch(5, &[&long, "y"])),
                Ok(batch(7, &[&long])),
                Err("not needed".to_owned()),
            ]
        };
        let events = |bytes_max| to_events(&stream, RANGE, batches(), bytes_max);
        let all = to_events(&stream, RANGE, batches().into_iter().take(2), 1 << 20).unwrap();
        assert_eq!(all.len(), 3);
        let second = concat!(
            r#"{"approximateArrivalTimestamp":1.5,"data":{"b":"y"},"eventID":"s-0-6","#,
            r#""eventSource":"lambic:stream","offset":6,"partition":0,"stream":"s"}"#
        );
        assert_eq!(all[1], second);
        assert_eq!(
            payload(&all[1..2]),
            format!(r#"{{"Records":[{second}]}}"#).as_bytes()
        );
        for (bytes_max, expected) in [(0, 1), (1_200, 1), (1_500, 2), (2_000, 2)] {
            assert_eq!(events(bytes_max).unwrap(), all[..expected], "{bytes_max}");
        }
        assert_eq!(events(1 << 20), Err("not needed".to_owned()));
    }

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

    #[test]
    fn what_is_meant_for_an_output_is_not_lost() {
        let parse = |answer: &str| parse_answer(&stream(), RANGE, answer.as_bytes(), true);
        for lost in [r#"{"id":1}"#, "\"ok\"", "7"] {
            let error = parse(lost).unwrap_err();
            assert!(error.ends_with(&format!("not {lost}")), "{error}");
        }
        for fine in [
            "null",
            "{}",
            "[]",
            r#"[{"a":1}]"#,
            r#"{"records":[]}"#,
            r#"{"batchItemFailures":[]}"#,
        ] {
            assert!(parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn objects_that_do_not_fit_are_named() {
        let fits = [json!({"a": 1, "b": "x"}), json!({"a": 2})];
        assert_eq!(from_objects(&stream(), &fits).unwrap().num_rows(), 2);
        for (object, reason) in [
            (json!({"a": 1, "c": 2}), "column 'c'"),
            (json!({"b": "x"}), "a"),
            (json!({"a": "x"}), "x"),
        ] {
            let error = from_objects(&stream(), &[fits[0].clone(), object]).unwrap_err();
            assert!(
                error.starts_with("output record 1 does not fit stream `s`: ")
                    && error.contains(reason),
                "{error}"
            );
        }
    }
}
