//! Rows of an answer in the form that the client asked for, as a stream: an answer of any size takes
//! the memory of a few batches.

use std::{io, sync::Arc};

use arrow::{
    array::RecordBatch,
    csv,
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
    json::{
        StructMode,
        writer::{JsonArray, LineDelimited},
    },
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use lambic_model::json::writer as json_writer;
use serde_json::{Value, json, value::RawValue};

use super::error::Failure;
use crate::executor::Batches;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Ndjson,
    Csv,
    Arrow,
}

impl Form {
    /// By the `Accept` header; JSON if it does not say.
    pub fn asked(headers: &HeaderMap) -> Result<Form, Failure> {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("*/*");
        for kind in accept.split(',') {
            let kind = kind
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            return Ok(match kind.as_str() {
                "application/json" | "application/*" | "*/*" | "" => Form::Json,
                "application/x-ndjson" | "application/jsonl" | "application/ndjson" => Form::Ndjson,
                "text/csv" | "text/*" => Form::Csv,
                "application/vnd.apache.arrow.stream" => Form::Arrow,
                _ => continue,
            });
        }
        let message = format!("there is no answer of the kind {accept}");
        Err(Failure::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message)
            .with_hint("application/json, application/x-ndjson, text/csv or application/vnd.apache.arrow.stream"))
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Ndjson => "application/x-ndjson",
            Form::Csv => "text/csv; charset=utf-8; header=present",
            Form::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// The columns as JSON: name and the SQL type.
pub fn columns(schema: &Schema) -> Value {
    schema
        .fields()
        .iter()
        .map(|field| json!({ "name": field.name(), "type": sql_type(field) }))
        .collect()
}

/// The type as SQL writes it.
pub fn sql_type(field: &Arc<Field>) -> String {
    let name = crate::postgres::pg_type(field);
    let (name, array) = match name.name().strip_prefix('_') {
        Some(element) => (element, "[]"),
        None => (name.name(), ""),
    };
    let name = match name {
        "bool" => "boolean",
        "int2" => "smallint",
        "int4" => "integer",
        "int8" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "timestamp" => "timestamp",
        "timestamptz" => "timestamptz",
        other => other,
    };
    format!("{name}{array}")
}

/// The rows of a batch as JSON arrays without the outer brackets: `[1,"a"],[2,"b"]`.
pub fn json_rows(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let mut writer = json_writer()
        .with_struct_mode(StructMode::ListOnly)
        .build::<_, JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let mut rows = writer.into_inner();
    rows.pop();
    rows.remove(0);
    Ok(rows)
}

/// Everything at once, for answers that are small by nature. As text, because a parsed number is a double, which
/// does not hold every `numeric`.
pub fn json_rows_of(batches: &[RecordBatch]) -> Result<Vec<Box<RawValue>>, Failure> {
    let mut all = vec![b'['];
    for batch in batches {
        let rows = json_rows(batch).map_err(internal)?;
        if all.len() > 1 && !rows.is_empty() {
            all.push(b',');
        }
        all.extend(rows);
    }
    all.push(b']');
    serde_json::from_slice(&all).map_err(|error| internal(ArrowError::JsonError(error.to_string())))
}

pub fn internal(error: ArrowError) -> Failure {
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        error.to_string(),
    )
}

/// Writes batches of one answer one after the other.
enum Writer {
    Json { any: bool },
    Ndjson,
    Csv { header: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Writer {
    fn new(form: Form, schema: &SchemaRef) -> Result<Writer, ArrowError> {
        Ok(match form {
            Form::Json => Writer::Json { any: false },
            Form::Ndjson => Writer::Ndjson,
            Form::Csv => Writer::Csv { header: true },
            Form::Arrow => Writer::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<u8>, ArrowError> {
        match self {
            Writer::Json { .. } => {
                let columns = columns(schema);
                Ok(format!("{{\"columns\":{columns},\"rows\":[").into_bytes())
            }
            // The header stands there even if no row follows.
            Writer::Csv { .. } => self.batch(&RecordBatch::new_empty(Arc::clone(schema))),
            _ => Ok(Vec::new()),
        }
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match self {
            Writer::Json { any } => {
                let rows = json_rows(batch)?;
                if rows.is_empty() {
                    return Ok(rows);
                }
                let comma = std::mem::replace(any, true);
                Ok(if comma {
                    [b",".as_slice(), &rows].concat()
                } else {
                    rows
                })
            }
            Writer::Ndjson => {
                let mut writer = json_writer().build::<_, LineDelimited>(Vec::new());
                writer.write(batch)?;
                writer.finish()?;
                Ok(writer.into_inner())
            }
            Writer::Csv { header } => {
                let mut out = Vec::new();
                let header = std::mem::replace(header, false);
                csv::WriterBuilder::new()
                    .with_header(header)
                    .build(&mut out)
                    .write(batch)?;
                Ok(out)
            }
            Writer::Arrow(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    fn end(&mut self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Writer::Json { .. } => Ok(b"]}\n".to_vec()),
            Writer::Arrow(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The head has gone out already: JSON can still say what happened; the other forms break off, so that
    /// nobody takes half an answer for a whole one.
    fn failed(&self, failure: &Failure) -> Option<Vec<u8>> {
        match self {
            Writer::Json { .. } => {
                Some(format!("],\"error\":{}}}\n", failure.to_json()).into_bytes())
            }
            _ => None,
        }
    }
}

/// The answer; its first batch is made before the head is sent, so that most errors have a status.
pub async fn rows(
    form: Form,
    schema: SchemaRef,
    mut batches: Batches,
) -> Result<Response, Failure> {
    let mut writer = Writer::new(form, &schema).map_err(internal)?;
    let mut first = writer.begin(&schema).map_err(unwritable)?;
    let mut ended = true;
    while let Some(batch) = batches.next().await {
        let batch = batch
            .map_err(|error| Failure::from(lambic_query::Error::from_datafusion(error, "", &[])))?;
        if batch.num_rows() > 0 {
            first.extend(writer.batch(&batch).map_err(unwritable)?);
            ended = false;
            break;
        }
    }
    if ended {
        first.extend(writer.end().map_err(internal)?);
    }
    let rest = stream::unfold(
        (writer, batches, ended),
        |(mut writer, mut batches, ended)| async move {
            if ended {
                return None;
            }
            let written = match batches.next().await {
                None => writer.end().map_err(internal),
                Some(Ok(batch)) => {
                    let written = writer.batch(&batch).map_err(unwritable);
                    if let Ok(written) = written {
                        return Some((Ok(Bytes::from(written)), (writer, batches, false)));
                    }
                    written
                }
                Some(Err(error)) => Err(Failure::from(lambic_query::Error::from_datafusion(
                    error,
                    "",
                    &[],
                ))),
            };
            let last = match written {
                Ok(written) => Ok(Bytes::from(written)),
                Err(failure) => match writer.failed(&failure) {
                    Some(written) => Ok(Bytes::from(written)),
                    None => Err(io::Error::other(failure.message)),
                },
            };
            Some((last, (writer, batches, true)))
        },
    );
    let body = Body::from_stream(
        stream::once(async move { Ok::<_, io::Error>(Bytes::from(first)) }).chain(rest),
    );
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(form.content_type()),
    );
    Ok(response)
}

fn unwritable(error: ArrowError) -> Failure {
    Failure::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", error.to_string())
        .with_hint("this form cannot hold a column's type; ask for application/json or cast the column to text")
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Float64Array, Int64Array, StringArray},
        datatypes::{DataType, Float64Type},
    };

    use super::*;

    async fn body(form: Form, batches: Vec<RecordBatch>, schema: SchemaRef) -> Vec<u8> {
        let response = rows(form, schema, Batches::of(batches).await)
            .await
            .unwrap();
        axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap()
            .to_vec()
    }

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
            Field::new("f", DataType::Float64, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![Some(1), None])),
                Arc::new(StringArray::from(vec!["a,\"", "b"])),
                Arc::new(Float64Array::from(vec![0.5, f64::NAN])),
            ],
        )
        .unwrap()
    }

    #[tokio::test]
    async fn every_form() {
        let batch = batch();
        let schema = batch.schema();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let two = vec![batch.clone(), batch.clone()];
        let json: Value =
            serde_json::from_slice(&body(Form::Json, two.clone(), schema.clone()).await).unwrap();
        assert_eq!(json["columns"][0], json!({"name": "n", "type": "bigint"}));
        assert_eq!(json["rows"].as_array().unwrap().len(), 4);
        assert_eq!(json["rows"][0], json!([1, "a,\"", 0.5]));
        assert_eq!(json["rows"][1], json!([null, "b", "NaN"]));
        let lines = text(body(Form::Ndjson, two.clone(), schema.clone()).await);
        assert_eq!(lines.lines().count(), 4);
        let csv = text(body(Form::Csv, two.clone(), schema.clone()).await);
        assert_eq!(csv.lines().next(), Some("n,t,f"));
        assert_eq!(csv.lines().count(), 5);
        let arrow = body(Form::Arrow, two, schema.clone()).await;
        let read = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap();
        assert_eq!(
            read.map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
            4
        );
        let none: Value =
            serde_json::from_slice(&body(Form::Json, Vec::new(), schema.clone()).await).unwrap();
        assert_eq!(none["rows"], json!([]));
        assert_eq!(text(body(Form::Csv, Vec::new(), schema).await), "n,t,f\n");
    }

    #[test]
    fn json_has_every_float_and_every_digit() {
        use arrow::array::{Decimal128Array, Float32Array, ListArray};
        let floats = [
            Some(f64::NAN),
            Some(f64::INFINITY),
            Some(f64::NEG_INFINITY),
            Some(0.1),
            None,
        ];
        let reals: Vec<Option<f32>> = floats.iter().map(|f| f.map(|f| f as f32)).collect();
        let lists = floats.iter().map(|float| Some(vec![*float]));
        let digits = Decimal128Array::from(vec![Some(12_345_678_901_234_567_890_123_456_789); 5])
            .with_precision_and_scale(38, 10)
            .unwrap();
        let batch = RecordBatch::try_from_iter([
            ("f", Arc::new(Float64Array::from(floats.to_vec())) as _),
            ("r", Arc::new(Float32Array::from(reals)) as _),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists)) as _,
            ),
            ("n", Arc::new(digits) as _),
        ])
        .unwrap();
        let rows = json_rows_of(&[batch]).unwrap();
        let text: Vec<&str> = rows.iter().map(|row| row.get()).collect();
        assert_eq!(
            text,
            [
                r#"["NaN","NaN",["NaN"],1234567890123456789.0123456789]"#,
                r#"["Infinity","Infinity",["Infinity"],1234567890123456789.0123456789]"#,
                r#"["-Infinity","-Infinity",["-Infinity"],1234567890123456789.0123456789]"#,
                r#"[0.1,0.1,[0.1],1234567890123456789.0123456789]"#,
                r#"[null,null,[null],1234567890123456789.0123456789]"#,
            ]
        );
    }

    #[test]
    fn the_form_is_the_first_that_we_have() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            Form::asked(&headers).map_err(|failure| failure.status.as_u16())
        };
        assert_eq!(asked("text/html, text/csv;q=0.9"), Ok(Form::Csv));
        assert_eq!(asked("*/*"), Ok(Form::Json));
        assert_eq!(asked("image/png"), Err(406));
    }
}
