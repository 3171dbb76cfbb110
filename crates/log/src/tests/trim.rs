//! Trimming takes only what all streams gave up, and loses nothing that must outlive it.

use lambic_base::disk::{Faults, Op};
use lambic_model::{Cursor, Frontier, Frontiers, Offset};

use super::*;
use crate::Error;

fn frontiers(plain: u64, with_id: u64) -> Frontiers {
    let mut frontiers = Frontiers::default();
    frontiers.set(PLAIN, Frontier(vec![Offset(plain)]));
    frontiers.set(WITH_ID, Frontier(vec![Offset(with_id)]));
    frontiers
}

#[tokio::test]
async fn trimming_keeps_heads_producers_cursors_ids_and_open_snapshots() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    // A segment for every append.
    options.segment_bytes = 1;
    options.cache_bytes_max = 0;
    let log = open(&options);
    let mut first = by("a", 1, write(PLAIN, &[0]));
    first.cursors.push(Cursor {
        name: "c".to_owned(),
        stream: PLAIN,
        frontier: Frontier(vec![Offset(1)]),
    });
    log.append(first).await.unwrap();
    log.append(write(WITH_ID, &[0, 1])).await.unwrap();
    log.append(write(PLAIN, &[1])).await.unwrap();
    log.append(write(PLAIN, &[2])).await.unwrap();
    let before = log.snapshot();
    let bytes = log.bytes();

    assert_eq!(log.trim(&Frontiers::default()).unwrap(), 0);
    // Segment 2 holds records that the second stream still needs.
    assert!(log.trim(&frontiers(3, 1)).unwrap() <= 2);
    assert!(log.trim(&frontiers(3, 2)).unwrap() >= 1);
    assert_eq!(log.trim(&frontiers(3, 2)).unwrap(), 0);
    assert!(log.bytes() < bytes);

    let check = |log: &Log| {
        let snapshot = log.snapshot();
        assert_eq!(snapshot.head(PLAIN), Frontier(vec![Offset(3)]));
        assert_eq!(snapshot.start(PLAIN), Frontier(vec![Offset(2)]));
        assert_eq!(snapshot.start(WITH_ID), Frontier(vec![Offset(2)]));
        assert_eq!(all(&snapshot, PLAIN), [2]);
        let gone = snapshot.read(PLAIN, range(0, 3));
        assert!(matches!(gone, Err(Error::OutOfRange { .. })));
        assert_eq!(log.cursor("c").unwrap().frontier, Frontier(vec![Offset(1)]));
    };
    check(&log);
    assert_eq!(
        all(&before, PLAIN),
        [0, 1, 2],
        "an open snapshot is not disturbed"
    );
    drop(before);
    log.close().await;

    let log = open(&options);
    check(&log);
    let again = log.append(by("a", 1, write(PLAIN, &[0]))).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.writes[0].frontier, Frontier(vec![Offset(3)]));
    let known = log.append(write(WITH_ID, &[0, 1])).await.unwrap();
    assert_eq!(known.writes[0].records_known, 2);
    log.close().await;

    // What the index alone holds now is missed, not forgotten in silence.
    std::fs::remove_dir_all(scratch.path().join("ids")).unwrap();
    let opened = Log::open(options, &streams());
    assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
}

#[tokio::test]
async fn a_dropped_stream_holds_no_segment() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 1;
    let log = open(&options);
    log.append(write(WITH_ID, &[0])).await.unwrap();
    log.append(write(PLAIN, &[0])).await.unwrap();
    log.append(write(PLAIN, &[1])).await.unwrap();
    assert_eq!(log.trim(&frontiers(2, 0)).unwrap(), 0);
    log.remove_stream(WITH_ID).await.unwrap();
    assert!(log.trim(&frontiers(2, 0)).unwrap() > 0);
    let refused = log.append(write(WITH_ID, &[1])).await;
    assert!(matches!(refused, Err(Error::UnknownStream { .. })));
}

#[tokio::test]
async fn a_new_log_goes_on_where_the_dataset_ends_and_an_older_one_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    let sealed = frontiers(3, 0);
    let open = || Log::open_after(options.clone(), &streams(), sealed.clone());
    let check = |log: &Log, head| {
        let snapshot = log.snapshot();
        assert_eq!(snapshot.start(PLAIN), Frontier(vec![Offset(3)]));
        assert_eq!(snapshot.head(PLAIN), Frontier(vec![Offset(head)]));
    };
    let log = open().unwrap();
    check(&log, 3);
    let appended = log.append(write(PLAIN, &[3])).await.unwrap();
    assert_eq!(appended.writes[0].ranges, [range(3, 4)]);
    log.close().await;
    check(&open().unwrap(), 4);

    let further = frontiers(5, 0);
    let older = Log::open_after(options.clone(), &streams(), further);
    assert!(
        matches!(older, Err(Error::BehindDataset { stream: PLAIN, .. })),
        "{older:?}"
    );
    check(&open().unwrap(), 4);
}

#[test]
fn what_a_trim_could_not_remove_leaves_before_anything_newer() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(0);
    let mut options = options_on(&disk, scratch.path());
    options.segment_bytes = 1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let log = open(&options);
    let append = |n| runtime.block_on(log.append(write(PLAIN, &[n]))).unwrap();
    (0..4).for_each(|n| drop(append(n)));
    disk.set(Faults {
        failing: vec![Op::SyncDir],
        ..Faults::default()
    });
    assert!(matches!(log.trim(&frontiers(3, 0)), Err(Error::Io { .. })));
    disk.set(Faults::default());
    (4..7).for_each(|n| drop(append(n)));
    log.trim(&frontiers(6, 0)).unwrap();
    runtime.block_on(log.close());
    let log = open(&options);
    assert_eq!(log.snapshot().head(PLAIN), Frontier(vec![Offset(7)]));
    assert_eq!(all(&log.snapshot(), PLAIN), [6]);
}
