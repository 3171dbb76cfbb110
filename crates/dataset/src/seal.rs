//! Writes what the log holds above the dataset's frontier as Parquet files.

use std::sync::Arc;

use arrow::{
    array::{AsArray as _, RecordBatch},
    datatypes::{Int32Type, Int64Type, SchemaRef},
};
use bytes::Bytes;
use lambic_model::{
    Erased, Frontier, Offset, OffsetRange, PartitionId, SchemaVersion, Stream, StreamId,
    SystemColumn,
};
use parquet::{basic::Encoding, schema::types::ColumnPath};

use crate::{Error, Options, manifest::FileErased, parquet_file};

/// Where sealing reads from: a snapshot of the log.
pub trait Tail: Clone + Send + 'static {
    /// The stream's head, exclusive.
    fn head(&self, stream: StreamId) -> Frontier;
    /// The oldest records that can still be read.
    fn start(&self, stream: StreamId) -> Frontier;
    /// What reads of the stream leave out.
    fn erased(&self, _stream: StreamId) -> Erased {
        Erased::default()
    }
    /// The records of `range` from its first on, in offset order, in the columns of `stream` and the system columns: at least one unless all of
    /// them were erased, and not many more than fill `bytes`.
    fn read_some(
        &self,
        stream: &Stream,
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

    fn erased(&self, stream: StreamId) -> Erased {
        self.erased(stream)
    }

    fn read_some(
        &self,
        stream: &Stream,
        range: OffsetRange,
        bytes: u64,
    ) -> Result<Vec<RecordBatch>, Error> {
        Ok(self
            .read_chunks_as(stream, range, bytes)
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
    pub erased: Option<FileErased>,
    pub schema: SchemaVersion,
    pub compacted: bool,
}

/// A file of the stream in the making.
pub(crate) struct FileEncoder {
    version: SchemaVersion,
    schema: SchemaRef,
    encoder: parquet_file::Encoder,
}

impl FileEncoder {
    pub(crate) fn new(stream: &Stream) -> Result<FileEncoder, Error> {
        let schema = stream.schema_with_system();
        let sorted_by = parquet_file::sorted_by(&schema, &[SystemColumn::Offset.name()]);
        // Offsets follow one another: as differences they take next to nothing.
        let offset = ColumnPath::from(SystemColumn::Offset.name());
        let properties = parquet_file::properties()
            .set_sorting_columns(sorted_by)
            .set_column_dictionary_enabled(offset.clone(), false)
            .set_column_encoding(offset, Encoding::DELTA_BINARY_PACKED);
        let encoder = parquet_file::Encoder::new(&schema, properties.build())?;
        Ok(FileEncoder {
            version: stream.schema_version(),
            schema,
            encoder,
        })
    }

    /// In the order of offsets.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        // The log may know a column as nullable where the declaration does not; the file says what is declared.
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        Ok(self.encoder.write(&batch)?)
    }

    /// The file for `range`; what of it was not written was erased, by erasure `erasure` at the latest.
    pub(crate) fn finish(self, range: OffsetRange, erasure: u64) -> Result<Sealed, Error> {
        let erased = range.records() - self.encoder.rows();
        let schema = self.version;
        let file = self.encoder.finish()?;
        Ok(Sealed {
            range,
            crc32c: crc32c::crc32c(&file),
            file,
            schema,
            erased: (erased > 0).then_some(FileErased {
                number: erasure,
                records: erased,
            }),
            compacted: false,
        })
    }
}

/// Encodes one file with the first records of `range`: all of them, or as many as one file may hold.
pub(crate) fn encode_next(
    stream: &Arc<Stream>,
    tail: &impl Tail,
    range: OffsetRange,
    options: &Options,
) -> Result<Sealed, Error> {
    let mismatch = |reason| Error::TailMismatch {
        stream: stream.name.clone(),
        reason,
    };
    let erased = tail.erased(stream.id);
    let mut encoder = FileEncoder::new(stream)?;
    let mut next = range.first;
    while next < range.end
        && encoder.encoder.rows() < options.file_rows_max
        && encoder.encoder.bytes_estimated() < options.file_bytes_max
    {
        let rest = OffsetRange {
            first: next,
            ..range
        };
        let batches = tail.read_some(stream, rest, options.chunk_bytes)?;
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            check_erased(&erased, rest).map_err(mismatch)?;
            next = range.end;
        }
        for batch in batches {
            let room = options.file_rows_max.saturating_sub(encoder.encoder.rows());
            let rows = (batch.num_rows() as u64).min(room);
            // The rest of the batch begins the next file.
            let batch = batch.slice(0, rows as usize);
            next = check_offsets(&batch, range, next, &erased).map_err(mismatch)?;
            encoder.write(&batch)?;
        }
    }
    encoder.finish(OffsetRange { end: next, ..range }, erased.number)
}

/// All of `range` must have been erased.
fn check_erased(erased: &Erased, range: OffsetRange) -> Result<(), String> {
    if erased.count_within(range) == range.records() {
        return Ok(());
    }
    Err(format!(
        "records at offset {} of partition {} are missing, before offset {}",
        range.first, range.partition, range.end
    ))
}

/// A record's partition and offset, by row.
pub(crate) fn places(
    batch: &RecordBatch,
) -> Result<impl Iterator<Item = (PartitionId, u64)> + '_, String> {
    let column = |column: SystemColumn| {
        batch
            .column_by_name(column.name())
            .ok_or_else(|| format!("column `{}` is missing", column.name()))
    };
    let partitions = column(SystemColumn::Partition)?.as_primitive_opt::<Int32Type>();
    let offsets = column(SystemColumn::Offset)?.as_primitive_opt::<Int64Type>();
    let (Some(partitions), Some(offsets)) = (partitions, offsets) else {
        return Err("`_partition` or `_offset` has another type".to_owned());
    };
    let rows = partitions.values().iter().zip(offsets.values());
    Ok(rows.map(|(partition, offset)| {
        (
            PartitionId(partition.cast_unsigned()),
            offset.cast_unsigned(),
        )
    }))
}

/// Offsets must be exactly `next, next + 1, …` within `range`, but for the erased ones: what is sealed wrongly is
/// wrong for ever. Returns the offset that comes next.
fn check_offsets(
    batch: &RecordBatch,
    range: OffsetRange,
    next: Offset,
    erased: &Erased,
) -> Result<Offset, String> {
    let mut next = next;
    for (partition, offset) in places(batch)? {
        if partition != range.partition || offset < next.0 || offset >= range.end.0 {
            return Err(format!(
                "offset {offset} of partition {partition} where offset {next} of partition {} was expected (end {})",
                range.partition, range.end
            ));
        }
        if offset > next.0 {
            let gap = OffsetRange {
                partition,
                first: next,
                end: Offset(offset),
            };
            check_erased(erased, gap)?;
        }
        next = Offset(offset + 1);
    }
    Ok(next)
}
