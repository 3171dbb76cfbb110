//! The log's laws, each tried against: kills, power cuts, full and failing disks, flipped bits, repetitions.

mod appends;
mod crash;
mod cut;
mod drop;
mod erase;
mod evolve;
mod time;
mod trim;

use std::{path::Path, sync::Arc};

use arrow::{
    array::{Array, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use lambic_base::{ManualClock, disk::SimDisk};
use lambic_model::{
    Append, OffsetRange, PartitionId, Producer, Stream, StreamId, StreamName, Write,
};

use crate::{Log, Options, Snapshot};

pub(crate) const PLAIN: StreamId = StreamId(1);
pub(crate) const WITH_ID: StreamId = StreamId(2);

/// Columns `id` text and `n` bigint.
pub(crate) fn stream(id: StreamId, partitions: u32) -> Stream {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("n", DataType::Int64, false),
    ]);
    Stream {
        id,
        name: StreamName::new(format!("s{}", id.0)).unwrap(),
        schema: Arc::new(schema),
        partitions,
        event_time: None,
        record_id: (id == WITH_ID).then(|| "id".to_owned()),
        partition_by: None,
        evolution: Default::default(),
    }
}

pub(crate) fn streams() -> Vec<Arc<Stream>> {
    vec![Arc::new(stream(PLAIN, 1)), Arc::new(stream(WITH_ID, 1))]
}

pub(crate) fn options(dir: &Path) -> Options {
    Options {
        clock: Arc::new(ManualClock::new(1_000_000)),
        ..Options::new(dir)
    }
}

/// The same on a simulated disk.
pub(crate) fn options_on(disk: &SimDisk, dir: &Path) -> Options {
    Options {
        disk: Arc::new(disk.clone()),
        ..options(dir)
    }
}

pub(crate) fn open(options: &Options) -> Log {
    Log::open(options.clone(), &streams()).unwrap()
}

pub(crate) fn batch(ids: &[&str], ns: &[i64]) -> RecordBatch {
    RecordBatch::try_new(
        stream(PLAIN, 1).schema,
        vec![
            Arc::new(StringArray::from(ids.to_vec())),
            Arc::new(Int64Array::from(ns.to_vec())),
        ],
    )
    .unwrap()
}

pub(crate) fn write(stream: StreamId, ns: &[i64]) -> Append {
    let ids: Vec<String> = ns.iter().map(|n| format!("id{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    Append {
        writes: vec![Write {
            stream,
            partition: None,
            batch: batch(&ids, ns),
            schema: None,
        }],
        ..Append::default()
    }
}

pub(crate) fn by(producer: &str, sequence: u64, append: Append) -> Append {
    let id = producer.to_owned();
    Append {
        producer: Some(Producer { id, sequence }),
        ..append
    }
}

/// Column `n` of everything from the start of the log, after checking that offsets have no gap.
pub(crate) fn all(snapshot: &Snapshot, stream: StreamId) -> Vec<i64> {
    let mut values = Vec::new();
    for range in snapshot.head(stream).ranges_since(&snapshot.start(stream)) {
        let mut next = range.first.0 as i64;
        for batch in snapshot.read(stream, range).unwrap() {
            let offsets = batch["_offset"].as_primitive::<Int64Type>();
            for offset in offsets.values() {
                assert_eq!(*offset, next, "offsets are dense");
                next += 1;
            }
            values.extend(batch["n"].as_primitive::<Int64Type>().values());
        }
        assert_eq!(next as u64, range.end.0);
    }
    values
}

pub(crate) fn range(first: u64, end: u64) -> OffsetRange {
    OffsetRange {
        partition: PartitionId(0),
        first: lambic_model::Offset(first),
        end: lambic_model::Offset(end),
    }
}

/// As a killed process leaves the folder: what it had written, synced or not.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
