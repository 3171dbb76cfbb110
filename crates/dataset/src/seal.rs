//! Writes what the log holds above the dataset's frontier as Parquet files.

use std::sync::Arc;

use arrow::{
    array::{AsArray as _, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use bytes::Bytes;
use lambic_model::{Frontier, Offset, OffsetRange, Stream, StreamId, SystemColumn};

use crate::{Error, Options, parquet_file};

/// Where sealing reads from: a snapshot of the log.
pub trait Tail: Clone + Send + 'static {
    /// The stream's head, exclusive.
    fn head(&self, stream: StreamId) -> Frontier;
    /// The oldest records that can still be read.
    fn start(&self, stream: StreamId) -> Frontier;
    /// The records of `range` from its first on, in offset order, with the system columns: at least one, and not
    /// many more than fill `bytes`.
    fn read_some(
        &self,
        stream: StreamId,
        range: OffsetRange,
        bytes: u64,
    ) -> Result<Vec<RecordBatch>, Error>;
}

impl Tail for lambic_log::Snapshot {
    fn head(&self, stream: StreamId) -> Frontier {
        self.head(stream)
    }

    fn start(&self, stream: StreamId) -> Frontier {
        self.start(stream)
    }

    fn read_some(
        &self,
        stream: StreamId,
        range: OffsetRange,
        bytes: u64,
    ) -> Result<Vec<RecordBatch>, Error> {
        Ok(self
            .read_chunks(stream, range, bytes)
            .next()
            .transpose()?
            .unwrap_or_default())
    }
}

/// A file ready to be put.
pub(crate) struct Sealed {
    pub range: OffsetRange,
    pub file: Bytes,
    pub crc32c: u32,
}

/// Encodes one file with the first records of `range`: all of them, or as many as one file may hold.
pub(crate) fn encode_next(
    stream: &Arc<Stream>,
    tail: &impl Tail,
    range: OffsetRange,
    options: &Options,
) -> Result<Sealed, Error> {
    let schema = stream.schema_with_system();
    let properties = parquet_file::properties()
        .set_sorting_columns(parquet_file::sorted_by(
            &schema,
            &[SystemColumn::Offset.name()],
        ))
        .build();
    let mut encoder = parquet_file::Encoder::new(&schema, properties)?;
    let mut next = range.first;
    while next < range.end
        && encoder.rows() < options.file_rows_max
        && encoder.bytes_estimated() < options.file_bytes_max
    {
        let rest = OffsetRange {
            first: next,
            ..range
        };
        let before = next;
        for batch in tail.read_some(stream.id, rest, options.chunk_bytes)? {
            if encoder.rows() >= options.file_rows_max {
                break;
            }
            let room = options.file_rows_max.saturating_sub(encoder.rows());
            let rows = (batch.num_rows() as u64).min(room);
            // The rest of the batch begins the next file.
            let batch = batch.slice(0, rows as usize);
            check_offsets(&batch, range, next).map_err(|reason| Error::TailMismatch {
                stream: stream.name.clone(),
                reason,
            })?;
            // The log may know a column as nullable where the declaration does not; the file says what is declared.
            let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?;
            encoder.write(&batch)?;
            next = next.plus(rows);
        }
        if next == before {
            return Err(Error::TailMismatch {
                stream: stream.name.clone(),
                reason: format!(
                    "no records at offset {next} of partition {}, before its end {}",
                    range.partition, range.end
                ),
            });
        }
    }
    let file = encoder.finish()?;
    Ok(Sealed {
        range: OffsetRange { end: next, ..range },
        crc32c: crc32c::crc32c(&file),
        file,
    })
}

/// Offsets must be exactly `next, next + 1, …` within `range`: what is sealed wrongly is wrong for ever.
fn check_offsets(batch: &RecordBatch, range: OffsetRange, next: Offset) -> Result<(), String> {
    let column = |column: SystemColumn| {
        batch
            .column_by_name(column.name())
            .ok_or_else(|| format!("column `{}` is missing", column.name()))
    };
    let partitions = column(SystemColumn::Partition)?;
    let offsets = column(SystemColumn::Offset)?;
    let (Some(partitions), Some(offsets)) = (
        partitions.as_primitive_opt::<Int32Type>(),
        offsets.as_primitive_opt::<Int64Type>(),
    ) else {
        return Err("`_partition` or `_offset` has another type".to_owned());
    };
    for (expected, (&partition, &offset)) in
        (next.0..).zip(partitions.values().iter().zip(offsets.values()))
    {
        if i64::from(partition) != i64::from(range.partition.0)
            || i128::from(offset) != i128::from(expected)
            || expected >= range.end.0
        {
            return Err(format!(
                "offset {offset} of partition {partition} where offset {expected} of partition {} was expected (end \
                 {})",
                range.partition, range.end
            ));
        }
    }
    Ok(())
}
