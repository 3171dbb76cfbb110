//! Turns an append into encoded pieces, one for each partition, or refuses it. Runs in the caller's task.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arrow::{array::UInt32Array, compute::take_record_batch, record_batch::RecordBatch};
use lambic_model::{Append, Cursor, Fit, PartitionId, Producer, SchemaVersion, Stream, Write};

use crate::{Error, ids, payload, value};

#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub producer: Option<Producer>,
    pub cursors: Vec<Cursor>,
    pub cursors_dropped: Vec<String>,
    pub writes: Vec<PreparedWrite>,
}

#[derive(Debug)]
pub(crate) struct PreparedWrite {
    pub stream: Arc<Stream>,
    pub pieces: Vec<Piece>,
}

#[derive(Debug)]
pub(crate) struct Piece {
    pub partition: PartitionId,
    pub batch: RecordBatch,
    /// An Arrow IPC stream of `batch`.
    pub encoded: Vec<u8>,
    /// One for each record, if the stream declares a record id.
    pub ids: Option<Vec<ids::Key>>,
}

/// `streams` are those of the writes, in order; `turn` chooses partitions where nothing else does.
pub(crate) fn prepare(
    append: Append,
    streams: Vec<Arc<Stream>>,
    turn: &AtomicU32,
    append_bytes_max: u64,
) -> Result<Prepared, Error> {
    let writes = append.writes.into_iter().zip(streams);
    let writes = writes
        .map(|(write, stream)| prepare_write(write, stream, turn))
        .collect::<Result<Vec<_>, _>>()?;
    let pieces = writes.iter().flat_map(|write| &write.pieces);
    let bytes: u64 = pieces.map(|piece| piece.encoded.len() as u64).sum();
    if bytes > append_bytes_max {
        return Err(Error::Refused(format!(
            "the append is {bytes} bytes, over the limit of {append_bytes_max}; split it or raise `append_bytes_max`"
        )));
    }
    Ok(Prepared {
        producer: append.producer,
        cursors: append.cursors,
        cursors_dropped: Vec::new(),
        writes,
    })
}

fn prepare_write(
    write: Write,
    stream: Arc<Stream>,
    turn: &AtomicU32,
) -> Result<PreparedWrite, Error> {
    let batch = match in_present_columns(&stream, &write)? {
        Some(batch) => check(&stream, &batch)?,
        None => check(&stream, &write.batch)?,
    };
    let pieces = partition(&stream, batch, write.partition, turn)?
        .into_iter()
        .map(|(partition, batch)| {
            let encoded = payload::encode_batch(&batch).map_err(|error| {
                Error::Refused(format!(
                    "cannot encode records of `{}`: {error}",
                    stream.name
                ))
            })?;
            Ok(Piece {
                partition,
                ids: record_ids(&stream, &batch)?,
                batch,
                encoded,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(PreparedWrite { stream, pieces })
}

/// The batch in the columns that the stream has by now, if it was made for those that it had before. Those are known
/// by their version, or by names and types: the newest that fits. New columns get their defaults.
fn in_present_columns(stream: &Stream, write: &Write) -> Result<Option<RecordBatch>, Error> {
    let found = write.batch.schema_ref().fields();
    let fields = found.iter().map(|field| (field.name(), field.data_type()));
    let version = match write.schema {
        Some(version) => version,
        None => {
            let Some(versions) = stream.evolution.versions() else {
                return Ok(None);
            };
            let mut newest_first = versions.iter().rev();
            let fits = newest_first.find(|schema| {
                let columns = schema.columns.iter();
                let columns = columns.map(|column| (&column.name, &column.data_type));
                columns.eq(fields.clone())
            });
            fits.map_or(stream.schema_version(), |schema| schema.version)
        }
    };
    if version == stream.schema_version() {
        return Ok(None);
    }
    let refuse = |reason: String| {
        let name = &stream.name;
        Error::Refused(format!("records do not fit stream `{name}`: {reason}"))
    };
    let stored = stream.schema_of(version);
    let stored = stored.ok_or_else(|| refuse(unknown(version)))?;
    if found.len() != stored.columns.len() {
        return Err(refuse(format!(
            "they have {} columns, version {version} of its columns {}",
            found.len(),
            stored.columns.len()
        )));
    }
    let fitted = Fit::appended(&stored, stream).apply_to_all(&write.batch);
    fitted.map(Some).map_err(|error| refuse(error.to_string()))
}

fn unknown(version: SchemaVersion) -> String {
    format!("there is no version {version} of its columns")
}

/// The batch under the stream's own schema, if it has exactly its columns.
fn check(stream: &Stream, batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let refuse = |what: String| {
        let name = &stream.name;
        Err(Error::Refused(format!(
            "records do not fit stream `{name}`: {what}"
        )))
    };
    let expected = stream.schema.fields();
    let found = batch.schema_ref().fields();
    for (position, field) in expected.iter().enumerate() {
        let Some(column) = found.get(position) else {
            return refuse(format!("column `{}` is missing", field.name()));
        };
        if column.name() != field.name() {
            return refuse(format!(
                "column {} is `{}`, expected `{}`",
                position + 1,
                column.name(),
                field.name()
            ));
        }
        if column.data_type() != field.data_type() {
            return refuse(format!(
                "column `{}` is {}, expected {}",
                field.name(),
                column.data_type(),
                field.data_type()
            ));
        }
        let required = !field.is_nullable() || stream.record_id.as_ref() == Some(field.name());
        let nulls = batch.column(position).logical_null_count();
        if required && nulls > 0 {
            return refuse(format!(
                "column `{}` may not be NULL, and is in {nulls} of {} records",
                field.name(),
                batch.num_rows()
            ));
        }
    }
    if let Some(extra) = found.get(expected.len()) {
        return refuse(format!("it has no column `{}`", extra.name()));
    }
    RecordBatch::try_new(stream.schema.clone(), batch.columns().to_vec())
        .or_else(|error| refuse(error.to_string()))
}

fn partition(
    stream: &Stream,
    batch: RecordBatch,
    chosen: Option<PartitionId>,
    turn: &AtomicU32,
) -> Result<Vec<(PartitionId, RecordBatch)>, Error> {
    let partitions = stream.partitions.max(1);
    if let Some(partition) = chosen
        && partition.0 >= partitions
    {
        return Err(Error::Refused(format!(
            "stream `{}` has partitions 0 to {}, not {partition}",
            stream.name,
            partitions - 1
        )));
    }
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if let Some(partition) = chosen {
        return Ok(vec![(partition, batch)]);
    }
    if partitions == 1 {
        return Ok(vec![(PartitionId(0), batch)]);
    }
    let Some(name) = &stream.partition_by else {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        return Ok(vec![(PartitionId(turn % partitions), batch)]);
    };
    let column = column(stream, &batch, name)?;
    let mut rows: BTreeMap<PartitionId, Vec<u32>> = BTreeMap::new();
    value::visit(column, |row, bytes| {
        // NULL goes where the empty value goes: always to the same partition.
        let partition = PartitionId(crc32c::crc32c(bytes.unwrap_or_default()) % partitions);
        let row = u32::try_from(row).expect("a batch has fewer than 2^32 rows");
        rows.entry(partition).or_default().push(row);
    })
    .map_err(|reason| Error::Refused(format!("column `{name}`: {reason}")))?;
    if rows.len() == 1 {
        return Ok(rows
            .into_keys()
            .map(|partition| (partition, batch.clone()))
            .collect());
    }
    rows.into_iter()
        .map(|(partition, rows)| {
            let part = take_record_batch(&batch, &UInt32Array::from(rows));
            let part = part.map_err(|error| Error::Refused(error.to_string()))?;
            Ok((partition, part))
        })
        .collect()
}

/// The keys of the records' ids; they hold no NULL, `check` saw to it.
pub(crate) fn record_ids(
    stream: &Stream,
    batch: &RecordBatch,
) -> Result<Option<Vec<ids::Key>>, Error> {
    let Some(name) = &stream.record_id else {
        return Ok(None);
    };
    let mut keys = Vec::with_capacity(batch.num_rows());
    value::visit(column(stream, batch, name)?, |_, bytes| {
        keys.push(ids::key(stream.id, bytes.unwrap_or_default()));
    })
    .map_err(|reason| Error::Refused(format!("column `{name}`: {reason}")))?;
    Ok(Some(keys))
}

fn column<'a>(
    stream: &Stream,
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::ArrayRef, Error> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::Refused(format!("stream `{}` has no column `{name}`", stream.name)))
}
