//! The one way in: a body of a format becomes batches of a stream.

use arrow::array::RecordBatch;
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
    match format {
        Format::Ndjson => json::decode_lines(stream, &body, on_error),
        Format::Json => json::decode_array(stream, &body, on_error),
        Format::Csv => csv::decode(stream, &body, on_error),
        Format::Parquet => columnar::decode_parquet(stream, body, on_error),
        Format::Arrow => columnar::decode_arrow(stream, body, on_error),
    }
}

/// Takes a bad record, or ends the decoding with it.
pub(crate) fn reject(
    bad: BadRecord,
    on_error: OnError,
    decoded: &mut Decoded,
) -> Result<(), Error> {
    match on_error {
        OnError::Refuse => Err(Error::record(bad)),
        OnError::Skip => {
            decoded.bad.push(bad);
            Ok(())
        }
    }
}
