//! The rows that a dead-letter stream keeps of refused records.

use std::sync::Arc;

use arrow::{
    array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use lambic_model::StreamName;

use crate::BadRecord;

/// `stream text, line bigint, column_name text, reason text, raw text, at timestamptz`; only `column_name` may be NULL.
pub fn dead_letter_schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("stream", DataType::Utf8, false),
        Field::new("line", DataType::Int64, false),
        Field::new("column_name", DataType::Utf8, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("raw", DataType::Utf8, false),
        Field::new("at", utc, false),
    ]))
}

/// One row of [`dead_letter_schema`] per bad record of `stream`, refused at `at_us`.
pub fn dead_letters(stream: &StreamName, bad: &[BadRecord], at_us: i64) -> RecordBatch {
    RecordBatch::try_new(
        dead_letter_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(
                bad.iter().map(|_| stream.as_str()),
            )),
            Arc::new(Int64Array::from_iter_values(
                bad.iter().map(|bad| bad.line as i64),
            )),
            Arc::new(StringArray::from_iter(
                bad.iter().map(|bad| bad.column.as_deref()),
            )),
            Arc::new(StringArray::from_iter_values(
                bad.iter().map(BadRecord::reason),
            )),
            Arc::new(StringArray::from_iter_values(
                bad.iter().map(|bad| &bad.raw),
            )),
            Arc::new(TimestampMicrosecondArray::from_value(at_us, bad.len()).with_timezone("UTC")),
        ],
    )
    .expect("the columns are made to the schema")
}
