//! Kills, power cuts, damage and failing disks: exactly the acknowledged prefix, or a named error.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use lambic_base::{
    Disk,
    disk::{Faults, Op},
};
use lambic_model::Frontiers;
use proptest::prelude::*;

use super::*;
use crate::{Error, segment};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn last_segment(dir: &Path) -> PathBuf {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .filter(|path| segment::sequence(path).is_some())
        .max()
        .unwrap()
}

/// Three appends of one record; returns the folder as a kill leaves it.
fn killed(dir: &Path) -> PathBuf {
    let log = open(&options(&dir.join("live")));
    for n in 0..3 {
        runtime().block_on(log.append(write(PLAIN, &[n]))).unwrap();
    }
    let killed = dir.join("killed");
    copy(&dir.join("live"), &killed);
    killed
}

#[test]
fn every_flipped_bit_of_a_segment_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = killed(scratch.path());
    let path = last_segment(&dir);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        // Every bit of headers, every eleventh of the rest: the checksum treats all alike.
        if bit > 2_000 && bit % 11 != 0 {
            continue;
        }
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        match Log::open(options(&dir), &streams()) {
            Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
            other => panic!("bit {bit}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "nothing was changed");
    }
}

#[test]
fn looking_names_the_damage_and_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(
        crate::inspect(&scratch.path().join("none")).unwrap(),
        crate::Inspected::default()
    );
    assert!(!scratch.path().join("none").exists());
    let dir = killed(scratch.path());
    let path = last_segment(&dir);
    let whole = fs::read(&path).unwrap();
    let torn = [whole.as_slice(), b"torn"].concat();
    fs::write(&path, &torn).unwrap();
    fs::write(dir.join("x.tmp"), "left over").unwrap();
    let files = || {
        let mut files: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let found = crate::inspect(&dir).unwrap();
    assert_eq!(
        (found.segments, found.torn_bytes, found.mark_known),
        (1, 4, true)
    );
    assert_eq!(found.heads.of(PLAIN).records(), 3);
    assert_eq!(files(), before);

    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let before = files();
    assert!(matches!(
        crate::inspect(&dir),
        Err(Error::Damaged { path: named, .. }) if named == path
    ));
    assert_eq!(files(), before);
}

#[test]
fn every_cut_of_acknowledged_bytes_is_named_and_torn_tails_go() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = killed(scratch.path());
    let path = last_segment(&dir);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let opened = Log::open(options(&dir), &streams());
        assert!(
            matches!(opened, Err(Error::Damaged { .. })),
            "cut at {length}"
        );
    }
    // A torn frame behind what was acknowledged: a part of the first one does for it.
    for tail in [1, 39, 40, 100, 200] {
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[64..64 + tail]);
        fs::write(&path, &torn).unwrap();
        let log = open(&options(&dir));
        assert_eq!(all(&log.snapshot(), PLAIN), [0, 1, 2]);
        drop(log);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn a_missing_swapped_or_older_segment_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let live = scratch.path().join("live");
    let mut small = options(&live);
    small.segment_bytes = 1;
    let log = open(&small);
    for n in 0..4 {
        runtime().block_on(log.append(write(PLAIN, &[n]))).unwrap();
    }
    drop(log);
    let check = |what: &str, change: &dyn Fn(&Path)| {
        let dir = scratch.path().join(what);
        copy(&live, &dir);
        change(&dir);
        let opened = Log::open(options(&dir), &streams());
        assert!(
            matches!(opened, Err(Error::Damaged { .. })),
            "{what}: {opened:?}"
        );
    };
    let path = |dir: &Path, sequence| segment::path(dir, sequence);
    check("middle missing", &|dir| {
        fs::remove_file(path(dir, 2)).unwrap()
    });
    check("newest missing", &|dir| {
        fs::remove_file(last_segment(dir)).unwrap()
    });
    check("swapped", &|dir| {
        fs::rename(path(dir, 2), path(dir, 9)).unwrap();
        fs::rename(path(dir, 3), path(dir, 2)).unwrap();
        fs::rename(path(dir, 9), path(dir, 3)).unwrap();
    });
    check("cut in the middle", &|dir| {
        let bytes = fs::read(path(dir, 2)).unwrap();
        fs::write(path(dir, 2), &bytes[..bytes.len() - 1]).unwrap();
    });
    check("zeroed", &|dir| {
        let bytes = fs::read(path(dir, 2)).unwrap();
        fs::write(path(dir, 2), vec![0; bytes.len()]).unwrap();
    });
    check("all missing", &|dir| {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if segment::sequence(&path).is_some() {
                fs::remove_file(path).unwrap();
            }
        }
    });
}

#[test]
fn damage_before_a_later_frame_is_no_torn_tail_even_without_the_mark() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = killed(scratch.path());
    fs::remove_file(crate::mark::path(&dir)).unwrap();
    let path = last_segment(&dir);
    let mut bytes = fs::read(&path).unwrap();
    let second_to_last = bytes.len() * 3 / 5;
    bytes[second_to_last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let opened = Log::open(options(&dir), &streams());
    assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(0);
    let options = options_on(&disk, scratch.path());
    let runtime = runtime();
    let log = open(&options);
    runtime.block_on(log.append(write(PLAIN, &[1]))).unwrap();
    for room in [0, 10, 100] {
        disk.set(Faults {
            room: Some(room),
            ..Faults::default()
        });
        let refused = runtime.block_on(log.append(write(PLAIN, &[9])));
        assert!(
            matches!(refused, Err(Error::DiskFull { .. })),
            "{refused:?}"
        );
    }
    disk.set(Faults::default());
    runtime.block_on(log.append(write(PLAIN, &[2]))).unwrap();
    assert_eq!(all(&log.snapshot(), PLAIN), [1, 2]);
    drop(log);
    assert_eq!(all(&open(&options).snapshot(), PLAIN), [1, 2]);
}

fn failing_at(op: Op) -> Faults {
    Faults {
        failing: vec![op],
        ..Faults::default()
    }
}

#[test]
fn after_a_failed_sync_or_write_the_log_is_read_only() {
    for failing in [Op::Sync, Op::Write] {
        let scratch = tempfile::tempdir().unwrap();
        let disk = SimDisk::new(0);
        let log = open(&options_on(&disk, scratch.path()));
        let runtime = runtime();
        runtime.block_on(log.append(write(PLAIN, &[1]))).unwrap();
        disk.set(failing_at(failing));
        let failed = runtime.block_on(log.append(write(PLAIN, &[2])));
        assert!(
            matches!(failed, Err(Error::Unavailable { .. })),
            "{failed:?}"
        );
        disk.set(Faults::default());
        let failed = runtime.block_on(log.append(write(PLAIN, &[3])));
        assert!(
            matches!(failed, Err(Error::Unavailable { .. })),
            "not tried again: {failed:?}"
        );
        assert_eq!(
            all(&log.snapshot(), PLAIN),
            [1],
            "what was acknowledged stays readable"
        );
        assert!(log.read_only().is_some());
    }
}

/// The system takes what a failed sync left for written: another sync of the same bytes does nothing.
#[test]
fn what_a_start_after_a_failed_sync_serves_outlives_a_power_cut() {
    let scratch = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let mut served = 0;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let log = open(&options_on(&disk, scratch.path()));
        runtime.block_on(log.append(write(PLAIN, &[1]))).unwrap();
        disk.set(failing_at(Op::Sync));
        let failed = runtime.block_on(log.append(write(PLAIN, &[2])));
        assert!(matches!(failed, Err(Error::Unavailable { .. })));
        drop(log);

        let disk = disk.after_kill();
        let log = open(&options_on(&disk, scratch.path()));
        let mut expected = all(&log.snapshot(), PLAIN);
        served += usize::from(expected == [1, 2]);
        runtime.block_on(log.append(write(PLAIN, &[3]))).unwrap();
        expected.push(3);

        let after = disk.after_power_cut();
        let log = open(&options_on(&after, scratch.path()));
        assert_eq!(all(&log.snapshot(), PLAIN), expected, "seed {seed}");
    }
    assert!(served > 0, "some systems go on showing it");
}

#[test]
fn ids_that_did_not_go_into_the_index_go_in_before_others_or_on_the_next_open() {
    for is_mended in [true, false] {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = options(scratch.path());
        options.segment_bytes = 1;
        let runtime = runtime();
        let log = open(&options);
        runtime.block_on(log.append(write(WITH_ID, &[1]))).unwrap();
        runtime.block_on(log.append(write(PLAIN, &[1]))).unwrap();
        log.ids().insert_fails.store(true, Ordering::SeqCst);
        // Durable, and acknowledged; the next one would have to know its id.
        runtime.block_on(log.append(write(WITH_ID, &[2]))).unwrap();
        let refused = runtime.block_on(log.append(write(WITH_ID, &[2])));
        assert!(matches!(refused, Err(Error::Ids { .. })), "{refused:?}");
        assert_eq!(log.read_only(), None);
        if is_mended {
            log.ids().insert_fails.store(false, Ordering::SeqCst);
            let known = runtime.block_on(log.append(write(WITH_ID, &[2]))).unwrap();
            assert_eq!(known.writes[0].records_known, 1);
        }
        let mut sealed = Frontiers::default();
        for stream in [PLAIN, WITH_ID] {
            sealed.set(stream, log.snapshot().head(stream));
        }
        assert_eq!(log.trim(&sealed).is_ok(), is_mended);
        runtime.block_on(log.close());

        let log = open(&options);
        let again = runtime.block_on(log.append(write(WITH_ID, &[1, 2, 3])));
        assert_eq!(again.unwrap().writes[0].records_known, 2);
        assert_eq!(log.snapshot().head(WITH_ID).records(), 3);
    }
}

#[test]
fn a_power_cut_while_segments_come_and_go_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let runtime = runtime();
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let open = |disk: &SimDisk| {
            let mut options = options_on(disk, scratch.path());
            options.segment_bytes = 1;
            open(&options)
        };
        let log = open(&disk);
        let mark = crate::mark::path(scratch.path());
        assert!(disk.after_power_cut().exists(&mark).unwrap());
        for n in 0..4 {
            runtime.block_on(log.append(write(PLAIN, &[n]))).unwrap();
        }
        disk.set(failing_at(Op::SyncDir));
        let mut sealed = Frontiers::default();
        for stream in [PLAIN, WITH_ID] {
            sealed.set(stream, log.snapshot().head(stream));
        }
        assert!(log.trim(&sealed).is_err(), "a removal is not yet durable");
        let begun = runtime.block_on(log.append(write(PLAIN, &[4])));
        assert!(matches!(begun, Err(Error::Unavailable { .. })), "{begun:?}");
        let after = disk.after_power_cut();
        let log = open(&after);
        let found = all(&log.snapshot(), PLAIN);
        assert!(
            found == [0, 1, 2, 3] || found == [1, 2, 3],
            "seed {seed}: {found:?}"
        );
        let next = runtime.block_on(log.append(write(PLAIN, &[4]))).unwrap();
        assert_eq!(next.writes[0].ranges, [range(4, 5)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Appends of random sizes, then a power cut in the middle of two more that were never acknowledged.
    #[test]
    fn a_power_cut_leaves_the_acknowledged_and_at_most_those_in_flight(
        sizes in prop::collection::vec(1usize..40, 1..8),
        in_flight in 1usize..200,
        segment_bytes in 1u64..6_000,
        seed in any::<u64>(),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let disk = SimDisk::new(seed);
        let open = |disk: &SimDisk| {
            let mut options = options_on(disk, scratch.path());
            options.segment_bytes = segment_bytes;
            Log::open(options, &streams())
        };
        let runtime = runtime();
        let log = open(&disk).unwrap();
        let mut expected = Vec::new();
        for size in sizes {
            let next = expected.len() as i64;
            let values: Vec<i64> = (next..next + size as i64).collect();
            runtime.block_on(log.append(write(PLAIN, &values))).unwrap();
            expected.extend(values);
        }
        disk.set(failing_at(Op::Sync));
        // Both in one group or the second refused: either way never acknowledged.
        let lost = vec![-1; in_flight];
        runtime.block_on(async {
            let (first, second) = (write(PLAIN, &lost), write(PLAIN, &lost));
            let (first, second) = tokio::join!(log.append(first), log.append(second));
            assert!(first.is_err() && second.is_err());
        });
        let after = disk.after_power_cut();
        let log = open(&after).unwrap();
        let found = all(&log.snapshot(), PLAIN);
        prop_assert_eq!(&found[..expected.len()], &expected);
        let kept = &found[expected.len()..];
        prop_assert!(kept.iter().all(|n| *n == -1) && kept.len().is_multiple_of(in_flight));
        runtime.block_on(log.append(write(PLAIN, &[7]))).unwrap();
        drop(log);
        let again = open(&after).unwrap();
        prop_assert_eq!(all(&again.snapshot(), PLAIN).len(), found.len() + 1);
    }

    /// The folder as a kill leaves it, then a cut or a flip anywhere in the last segment.
    #[test]
    fn a_damaged_copy_is_the_acknowledged_prefix_or_a_named_error(
        sizes in prop::collection::vec(1usize..40, 1..6),
        torn in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in prop::option::of(0u8..8),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let live = scratch.path().join("live");
        let log = open(&options(&live));
        let runtime = runtime();
        let mut expected = Vec::new();
        for size in sizes {
            let next = expected.len() as i64;
            let values: Vec<i64> = (next..next + size as i64).collect();
            runtime.block_on(log.append(write(PLAIN, &values))).unwrap();
            expected.extend(values);
        }
        let dir = scratch.path().join("killed");
        copy(&live, &dir);
        let path = last_segment(&dir);
        let mut bytes = fs::read(&path).unwrap();
        let acknowledged = bytes.len();
        bytes.extend(torn);
        let at = at.index(bytes.len());
        match flip {
            Some(bit) => bytes[at] ^= 1 << bit,
            None => bytes.truncate(at),
        }
        fs::write(&path, &bytes).unwrap();
        match Log::open(options(&dir), &streams()) {
            Ok(log) => {
                prop_assert!(at >= acknowledged, "damage to acknowledged bytes was not noticed");
                prop_assert_eq!(all(&log.snapshot(), PLAIN), expected);
            }
            Err(Error::Damaged { path: named, .. }) => {
                prop_assert!(at < acknowledged, "a torn tail was taken for damage");
                prop_assert_eq!(named, path);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
