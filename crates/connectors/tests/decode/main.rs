//! What is accepted, and what exactly is said about what is refused.

mod bounds;
mod columnar;
mod csv;
mod evolved;
mod json;

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray as _, BinaryArray, Decimal128Array, DictionaryArray, Float64Array,
        Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
        TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array,
    },
    datatypes::{DataType, Field, Int32Type, Schema, TimeUnit},
    ipc::writer::{FileWriter, StreamWriter},
    util::pretty::pretty_format_batches,
};
use bytes::Bytes;
use expect_test::{Expect, expect};
use lambic_connectors::{
    BadRecord, Error, Format, OnError, arrow_answer, dead_letter_schema, dead_letters, decode,
    decode_within, decoded_bytes_max,
};
use lambic_model::{Stream, StreamId, StreamName};
use parquet::arrow::ArrowWriter;

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn stream_of(fields: Vec<Field>) -> Stream {
    Stream {
        id: StreamId(1),
        name: StreamName::new("flights").unwrap(),
        schema: Arc::new(Schema::new(fields)),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    }
}

/// A column of every kind.
fn flights() -> Stream {
    stream_of(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("origin", DataType::Utf8, true),
        Field::new("delay", DataType::Int16, true),
        Field::new("price", DataType::Decimal128(7, 2), true),
        Field::new("speed", DataType::Float64, true),
        Field::new("late", DataType::Boolean, true),
        Field::new("day", DataType::Date32, true),
        Field::new("at", utc(), true),
        Field::new(
            "local",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        Field::new("code", DataType::Binary, true),
    ])
}

/// The good records as a table and the bad ones as lines; then, if strictness says otherwise, the error.
fn shown(stream: &Stream, format: Format, body: impl Into<Bytes>) -> String {
    let body = body.into();
    let mut out = String::new();
    match decode(stream, format, body.clone(), OnError::Skip) {
        Ok(decoded) => {
            if decoded.records() > 0 {
                for batch in &decoded.batches {
                    assert_eq!(batch.schema(), stream.schema);
                }
                out += &pretty_format_batches(&decoded.batches).unwrap().to_string();
                out += "\n";
            }
            for bad in &decoded.bad {
                out += &format!("{bad}\n    {}\n", bad.raw);
            }
            // Refusing says the first of what skipping says.
            match decode(stream, format, body, OnError::Refuse) {
                Ok(strict) => {
                    assert!(decoded.bad.is_empty());
                    assert_eq!(strict.batches, decoded.batches);
                }
                Err(error) => assert_eq!(error.to_string(), decoded.bad[0].to_string()),
            }
        }
        Err(error) => {
            let refused = decode(stream, format, body, OnError::Refuse).unwrap_err();
            assert!(!refused.to_string().is_empty());
            out += &format!("refused: {error}\n");
        }
    }
    out
}

fn check(format: Format, body: impl Into<Bytes>, expected: Expect) {
    expected.assert_eq(&shown(&flights(), format, body));
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn parquet(batch: &RecordBatch) -> Bytes {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn ipc_stream(batch: &RecordBatch) -> Bytes {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap().into()
}

fn ipc_file(batch: &RecordBatch) -> Bytes {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap().into()
}

#[test]
fn many_records_make_several_batches_in_order() {
    let body: String = (0..150_000)
        .map(|id| format!("{{\"id\":{id}}}\n"))
        .collect();
    let decoded = decode(&flights(), Format::Ndjson, body.into(), OnError::Refuse).unwrap();
    assert!(decoded.batches.len() > 1);
    let ids: Vec<i64> = decoded
        .batches
        .iter()
        .flat_map(|batch| {
            let ids = batch
                .column(0)
                .as_primitive::<arrow::datatypes::Int64Type>();
            ids.values().to_vec()
        })
        .collect();
    assert!(ids.into_iter().eq(0..150_000));
}

#[test]
fn dead_letters_are_rows() {
    let decoded = decode(
        &flights(),
        Format::Ndjson,
        "{\"id\":1,\"delay\":\"x\"}\n{\"id\":2}\n{\n".into(),
        OnError::Skip,
    )
    .unwrap();
    let rows = dead_letters(
        &StreamName::new("flights").unwrap(),
        &decoded.bad,
        1_000_000,
    );
    assert_eq!(rows.schema(), dead_letter_schema());
    expect![[r#"
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+
        | stream  | line | column_name | reason                                                               | raw                  | at                   |
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+
        | flights | 1    | delay       | expected an integer from -32768 to 32767, found the string "x"       | {"id":1,"delay":"x"} | 1970-01-01T00:00:01Z |
        | flights | 3    |             | expected valid JSON: a column's name in double quotes, found the end | {                    | 1970-01-01T00:00:01Z |
        +---------+------+-------------+----------------------------------------------------------------------+----------------------+----------------------+"#]].assert_eq(&pretty_format_batches(&[rows]).unwrap().to_string());
    let none: &[BadRecord] = &[];
    assert_eq!(
        dead_letters(&StreamName::new("flights").unwrap(), none, 0).num_rows(),
        0
    );
}
