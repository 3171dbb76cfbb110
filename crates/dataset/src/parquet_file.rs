//! Writes and reads Parquet files the way Lambic keeps them: zstd, statistics and page index, row groups of 256k rows, or
//! of 64k where several threads encode one file.
//!
//! Files are made in memory and put in one go: a file is there as a whole or not at all. Sizes are bounded by the
//! callers (sealing splits, batch runs split by key).

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use bytes::Bytes;
use lambic_base::parallel;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::ParquetRecordBatchReaderBuilder,
        arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
};

/// Rows of one row group: small enough that a filter on statistics skips most of a file, the more as the page index
/// skips within it, and large enough that a scan does not begin too often.
pub const ROW_GROUP_ROWS: usize = 262_144;
/// Rows of what one thread encodes at a time.
const PIECE_ROWS: usize = 65_536;

/// The properties that all files share; callers may add theirs, such as bloom filters, before `build()`.
pub fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(
            ZstdLevel::try_new(1).expect("level 1 exists"),
        ))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("lambic ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// The columns a file is sorted by, ascending with nulls first, for [`WriterPropertiesBuilder::set_sorting_columns`].
pub fn sorted_by(schema: &SchemaRef, columns: &[&str]) -> Option<Vec<SortingColumn>> {
    columns
        .iter()
        .map(|name| {
            Some(SortingColumn {
                column_idx: schema.index_of(name).ok()? as i32,
                descending: false,
                nulls_first: true,
            })
        })
        .collect()
}

/// One Parquet file with all rows of `batches`, in their order. Every batch must have `schema`.
pub fn encode<'a>(
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = &'a RecordBatch>,
    properties: WriterProperties,
) -> Result<Bytes, ParquetError> {
    let mut encoder = Encoder::new(schema, properties)?;
    for batch in batches {
        encoder.write(batch)?;
    }
    encoder.finish()
}

/// One Parquet file with `rows`, its row groups encoded on so many threads.
pub fn encode_on(
    threads: usize,
    rows: &RecordBatch,
    properties: WriterProperties,
) -> Result<Bytes, ParquetError> {
    let writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    let (mut file, writers) = writer.into_serialized_writer()?;
    let starts = (0..rows.num_rows()).step_by(PIECE_ROWS);
    let groups = parallel::each(threads, starts.enumerate(), |(group, start)| {
        let end = rows.num_rows().min(start + PIECE_ROWS);
        encode_group(
            &rows.slice(start, end - start),
            writers.create_column_writers(group)?,
        )
    });
    for chunks in groups {
        let mut group = file.next_row_group()?;
        for chunk in chunks? {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
    }
    file.into_inner().map(Bytes::from)
}

/// `writers` has one for each leaf of the columns.
fn encode_group(
    rows: &RecordBatch,
    mut writers: Vec<ArrowColumnWriter>,
) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
    let mut leaves = Vec::with_capacity(writers.len());
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        leaves.extend(compute_leaves(field, column)?);
    }
    for (writer, leaf) in writers.iter_mut().zip(&leaves) {
        writer.write(leaf)?;
    }
    writers.into_iter().map(ArrowColumnWriter::close).collect()
}

/// All rows of a file made by [`encode`] (or any other Parquet file).
pub fn decode(file: Bytes) -> Result<Vec<RecordBatch>, ParquetError> {
    decode_each(file)?.collect()
}

/// The same, decoded as they are taken.
pub fn decode_each(
    file: Bytes,
) -> Result<impl Iterator<Item = Result<RecordBatch, ParquetError>>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
        .with_batch_size(8192)
        .build()?;
    Ok(reader.map(|batch| batch.map_err(ParquetError::from)))
}

/// A Parquet file in the making.
pub struct Encoder {
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
}

impl Encoder {
    pub fn new(schema: &SchemaRef, properties: WriterProperties) -> Result<Encoder, ParquetError> {
        Ok(Encoder {
            writer: ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?,
            rows: 0,
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch)
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// About how large the file would be if it ended here.
    pub fn bytes_estimated(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub fn finish(self) -> Result<Bytes, ParquetError> {
        self.writer.into_inner().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, StringArray},
        compute::concat_batches,
        datatypes::{DataType, Field, Schema},
    };
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    #[test]
    fn a_file_comes_back_with_statistics_and_its_sorting() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
        ]));
        let rows = 2 * ROW_GROUP_ROWS as i64 + 1;
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(Int64Array::from_iter_values(0..rows)),
                Arc::new(StringArray::from_iter(
                    (0..rows).map(|n| (n % 3 != 0).then(|| format!("v{}", n % 10))),
                )),
            ],
        )
        .unwrap();
        let properties = properties()
            .set_sorting_columns(sorted_by(&schema, &["n"]))
            .build();
        let file = encode(&schema, [&batch], properties).unwrap();

        let decoded = decode(file.clone()).unwrap();
        assert_eq!(concat_batches(&schema, &decoded).unwrap(), batch);

        let reader = SerializedFileReader::new(file).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.num_row_groups(), 3);
        let group = metadata.row_group(1);
        assert_eq!(group.num_rows(), ROW_GROUP_ROWS as i64);
        assert!(group.column(0).statistics().is_some());
        assert_eq!(group.sorting_columns().unwrap()[0].column_idx, 0);
        assert!(matches!(
            group.column(1).compression(),
            Compression::ZSTD(_)
        ));
    }

    #[test]
    fn threads_change_nothing() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        for rows in [0, 1, PIECE_ROWS, 2 * PIECE_ROWS + 1] {
            let numbers = Arc::new(Int64Array::from_iter_values(0..rows as i64));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![numbers]).unwrap();
            for threads in [1, 3] {
                let file = encode_on(threads, &batch, properties().build()).unwrap();
                let decoded = decode(file).unwrap();
                assert_eq!(concat_batches(&schema, &decoded).unwrap(), batch);
            }
        }
    }

    #[test]
    fn a_column_that_is_not_there_sorts_nothing() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        assert!(sorted_by(&schema, &["n", "gone"]).is_none());
    }
}
