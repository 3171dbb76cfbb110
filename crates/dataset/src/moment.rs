//! Where a stream ended at a time: the frontier before the first record that was appended later.
//!
//! Nothing beside the records tells it. Times of appends never go back, so the log finds the place among its
//! newest records in its index, and the files are searched by halves: their footers know the latest time in them.

use arrow::{
    array::{ArrayRef, AsArray as _},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use lambic_model::{Frontier, Offset, PartitionId, StreamId, SystemColumn};
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader},
        statistics::Statistics,
    },
};

use crate::{DataFile, Dataset, Error, Pin};

/// Of a file's end, read at first; footers are mostly smaller.
const FOOTER_BYTES: u64 = 64 << 10;

impl Pin {
    /// Where `stream` ended at `at_us`; the pin must be younger than [`Reader::settle`](crate::Reader::settle) of it.
    pub async fn head_at(&self, stream: StreamId, at_us: i64) -> Result<Frontier, Error> {
        let (start, head) = (self.log().start(stream), self.log().head(stream));
        let mut at = head.clone();
        for (partition, offset) in (0u32..).map(PartitionId).zip(&mut at.0) {
            let (first, end) = (start.offset(partition), *offset);
            let in_log = self.log().first_after(stream, partition, at_us);
            *offset = match in_log {
                Some(later) if later > first => later,
                None if first < end => end,
                // All that the log still has is later: the place is in a file.
                _ => {
                    let dataset = self.reader().dataset();
                    let in_files = dataset.first_after(stream, partition, at_us).await?;
                    let found = [in_files, in_log, Some(end)];
                    found.into_iter().flatten().min().unwrap_or(end)
                }
            };
        }
        Ok(at)
    }
}

impl Dataset {
    /// The first sealed record of a partition that was appended after `at_us`.
    async fn first_after(
        &self,
        stream: StreamId,
        partition: PartitionId,
        at_us: i64,
    ) -> Result<Option<Offset>, Error> {
        let manifest = self.manifest(stream);
        // One of which all was erased has no times.
        let of_partition =
            |file: &&DataFile| file.range.partition == partition && file.records() > 0;
        let files: Vec<&DataFile> = manifest.files.iter().filter(of_partition).collect();
        let (mut low, mut high) = (0, files.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.latest(files[middle]).await? {
                latest if latest > at_us => high = middle,
                _ => low = middle + 1,
            }
        }
        match files.get(low) {
            Some(file) => self.first_in_file(file, at_us).await,
            None => Ok(None),
        }
    }

    /// When the last record of a file was appended.
    pub(crate) async fn latest(&self, file: &DataFile) -> Result<i64, Error> {
        self.verify_once(file).await?;
        let footer = self.footer(file).await?;
        let column = appended_at(&footer);
        let groups = 0..footer.num_row_groups();
        let latest = groups.filter_map(|group| latest_in_group(&footer, group, column?));
        latest.max().ok_or_else(|| no_times(file))
    }

    async fn footer(&self, file: &DataFile) -> Result<ParquetMetaData, Error> {
        let unreadable = |source| Error::FileUnreadable {
            path: file.path.clone(),
            source,
        };
        let mut wanted = FOOTER_BYTES.min(file.bytes);
        loop {
            let options = GetOptions {
                range: Some(GetRange::Suffix(wanted)),
                ..GetOptions::default()
            };
            let path = Path::from(file.path.as_str());
            let end = self.store().get_opts(&path, options).await?.bytes().await?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&end, file.bytes) {
                Ok(()) => return reader.finish().map_err(unreadable),
                Err(ParquetError::NeedMoreData(more)) if (more as u64) > wanted => {
                    wanted = (more as u64).min(file.bytes);
                }
                Err(source) => return Err(unreadable(source)),
            }
        }
    }

    /// Reads the two columns that tell it of the one row group in which it is.
    async fn first_in_file(&self, file: &DataFile, at_us: i64) -> Result<Option<Offset>, Error> {
        let path = Path::from(file.path.as_str());
        let bytes = self.store().get(&path).await?.bytes().await?;
        let found = tokio::task::spawn_blocking(move || first_in(bytes, at_us)).await?;
        found.map_err(|source| Error::FileUnreadable {
            path: file.path.clone(),
            source,
        })
    }
}

fn no_times(file: &DataFile) -> Error {
    let missing = "its footer does not say when its records were appended";
    Error::FileUnreadable {
        path: file.path.clone(),
        source: ParquetError::General(missing.to_owned()),
    }
}

fn appended_at(footer: &ParquetMetaData) -> Option<usize> {
    let columns = footer.file_metadata().schema_descr().columns().iter();
    let name = SystemColumn::AppendedAt.name();
    columns.into_iter().position(|column| column.name() == name)
}

fn latest_in_group(footer: &ParquetMetaData, group: usize, column: usize) -> Option<i64> {
    match footer.row_group(group).column(column).statistics()? {
        Statistics::Int64(times) => times.max_opt().copied(),
        _ => None,
    }
}

fn first_in(file: Bytes, at_us: i64) -> Result<Option<Offset>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let footer = builder.metadata();
    let Some(column) = appended_at(footer) else {
        return Ok(None);
    };
    let later =
        |group: &usize| latest_in_group(footer, *group, column).is_none_or(|latest| latest > at_us);
    let Some(group) = (0..footer.num_row_groups()).find(later) else {
        return Ok(None);
    };
    let wanted = [SystemColumn::Offset, SystemColumn::AppendedAt].map(SystemColumn::name);
    let mask = ProjectionMask::columns(builder.parquet_schema(), wanted);
    let rows = builder
        .with_row_groups(vec![group])
        .with_projection(mask)
        .build()?;
    for batch in rows {
        let batch = batch?;
        let column = |of: SystemColumn| -> Result<&ArrayRef, ParquetError> {
            let column = batch.column_by_name(of.name());
            column.ok_or_else(|| ParquetError::General(format!("it has no {}", of.name())))
        };
        let times = column(SystemColumn::AppendedAt)?.as_primitive::<TimestampMicrosecondType>();
        let offsets = column(SystemColumn::Offset)?.as_primitive::<Int64Type>();
        let first = times.values().partition_point(|time| *time <= at_us);
        if first < times.len() {
            return Ok(Some(Offset(offsets.value(first).cast_unsigned())));
        }
    }
    Ok(None)
}
