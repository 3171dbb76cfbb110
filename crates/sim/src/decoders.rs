//! Every decoder of bytes that come from outside, behind one function each: for `fuzz/`, and for the same with mutated
//! samples in the ordinary tests.
//!
//! What is refused is refused with an error; none may panic, hang or take memory without bound. The Postgres wire is
//! tried against the whole door, in `crates/api`.

use std::{path::Path, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lambic_base::{Disk as _, disk::SimDisk};
use lambic_connectors::{Format, OnError, decode_within};
use lambic_dataset::{Dataset, LocalStore, parquet_file};
use lambic_log::Log;
use lambic_model::{Frontiers, Stream, StreamId, StreamName};

use crate::{node::DATA, reads::Reads};

/// What the records of one body may take.
const BYTES_MAX: usize = 1 << 20;

/// A stream with columns of many types.
pub fn stream() -> Arc<Stream> {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Stream {
        id: StreamId(100),
        name: StreamName::new("s").expect("it is an identifier"),
        schema: Arc::new(Schema::new(vec![
            field("id", DataType::Int64),
            field("text", DataType::Utf8),
            field("small", DataType::Int16),
            field("real", DataType::Float64),
            field("exact", DataType::Decimal128(20, 4)),
            field("yes", DataType::Boolean),
            field("day", DataType::Date32),
            field("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
            field("bytes", DataType::Binary),
        ])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

fn disk_with(path: &Path, bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new(0);
    disk.create_dir(Path::new(DATA)).expect("it has no faults");
    disk.set_content(path, bytes.to_vec());
    disk
}

/// The first segment of a log; true if the log opens.
pub fn segment(bytes: &[u8]) -> bool {
    let dir = Path::new(DATA).join("log");
    let disk = disk_with(&dir.join("00000000000000000001.segment"), bytes);
    let options = lambic_log::Options {
        disk: Arc::new(disk),
        ..lambic_log::Options::new(dir)
    };
    let stream = stream();
    let opened = Log::open_after(options, std::slice::from_ref(&stream), Frontiers::default());
    let Ok(log) = opened else {
        return false;
    };
    let snapshot = log.snapshot();
    for range in snapshot
        .head(stream.id)
        .ranges_since(&snapshot.start(stream.id))
    {
        // Records are decoded where they are read.
        let _ = snapshot.read(stream.id, range);
    }
    true
}

/// The newest manifest of a stream; true if it is taken.
pub fn manifest(bytes: &[u8]) -> bool {
    let root = Path::new(DATA);
    let path = root.join("dataset/100-s/manifest-00000000000000000001.json");
    let disk = disk_with(&path, bytes);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let reads = Arc::new(Reads::new(disk.clone(), root.to_owned()));
        let store = LocalStore::open_on(Arc::new(disk), reads, root.to_owned());
        let store = Arc::new(store.expect("the disk has no faults"));
        let dataset = Dataset::open(store, lambic_dataset::Options::default()).await;
        let dataset = dataset.expect("opening reads nothing");
        dataset.add_stream(stream()).await.is_ok()
    })
}

/// The body of an append; true if all of it is taken.
pub fn records(format: Format, bytes: &[u8]) -> bool {
    let body = bytes::Bytes::copy_from_slice(bytes);
    let skipped = decode_within(&stream(), format, body.clone(), OnError::Skip, BYTES_MAX);
    let refused = decode_within(&stream(), format, body, OnError::Refuse, BYTES_MAX);
    if let (Ok(skipped), Ok(refused)) = (&skipped, &refused) {
        assert_eq!(skipped.records(), refused.records(), "nothing was bad");
    }
    refused.is_ok()
}

/// A data file, or a batch view's file of states; true if it is read.
pub fn data_file(bytes: &[u8]) -> bool {
    parquet_file::decode(bytes::Bytes::copy_from_slice(bytes)).is_ok()
}

/// What a client sends as SQL; true if it splits into statements.
pub fn statements(sql: &str) -> bool {
    let Ok(pieces) = lambic_query::split(sql) else {
        return false;
    };
    let chars = sql.chars().count();
    for piece in pieces {
        assert!(piece.chars_before + piece.text.chars().count() <= chars);
        let from: String = sql.chars().skip(piece.chars_before).collect();
        assert!(from.starts_with(piece.text), "a piece is where it says");
    }
    true
}
