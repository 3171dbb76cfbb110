//! Streams whose columns change: records stay as they were written, reads and appends meet by the ids of columns.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::{DataType, Int64Type},
    record_batch::RecordBatch,
};
use lambic_model::{
    Append, Column, ColumnId, Constant, Offset, OffsetRange, PartitionId, SchemaVersion, Stream,
    Write,
};

use super::*;
use crate::Error;

/// `n` is called `count`, and there is a `note`; before it was there records show `old`, new ones get `new`.
fn evolved(stream: &Stream) -> Stream {
    let mut columns = stream.columns();
    columns[1].name = "count".to_owned();
    let text = |text| Constant::of_text(&DataType::Utf8, text);
    columns.push(Column {
        id: ColumnId(2),
        name: "note".to_owned(),
        data_type: DataType::Utf8,
        nullable: false,
        missing: text("old"),
        default: text("new"),
    });
    stream.evolved(columns)
}

fn range(first: u64, end: u64) -> OffsetRange {
    OffsetRange {
        partition: PartitionId(0),
        first: Offset(first),
        end: Offset(end),
    }
}

fn append(batch: RecordBatch, schema: Option<SchemaVersion>) -> Append {
    Append {
        writes: vec![Write {
            stream: PLAIN,
            partition: None,
            batch,
            schema,
        }],
        ..Append::default()
    }
}

fn own(stream: &Stream, id: &str, n: i64, note: &str) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![id])),
        Arc::new(Int64Array::from(vec![n])),
        Arc::new(StringArray::from(vec![note])),
    ];
    RecordBatch::try_new(stream.schema.clone(), columns).unwrap()
}

/// `count` and `note` of all records.
fn rows(log: &Log) -> Vec<(i64, String)> {
    let snapshot = log.snapshot();
    let end = snapshot.head(PLAIN).offset(PartitionId(0));
    let mut rows = Vec::new();
    for batch in snapshot.read(PLAIN, range(0, end.0)).unwrap() {
        let counts = batch["count"].as_primitive::<Int64Type>().values().to_vec();
        let notes = batch["note"].as_string::<i32>().iter();
        let notes: Vec<_> = notes
            .map(|note| note.unwrap_or("NULL").to_owned())
            .collect();
        rows.extend(counts.into_iter().zip(notes));
    }
    rows
}

#[tokio::test]
async fn records_of_all_versions_are_read_in_the_newest_columns() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let log = open(&options);
    let first = stream(PLAIN, 1);
    log.append(write(PLAIN, &[1, 2])).await.unwrap();
    let now = Arc::new(evolved(&first));
    let held = log.hold_appends().await;
    log.change_stream(now.clone(), &held);
    drop(held);
    // One who does not know yet, and says so; one who does not say it; one who knows.
    let former = || batch(&["x"], &[3]);
    log.append(append(former(), Some(SchemaVersion::FIRST)))
        .await
        .unwrap();
    log.append(append(former(), None)).await.unwrap();
    log.append(append(own(&now, "y", 5, "mine"), None))
        .await
        .unwrap();
    let expected = [(1, "old"), (2, "old"), (3, "new"), (3, "new"), (5, "mine")];
    let expected = expected.map(|(n, note)| (n, note.to_owned()));
    assert_eq!(rows(&log), expected);
    let refused = log
        .append(append(former(), Some(SchemaVersion(7))))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    // Whoever planned over the first version goes on with it.
    let before = log.snapshot().read_as(&first, range(0, 5)).unwrap();
    let counts: Vec<i64> = before
        .iter()
        .flat_map(|batch| batch["n"].as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(counts, [1, 2, 3, 3, 5]);
    assert!(before.iter().all(|batch| batch.num_columns() == 5));
    log.close().await;

    let log = Log::open(options.clone(), &[now, Arc::new(stream(WITH_ID, 1))]).unwrap();
    assert_eq!(rows(&log), expected);
    log.close().await;
    // With a catalog that is older than the log nothing is made up.
    let log = open(&options);
    let error = log.snapshot().read(PLAIN, range(0, 5)).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(log.snapshot().read(PLAIN, range(0, 2)).unwrap().len(), 1);
}

#[tokio::test]
async fn appends_wait_while_a_stream_is_altered() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&options(dir.path()));
    let held = log.hold_appends().await;
    let mut waiting = {
        let log = log.clone();
        tokio::spawn(async move { log.append(write(PLAIN, &[1])).await })
    };
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "it was taken");
    log.change_stream(Arc::new(evolved(&stream(PLAIN, 1))), &held);
    drop(held);
    waiting.await.unwrap().unwrap();
    assert_eq!(rows(&log), [(1, "new".to_owned())]);
}

#[tokio::test]
async fn record_ids_outlive_the_renaming_of_their_column() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let log = open(&options);
    log.append(write(WITH_ID, &[1])).await.unwrap();
    let first = stream(WITH_ID, 1);
    let mut columns = first.columns();
    columns[0].name = "key".to_owned();
    let now = Arc::new(first.evolved(columns));
    assert_eq!(now.record_id.as_deref(), Some("key"));
    let held = log.hold_appends().await;
    log.change_stream(now.clone(), &held);
    drop(held);
    let again = log.append(write(WITH_ID, &[1, 2])).await.unwrap();
    assert_eq!(again.writes[0].records_known, 1);
    log.close().await;
    std::fs::remove_dir_all(dir.path().join("ids")).unwrap();
    let log = Log::open(options, &[Arc::new(stream(PLAIN, 1)), now]).unwrap();
    let again = log.append(write(WITH_ID, &[1, 2, 3])).await.unwrap();
    assert_eq!(again.writes[0].records_known, 2);
}
