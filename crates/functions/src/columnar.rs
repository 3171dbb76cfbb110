//! Records as columns (Arrow), for functions that take them so: no JSON in between.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Int32Array},
    compute::{concat_batches, filter_record_batch},
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use lambic_model::{OffsetRange, PartitionId, Stream, SystemColumn};
use lambic_sandbox::wasm::arrow_stream;

use crate::events::{self, Event};

/// Records of less are not weighed one by one.
const WEIGHED_BYTES_MIN: usize = 64 << 10;
/// What an IPC stream has beside its values, for each column: its name and type, and what aligns its buffers.
const COLUMN_BYTES: usize = 512;

/// What the columns of a batch take in an IPC stream beside the values of its records.
pub fn frame_bytes(stream: &Stream) -> usize {
    let fields = stream.schema.fields();
    let names: usize = fields.iter().map(|field| field.name().len()).sum();
    names + (fields.len() + SystemColumn::ALL.len() + 1) * COLUMN_BYTES
}

/// About how many bytes each of some records takes in an IPC stream.
pub fn record_bytes(records: &RecordBatch) -> Vec<usize> {
    let rows = records.num_rows();
    let all = values_bytes(records.columns(), 0, rows);
    if all < WEIGHED_BYTES_MIN {
        return vec![all.div_ceil(rows.max(1)); rows];
    }
    let one = |row| values_bytes(records.columns(), row, 1);
    (0..rows).map(one).collect()
}

fn values_bytes(columns: &[ArrayRef], first: usize, rows: usize) -> usize {
    let bytes = |column: &ArrayRef| {
        let some = column.slice(first, rows).to_data();
        // Of a few types only the whole is known, which is no less.
        let bytes = some.get_slice_memory_size();
        let nulls = rows.div_ceil(8);
        bytes.unwrap_or_else(|_| some.get_array_memory_size()) + nulls
    };
    columns.iter().map(bytes).fold(0, usize::saturating_add)
}

/// Those of some records that are wanted, as functions get them: the stream's columns, then the system's.
pub fn wanted(
    stream: &Stream,
    partition: PartitionId,
    records: &RecordBatch,
    mut is_wanted: Vec<bool>,
) -> Result<RecordBatch, String> {
    let rows = records.num_rows();
    is_wanted.resize(rows, false);
    let of_user = records.columns().get(..stream.schema.fields().len());
    let mut columns = of_user
        .ok_or("records without the stream's columns")?
        .to_vec();
    for column in SystemColumn::ALL {
        columns.push(match column {
            SystemColumn::Partition => {
                let partition = i32::try_from(partition.0).map_err(|error| error.to_string())?;
                Arc::new(Int32Array::from_value(partition, rows))
            }
            SystemColumn::Offset | SystemColumn::AppendedAt => records
                .column_by_name(column.name())
                .cloned()
                .ok_or_else(|| format!("records without `{}`", column.name()))?,
        });
    }
    let records = RecordBatch::try_new(schema(stream), columns);
    let records = records.map_err(|error| error.to_string())?;
    filter_record_batch(&records, &BooleanArray::from(is_wanted)).map_err(|error| error.to_string())
}

/// With the stream's name in its metadata, so that one component can serve several.
fn schema(stream: &Stream) -> SchemaRef {
    let schema = stream.schema_with_system();
    let names = [("lambic.stream".to_owned(), stream.name.to_string())];
    Arc::new(Schema::new_with_metadata(
        schema.fields().clone(),
        names.into(),
    ))
}

pub fn joined(stream: &Stream, records: &[RecordBatch]) -> Result<RecordBatch, String> {
    concat_batches(&schema(stream), records).map_err(|error| error.to_string())
}

/// The event of a batch.
pub fn payload(columns: &RecordBatch) -> Vec<u8> {
    arrow_stream(columns)
        .expect("a stream's types are those of Arrow IPC, and memory takes all of it")
}

/// The same records as functions of JSON get them.
pub fn in_json(
    stream: &Stream,
    range: OffsetRange,
    columns: &RecordBatch,
) -> Result<Vec<Event>, String> {
    let of_user = columns
        .num_columns()
        .saturating_sub(SystemColumn::ALL.len());
    let of_user: Vec<usize> = (0..of_user).collect();
    let schema = columns.schema().project(&of_user);
    // Its columns may be others by now.
    let read_as = Stream {
        schema: Arc::new(schema.map_err(|error| error.to_string())?),
        ..stream.clone()
    };
    events::events_of(&read_as, range, columns)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, StringArray},
        datatypes::{DataType, Field, Int32Type},
        ipc::reader::StreamReader,
    };

    use super::*;
    use crate::events::tests::{RANGE, read, stream};

    fn texts() -> Stream {
        Stream {
            schema: Arc::new(Schema::new(vec![Field::new("b", DataType::Utf8, true)])),
            ..stream()
        }
    }

    #[test]
    fn a_batch_has_the_stream_s_columns_and_where_its_records_stand() {
        let stream = texts();
        let batch = read(5, Arc::new(StringArray::from(vec!["x", "y", "z"])));
        let some = wanted(&stream, PartitionId(3), &batch, vec![true, false, true]).unwrap();
        let last = wanted(&stream, PartitionId(3), &batch, vec![false, true]).unwrap();
        let all = joined(&stream, &[some, last]).unwrap();
        let payload = payload(&all);
        let mut reader = StreamReader::try_new(payload.as_slice(), None).unwrap();
        let schema = reader.schema();
        assert_eq!(schema.metadata()["lambic.stream"], "s");
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(names, ["b", "_partition", "_offset", "_appended_at"]);
        let found = reader.next().unwrap().unwrap();
        assert_eq!(found.columns(), all.columns());
        assert_eq!(
            found.column(1).as_primitive::<Int32Type>().values(),
            &[3, 3, 3]
        );
        let events = in_json(&stream, RANGE, &all.slice(1, 2)).unwrap();
        let offsets: Vec<u64> = events.iter().map(|event| event.offset.0).collect();
        assert_eq!(offsets, [7, 6]);
        assert!(
            events[0].json.contains(r#""data":{"b":"z"}"#),
            "{}",
            events[0].json
        );
    }

    #[test]
    fn records_are_weighed_by_what_they_hold() {
        let long = "x".repeat(1 << 20);
        let batch = read(5, Arc::new(StringArray::from(vec!["a", &long, "b"])));
        let bytes = record_bytes(&batch);
        assert!(bytes[0] < 100 && bytes[2] < 100, "{bytes:?}");
        assert!((1 << 20..(1 << 20) + 100).contains(&bytes[1]), "{bytes:?}");
        let frame = frame_bytes(&texts());
        let few = read(5, Arc::new(StringArray::from(vec!["a", "b", "c"])));
        let stream = texts();
        let all = wanted(&stream, PartitionId(0), &few, vec![true; 3]).unwrap();
        let bytes: usize = record_bytes(&few).iter().sum();
        assert!(payload(&all).len() <= frame + bytes, "{bytes} {frame}");
    }
}
