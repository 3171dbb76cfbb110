//! Erased records are in no read, and their bytes go with the segments.

use std::fs;

use lambic_model::{Erased, Frontier, Frontiers, Offset, OffsetSet};

use super::*;

fn erased(number: u64, ranges: &[(u64, u64)]) -> Erased {
    let mut offsets = OffsetSet::default();
    for &(first, end) in ranges {
        offsets.add(range(first, end));
    }
    Erased {
        number,
        sets: vec![(number, Arc::new(offsets))],
    }
}

/// Column `n` of everything that is left in the log.
fn left(snapshot: &Snapshot) -> Vec<i64> {
    let mut values = Vec::new();
    for range in snapshot.head(PLAIN).ranges_since(&snapshot.start(PLAIN)) {
        for batch in snapshot.read(PLAIN, range).unwrap() {
            values.extend(batch["n"].as_primitive::<Int64Type>().values());
        }
    }
    values
}

/// True if a file of the log, or of its index of ids, holds these bytes.
fn is_on_disk(dir: &Path, bytes: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => is_on_disk(&path, bytes),
            false => fs::read(&path)
                .unwrap()
                .windows(bytes.len())
                .any(|part| part == bytes.as_bytes()),
        }
    })
}

#[tokio::test]
async fn erased_records_are_left_out_and_others_keep_their_offsets() {
    let scratch = tempfile::tempdir().unwrap();
    let log = open(&options(scratch.path()));
    for ns in [&[0, 1, 2][..], &[3, 4], &[5, 6, 7, 8]] {
        log.append(write(PLAIN, ns)).await.unwrap();
    }
    let before = log.snapshot();
    let mut commits = log.commits();
    commits.borrow_and_update();
    // Of one append a part, of one all, of one the ends.
    let erased = erased(3, &[(1, 2), (3, 6), (8, 9)]);
    log.set_erased(PLAIN, erased.clone());
    assert!(commits.has_changed().unwrap(), "who follows reads again");

    let after = log.snapshot();
    assert_eq!(all(&before, PLAIN), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(left(&after), [0, 2, 6, 7]);
    assert_eq!(after.head(PLAIN), before.head(PLAIN));
    assert_eq!(
        (after.erasures().of(PLAIN), after.erasures().of(WITH_ID)),
        (3, 0)
    );
    let mut offsets = Vec::new();
    for chunk in after.read_chunks(PLAIN, range(1, 8), 1) {
        for batch in chunk.unwrap() {
            let column = batch.column_by_name("_offset").unwrap();
            offsets.extend_from_slice(column.as_primitive::<Int64Type>().values());
        }
    }
    assert_eq!(offsets, [2, 6, 7]);
    assert!(after.read(PLAIN, range(3, 6)).unwrap().is_empty());
    log.append(write(PLAIN, &[9])).await.unwrap();
    assert_eq!(left(&log.snapshot()), [0, 2, 6, 7, 9]);
}

#[tokio::test]
async fn a_rotated_segment_takes_their_bytes_along() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    let log = open(&options);
    let secret = "no one may read this";
    let record = |id: &str| Append {
        writes: vec![Write {
            stream: WITH_ID,
            partition: None,
            batch: batch(&[id], &[1]),
            schema: None,
        }],
        ..Append::default()
    };
    log.append(record(secret)).await.unwrap();
    log.append(record("other")).await.unwrap();
    let erased = erased(1, &[(0, 1)]);
    log.set_erased(WITH_ID, erased.clone());
    let set = &erased.sets[0].1;
    assert!(log.snapshot().holds(WITH_ID, set));
    assert!(is_on_disk(scratch.path(), secret));

    let mut keep = Frontiers::default();
    keep.set(WITH_ID, Frontier(vec![Offset(2)]));
    assert_eq!(
        log.trim(&keep).unwrap(),
        0,
        "the segment is still written to"
    );
    log.rotate().await.unwrap();
    assert_eq!(log.trim(&keep).unwrap(), 1);
    assert!(!log.snapshot().holds(WITH_ID, set));
    // One that holds nothing is not rotated again.
    let bytes = log.bytes();
    log.rotate().await.unwrap();
    assert_eq!(log.bytes(), bytes);
    log.close().await;
    assert!(!is_on_disk(scratch.path(), secret));

    // Its id is known all the same.
    let log = open(&options);
    let again = log.append(record(secret)).await.unwrap();
    assert_eq!(again.writes[0].records_known, 1);
    log.close().await;
    assert!(!is_on_disk(scratch.path(), secret));
}

#[tokio::test]
async fn ids_of_the_first_builds_stay_known() {
    let scratch = tempfile::tempdir().unwrap();
    let raw = [WITH_ID.0.to_be_bytes().as_slice(), &[0], b"Ann"].concat();
    {
        let index = fjall::Database::builder(scratch.path().join("ids"))
            .open()
            .unwrap();
        let keys = index
            .keyspace("ids", fjall::KeyspaceCreateOptions::default)
            .unwrap();
        keys.insert(raw, b"".as_slice()).unwrap();
        index.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let ids = crate::ids::Ids::new(&options(scratch.path()));
    assert!(ids.contains(&crate::ids::key(WITH_ID, b"Ann")).unwrap());
    assert!(!ids.contains(&crate::ids::key(WITH_ID, b"Bob")).unwrap());
    assert!(!ids.contains(&crate::ids::key(PLAIN, b"Ann")).unwrap());
}
