//! `POST /v1/append`: records of several streams in, as one atomic append.
//!
//! All of a request is kept, and becomes visible at one moment, or nothing is. With `?check=true` nothing is kept: the
//! answer says whether it could be.

use std::{collections::BTreeSet, sync::Arc};

use arrow::array::RecordBatch;
use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use lambic_connectors::{
    Error, Format, OnError, decode_within, decoded_bytes_max,
    several::{Part, line_of, parts, sizes},
};
use lambic_model::{Append, Producer, Stream, Write, Written};
use metrics::{counter, histogram};
use serde::Deserialize;
use serde_json::json;
use tracing::{Instrument, info_span};

use super::{
    App, Shared,
    append::{self, Kept},
    error::Failure,
};

const STREAMS_MAX: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    #[serde(default)]
    check: bool,
}

/// The records of one stream, in its own columns.
struct Checked {
    stream: Arc<Stream>,
    /// As they came.
    bytes: usize,
    batches: Vec<RecordBatch>,
}

impl Checked {
    fn records(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

pub async fn append(
    State(app): Shared,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let started = std::time::Instant::now();
    let Query(parameters) = parameters.map_err(|error| {
        Failure::bad_request(error.body_text()).with_hint("the only parameter is check=true|false")
    })?;
    let producer = append::producer(&headers)?;
    let format = append::format(&headers)?;
    let bytes_max = app.options.append_bytes_max;
    let body = app
        .bounds
        .read(body, &headers, bytes_max)
        .await
        .map_err(|unread| unread.into_failure(|| append::too_large(bytes_max)))?;
    let work = async {
        let bytes = body.bytes.clone();
        let sizes = append::blocking(move || sizes(format, &bytes, STREAMS_MAX)).await?;
        let sizes = sizes.map_err(|error| refused(&error))?;
        let named = sizes.iter().map(|(name, _)| append::writable(&app, name));
        let streams = named.collect::<Result<Vec<_>, _>>()?;
        let decoded_max = streams.iter().zip(&sizes).map(|(stream, (_, bytes))| {
            decoded_bytes_max(stream, Format::Ndjson, *bytes, OnError::Refuse, bytes_max)
        });
        // The parts are a copy of the body until they are decoded.
        let reserved = decoded_max.sum::<usize>().min(bytes_max) + body.bytes.len();
        let mut room = app.bounds.records(reserved).await?;
        let checked = append::blocking(move || {
            let parts = parts(format, &body.bytes, sizes).map_err(|error| refused(&error))?;
            let parts = streams.into_iter().zip(parts).collect();
            decode(format, &body.bytes, parts, bytes_max)
        });
        let checked = checked.await??;
        let memory = checked.iter().flat_map(|checked| &checked.batches);
        let memory: usize = memory.map(RecordBatch::get_array_memory_size).sum();
        drop(room.split(room.num_permits().saturating_sub(memory)));
        match parameters.check {
            true => Ok(would_be_kept(&checked)),
            false => keep(&app, checked, producer).await,
        }
    };
    let answer = work.instrument(info_span!("append_streams")).await;
    histogram!("lambic_append_seconds").record(started.elapsed().as_secs_f64());
    answer
}

fn decode(
    format: Format,
    body: &Bytes,
    parts: Vec<(Arc<Stream>, Part)>,
    bytes_max: usize,
) -> Result<Vec<Checked>, Failure> {
    let mut left = bytes_max;
    let parts = parts.into_iter().map(|(stream, part)| {
        let bytes = part.body.len();
        let lines = Bytes::from(part.body);
        let decoded = decode_within(&stream, Format::Ndjson, lines, OnError::Refuse, left);
        let decoded = decoded.map_err(|error| match error {
            Error::Record(mut bad) => {
                let line = line_of(format, body, &part.stream, bad.line);
                bad.line = line.unwrap_or(bad.line);
                bad_record(&Error::Record(bad), &stream)
            }
            Error::TooLarge { .. } => {
                let format = format.name();
                append::too_large_decoded(&Error::TooLarge { format, bytes_max })
            }
            other => bad_record(&other, &stream),
        })?;
        let memory = decoded.batches.iter();
        let memory: usize = memory.map(RecordBatch::get_array_memory_size).sum();
        left = left.saturating_sub(memory);
        Ok(Checked {
            stream,
            bytes,
            batches: decoded.batches,
        })
    });
    parts.collect()
}

fn bad_record(error: &Error, stream: &Stream) -> Failure {
    let name = &stream.name;
    let failure = append::bad_records(error);
    counter!("lambic_bad_records_total", "stream" => name.to_string()).increment(1);
    Failure {
        message: format!("stream {name}: {}", failure.message),
        ..failure
    }
    .with_hint(format!(
        "the stream has the columns {}",
        append::columns(stream)
    ))
}

/// What is wrong with the body as a whole.
fn refused(error: &Error) -> Failure {
    append::bad_records(error).with_hint("as application/json: {\"stream\": [{…}, …], …}; as application/x-ndjson: {\"stream\": \"…\", \"record\": {…}} in each line")
}

fn would_be_kept(checked: &[Checked]) -> Response {
    let records: usize = checked.iter().map(Checked::records).sum();
    let streams = checked.iter().map(|checked| {
        json!({ "stream": checked.stream.name.to_string(), "records": checked.records() })
    });
    let streams: Vec<_> = streams.collect();
    Json(json!({ "checked": true, "records": records, "streams": streams })).into_response()
}

async fn keep(
    app: &App,
    checked: Vec<Checked>,
    producer: Option<Producer>,
) -> Result<Response, Failure> {
    let producer = producer.map(|producer| within(&checked, producer));
    let writes = checked.iter().flat_map(|checked| {
        let batches = checked.batches.iter().cloned();
        batches.map(move |batch| Write {
            stream: checked.stream.id,
            partition: None,
            batch,
            schema: Some(checked.stream.schema_version()),
        })
    });
    let writes: Vec<Write> = writes.collect();
    let (duplicate, written) = match writes.is_empty() {
        true => (false, Vec::new()),
        false => {
            let appended = app.services.appender.append(Append {
                writes,
                producer,
                cursors: Vec::new(),
            });
            let appended = appended.await?;
            (appended.duplicate, appended.writes)
        }
    };
    let mut streams = Vec::with_capacity(checked.len());
    for checked in &checked {
        let name = checked.stream.name.to_string();
        let own = written
            .iter()
            .filter(|written: &&Written| written.stream == checked.stream.id);
        let kept = Kept::new(app, &checked.stream, own);
        let records = checked.records() as u64;
        if !duplicate {
            counter!("lambic_appended_records_total", "stream" => name.clone())
                .increment(records.saturating_sub(kept.records_known));
        }
        counter!("lambic_appended_bytes_total", "stream" => name.clone())
            .increment(checked.bytes as u64);
        streams.push(json!({
            "stream": name,
            "records": records,
            "records_known": kept.records_known,
            "ranges": kept.ranges,
            "frontier": kept.frontier,
        }));
    }
    let records: usize = checked.iter().map(Checked::records).sum();
    let answer = json!({ "records": records, "duplicate": duplicate, "streams": streams });
    Ok(Json(answer).into_response())
}

/// A producer counts for each set of streams on its own, and apart from its appends to single ones.
fn within(checked: &[Checked], producer: Producer) -> Producer {
    let ids: BTreeSet<u32> = checked.iter().map(|checked| checked.stream.id.0).collect();
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    Producer {
        id: format!("http/several/{}/{}", ids.join("+"), producer.id),
        ..producer
    }
}
