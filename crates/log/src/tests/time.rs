//! Times of appends: they never go back, and what was told to have stood at a time stays so.

use arrow::datatypes::TimestampMicrosecondType;
use lambic_base::ManualClock;
use lambic_model::{Frontier, Frontiers, Offset};

use super::*;
use crate::Error;

/// `_appended_at` of everything in the log.
fn times(log: &Log) -> Vec<i64> {
    let snapshot = log.snapshot();
    let (start, head) = (snapshot.start(PLAIN), snapshot.head(PLAIN));
    let mut times = Vec::new();
    for range in head.ranges_since(&start) {
        for batch in snapshot.read(PLAIN, range).unwrap() {
            let column = batch["_appended_at"].as_primitive::<TimestampMicrosecondType>();
            times.extend_from_slice(column.values());
        }
    }
    times
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_turn_time_around() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |us| Options {
        clock: Arc::new(ManualClock::new(us)),
        segment_bytes: 1,
        ..Options::new(scratch.path())
    };
    let log = open(&at(2_000));
    log.append(write(PLAIN, &[0])).await.unwrap();
    log.close().await;
    let log = open(&at(1_000));
    log.append(write(PLAIN, &[1])).await.unwrap();
    assert_eq!(times(&log), [2_000, 2_000]);
    // Known also when the records themselves are gone from the log.
    let mut all = Frontiers::default();
    all.set(PLAIN, Frontier(vec![Offset(2)]));
    log.append(write(WITH_ID, &[0])).await.unwrap();
    log.trim(&all).unwrap();
    log.close().await;
    let log = open(&at(500));
    log.append(write(PLAIN, &[2])).await.unwrap();
    assert_eq!(times(&log).last(), Some(&2_000));
    log.close().await;
    let log = open(&at(3_000));
    log.append(write(PLAIN, &[3])).await.unwrap();
    assert_eq!(times(&log).last(), Some(&3_000));
    log.close().await;
}

#[tokio::test]
async fn a_settled_time_gets_no_more_appends() {
    let scratch = tempfile::tempdir().unwrap();
    let log = open(&options(scratch.path()));
    log.append(write(PLAIN, &[0])).await.unwrap();
    log.settle(1_000_000).await.unwrap();
    let snapshot = log.snapshot();
    let after = |snapshot: &Snapshot, us| snapshot.first_after(PLAIN, PartitionId(0), us);
    assert_eq!(after(&snapshot, 999_999), Some(Offset(0)));
    assert_eq!(after(&snapshot, 1_000_000), None);
    // The clock stands still.
    log.append(write(PLAIN, &[1, 2])).await.unwrap();
    assert_eq!(times(&log), [1_000_000, 1_000_001, 1_000_001]);
    assert_eq!(after(&log.snapshot(), 1_000_000), Some(Offset(1)));
    assert_eq!(
        after(&snapshot, 1_000_000),
        None,
        "the snapshot ends before it"
    );
    let at = |offset| {
        log.snapshot()
            .appended_at(PLAIN, PartitionId(0), Offset(offset))
    };
    assert_eq!(
        (at(0), at(2), at(3)),
        (Some(1_000_000), Some(1_000_001), None)
    );
    let future = log.settle(1_000_001).await;
    assert!(matches!(future, Err(Error::NotYet { .. })), "{future:?}");
    log.close().await;
}
