//! `POST /v1/streams/{name}/records`: records in.
//!
//! All of a request is kept, or nothing. With `?on_error=skip` the good rows are kept and the bad ones
//! go to `lambic_dead_letters`, in the same atomic append. With `?check=true` nothing is kept: the answer says
//! whether it could be.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arrow::{
    array::{
        ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
        new_null_array,
    },
    datatypes::DataType,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use lambic_connectors::{
    BadRecord, Decoded, Format, OnError, decode_within, decoded_bytes_max, line_in_file,
};
use lambic_model::{Append, Producer, Stream, Write, Written};
use lambic_query::Catalog;
use metrics::{counter, histogram};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, info_span};

use super::{App, Shared, body::Held, error::Failure, streams::find};

const PRODUCER: &str = "lambic-producer";
const SEQUENCE: &str = "lambic-sequence";
const BAD_RECORD: &str = "bad_record";
/// Where rows go that are skipped; functions keep theirs there too.
const DEAD_LETTERS: &str = "lambic_dead_letters";
/// Bad rows that an error describes; it counts all of them.
const BAD_SHOWN_MAX: usize = 20;
const PRODUCER_BYTES_MAX: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    on_error: Option<String>,
    /// Only look whether all of the body could be kept.
    #[serde(default)]
    check: bool,
    /// Of a body that is a piece of a file: the line or row of the file at which its first record stands. Dead letters
    /// tell lines of the file.
    #[serde(default = "one")]
    first_line: u64,
    /// How many lines of the file's head the body begins with.
    header_lines: Option<u64>,
}

fn one() -> u64 {
    1
}

pub async fn append(
    State(app): Shared,
    Path(name): Path<String>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let started = std::time::Instant::now();
    let span = info_span!("append", stream = %name);
    let Query(parameters) = parameters.map_err(|error| {
        Failure::bad_request(error.body_text())
            .with_hint("the parameters are on_error=refuse|skip, check=true|false, and for pieces of a file first_line and header_lines")
    })?;
    let on_error = match parameters.on_error.as_deref() {
        None | Some("refuse") => OnError::Refuse,
        Some("skip") => OnError::Skip,
        Some(other) => {
            return Err(Failure::bad_request(format!("on_error={other} is unknown"))
                .with_hint("on_error=refuse or on_error=skip"));
        }
    };
    let producer = producer(&headers)?;
    let format = format(&headers)?;
    let stream = writable(&app, &name)?;
    let producer = producer.map(|producer| within(&stream, producer));
    let bytes_max = app.options.append_bytes_max;
    let body = app
        .bounds
        .read(body, &headers, bytes_max)
        .await
        .map_err(|unread| unread.into_failure(|| too_large(bytes_max)))?;
    let bytes = body.bytes.len();
    if parameters.check {
        return check(&app, stream, format, on_error, body)
            .instrument(span)
            .await;
    }
    let result = work(&app, stream, format, on_error, &parameters, producer, body)
        .instrument(span)
        .await;
    histogram!("lambic_append_seconds").record(started.elapsed().as_secs_f64());
    let answer = result?;
    counter!("lambic_appended_bytes_total", "stream" => name).increment(bytes as u64);
    Ok(answer)
}

/// The stream, if it is one that clients append to.
pub fn writable(app: &App, name: &str) -> Result<Arc<Stream>, Failure> {
    let stream = find(app, name)?;
    match Catalog::is_system(&stream) {
        false => Ok(stream),
        true => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("{name} is written by the system"),
        )
        .with_hint("append to a stream of your own; CREATE STREAM makes one")),
    }
}

/// The records, and the room that they take until they are dropped.
async fn decode(
    app: &App,
    stream: &Arc<Stream>,
    format: Format,
    on_error: OnError,
    body: Held,
) -> Result<(Decoded, OwnedSemaphorePermit), Failure> {
    let reader = Arc::clone(stream);
    let bytes_max = app.options.append_bytes_max;
    // Few bytes can be many records: room for as many as there can be, until it is known how many they are.
    let reserved = decoded_bytes_max(stream, format, body.bytes.len(), on_error, bytes_max);
    let mut room = app.bounds.records(reserved).await?;
    let decoded = blocking(move || {
        let bytes = body.bytes.clone();
        let decoded = decode_within(&reader, format, bytes, on_error, bytes_max);
        drop(body);
        decoded
    })
    .await?
    .map_err(|error| match error {
        lambic_connectors::Error::TooLarge { .. } => too_large_decoded(&error),
        error => {
            let mut hint = format!("the stream has the columns {}", columns(stream));
            if on_error == OnError::Refuse {
                hint += &format!(
                    "; ?on_error=skip keeps the good rows and writes the bad ones to {DEAD_LETTERS}"
                );
            }
            bad_records(&error).with_hint(hint)
        }
    })?;
    let memory: usize = decoded
        .batches
        .iter()
        .map(RecordBatch::get_array_memory_size)
        .sum();
    // What they do not need goes back; the rest is held until the log has them.
    drop(room.split(reserved.saturating_sub(memory)));
    Ok((decoded, room))
}

/// Runs what takes time off the threads that serve connections.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            error.to_string(),
        )
    })
}

async fn check(
    app: &App,
    stream: Arc<Stream>,
    format: Format,
    on_error: OnError,
    body: Held,
) -> Result<Response, Failure> {
    let (decoded, _room) = decode(app, &stream, format, on_error, body).await?;
    let records: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
    let answer = json!({
        "stream": stream.name.to_string(),
        "checked": true,
        "records": records,
        "bad": decoded.bad.len(),
    });
    Ok(Json(answer).into_response())
}

async fn work(
    app: &App,
    stream: Arc<Stream>,
    format: Format,
    on_error: OnError,
    piece: &Parameters,
    producer: Option<Producer>,
    body: Held,
) -> Result<Response, Failure> {
    let name = stream.name.to_string();
    let (mut decoded, _room) = decode(app, &stream, format, on_error, body)
        .await
        .inspect_err(|failure| {
            if failure.code == BAD_RECORD {
                counter!("lambic_bad_records_total", "stream" => name.clone()).increment(1);
            }
        })?;
    let records: usize = decoded.batches.iter().map(RecordBatch::num_rows).sum();
    let bad = decoded.bad.len();
    let mut writes: Vec<Write> = decoded
        .batches
        .into_iter()
        .filter(|batch| batch.num_rows() > 0)
        .map(|batch| Write {
            stream: stream.id,
            partition: None,
            batch,
            schema: Some(stream.schema_version()),
        })
        .collect();
    let own_writes = writes.len();
    if bad > 0 {
        let header_lines = piece.header_lines.unwrap_or(match piece.first_line {
            1 => 0,
            _ => u64::from(format == Format::Csv),
        });
        for bad in &mut decoded.bad {
            // As much as a `bigint` holds.
            bad.line = line_in_file(bad.line, piece.first_line, header_lines).min(i64::MAX as u64);
        }
        counter!("lambic_bad_records_total", "stream" => name.clone()).increment(bad as u64);
        writes.push(dead_letters(app, &name, &decoded.bad)?);
    }
    if writes.is_empty() {
        let frontier = app.services.log.snapshot().head(stream.id).to_string();
        let answer = json!({
            "stream": name, "records": 0, "records_known": 0, "duplicate": false, "ranges": [],
            "frontier": frontier, "bad": 0,
        });
        return Ok(Json(answer).into_response());
    }
    let appended = app
        .services
        .appender
        .append(Append {
            writes,
            producer,
            cursors: Vec::new(),
        })
        .await?;
    let duplicate = appended.duplicate;
    let written: Vec<Written> = appended
        .writes
        .into_iter()
        .filter(|written| written.stream == stream.id)
        .take(own_writes.max(1))
        .collect();
    let kept = Kept::new(app, &stream, written.iter());
    if !duplicate {
        counter!("lambic_appended_records_total", "stream" => name.clone())
            .increment((records as u64).saturating_sub(kept.records_known));
    }
    let answer = json!({
        "stream": name,
        "records": records,
        "records_known": kept.records_known,
        "duplicate": duplicate,
        "ranges": kept.ranges,
        "frontier": kept.frontier,
        "bad": bad,
    });
    Ok(Json(answer).into_response())
}

/// What became of the records for one stream, as answers tell it.
pub struct Kept {
    pub records_known: u64,
    pub ranges: Vec<Value>,
    pub frontier: String,
}

impl Kept {
    /// `written` are the stream's writes.
    pub fn new<'a>(app: &App, stream: &Stream, written: impl Iterator<Item = &'a Written>) -> Kept {
        let mut kept = Kept {
            records_known: 0,
            ranges: Vec::new(),
            frontier: app.services.log.snapshot().head(stream.id).to_string(),
        };
        for written in written {
            kept.records_known += written.records_known;
            kept.ranges.extend(written.ranges.iter().map(|range| {
                json!({ "partition": range.partition.0, "first": range.first.0, "end": range.end.0 })
            }));
            kept.frontier = written.frontier.to_string();
        }
        kept
    }
}

pub fn too_large(bytes_max: usize) -> Failure {
    let message = format!("the body is over the limit of {bytes_max} bytes; nothing was kept");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        .with_hint("send it in several requests (each with its own Lambic-Sequence), or use `lambic append`, which does")
}

/// Few bytes of a body can be many once they are decoded.
pub fn too_large_decoded(error: &lambic_connectors::Error) -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("{error}; nothing was kept"),
    )
}

pub fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Failure> {
    let text = |name: &'static str| match headers.get(name) {
        None => Ok(None),
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("header {name} is not plain text"))),
    };
    match (text(PRODUCER)?, text(SEQUENCE)?) {
        (None, None) => Ok(None),
        (Some(id), Some(sequence)) => {
            if id.is_empty() || id.len() > PRODUCER_BYTES_MAX {
                let message = format!("Lambic-Producer must have 1 to {PRODUCER_BYTES_MAX} bytes");
                return Err(Failure::bad_request(message));
            }
            let sequence = sequence.trim().parse().map_err(|_| {
                Failure::bad_request(format!(
                    "Lambic-Sequence is \"{sequence}\", not a whole number from 0 on"
                ))
            })?;
            Ok(Some(Producer {
                id: id.to_owned(),
                sequence,
            }))
        }
        (Some(_), None) => Err(one_without_the_other("Lambic-Producer", "Lambic-Sequence")),
        (None, Some(_)) => Err(one_without_the_other("Lambic-Sequence", "Lambic-Producer")),
    }
}

/// A producer counts for each stream on its own, and apart from the producers of other doors.
fn within(stream: &Stream, producer: Producer) -> Producer {
    Producer {
        id: format!("http/{}/{}", stream.id, producer.id),
        ..producer
    }
}

fn one_without_the_other(given: &str, missing: &str) -> Failure {
    Failure::bad_request(format!("{given} came without {missing}"))
        .with_hint("send both, and repetitions have no second effect; or neither")
}

pub fn format(headers: &HeaderMap) -> Result<Format, Failure> {
    const KNOWN: &str = "application/x-ndjson, application/json, text/csv, application/vnd.apache.arrow.stream \
                         or application/vnd.apache.parquet";
    let unsupported = |message: String| {
        Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
        .with_hint(format!("Content-Type: {KNOWN}"))
    };
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Err(unsupported(
            "the request does not say what its body is".to_owned(),
        ));
    };
    let given = given.to_str().unwrap_or("?");
    Format::from_content_type(given)
        .map_err(|_| unsupported(format!("records cannot be read from {given}")))
}

pub fn bad_records(error: &lambic_connectors::Error) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, BAD_RECORD, error.to_string())
        .with_detail("nothing of this request was kept")
}

/// Names and types, as a hint shows them.
pub fn columns(stream: &Stream) -> String {
    let columns = stream.schema.fields().iter();
    let columns =
        columns.map(|field| format!("{} {}", field.name(), super::answer::sql_type(field)));
    columns.collect::<Vec<_>>().join(", ")
}

/// The bad rows as records of the dead-letter stream, by the names of its columns.
fn dead_letters(app: &App, source: &str, bad: &[BadRecord]) -> Result<Write, Failure> {
    let Some(stream) = app.services.database.stream(DEAD_LETTERS) else {
        let shown: Vec<String> = bad
            .iter()
            .take(BAD_SHOWN_MAX)
            .map(BadRecord::to_string)
            .collect();
        return Err(Failure::bad_request(format!(
            "{} rows are bad and there is no stream {DEAD_LETTERS} to keep them",
            bad.len()
        ))
        .with("bad", json!(shown)));
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64);
    let text = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
    let same = |value: &str| text(vec![value.to_owned(); bad.len()]);
    let columns = stream.schema.fields().iter().map(|field| {
        let column: ArrayRef = match field.name().as_str() {
            "at" => {
                Arc::new(TimestampMicrosecondArray::from(vec![now; bad.len()]).with_timezone("UTC"))
            }
            "kind" => same("append"),
            "source" | "stream" => same(source),
            "error_type" => same("BadRecord"),
            "error_message" | "reason" => text(bad.iter().map(BadRecord::to_string).collect()),
            "attempts" => Arc::new(Int32Array::from(vec![1; bad.len()])),
            "event" | "raw" => text(bad.iter().map(|bad| bad.raw.clone()).collect()),
            "line" => Arc::new(Int64Array::from_iter_values(
                bad.iter().map(|bad| bad.line as i64),
            )),
            "column_name" => Arc::new(
                bad.iter()
                    .map(|bad| bad.column.clone())
                    .collect::<StringArray>(),
            ),
            _ => new_null_array(field.data_type(), bad.len()),
        };
        match field.data_type() == column.data_type() || field.data_type() == &DataType::Null {
            true => Ok(column),
            false => arrow::compute::cast(&column, field.data_type()),
        }
    });
    let columns = columns
        .collect::<Result<Vec<_>, _>>()
        .map_err(super::answer::internal)?;
    let batch = RecordBatch::try_new(Arc::clone(&stream.schema), columns)
        .map_err(super::answer::internal)?;
    Ok(Write {
        stream: stream.id,
        partition: None,
        batch,
        schema: None,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn producer_and_sequence_come_together() {
        assert!(producer(&headers(&[])).unwrap().is_none());
        let both = producer(&headers(&[(PRODUCER, "p"), (SEQUENCE, "7")]))
            .unwrap()
            .unwrap();
        assert_eq!((both.id.as_str(), both.sequence), ("p", 7));
        for wrong in [
            &[(PRODUCER, "p")][..],
            &[(SEQUENCE, "1")],
            &[(PRODUCER, "p"), (SEQUENCE, "-1")],
            &[(PRODUCER, ""), (SEQUENCE, "1")],
        ] {
            assert_eq!(
                producer(&headers(wrong)).unwrap_err().status,
                StatusCode::BAD_REQUEST
            );
        }
    }

    #[test]
    fn a_producer_counts_for_each_stream() {
        let stream = |id| Stream {
            id: lambic_model::StreamId(id),
            name: lambic_model::StreamName::new("s").unwrap(),
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        };
        let producer = Producer {
            id: "p".to_owned(),
            sequence: 1,
        };
        let of = |id| within(&stream(id), producer.clone());
        assert_ne!(of(100), of(101));
        assert_eq!(of(100), of(100));
        assert_eq!(of(100).sequence, 1);
    }

    #[test]
    fn the_content_type_decides() {
        let check = |kind: &'static str| format(&headers(&[("content-type", kind)])).is_ok();
        assert!(check("application/x-ndjson"));
        assert!(check("Text/CSV; charset=utf-8"));
        assert!(!check("text/html"));
        assert!(format(&headers(&[])).is_err());
    }
}
