//! Tries to break the dataset: crashes between files and manifests, damaged files, two writers, gaps.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{
        AsArray as _, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, Schema},
};
use expect_test::{Expect, expect};
use lambic_dataset::{DataFile, Dataset, Error, LocalStore, Manifest, Options, Tail};
use lambic_model::{Frontier, Offset, OffsetRange, PartitionId, Stream, StreamId, StreamName};
use proptest::prelude::*;

const STREAM: StreamId = StreamId(7);

fn stream(partitions: u32) -> Arc<Stream> {
    Arc::new(Stream {
        id: STREAM,
        name: StreamName::new("flights").unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
        ])),
        partitions,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

/// A log in memory: for every partition, the values `n` from offset 0 on.
#[derive(Clone)]
struct Memory {
    stream: Arc<Stream>,
    start: Frontier,
    values: Vec<Vec<i64>>,
    /// Rows that `read_some` hands out at a time.
    chunk_rows: usize,
}

impl Memory {
    fn new(partitions: u32) -> Memory {
        Memory {
            stream: stream(partitions),
            start: Frontier::zero(partitions),
            values: vec![Vec::new(); partitions as usize],
            chunk_rows: 3,
        }
    }

    fn append(&mut self, partition: u32, values: impl IntoIterator<Item = i64>) {
        self.values[partition as usize].extend(values);
    }

    fn read(&self, range: OffsetRange) -> RecordBatch {
        let values =
            &self.values[range.partition.0 as usize][range.first.0 as usize..range.end.0 as usize];
        let offsets = range.first.0 as i64..range.end.0 as i64;
        RecordBatch::try_new(
            self.stream.schema_with_system(),
            vec![
                Arc::new(Int64Array::from_iter_values(values.iter().copied())),
                Arc::new(StringArray::from_iter(
                    values
                        .iter()
                        .map(|n| (n % 4 != 0).then(|| format!("value {n}"))),
                )),
                Arc::new(Int32Array::from_value(
                    range.partition.0 as i32,
                    values.len(),
                )),
                Arc::new(Int64Array::from_iter_values(offsets.clone())),
                Arc::new(TimestampMicrosecondArray::from_iter_values(offsets).with_timezone("UTC")),
            ],
        )
        .unwrap()
    }
}

impl Tail for Memory {
    fn head(&self, _: StreamId) -> Frontier {
        Frontier(
            self.values
                .iter()
                .map(|values| Offset(values.len() as u64))
                .collect(),
        )
    }

    fn start(&self, _: StreamId) -> Frontier {
        self.start.clone()
    }

    fn read_some(&self, _: &Stream, range: OffsetRange, _: u64) -> Result<Vec<RecordBatch>, Error> {
        let middle = range.first.plus(1).min(range.end);
        let end = range.first.plus(self.chunk_rows as u64).min(range.end);
        let cut = [(range.first, middle), (middle, end)];
        Ok(cut
            .into_iter()
            .map(|(first, end)| OffsetRange {
                first,
                end,
                ..range
            })
            .filter(|range| !range.is_empty())
            .map(|range| self.read(range))
            .collect())
    }
}

fn options() -> Options {
    Options {
        file_rows_max: 5,
        manifests_kept: 3,
        ..Options::default()
    }
}

async fn open(dir: &Path, stream: &Arc<Stream>) -> Result<Dataset, Error> {
    let dataset = Dataset::open(Arc::new(LocalStore::open(dir).unwrap()), options()).await?;
    dataset.add_stream(stream.clone()).await?;
    let whole_log = Frontier::zero(stream.partitions);
    dataset.tidy(stream.id, &whole_log).await?;
    Ok(dataset)
}

/// Everything that the files hold, and the log's tail above the frontier, per partition.
async fn everything(dataset: &Dataset, log: &Memory) -> Vec<Vec<i64>> {
    let manifest = dataset.manifest(STREAM);
    let mut all = vec![Vec::new(); log.values.len()];
    for file in &manifest.files {
        let batches = dataset.read(file).await.unwrap();
        let batch = concat_batches(&log.stream.schema_with_system(), &batches).unwrap();
        assert_eq!(batch, log.read(file.range), "{}", file.path);
        all[file.range.partition.0 as usize]
            .extend(batch.column(0).as_primitive::<Int64Type>().values());
    }
    for (partition, all) in all.iter_mut().enumerate() {
        let sealed = manifest.frontier.offset(PartitionId(partition as u32)).0 as usize;
        all.extend(&log.values[partition][sealed..]);
    }
    all
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    files.sort();
    files
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        partition: u32,
        records: u8,
    },
    Seal,
    Restart,
    /// A seal whose files were written but whose manifest was not: killed just before the commit.
    Crash,
    /// A seal that was killed in the middle of writing a file.
    CrashCut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3u32, 1..12u8).prop_map(|(partition, records)| Step::Append { partition, records }),
        3 => Just(Step::Seal),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => Just(Step::CrashCut),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Law 1 at this room's level: files and tail together are everything appended, once, in order.
    #[test]
    fn files_and_tail_are_everything(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Memory::new(3);
            let mut dataset = open(dir.path(), &log.stream).await.unwrap();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Append { partition, records } => {
                        log.append(partition, next..next + i64::from(records));
                        next += i64::from(records);
                    }
                    Step::Seal => {
                        let manifest = dataset.seal_from(STREAM, &log).await.unwrap();
                        assert_eq!(manifest.frontier, log.head(STREAM));
                        assert!(manifest.files.iter().all(|file| file.range.records() <= 5));
                    }
                    Step::Restart => dataset = open(dir.path(), &log.stream).await.unwrap(),
                    Step::Crash | Step::CrashCut => {
                        let listed = dataset.manifest(STREAM);
                        let before = listed.number;
                        let sealed = dataset.seal_from(STREAM, &log).await.unwrap();
                        if sealed.number > before {
                            let folder = dir.path().join("dataset/7-flights");
                            std::fs::remove_file(folder.join(format!("manifest-{:020}.json", sealed.number))).unwrap();
                            if matches!(step, Step::CrashCut) {
                                let new = sealed.files.iter().find(|file| !listed.files.contains(file));
                                let path = dir.path().join(&new.unwrap().path);
                                let bytes = std::fs::read(&path).unwrap();
                                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                                // What the store itself was still writing.
                                std::fs::write(folder.join("x.parquet#12"), b"half").unwrap();
                            }
                        }
                        // The tail that a restarted server would seal may be longer than before the crash.
                        log.append(0, next..next + 2);
                        next += 2;
                        // The prune of the killed commit may have left fewer manifests, never none of the newest.
                        dataset = open(dir.path(), &log.stream).await.unwrap();
                        assert_eq!(dataset.manifest(STREAM).number, before);
                    }
                }
                assert_eq!(everything(&dataset, &log).await, log.values);
                assert!(dataset.verify_stream(STREAM).await.is_empty());
            }
            // Nothing lies in the folder but what the manifest lists, and the last manifests.
            let dataset = open(dir.path(), &log.stream).await.unwrap();
            let manifest = dataset.manifest(STREAM);
            let mut expected: Vec<_> = manifest.files.iter().map(|file| file.path.clone()).collect();
            expected.sort();
            let found: Vec<_> = files_below(dir.path())
                .into_iter()
                .filter(|path| !path.contains("manifest-"))
                .collect();
            assert_eq!(found, expected);
        });
    }
}

async fn sealed(dir: &Path) -> (Dataset, Arc<Manifest>, Memory) {
    let mut log = Memory::new(2);
    log.append(0, 0..7);
    log.append(1, 100..104);
    let dataset = open(dir, &log.stream).await.unwrap();
    let manifest = dataset.seal_from(STREAM, &log).await.unwrap();
    (dataset, manifest, log)
}

#[tokio::test]
async fn sealing_splits_names_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, manifest, log) = sealed(dir.path()).await;
    expect![[r#"
        dataset/7-flights/manifest-00000000000000000001.json
        dataset/7-flights/p0/00000000000000000000-00000000000000000005.parquet
        dataset/7-flights/p0/00000000000000000005-00000000000000000007.parquet
        dataset/7-flights/p1/00000000000000000000-00000000000000000004.parquet"#]]
    .assert_eq(&files_below(dir.path()).join("\n"));
    assert_eq!(manifest.frontier.to_string(), "0:7,1:4");
    assert_eq!(manifest.records(), 11);

    // Nothing new: nothing is written.
    let again = dataset.seal_from(STREAM, &log).await.unwrap();
    assert!(Arc::ptr_eq(&manifest, &again));
    assert_eq!(files_below(dir.path()).len(), 4);
}

#[tokio::test]
async fn a_real_log_is_sealed_and_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let stream = stream(2);
    let log_options = lambic_log::Options::new(dir.path().join("log"));
    let log = lambic_log::Log::open(log_options, std::slice::from_ref(&stream)).unwrap();
    let dataset = open(dir.path(), &stream).await.unwrap();
    let mut appended = 0;
    for round in 0..5 {
        for _ in 0..4 {
            let rows = appended..appended + 100;
            appended += 100;
            let batch = RecordBatch::try_new(
                stream.schema.clone(),
                vec![
                    Arc::new(Int64Array::from_iter_values(rows.clone())),
                    Arc::new(StringArray::from_iter_values(rows.map(|n| n.to_string()))),
                ],
            )
            .unwrap();
            let write = lambic_model::Write {
                stream: STREAM,
                partition: None,
                batch,
                schema: None,
            };
            log.append(lambic_model::Append {
                writes: vec![write],
                ..Default::default()
            })
            .await
            .unwrap();
        }
        let snapshot = log.snapshot();
        let manifest = dataset.seal(STREAM, &snapshot).await.unwrap();
        assert_eq!(manifest.number, round + 1);
        assert_eq!(manifest.frontier, snapshot.head(STREAM));
    }
    let manifest = dataset.manifest(STREAM);
    let mut values = Vec::new();
    for file in &manifest.files {
        for batch in dataset.read(file).await.unwrap() {
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    values.sort_unstable();
    assert_eq!(values, (0..appended).collect::<Vec<_>>());
    log.close().await;
}

fn rows(stream: &Stream, values: std::ops::Range<i64>) -> lambic_model::Append {
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(values.clone())),
        Arc::new(StringArray::from_iter_values(values.map(|n| n.to_string()))),
    ];
    lambic_model::Append {
        writes: vec![lambic_model::Write {
            stream: stream.id,
            partition: Some(PartitionId(0)),
            batch: RecordBatch::try_new(stream.schema.clone(), columns).unwrap(),
            schema: None,
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_log_that_was_moved_away_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let stream = stream(2);
    let context = datafusion::prelude::SessionContext::new();
    let folder = dir.path().join("log");
    let open = async || {
        let dataset = open(dir.path(), &stream).await.unwrap();
        let mut sealed = lambic_model::Frontiers::default();
        sealed.set(STREAM, dataset.manifest(STREAM).frontier.clone());
        let options = lambic_log::Options::new(&folder);
        let log = lambic_log::Log::open_after(options, std::slice::from_ref(&stream), sealed);
        (dataset, log.unwrap())
    };
    let found = async |dataset: &Dataset, log: &lambic_log::Log| {
        let runtime = context.runtime_env();
        let reader = lambic_dataset::Reader::new(dataset.clone(), log.clone(), &runtime).unwrap();
        let table = Arc::new(reader.pin().table(&stream));
        let mut values = Vec::new();
        for batch in context.read_table(table).unwrap().collect().await.unwrap() {
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
        values.sort_unstable();
        values
    };
    let (dataset, log) = open().await;
    log.append(rows(&stream, 0..10)).await.unwrap();
    dataset.seal(STREAM, &log.snapshot()).await.unwrap();
    // Not sealed: it goes away with the log.
    log.append(rows(&stream, 100..110)).await.unwrap();
    log.close().await;
    std::fs::rename(&folder, dir.path().join("away")).unwrap();

    let (dataset, log) = open().await;
    assert_eq!(found(&dataset, &log).await, (0..10).collect::<Vec<_>>());
    log.append(rows(&stream, 10..15)).await.unwrap();
    assert_eq!(found(&dataset, &log).await, (0..15).collect::<Vec<_>>());
    dataset.seal(STREAM, &log.snapshot()).await.unwrap();
    log.append(rows(&stream, 15..20)).await.unwrap();
    log.close().await;

    let (dataset, log) = open().await;
    assert_eq!(found(&dataset, &log).await, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_of_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, manifest, _) = sealed(dir.path()).await;
    let file = &manifest.files[1];
    let path = dir.path().join(&file.path);
    let bytes = std::fs::read(&path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        let error = dataset.verify(file).await.unwrap_err();
        assert!(
            matches!(error, Error::FileDamaged { .. }),
            "bit {bit}: {error}"
        );
    }
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = dataset.verify(file).await.unwrap_err();
        assert!(
            matches!(error, Error::FileCut { .. }),
            "length {length}: {error}"
        );
    }
    std::fs::write(&path, &bytes).unwrap();
    dataset.verify(file).await.unwrap();
}

#[tokio::test]
async fn a_file_that_changes_after_it_was_verified_is_verified_again() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, manifest, _) = sealed(dir.path()).await;
    let file = &manifest.files[0];
    dataset.read(file).await.unwrap();
    let path = dir.path().join(&file.path);
    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    let error = dataset.read(file).await.unwrap_err();
    assert!(matches!(error, Error::FileDamaged { .. }), "{error}");
    std::fs::write(&path, bytes).unwrap();
    dataset.read(file).await.unwrap();
}

/// What verifying every file, and opening again, says after `spoil` had its way.
async fn check_damage(spoil: impl FnOnce(&Path, &[DataFile]), expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, manifest, log) = sealed(dir.path()).await;
    spoil(dir.path(), &manifest.files);
    let verified: Vec<String> = dataset
        .verify_stream(STREAM)
        .await
        .iter()
        .map(|error| format!("verify: {error}\n"))
        .collect();
    let opened = match open(dir.path(), &log.stream).await {
        Ok(_) => "open: ok\n".to_owned(),
        Err(error) => format!("open: {error}\n"),
    };
    let mut said = verified.concat() + &opened;
    for file in &manifest.files {
        said = said.replace(&format!("instead of {}:", file.bytes), "instead of BYTES:");
    }
    expected.assert_eq(&said);
}

#[tokio::test]
async fn damage_is_named_with_what_to_do() {
    check_damage(
        |dir, files| std::fs::remove_file(dir.join(&files[0].path)).unwrap(),
        expect![[r#"
            verify: data file `dataset/7-flights/p0/00000000000000000000-00000000000000000005.parquet` is missing; restore it from a backup, its 5 records are not in the log any more
            open: data file `dataset/7-flights/p0/00000000000000000000-00000000000000000005.parquet` is missing; restore it from a backup, its 5 records are not in the log any more
        "#]],
    )
    .await;
    check_damage(
        |dir, files| {
            let path = dir.join(&files[2].path);
            std::fs::write(path, b"PAR1").unwrap();
        },
        expect![[r#"
            verify: data file `dataset/7-flights/p1/00000000000000000000-00000000000000000004.parquet` has 4 bytes instead of BYTES: it was cut or replaced; restore it from a backup
            open: data file `dataset/7-flights/p1/00000000000000000000-00000000000000000004.parquet` has 4 bytes instead of BYTES: it was cut or replaced; restore it from a backup
        "#]],
    )
    .await;
}

#[tokio::test]
async fn two_files_that_changed_places_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, manifest, _) = sealed(dir.path()).await;
    let paths = [0, 1].map(|file| dir.path().join(&manifest.files[file].path));
    let other = dir.path().join("other");
    std::fs::rename(&paths[0], &other).unwrap();
    std::fs::rename(&paths[1], &paths[0]).unwrap();
    std::fs::rename(&other, &paths[1]).unwrap();
    assert_eq!(dataset.verify_stream(STREAM).await.len(), 2);
}

#[tokio::test]
async fn a_foreign_file_is_left_alone_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let (_, manifest, log) = sealed(dir.path()).await;
    let folder = dir.path().join("dataset/7-flights");
    let foreign = [
        folder.join("notes.txt"),
        folder.join("p0/part-0000.parquet"),
        // Named as ours, but of records that other files cover.
        folder.join("p0/00000000000000000000-00000000000000000003.parquet"),
        folder.join("p9/00000000000000000000-00000000000000000003.parquet"),
    ];
    std::fs::create_dir(folder.join("p9")).unwrap();
    for path in &foreign {
        std::fs::write(path, b"not ours").unwrap();
    }
    let dataset = open(dir.path(), &log.stream).await.unwrap();
    assert_eq!(*dataset.manifest(STREAM), *manifest);
    assert_eq!(everything(&dataset, &log).await, log.values);
    assert!(foreign.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn two_writers_one_wins_and_the_other_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _, mut log) = sealed(dir.path()).await;
    let two = open(dir.path(), &log.stream).await.unwrap();
    log.append(0, 50..53);
    one.seal_from(STREAM, &log).await.unwrap();
    log.append(0, 60..61);
    for _ in 0..2 {
        let error = two.seal_from(STREAM, &log).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }
    one.seal_from(STREAM, &log).await.unwrap();
    assert!(one.verify_stream(STREAM).await.is_empty());
    assert_eq!(everything(&one, &log).await, log.values);
}

#[tokio::test]
async fn writers_that_race_leave_one_good_dataset() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let (one, _, mut log) = sealed(dir.path()).await;
        let two = open(dir.path(), &log.stream).await.unwrap();
        log.append(1, 50..63);
        let (first, second) = tokio::join!(
            tokio::spawn({
                let log = log.clone();
                async move { one.seal_from(STREAM, &log).await.map(|_| ()) }
            }),
            tokio::spawn({
                let log = log.clone();
                async move { two.seal_from(STREAM, &log).await.map(|_| ()) }
            }),
        );
        let results = [first.unwrap(), second.unwrap()];
        // Both may report success only if both wrote the very same manifest.
        assert!(results.iter().any(Result::is_ok), "{results:?}");
        let dataset = open(dir.path(), &log.stream).await.unwrap();
        assert!(dataset.verify_stream(STREAM).await.is_empty());
        assert_eq!(everything(&dataset, &log).await, log.values);
    }
}

#[tokio::test]
async fn a_log_that_does_not_meet_the_dataset_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, _, log) = sealed(dir.path()).await;

    let mut gap = log.clone();
    gap.append(0, 7..20);
    gap.start.set(PartitionId(0), Offset(9));
    expect![
        "stream `flights` has a gap in partition 0: the dataset ends at offset 7, the log begins at 9; the newest manifest of the stream is missing, or the log is that of another moment: bring the manifest back, or restore both from a backup of the same moment; nothing was deleted"
    ]
    .assert_eq(&dataset.seal_from(STREAM, &gap).await.unwrap_err().to_string());

    let mut old = log.clone();
    old.values[1].pop();
    // A look at the log from before another's seal: what it asks for is there.
    let before = dataset.manifest(STREAM);
    assert_eq!(dataset.seal_from(STREAM, &old).await.unwrap(), before);
    old.append(0, 7..9);
    expect![
        "the log of stream `flights` ends at 0:9,1:3, before the dataset's frontier 0:7,1:4; the log is older than the dataset: restore both from a backup of the same moment"
    ]
    .assert_eq(&dataset.seal_from(STREAM, &old).await.unwrap_err().to_string());

    let unknown = dataset.seal_from(StreamId(8), &log).await.unwrap_err();
    expect!["stream 8 is not part of the dataset"].assert_eq(&unknown.to_string());
}

/// What a seal that was killed left is in the log as well; what is in no log may not go with it.
#[tokio::test]
async fn files_whose_manifest_is_missing_are_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, _, mut log) = sealed(dir.path()).await;
    let before = dataset.manifest(STREAM).frontier.clone();
    log.append(0, 7..20);
    let newest = dataset.seal_from(STREAM, &log).await.unwrap();
    let name = format!("dataset/7-flights/manifest-{:020}.json", newest.number);
    let manifest = dir.path().join(name);
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let files = files_below(dir.path());

    let dataset = Dataset::open(Arc::new(LocalStore::open(dir.path()).unwrap()), options());
    let dataset = dataset.await.unwrap();
    dataset.add_stream(log.stream.clone()).await.unwrap();
    let trimmed = dataset.tidy(STREAM, &newest.frontier).await.unwrap_err();
    assert!(matches!(trimmed, Error::Gap { .. }), "{trimmed}");
    assert_eq!(files_below(dir.path()), files);

    std::fs::write(&manifest, bytes).unwrap();
    let dataset = open(dir.path(), &log.stream).await.unwrap();
    assert_eq!(everything(&dataset, &log).await, log.values);

    // The log has them: nothing is lost.
    std::fs::remove_file(&manifest).unwrap();
    let dataset = open(dir.path(), &log.stream).await.unwrap();
    assert_eq!(dataset.manifest(STREAM).frontier, before);
    assert!(files_below(dir.path()).len() < files.len());
    assert_eq!(everything(&dataset, &log).await, log.values);
}

/// A seal that was at it when the stream was dropped brings nothing back.
#[tokio::test]
async fn a_seal_beside_a_drop_leaves_nothing() {
    for polls in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, _, mut log) = sealed(dir.path()).await;
        log.append(0, 7..60);
        let Stream { id, name, .. } = log.stream.as_ref();
        let seal = tokio::spawn({
            let (dataset, log) = (dataset.clone(), log.clone());
            async move { dataset.seal_from(STREAM, &log).await.map(|_| ()) }
        });
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        dataset.erase_stream(*id, name).await.unwrap();
        // It ended before, or found the stream gone.
        let _ = seal.await.unwrap();
        assert!(files_below(dir.path()).is_empty(), "after {polls} polls");
    }
}

#[tokio::test]
async fn an_erased_stream_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (dataset, _, log) = sealed(dir.path()).await;
    let Stream { id, name, .. } = log.stream.as_ref();
    dataset.erase_stream(*id, name).await.unwrap();
    assert!(files_below(dir.path()).is_empty());
    assert_eq!(dataset.manifest(STREAM).number, 0);
}

/// A client that goes away cancels the statement that waits for the seal, wherever that is.
#[tokio::test]
async fn a_seal_that_is_broken_off_stands_in_nobodys_way() {
    for polls in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, _, mut log) = sealed(dir.path()).await;
        log.append(0, 50..53);
        log.append(1, 60..63);
        {
            let mut seal = Box::pin(dataset.seal_from(STREAM, &log));
            for _ in 0..polls {
                if futures::poll!(&mut seal).is_ready() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_micros(200)).await;
            }
        }
        log.append(0, 70..71);
        dataset.seal_from(STREAM, &log).await.unwrap();
        assert_eq!(everything(&dataset, &log).await, log.values, "{polls}");
        assert_eq!(dataset.manifest(STREAM).frontier, log.head(STREAM));
        let dataset = open(dir.path(), &log.stream).await.unwrap();
        assert!(dataset.verify_stream(STREAM).await.is_empty());
        assert_eq!(everything(&dataset, &log).await, log.values, "{polls}");
    }
}
