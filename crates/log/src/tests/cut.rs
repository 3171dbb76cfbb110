//! A cut is the log at one commit: a log opened on it goes on from there, whatever the first one did later.

use lambic_model::{Frontier, Frontiers, Offset};

use super::*;
use crate::{RECORD_IDS, restore_record_ids};

#[tokio::test]
async fn a_log_opened_on_a_cut_has_what_was_acknowledged_by_then() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("cut");
    let mut options = options(&scratch.path().join("log"));
    options.segment_bytes = 1;
    let log = open(&options);
    for n in 0..4 {
        log.append(by("a", n as u64 + 1, write(PLAIN, &[n])))
            .await
            .unwrap();
    }
    log.append(write(WITH_ID, &[0, 1])).await.unwrap();

    let cut = log.cut().await.unwrap();
    // What comes between the cut and its being written down is not in it, and what it needs may have been trimmed.
    log.append(by("a", 5, write(PLAIN, &[4]))).await.unwrap();
    log.append(write(WITH_ID, &[2])).await.unwrap();
    let mut keep = Frontiers::default();
    keep.set(PLAIN, Frontier(vec![Offset(3)]));
    keep.set(WITH_ID, Frontier(vec![Offset(2)]));
    assert!(log.trim(&keep).unwrap() > 0);
    assert_eq!(cut.heads().of(PLAIN), Frontier(vec![Offset(4)]));
    cut.save(&to).unwrap();
    log.close().await;

    assert!(to.join(RECORD_IDS).is_dir());
    restore_record_ids(&to).unwrap();
    assert!(!to.join(RECORD_IDS).exists());
    // Nothing is left to do.
    restore_record_ids(&to).unwrap();
    options.dir = to;
    let restored = open(&options);
    assert_eq!(all(&restored.snapshot(), PLAIN), [0, 1, 2, 3]);
    let known = restored.append(write(WITH_ID, &[1, 2])).await.unwrap();
    assert_eq!(
        known.writes[0].records_known, 1,
        "the id of a later record is not known"
    );
    let again = restored.append(by("a", 4, write(PLAIN, &[3]))).await;
    assert!(again.unwrap().duplicate);
    let new = restored.append(by("a", 5, write(PLAIN, &[9]))).await;
    assert!(!new.unwrap().duplicate);
    restored.close().await;
    let restored = open(&options);
    assert_eq!(all(&restored.snapshot(), PLAIN), [0, 1, 2, 3, 9]);
    assert_eq!(all(&restored.snapshot(), WITH_ID), [0, 1, 2]);
    restored.close().await;
}

#[tokio::test]
async fn restoring_record_ids_can_be_killed_and_repeated() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("cut");
    let mut options = options(&scratch.path().join("log"));
    let log = open(&options);
    log.append(write(WITH_ID, &[0, 1])).await.unwrap();
    log.cut().await.unwrap().save(&to).unwrap();
    log.close().await;
    // A former attempt came as far as an index of half the keys.
    std::fs::create_dir_all(to.join("ids")).unwrap();
    std::fs::write(to.join("ids").join("half"), "x").unwrap();
    let damaged = to.join(RECORD_IDS).join("2-000000.keys");
    let keys = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &keys[1..]).unwrap();
    let error = restore_record_ids(&to).unwrap_err().to_string();
    assert!(error.contains("a file of it is cut"), "{error}");
    std::fs::write(&damaged, keys).unwrap();
    restore_record_ids(&to).unwrap();
    options.dir = to;
    let restored = open(&options);
    let known = restored.append(write(WITH_ID, &[0, 1])).await.unwrap();
    assert_eq!(known.writes[0].records_known, 2);
    restored.close().await;
}
