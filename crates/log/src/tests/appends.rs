//! Offsets, repetitions, record ids, cursors, refusals, many producers at once.

use lambic_model::{Cursor, Frontier, Offset};

use super::*;
use crate::Error;

#[tokio::test]
async fn records_come_back_with_their_system_columns() {
    let scratch = tempfile::tempdir().unwrap();
    let log = open(&options(scratch.path()));
    let appended = log.append(write(PLAIN, &[10, 11, 12])).await.unwrap();
    assert_eq!(appended.writes[0].ranges, [range(0, 3)]);
    log.append(write(PLAIN, &[13])).await.unwrap();
    let snapshot = log.snapshot();
    for cached in [true, false] {
        let snapshot = match cached {
            true => snapshot.clone(),
            false => {
                let mut cold = options(scratch.path());
                cold.cache_bytes_max = 0;
                let copied = tempfile::tempdir().unwrap();
                copy(scratch.path(), copied.path());
                cold.dir = copied.path().to_owned();
                open(&cold).snapshot()
            }
        };
        let batches = snapshot.read(PLAIN, range(1, 4)).unwrap();
        let schema = stream(PLAIN, 1).schema_with_system();
        assert!(batches.iter().all(|batch| batch.schema() == schema));
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [2, 1]);
        let chunks: Vec<_> = snapshot.read_chunks(PLAIN, range(0, 4), 1).collect();
        assert_eq!(chunks.len(), 2);
    }
    let outside = snapshot.read(PLAIN, range(0, 5));
    assert!(matches!(outside, Err(Error::OutOfRange { .. })));
}

#[tokio::test]
async fn a_repeated_sequence_has_no_second_effect_across_restarts_and_segments() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 1;
    options.producers_max = 2;
    let log = open(&options);
    let first = log.append(by("a", 1, write(PLAIN, &[1]))).await.unwrap();
    let second = log.append(by("a", 2, write(PLAIN, &[2, 3]))).await.unwrap();
    assert!(!first.duplicate && !second.duplicate);
    for _ in 0..2 {
        let log = open(&Options {
            dir: {
                let copied = scratch.path().join("copy");
                copy(scratch.path(), &copied);
                copied
            },
            ..options.clone()
        });
        let again = log.append(by("a", 2, write(PLAIN, &[2, 3]))).await.unwrap();
        assert!(again.duplicate);
        assert_eq!(again.writes[0].frontier, second.writes[0].frontier);
        let older = log.append(by("a", 1, write(PLAIN, &[1]))).await.unwrap();
        assert!(older.duplicate);
        assert_eq!(older.writes[0].frontier, Frontier(vec![Offset(3)]));
        assert_eq!(all(&log.snapshot(), PLAIN), [1, 2, 3]);
    }
    // Two newer producers push the oldest out.
    log.append(by("b", 1, write(PLAIN, &[4]))).await.unwrap();
    log.append(by("c", 1, write(PLAIN, &[5]))).await.unwrap();
    assert!(
        !log.append(by("a", 2, write(PLAIN, &[6])))
            .await
            .unwrap()
            .duplicate
    );
}

#[tokio::test]
async fn a_sequence_that_was_never_kept_is_taken_whenever_it_comes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 1;
    let log = open(&options);
    // 7 was refused, or overtaken on its way.
    let mut bad = by("p", 7, write(PLAIN, &[7]));
    bad.writes[0].partition = Some(PartitionId(9));
    assert!(matches!(log.append(bad).await, Err(Error::Refused(_))));
    log.append(by("p", 8, write(PLAIN, &[8]))).await.unwrap();
    let late = log.append(by("p", 7, write(PLAIN, &[7]))).await.unwrap();
    assert!(!late.duplicate);
    assert_eq!(late.writes[0].ranges, [range(1, 2)]);
    // All in one group, most likely; right in any case.
    let (a, b, c) = tokio::join!(
        log.append(by("p", 12, write(PLAIN, &[12]))),
        log.append(by("p", 11, write(PLAIN, &[11]))),
        log.append(by("p", 12, write(PLAIN, &[12])))
    );
    let duplicates = [a, b, c].map(|appended| appended.unwrap().duplicate);
    assert_eq!(duplicates, [false, false, true]);
    log.close().await;

    let log = open(&options);
    for (sequence, is_known) in [(12, true), (11, true), (10, false), (7, true), (6, false)] {
        let append = by("p", sequence, write(PLAIN, &[sequence as i64]));
        assert_eq!(log.append(append).await.unwrap().duplicate, is_known);
    }
    assert_eq!(all(&log.snapshot(), PLAIN), [8, 7, 12, 11, 10, 6]);
}

#[tokio::test]
async fn a_large_checkpoint_is_not_written_with_every_append() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 1;
    let log = open(&options);
    let mut segments = Vec::new();
    for n in 0..400 {
        let producer = format!("{n:0100}");
        log.append(by(&producer, 1, write(PLAIN, &[n])))
            .await
            .unwrap();
        segments.push(log.snapshot().0.segments.len());
    }
    // A checkpoint is some tens of kilobytes by now, an append one.
    let begun = segments[399] - segments[299];
    assert!((1..20).contains(&begun), "{segments:?}");
    log.close().await;
    let log = open(&options);
    let before = log.snapshot().0.segments.len();
    log.append(by("last", 1, write(PLAIN, &[400])))
        .await
        .unwrap();
    assert!(log.snapshot().0.segments.len() <= before + 1);
    assert_eq!(all(&log.snapshot(), PLAIN).len(), 401);
}

#[tokio::test]
async fn a_sequence_that_is_no_longer_remembered_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    let log = open(&options);
    for n in 0..100 {
        log.append(by("p", 2 * n, write(PLAIN, &[n as i64])))
            .await
            .unwrap();
    }
    log.close().await;
    let log = open(&options);
    let refused = log.append(by("p", 0, write(PLAIN, &[0]))).await;
    assert!(
        matches!(refused, Err(Error::SequenceForgotten { sequence: 0, .. })),
        "{refused:?}"
    );
    let known = log.append(by("p", 198, write(PLAIN, &[99]))).await.unwrap();
    assert!(known.duplicate);
    assert_eq!(all(&log.snapshot(), PLAIN).len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_are_all_there_once_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 20_000;
    options.queue_bytes_max = 4_096;
    let log = open(&options);
    let mut tasks = Vec::new();
    for producer in 0..20i64 {
        // Each producer runs twice at the same time: the twin has no second effect.
        for _ in 0..2 {
            let log = log.clone();
            tasks.push(tokio::spawn(async move {
                let mut last = 0;
                for n in 0..25i64 {
                    let append = write(PLAIN, &[producer * 1000 + n]);
                    let append = by(&format!("p{producer}"), n as u64, append);
                    let appended = log.append(append).await.unwrap();
                    let head = log.snapshot().head(PLAIN).offset(PartitionId(0)).0;
                    let seen = appended.writes[0].frontier.offset(PartitionId(0)).0;
                    assert!(head >= seen && seen >= last, "acknowledged means visible");
                    last = if appended.duplicate { last } else { seen };
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let check = |log: &Log| {
        let found = all(&log.snapshot(), PLAIN);
        assert_eq!(found.len(), 500);
        for producer in 0..20 {
            let own: Vec<i64> = found
                .iter()
                .copied()
                .filter(|n| n / 1000 == producer)
                .collect();
            assert_eq!(
                own,
                (0..25).map(|n| producer * 1000 + n).collect::<Vec<_>>()
            );
        }
    };
    check(&log);
    log.close().await;
    check(&open(&options));
}

#[tokio::test]
async fn known_record_ids_are_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    let log = open(&options);
    let first = log.append(write(WITH_ID, &[1, 2, 2, 3])).await.unwrap();
    assert_eq!(first.writes[0].records_known, 1);
    assert_eq!(first.writes[0].ranges, [range(0, 3)]);
    // In one group, most likely; right in any case.
    let (a, b) = tokio::join!(
        log.append(write(WITH_ID, &[3, 4])),
        log.append(write(WITH_ID, &[4, 5]))
    );
    assert_eq!(a.unwrap().writes[0].records_known, 1);
    assert_eq!(b.unwrap().writes[0].records_known, 1);
    let none = log.append(write(WITH_ID, &[1, 5])).await.unwrap();
    assert!(none.writes[0].ranges.is_empty());
    log.close().await;

    let log = open(&options);
    let again = log.append(write(WITH_ID, &[1, 5, 6])).await.unwrap();
    assert_eq!(again.writes[0].records_known, 2);
    assert_eq!(all(&log.snapshot(), WITH_ID), [1, 2, 3, 4, 5, 6]);
    // Long ids are known by their hash.
    let long = "x".repeat(1000);
    let append = |n| Append {
        writes: vec![Write {
            stream: WITH_ID,
            partition: None,
            batch: batch(&[&long], &[n]),
            schema: None,
        }],
        ..Append::default()
    };
    log.append(append(7)).await.unwrap();
    assert_eq!(
        log.append(append(8)).await.unwrap().writes[0].records_known,
        1
    );
    log.close().await;

    // The index alone is lost: it is built again from the segments.
    std::fs::remove_dir_all(scratch.path().join("ids")).unwrap();
    let log = open(&options);
    let again = log
        .append(write(WITH_ID, &[1, 2, 3, 4, 5, 6]))
        .await
        .unwrap();
    assert_eq!(again.writes[0].records_known, 6);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_column() {
    let scratch = tempfile::tempdir().unwrap();
    let log = open(&options(scratch.path()));
    let with = |fields: Vec<Field>, columns: Vec<Arc<dyn Array>>| {
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    let text = || -> Arc<dyn Array> { Arc::new(StringArray::from(vec![Some("a"), None])) };
    let number = || -> Arc<dyn Array> { Arc::new(Int64Array::from(vec![Some(1), None])) };
    let id = || Field::new("id", DataType::Utf8, true);
    let n = |name: &str| Field::new(name, DataType::Int64, true);
    for (stream, batch, expected) in [
        (
            PLAIN,
            with(vec![id()], vec![text()]),
            "column `n` is missing",
        ),
        (
            PLAIN,
            with(vec![id(), n("m")], vec![text(), number()]),
            "column 2 is `m`, expected `n`",
        ),
        (
            PLAIN,
            with(
                vec![id(), Field::new("n", DataType::Utf8, true)],
                vec![text(), text()],
            ),
            "column `n` is Utf8, expected Int64",
        ),
        (
            PLAIN,
            with(vec![id(), n("n")], vec![text(), number()]),
            "column `n` may not be NULL, and is in 1 of 2 records",
        ),
        (
            WITH_ID,
            with(vec![id(), n("n")], vec![text(), number()]),
            "column `id` may not be NULL",
        ),
        (
            PLAIN,
            with(
                vec![id(), n("n"), n("o")],
                vec![text(), Arc::new(Int64Array::from(vec![1, 2])), number()],
            ),
            "it has no column `o`",
        ),
    ] {
        let writes = vec![Write {
            stream,
            partition: None,
            batch,
            schema: None,
        }];
        let refused = log
            .append(Append {
                writes,
                ..Append::default()
            })
            .await;
        match refused {
            Err(Error::Refused(reason)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let unknown = log.append(write(StreamId(9), &[1])).await;
    assert!(matches!(unknown, Err(Error::UnknownStream { .. })));
    let mut append = write(PLAIN, &[1]);
    append.writes[0].partition = Some(PartitionId(1));
    assert!(matches!(log.append(append).await, Err(Error::Refused(_))));
    assert_eq!(log.snapshot().head(PLAIN), Frontier::zero(1));
}

#[tokio::test]
async fn an_append_to_several_streams_and_its_cursor_are_one() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    let log = open(&options);
    let cursor = Cursor {
        name: "f".to_owned(),
        stream: PLAIN,
        frontier: Frontier(vec![Offset(7)]),
    };
    let mut append = write(PLAIN, &[1]);
    append.writes.extend(write(WITH_ID, &[2]).writes);
    append.writes.extend(write(PLAIN, &[3]).writes);
    append.cursors.push(cursor.clone());
    let mut commits = log.commits();
    let appended = log.append(append).await.unwrap();
    assert!(commits.has_changed().unwrap());
    assert_eq!(*commits.borrow_and_update(), 1);
    assert_eq!(appended.writes[0].frontier, Frontier(vec![Offset(2)]));
    assert_eq!(log.cursor("f"), Some(cursor.clone()));
    log.close().await;
    let log = open(&options);
    assert_eq!(log.cursor("f"), Some(cursor));
    assert_eq!(all(&log.snapshot(), PLAIN), [1, 3]);
    assert_eq!(all(&log.snapshot(), WITH_ID), [2]);
    log.drop_cursor("f").await.unwrap();
    assert_eq!(log.cursor("f"), None);
    log.close().await;
    assert_eq!(open(&options).cursor("f"), None);
}

#[tokio::test]
async fn partitions_follow_the_column_or_take_turns() {
    let scratch = tempfile::tempdir().unwrap();
    let keyed = StreamId(5);
    let turns = StreamId(6);
    let declared = [
        Arc::new(Stream {
            partition_by: Some("id".to_owned()),
            ..stream(keyed, 4)
        }),
        Arc::new(stream(turns, 3)),
    ];
    let log = Log::open(options(scratch.path()), &declared).unwrap();
    let ns: Vec<i64> = (0..100).collect();
    let appended = log.append(write(keyed, &ns)).await.unwrap();
    let ranges = &appended.writes[0].ranges;
    assert_eq!(ranges.len(), 4);
    assert_eq!(ranges.iter().map(OffsetRange::records).sum::<u64>(), 100);
    let again = log.append(write(keyed, &ns)).await.unwrap();
    for (first, second) in ranges.iter().zip(&again.writes[0].ranges) {
        assert_eq!(
            first.records(),
            second.records(),
            "the same key goes the same way"
        );
    }
    for _ in 0..3 {
        log.append(write(turns, &[1])).await.unwrap();
    }
    assert_eq!(log.snapshot().head(turns), Frontier(vec![Offset(1); 3]));
}
