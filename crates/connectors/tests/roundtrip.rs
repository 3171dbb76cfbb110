//! Whatever fits a stream comes back from every format as it was.

use std::{fmt::Write as _, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
        Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    compute::concat_batches,
    datatypes::{
        DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type,
        Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
    },
    ipc::writer::{FileWriter, StreamWriter},
    temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime},
};
use bytes::Bytes;
use lambic_connectors::{Chunks, Format, OnError, decode};
use lambic_model::{Stream, StreamId, StreamName};
use parquet::arrow::ArrowWriter;
use proptest::{prelude::*, strategy::Union};

const ROWS: usize = 12;

fn column<T, A>(
    data_type: DataType,
    nullable: bool,
    values: impl Strategy<Value = T> + 'static,
    array: impl Fn(Vec<Option<T>>) -> A + 'static,
) -> BoxedStrategy<(DataType, bool, ArrayRef)>
where
    T: std::fmt::Debug + Clone + 'static,
    A: Array + 'static,
{
    let value = if nullable {
        prop::option::of(values).boxed()
    } else {
        values.prop_map(Some).boxed()
    };
    prop::collection::vec(value, ROWS)
        .prop_map(move |values| {
            (
                data_type.clone(),
                nullable,
                Arc::new(array(values)) as ArrayRef,
            )
        })
        .boxed()
}

/// Years 1 to 9999.
fn times() -> impl Strategy<Value = i64> {
    prop_oneof![
        -62_135_596_800_000_000..=253_402_300_799_999_999_i64,
        -10_000_000..10_000_000_i64,
    ]
}

fn columns(nullable: bool) -> impl Strategy<Value = (DataType, bool, ArrayRef)> {
    let micros =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    Union::new([
        column(
            DataType::Boolean,
            nullable,
            any::<bool>(),
            BooleanArray::from,
        ),
        column(DataType::Int16, nullable, any::<i16>(), Int16Array::from),
        column(DataType::Int32, nullable, any::<i32>(), Int32Array::from),
        column(DataType::Int64, nullable, any::<i64>(), Int64Array::from),
        column(
            DataType::Float32,
            nullable,
            any::<f32>(),
            Float32Array::from,
        ),
        column(
            DataType::Float64,
            nullable,
            any::<f64>(),
            Float64Array::from,
        ),
        column(
            DataType::Decimal128(38, 10),
            nullable,
            prop_oneof![
                -99_999_999_999_999_999_999_999_999_999_999_999_999_i128
                    ..=99_999_999_999_999_999_999_999_999_999_999_999_999,
                -1_000..1_000_i128
            ],
            |values| {
                Decimal128Array::from(values)
                    .with_precision_and_scale(38, 10)
                    .unwrap()
            },
        ),
        column(
            DataType::Date32,
            nullable,
            -719_162..=2_932_896_i32,
            Date32Array::from,
        ),
        column(
            micros(None),
            nullable,
            times(),
            TimestampMicrosecondArray::from,
        ),
        column(micros(Some("UTC")), nullable, times(), |values| {
            TimestampMicrosecondArray::from(values).with_timezone("UTC")
        }),
        column(
            DataType::Utf8,
            nullable,
            prop_oneof![any::<String>(), "[a,\"\r\n ]{0,6}"],
            StringArray::from,
        ),
        column(
            DataType::Binary,
            nullable,
            prop::collection::vec(any::<u8>(), 0..6),
            |values| values.iter().map(Option::as_deref).collect::<BinaryArray>(),
        ),
    ])
}

prop_compose! {
    fn records()(
        id in columns(false),
        rest in prop::collection::vec(any::<bool>().prop_flat_map(columns), 1..6),
    ) -> (Stream, RecordBatch) {
        let (fields, arrays): (Vec<_>, Vec<_>) = std::iter::once(id)
            .chain(rest)
            .enumerate()
            .map(|(index, (data_type, nullable, array))| {
                (Field::new(format!("c{index}"), data_type, nullable), array)
            })
            .unzip();
        let schema = Arc::new(Schema::new(fields));
        let stream = Stream {
            id: StreamId(1),
            name: StreamName::new("s").unwrap(),
            schema: schema.clone(),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
evolution: Default::default(),

        };
        (stream, RecordBatch::try_new(schema, arrays).unwrap())
    }
}

/// A value's text, and whether JSON says it without quotes.
fn text(array: &ArrayRef, row: usize) -> Option<(String, bool)> {
    if array.is_null(row) {
        return None;
    }
    fn float(value: f64, text: String) -> (String, bool) {
        if value.is_nan() {
            ("NaN".to_owned(), false)
        } else if value.is_infinite() {
            let word = if value > 0.0 { "Infinity" } else { "-Infinity" };
            (word.to_owned(), false)
        } else {
            (text, true)
        }
    }
    Some(match array.data_type() {
        DataType::Boolean => (array.as_boolean().value(row).to_string(), true),
        DataType::Int16 => (
            array.as_primitive::<Int16Type>().value(row).to_string(),
            true,
        ),
        DataType::Int32 => (
            array.as_primitive::<Int32Type>().value(row).to_string(),
            true,
        ),
        DataType::Int64 => (
            array.as_primitive::<Int64Type>().value(row).to_string(),
            true,
        ),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(f64::from(value), value.to_string())
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            float(value, value.to_string())
        }
        DataType::Decimal128(..) => (
            array.as_primitive::<Decimal128Type>().value_as_string(row),
            true,
        ),
        DataType::Date32 => {
            let date = date32_to_datetime(array.as_primitive::<Date32Type>().value(row)).unwrap();
            (date.format("%Y-%m-%d").to_string(), false)
        }
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = timestamp_us_to_datetime(micros).unwrap();
            let format = if zone.is_some() {
                "%Y-%m-%dT%H:%M:%S%.6fZ"
            } else {
                "%Y-%m-%d %H:%M:%S%.6f"
            };
            (time.format(format).to_string(), false)
        }
        DataType::Utf8 => (array.as_string::<i32>().value(row).to_owned(), false),
        DataType::Binary => {
            let mut hex = "\\x".to_owned();
            for byte in array.as_binary::<i32>().value(row) {
                write!(hex, "{byte:02x}").unwrap();
            }
            (hex, false)
        }
        other => panic!("no test for {other}"),
    })
}

fn ndjson(batch: &RecordBatch) -> String {
    let mut out = String::new();
    for row in 0..batch.num_rows() {
        let values: Vec<String> = batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            // Every other NULL is left out.
            .filter(|(_, array)| row % 2 == 0 || !array.is_null(row))
            .map(|(field, array)| {
                let value = match text(array, row) {
                    None => "null".to_owned(),
                    Some((text, true)) => text,
                    Some((text, false)) => serde_json::to_string(&text).unwrap(),
                };
                format!("\"{}\":{value}", field.name())
            })
            .collect();
        writeln!(out, "{{{}}}", values.join(",")).unwrap();
    }
    out
}

fn csv(batch: &RecordBatch) -> String {
    let schema = batch.schema();
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let mut out = names.join(",") + "\r\n";
    for row in 0..batch.num_rows() {
        let values: Vec<String> = batch
            .columns()
            .iter()
            .map(|array| match text(array, row) {
                None => String::new(),
                Some((text, true)) => text,
                Some((text, false)) => format!("\"{}\"", text.replace('"', "\"\"")),
            })
            .collect();
        out += &(values.join(",") + "\r\n");
    }
    out
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn ipc_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn ipc_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn decoded(stream: &Stream, format: Format, body: impl Into<Bytes>) -> RecordBatch {
    let decoded = decode(stream, format, body.into(), OnError::Refuse).unwrap();
    concat_batches(&stream.schema, &decoded.batches).unwrap()
}

/// Equal in every bit but those of a NaN.
fn assert_same(one: &RecordBatch, two: &RecordBatch, format: Format) {
    assert_eq!(one.schema(), two.schema(), "{format:?}");
    assert_eq!(one.num_rows(), two.num_rows(), "{format:?}");
    for (one, two) in one.columns().iter().zip(two.columns()) {
        for row in 0..one.len() {
            assert_eq!(text(one, row), text(two, row), "{format:?}, row {row}");
        }
    }
}

proptest! {
    #[test]
    fn every_format_gives_back_what_it_was_given((stream, batch) in records()) {
        let lines = ndjson(&batch);
        let array = format!("[{}]", lines.trim_end().replace('\n', ",\n"));
        for (format, body) in [
            (Format::Ndjson, lines.into_bytes()),
            (Format::Json, array.into_bytes()),
            (Format::Csv, csv(&batch).into_bytes()),
            (Format::Parquet, parquet(&batch)),
            (Format::Arrow, ipc_stream(&batch)),
            (Format::Arrow, ipc_file(&batch)),
        ] {
            assert_same(&decoded(&stream, format, body), &batch, format);
        }
    }

    #[test]
    fn a_file_sent_in_pieces_is_the_file(
        (stream, batch) in records(),
        chunk_bytes in 1usize..3000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (format, body) in [
            (Format::Ndjson, ndjson(&batch).into_bytes()),
            (Format::Csv, csv(&batch).into_bytes()),
            (Format::Parquet, parquet(&batch)),
            (Format::Arrow, ipc_stream(&batch)),
            (Format::Arrow, ipc_file(&batch)),
        ] {
            std::fs::write(&path, &body).unwrap();
            let mut pieces = Vec::new();
            let mut row = 0;
            for chunk in Chunks::open(&path, format, chunk_bytes).unwrap() {
                let chunk = chunk.unwrap();
                let piece = decoded(&stream, chunk.format, chunk.body.clone());
                assert_eq!(piece.num_rows() as u64, chunk.records, "{format:?}");
                if matches!(format, Format::Parquet | Format::Arrow) {
                    assert_eq!(chunk.first_line, row + 1);
                }
                row += chunk.records;
                pieces.push(piece);
            }
            let whole = concat_batches(&stream.schema, &pieces).unwrap();
            assert_same(&whole, &batch, format);
        }
    }

    /// Noise is refused or read; it never panics the caller.
    #[test]
    fn noise_is_survived(
        (stream, batch) in records(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6),
    ) {
        for (format, mut body) in [
            (Format::Ndjson, ndjson(&batch).into_bytes()),
            (Format::Json, ndjson(&batch).into_bytes()),
            (Format::Csv, csv(&batch).into_bytes()),
        ] {
            for (index, bit) in &flips {
                let index = index.index(body.len());
                body[index] ^= 1 << bit;
            }
            for on_error in [OnError::Refuse, OnError::Skip] {
                let _ = decode(&stream, format, body.clone().into(), on_error);
            }
        }
    }
}
