//! The one way in: a body of a format becomes batches of a stream.

use arrow::{array::RecordBatch, datatypes::DataType};
use bytes::Bytes;
use lambic_model::Stream;

use crate::{BadRecord, Error, Format, columnar, csv, json};

/// What to do with a record that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The whole input is refused.
    Refuse,
    /// The other records are taken, the bad ones handed back.
    Skip,
}

/// The records of an input, in its order.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    /// With the stream's schema; none is empty.
    pub batches: Vec<RecordBatch>,
    /// Records left out; always empty with [`OnError::Refuse`].
    pub bad: Vec<BadRecord>,
}

impl Decoded {
    pub fn records(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Checks `body` against the stream's columns.
///
/// Columns are matched by name, in any order. A column that the input lacks is NULL, or an error if it is NOT NULL; a
/// column that the stream lacks is an error.
pub fn decode(
    stream: &Stream,
    format: Format,
    body: Bytes,
    on_error: OnError,
) -> Result<Decoded, Error> {
    decode_within(stream, format, body, on_error, usize::MAX)
}

/// The same, for input that others send: an error before the records, or the bad ones among them, hold more than
/// `bytes_max`. A short input can be long once decoded: NULLs that `{}` stands for, repetitions in Parquet.
pub fn decode_within(
    stream: &Stream,
    format: Format,
    body: Bytes,
    on_error: OnError,
    bytes_max: usize,
) -> Result<Decoded, Error> {
    let budget = Budget {
        format,
        bytes_max,
        bytes: 0,
    };
    match format {
        Format::Ndjson => json::decode_lines(stream, &body, on_error, budget),
        Format::Json => json::decode_array(stream, &body, on_error, budget),
        Format::Csv => csv::decode(stream, &body, on_error, budget),
        Format::Parquet => columnar::decode_parquet(stream, body, on_error, budget),
        Format::Arrow => columnar::decode_arrow(stream, body, on_error, budget),
    }
}

/// The records of a JSON list as one batch; the error says which does not fit and why.
pub fn json_list(stream: &Stream, list: Vec<u8>) -> Result<RecordBatch, String> {
    let decoded = decode(stream, Format::Json, list.into(), OnError::Refuse);
    let decoded = decoded.map_err(|error| error.to_string())?;
    let batch = arrow::compute::concat_batches(&stream.schema, &decoded.batches);
    batch.map_err(|error| error.to_string())
}

/// What an answer may hold once it is read: types that share values among rows make much of little.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The records of one Arrow IPC stream as one batch; the error says which does not fit and why. The system's columns
/// may be among its own, and are left out.
pub fn arrow_answer(stream: &Stream, answer: Vec<u8>) -> Result<RecordBatch, String> {
    let budget = Budget {
        format: Format::Arrow,
        bytes_max: ANSWER_BYTES_MAX,
        bytes: 0,
    };
    let decoded = columnar::decode_answer(stream, answer.into(), budget);
    let decoded = decoded.map_err(|error| error.to_string())?;
    let batch = arrow::compute::concat_batches(&stream.schema, &decoded.batches);
    batch.map_err(|error| error.to_string())
}

/// What the records of a body hold at most, and never more than `bytes_max`: for who reserves the memory before
/// [`decode_within`] takes it.
///
/// A body of text holds no more records than it has room for the shortest one. Compressed formats, and bad records
/// that are described, are bounded by `bytes_max` alone.
pub fn decoded_bytes_max(
    stream: &Stream,
    format: Format,
    body_bytes: usize,
    on_error: OnError,
    bytes_max: usize,
) -> usize {
    let fields = stream.schema.fields();
    let record_bytes_min = match format {
        Format::Parquet | Format::Arrow => return bytes_max,
        // `{"name":1}` and what separates it from the next one.
        Format::Ndjson | Format::Json => {
            let needed = fields.iter().filter(|field| !field.is_nullable());
            3 + needed.map(|field| field.name().len() + 5).sum::<usize>()
        }
        // The header may name fewer columns, but not fewer than have to be there.
        Format::Csv => {
            let needed = fields.iter().filter(|field| !field.is_nullable());
            needed.count().max(1)
        }
    };
    if on_error == OnError::Skip {
        return bytes_max;
    }
    // A last record need not have the separator.
    let records = (body_bytes / record_bytes_min).saturating_add(1);
    records
        .saturating_mul(record_bytes(stream))
        .saturating_add(body_bytes)
        .min(bytes_max)
}

/// Counts what becomes of an input. It never counts more than the log does, which has the last word.
#[derive(Debug)]
pub(crate) struct Budget {
    format: Format,
    pub bytes_max: usize,
    bytes: usize,
}

impl Budget {
    /// To be called before the memory is taken.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes <= self.bytes_max {
            true => Ok(()),
            false => Err(self.exceeded()),
        }
    }

    pub fn exceeded(&self) -> Error {
        Error::TooLarge {
            format: self.format.name(),
            bytes_max: self.bytes_max,
        }
    }
}

/// Bytes that a record takes in a stream's columns whatever its values are, or does without.
pub(crate) fn record_bytes(stream: &Stream) -> usize {
    let defaults = stream.defaults().into_iter().flatten();
    let defaults =
        defaults.filter(|default| default.value().data_type().primitive_width().is_none());
    let defaults: usize = defaults.map(|default| default.text().len()).sum();
    let bits = stream
        .schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Boolean => 1,
            DataType::Utf8 | DataType::Binary => 32,
            DataType::LargeUtf8 | DataType::LargeBinary => 64,
            DataType::Utf8View | DataType::BinaryView => 128,
            other => 8 * other.primitive_width().unwrap_or(0),
        });
    bits.sum::<usize>() / 8 + defaults
}

/// Takes a bad record, or ends the decoding with it.
pub(crate) fn reject(
    bad: BadRecord,
    on_error: OnError,
    decoded: &mut Decoded,
    budget: &mut Budget,
) -> Result<(), Error> {
    match on_error {
        OnError::Refuse => Err(Error::record(bad)),
        OnError::Skip => {
            budget.take(bad.raw.len() + bad.expected.len() + bad.found.len())?;
            decoded.bad.push(bad);
            Ok(())
        }
    }
}
