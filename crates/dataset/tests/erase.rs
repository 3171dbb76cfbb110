//! Tries to bring erased records back: crashes at every write, readers that began before, forged entries.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{AsArray as _, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use datafusion::{
    execution::runtime_env::RuntimeEnvBuilder,
    prelude::{SessionConfig, SessionContext},
};
use lambic_dataset::{
    Dataset, ErasureLog, Error, Keep, LocalStore, Mortal, Options, Reader,
    erasures::{Begun, Finished, Predicate},
};
use lambic_log::Log;
use lambic_model::{
    Append, Erased, Frontier, Frontiers, Offset, OffsetRange, OffsetSet, PartitionId, Stream,
    StreamId, StreamName, Write,
};
use object_store::ObjectStore;
use proptest::prelude::*;

const STREAM: StreamId = StreamId(107);
const PARTITIONS: u32 = 2;

fn stream() -> Arc<Stream> {
    Arc::new(Stream {
        id: STREAM,
        name: StreamName::new("visits").unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("who", DataType::Utf8, false),
        ])),
        partitions: PARTITIONS,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

/// Dataset, log and erasure log over one folder.
struct Server {
    dataset: Dataset,
    log: Log,
    erasures: ErasureLog,
    reader: Reader,
    context: SessionContext,
    erased: Erased,
}

impl Server {
    async fn open(dir: &Path, store: Arc<dyn ObjectStore>) -> Result<Server, Error> {
        let erasures = ErasureLog::open(Arc::clone(&store)).await?;
        erasures.tidy().await?;
        let options = Options {
            file_rows_max: 7,
            manifests_kept: 3,
            ..Options::default()
        };
        let dataset = Dataset::open(store, options).await?;
        dataset.add_stream(stream()).await?;
        let log = Log::open(lambic_log::Options::new(dir.join("log")), &[stream()])?;
        dataset.tidy(STREAM, &log.snapshot().start(STREAM)).await?;
        let mut erased = Erased {
            number: erasures.newest_of(STREAM),
            sets: Vec::new(),
        };
        for erasure in erasures.pending() {
            let offsets = erasures.offsets(&erasure).await?;
            erased.sets.push((erasure.number, Arc::new(offsets)));
        }
        log.set_erased(STREAM, erased.clone());
        let runtime = Arc::new(RuntimeEnvBuilder::new().build().unwrap());
        let reader = Reader::new(dataset.clone(), log.clone(), &runtime)?;
        let config = SessionConfig::new().with_target_partitions(3);
        Ok(Server {
            dataset,
            log,
            erasures,
            reader,
            context: SessionContext::new_with_config_rt(config, runtime),
            erased,
        })
    }

    async fn append(&self, partition: u32, ns: impl Iterator<Item = i64> + Clone) {
        let who = ns.clone().map(who);
        let batch = RecordBatch::try_new(
            stream().schema.clone(),
            vec![
                Arc::new(Int64Array::from_iter_values(ns)),
                Arc::new(StringArray::from_iter_values(who)),
            ],
        );
        let write = Write {
            stream: STREAM,
            partition: Some(PartitionId(partition)),
            batch: batch.unwrap(),
            schema: None,
        };
        let append = Append {
            writes: vec![write],
            ..Append::default()
        };
        self.log.append(append).await.unwrap();
    }

    async fn seal(&self) -> Result<(), Error> {
        let log = self.log.snapshot();
        self.dataset.seal(STREAM, &log).await.map(|_| ())
    }

    /// Puts down that the records at these places are erased.
    async fn erase(&mut self, offsets: OffsetSet) -> Result<(), Error> {
        let number = self.erasures.begin(7, begun(&offsets), &offsets).await?;
        self.erased.number = number;
        self.erased.sets.push((number, Arc::new(offsets)));
        self.log.set_erased(STREAM, self.erased.clone());
        Ok(())
    }

    /// Carries out what is put down.
    async fn carry_out(&mut self) -> Result<(), Error> {
        self.seal().await?;
        while self.dataset.rewrite_next(STREAM, &self.erased).await? {}
        assert_eq!(self.dataset.remove_replaced(STREAM).await?, 0);
        for (number, _) in std::mem::take(&mut self.erased.sets) {
            let finished = Finished { files_rewritten: 1 };
            self.erasures.finish(8, number, finished).await?;
        }
        self.log.set_erased(STREAM, self.erased.clone());
        Ok(())
    }

    /// Whoever began before reads on from the former files.
    async fn compact(&self, files: Option<usize>) -> Result<(), Error> {
        let before = self.reader.pin();
        let compacted = self
            .dataset
            .compact_next(STREAM, files, &[], &self.erased)
            .await?;
        let left = self.dataset.remove_replaced(STREAM).await?;
        assert!(
            left >= compacted,
            "{left} of {compacted} files are still read"
        );
        let table = before.table(&stream());
        drop(before);
        let frame = self.context.read_table(Arc::new(table)).unwrap();
        let found = places(&frame.collect().await.unwrap());
        assert_eq!(found, self.read().await);
        self.dataset.remove_replaced(STREAM).await?;
        Ok(())
    }

    /// Everything, as a statement reads it: `n` by place.
    async fn read(&self) -> BTreeMap<(u32, u64), i64> {
        let table = self.reader.pin().table(&stream());
        let records = table.records();
        let frame = self.context.read_table(Arc::new(table)).unwrap();
        let batches = frame.collect().await.unwrap();
        let found = places(&batches);
        assert_eq!(
            found.len() as u64,
            records,
            "the count is that of the records"
        );
        found
    }
}

fn places(batches: &[RecordBatch]) -> BTreeMap<(u32, u64), i64> {
    let mut found = BTreeMap::new();
    for batch in batches {
        let partitions = batch.column_by_name("_partition").unwrap();
        let partitions = partitions.as_primitive::<arrow::datatypes::Int32Type>();
        let offsets = batch
            .column_by_name("_offset")
            .unwrap()
            .as_primitive::<Int64Type>();
        let ns = batch
            .column_by_name("n")
            .unwrap()
            .as_primitive::<Int64Type>();
        let whos = batch.column_by_name("who").unwrap().as_string::<i32>();
        for row in 0..batch.num_rows() {
            let place = (partitions.value(row) as u32, offsets.value(row) as u64);
            assert_eq!(whos.value(row), who(ns.value(row)));
            assert_eq!(found.insert(place, ns.value(row)), None, "{place:?} twice");
        }
    }
    found
}

fn who(n: i64) -> String {
    format!("person-{n:06}")
}

fn begun(offsets: &OffsetSet) -> Begun {
    Begun {
        by: "tester".to_owned(),
        stream: STREAM,
        name: stream().name.clone(),
        predicate: Predicate::new("who = 'x'", "who = ?".to_owned(), "salt".to_owned()),
        frontier: Frontier::zero(PARTITIONS),
        records: offsets.records(),
        offsets_sha256: String::new(),
        expires: None,
    }
}

fn set(places: impl IntoIterator<Item = (u32, u64)>) -> OffsetSet {
    let mut set = OffsetSet::default();
    for (partition, offset) in places {
        set.add(OffsetRange {
            partition: PartitionId(partition),
            first: Offset(offset),
            end: Offset(offset + 1),
        });
    }
    set
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

/// What any Parquet file below `dir` holds of `who`.
fn people_at_rest(dir: &Path) -> Vec<String> {
    let mut people = Vec::new();
    for path in files_below(dir) {
        if path
            .extension()
            .is_some_and(|extension| extension == "parquet")
        {
            let bytes = std::fs::read(&path).unwrap();
            for batch in lambic_dataset::parquet_file::decode(bytes.into()).unwrap() {
                if let Some(column) = batch.column_by_name("who") {
                    people.extend(
                        column
                            .as_string::<i32>()
                            .iter()
                            .flatten()
                            .map(str::to_owned),
                    );
                }
            }
        }
    }
    people.sort();
    people
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        partition: u32,
        records: u8,
    },
    Seal,
    /// Of the records that are there, those whose number leaves this rest.
    Erase {
        divisor: i64,
        rest: i64,
    },
    CarryOut,
    /// Of small files; with somebody who holds those before.
    Compact {
        files: Option<usize>,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..PARTITIONS, 1..12u8).prop_map(|(partition, records)| Step::Append { partition, records }),
        2 => Just(Step::Seal),
        3 => (1..5i64, 0..5i64).prop_map(|(divisor, rest)| Step::Erase { divisor, rest: rest % divisor }),
        2 => Just(Step::CarryOut),
        3 => prop::option::of(2..4usize).prop_map(|files| Step::Compact { files }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Reads find exactly what was appended and not erased, at every moment, whatever write the server dies in.
    #[test]
    fn what_is_erased_stays_away(
        steps in steps(),
        writes in prop::collection::vec((0..30i64, any::<bool>()), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut deaths = writes.into_iter();
            let current: RefCell<Option<Arc<Mortal>>> = RefCell::default();
            let mut store = || -> Arc<dyn ObjectStore> {
                let (writes_left, last_happens) = deaths.next().unwrap_or((i64::MAX / 2, true));
                let inner = LocalStore::open(dir.path()).unwrap();
                let mortal = Arc::new(Mortal::new(inner, writes_left, last_happens));
                *current.borrow_mut() = Some(Arc::clone(&mortal));
                mortal
            };
            // What is done as far as anyone waits for it may die in a write that nobody waits for.
            let is_dead = || current.borrow().as_ref().is_some_and(|store| store.is_dead());
            let mut server = reopened(dir.path(), None, &mut store).await;
            let mut kept: BTreeMap<(u32, u64), i64> = BTreeMap::new();
            let mut ends = [0u64; PARTITIONS as usize];
            let mut next = 0;
            for step in steps {
                let mut maybe = None;
                let done = match step {
                    Step::Append { partition, records } => {
                        let ns = next..next + i64::from(records);
                        next = ns.end;
                        server.append(partition, ns.clone()).await;
                        let end = &mut ends[partition as usize];
                        for n in ns {
                            kept.insert((partition, *end), n);
                            *end += 1;
                        }
                        Ok(())
                    }
                    Step::Seal => server.seal().await,
                    Step::Erase { divisor, rest } => {
                        let mut left = kept.clone();
                        left.retain(|_, n| *n % divisor != rest);
                        let places = kept.keys().filter(|place| !left.contains_key(place));
                        let offsets = set(places.copied());
                        let erased = server.erase(offsets).await;
                        match erased {
                            Ok(()) => kept = left,
                            Err(_) => maybe = Some(left),
                        }
                        erased
                    }
                    Step::CarryOut => server.carry_out().await,
                    Step::Compact { files } => server.compact(files).await,
                    Step::Restart => Err(Error::UnknownStream { stream: STREAM }),
                };
                if done.is_err() || is_dead() {
                    server = reopened(dir.path(), Some(server), &mut store).await;
                }
                let found = server.read().await;
                // Killed while it was put down: it happened or it did not.
                if let Some(left) = maybe && found == left {
                    kept = left;
                }
                assert_eq!(found, kept);
            }
            while server.carry_out().await.is_err() || is_dead() {
                server = reopened(dir.path(), Some(server), &mut store).await;
            }
            assert_eq!(server.read().await, kept);
            assert_eq!(server.erasures.pending().len(), 0);
            assert_eq!(server.erasures.broken(), Vec::<String>::new());
            // Every record that is left is sealed by now, and nothing else is at rest.
            let mut people: Vec<String> = kept.values().map(|n| who(*n)).collect();
            people.sort();
            assert_eq!(people_at_rest(dir.path()), people);
        });
    }
}

/// A server over the same folder after a kill; one that dies while it opens is opened again.
async fn reopened(
    dir: &Path,
    former: Option<Server>,
    store: &mut impl FnMut() -> Arc<dyn ObjectStore>,
) -> Server {
    if let Some(Server {
        log,
        reader,
        context,
        ..
    }) = former
    {
        drop((reader, context));
        log.close().await;
    }
    loop {
        if let Ok(server) = Server::open(dir, store()).await {
            return server;
        }
    }
}

async fn opened(dir: &Path) -> Server {
    let store = Arc::new(LocalStore::open(dir).unwrap());
    Server::open(dir, store).await.unwrap()
}

/// A stream of 20 records of which three were erased and are not in its files any more.
async fn rewritten(server: &mut Server) {
    server.erase(set([(0, 3), (0, 4), (0, 15)])).await.unwrap();
    assert_eq!(server.read().await.len(), 17);
    let (dataset, erased) = (&server.dataset, &server.erased);
    while dataset.rewrite_next(STREAM, erased).await.unwrap() {}
}

#[tokio::test]
async fn what_was_pinned_before_keeps_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(0, 0..20).await;
    server.seal().await.unwrap();
    let before = server.reader.pin();
    rewritten(&mut server).await;
    assert_eq!(server.dataset.remove_replaced(STREAM).await.unwrap(), 2);
    assert_eq!(before.table(&stream()).records(), 20);
    let table = before.table(&stream());
    drop(before);
    assert_eq!(server.dataset.remove_replaced(STREAM).await.unwrap(), 2);
    drop(table);
    assert_eq!(server.dataset.remove_replaced(STREAM).await.unwrap(), 0);
    assert_eq!(people_at_rest(dir.path()).len(), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plan_that_was_made_before_reads_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(0, 0..20).await;
    server.seal().await.unwrap();
    let table = server.reader.pin().table(&stream());
    let frame = server.context.read_table(Arc::new(table)).unwrap();
    let plan = frame.create_physical_plan().await.unwrap();
    drop(frame);
    rewritten(&mut server).await;
    assert_eq!(server.dataset.remove_replaced(STREAM).await.unwrap(), 2);
    let rows = datafusion::physical_plan::collect(plan, server.context.task_ctx()).await;
    assert_eq!(places(&rows.unwrap()).len(), 20);
    // The tasks of the plan end by themselves, soon after its last row.
    let until = Instant::now() + Duration::from_secs(60);
    while server.dataset.remove_replaced(STREAM).await.unwrap() > 0 {
        assert!(Instant::now() < until, "the files are still held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(people_at_rest(dir.path()).len(), 17);
}

/// The first partition's offsets up to `heads`.
async fn offsets_at(server: &Server, heads: &Frontiers) -> Vec<u64> {
    let table = server.reader.pin().at(heads.clone()).table(&stream());
    let frame = server.context.read_table(Arc::new(table)).unwrap();
    let found = places(&frame.collect().await.unwrap());
    found.into_keys().map(|(_, offset)| offset).collect()
}

#[tokio::test]
async fn the_past_is_read_without_what_was_erased_since() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(0, 0..20).await;
    server.seal().await.unwrap();
    // In the middle of the second file.
    let mut heads = Frontiers::default();
    heads.set(STREAM, Frontier(vec![Offset(10), Offset(0)]));
    let erased = set([(0, 3), (0, 8), (0, 12)]);
    server.erase(erased).await.unwrap();
    let left = [0, 1, 2, 4, 5, 6, 7, 9];
    assert_eq!(offsets_at(&server, &heads).await, left);
    let (dataset, erased) = (&server.dataset, &server.erased);
    while dataset.rewrite_next(STREAM, erased).await.unwrap() {}
    assert_eq!(offsets_at(&server, &heads).await, left);
}

#[tokio::test]
async fn a_time_is_found_beside_files_without_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(0, 0..20).await;
    server.seal().await.unwrap();
    // All of the first file.
    let erased = set((0..7).map(|offset| (0, offset)));
    server.erase(erased).await.unwrap();
    server.carry_out().await.unwrap();
    server.log.rotate().await.unwrap();
    let heads = server.log.snapshot().heads();
    assert_eq!(server.log.trim(&heads).unwrap(), 1);
    let first = server.reader.pin().head_at(STREAM, 0).await.unwrap();
    assert_eq!(first, Frontier(vec![Offset(7), Offset(0)]));
}

#[tokio::test]
async fn files_of_a_killed_rewrite_go_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(1, 0..7).await;
    server.seal().await.unwrap();
    let folder = dir.path().join("dataset/107-visits/p1");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let (whole, without) = (
        "00000000000000000000-00000000000000000007.parquet",
        "00000000000000000000-00000000000000000007.e1.parquet",
    );
    // Written, and killed before the manifest.
    std::fs::write(folder.join(without), "half").unwrap();
    server.erase(set([(1, 2)])).await.unwrap();
    let mut server = reopened(dir.path(), Some(server), &mut || {
        Arc::new(LocalStore::open(dir.path()).unwrap())
    })
    .await;
    assert_eq!(names(), [whole]);
    assert_eq!(server.read().await.len(), 6);

    // In the manifest, and killed before the former file was deleted.
    assert!(
        server
            .dataset
            .rewrite_next(STREAM, &server.erased)
            .await
            .unwrap()
    );
    assert_eq!(names(), [without, whole]);
    let manifest = server.dataset.manifest(STREAM);
    assert_eq!((manifest.records(), manifest.files[0].records()), (6, 6));
    server = reopened(dir.path(), Some(server), &mut || {
        Arc::new(LocalStore::open(dir.path()).unwrap())
    })
    .await;
    assert_eq!(names(), [without]);
    assert_eq!(server.read().await.len(), 6);
    assert!(server.dataset.verify_stream(STREAM).await.is_empty());
}

#[tokio::test]
async fn every_change_of_the_erasure_log_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = || Arc::new(LocalStore::open(dir.path()).unwrap());
    let log = ErasureLog::open(store()).await.unwrap();
    for n in 0..3 {
        let offsets = set([(0, n)]);
        let number = log
            .begin(n as i64, begun(&offsets), &offsets)
            .await
            .unwrap();
        let finished = Finished { files_rewritten: n };
        log.finish(n as i64, number, finished).await.unwrap();
    }
    let (entries, hash) = log.newest();
    assert_eq!((entries, hash.len()), (6, 64));
    let path = |number: u64| {
        dir.path()
            .join(format!("erasures/manifest-{number:020}.json"))
    };
    let broken = || async { ErasureLog::open(store()).await.map(|log| log.broken()) };
    assert!(broken().await.unwrap().is_empty());

    let flipped = std::fs::read(path(3)).unwrap();
    let mut bytes = flipped.clone();
    bytes[200] ^= 1;
    std::fs::write(path(3), bytes).unwrap();
    assert!(matches!(broken().await, Err(Error::ManifestDamaged { .. })));
    std::fs::write(path(3), &flipped).unwrap();

    // With a checksum of its own, as somebody who knows the format would write it.
    let entries =
        lambic_dataset::ManifestStore::<serde_json::Value>::new(store(), "erasures", usize::MAX);
    let mut forged = entries.get(3).await.unwrap();
    forged["content"]["event"]["begun"]["by"] = "nobody".into();
    std::fs::remove_file(path(3)).unwrap();
    assert_eq!(broken().await.unwrap().len(), 1, "one is missing");
    let (five, six) = (entries.get(5).await.unwrap(), entries.get(6).await.unwrap());
    let four = entries.get(4).await.unwrap();
    for number in [4, 5, 6] {
        std::fs::remove_file(path(number)).unwrap();
    }
    for (number, entry) in [(3, &forged), (4, &four), (5, &five), (6, &six)] {
        entries.commit(number, entry).await.unwrap();
    }
    let said = broken().await.unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("00000000000000000003.json"), "{said:?}");
}

#[tokio::test]
async fn offsets_that_are_not_those_put_down_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    server.append(0, 0..9).await;
    server.erase(set([(0, 3)])).await.unwrap();
    server.erase(set([(0, 5), (0, 6)])).await.unwrap();
    let path = |number: u64| {
        dir.path()
            .join(format!("erasures/offsets-{number:020}.parquet"))
    };
    std::fs::copy(path(2), path(1)).unwrap();
    let store = Arc::new(LocalStore::open(dir.path()).unwrap());
    let log = ErasureLog::open(store).await.unwrap();
    let pending = log.pending();
    let refused = log.offsets(&pending[0]).await;
    assert!(
        matches!(refused, Err(Error::ErasureDamaged { .. })),
        "{refused:?}"
    );
    assert_eq!(log.offsets(&pending[1]).await.unwrap().records(), 2);
}

#[tokio::test]
async fn whole_files_expire_the_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = opened(dir.path()).await;
    let (dataset, everything) = (server.dataset.clone(), Frontier(vec![Offset(99); 2]));
    // Files of 7 records at most: 4 in one partition, 1 in the other, sealed in this order.
    server.append(0, 0..10).await;
    server.seal().await.unwrap();
    server.append(1, 10..15).await;
    server.append(0, 15..25).await;
    server.seal().await.unwrap();
    let bytes = dataset.manifest(STREAM).bytes();
    let all = Keep {
        since_us: Some(i64::MAX),
        bytes: None,
    };
    let check = |keep: Keep, upto: Frontier, start: [u64; 2], records: u64, files: u64| {
        let dataset = dataset.clone();
        async move {
            let found = dataset.expiring(STREAM, keep, &upto).await.unwrap();
            assert_eq!(found.start.offset(PartitionId(0)), Offset(start[0]));
            assert_eq!(found.start.offset(PartitionId(1)), Offset(start[1]));
            assert_eq!((found.records, found.files), (records, files));
        }
    };
    check(all, everything.clone(), [20, 5], 25, 5).await;
    check(Keep::default(), everything.clone(), [0, 0], 0, 0).await;
    let none_is_so_old = Keep {
        since_us: Some(0),
        bytes: Some(bytes),
    };
    check(none_is_so_old, everything.clone(), [0, 0], 0, 0).await;
    let one_byte_less = Keep {
        since_us: None,
        bytes: Some(bytes - 1),
    };
    check(one_byte_less, everything.clone(), [7, 0], 7, 1).await;
    // What a trigger has yet to read stays, and what is behind it.
    let unread = Frontier(vec![Offset(9), Offset(5)]);
    check(all, unread, [7, 5], 12, 2).await;

    // What went is not counted again, and files that it left empty are passed.
    let mut first = OffsetSet::default();
    first.add(OffsetRange {
        partition: PartitionId(0),
        first: Offset(0),
        end: Offset(7),
    });
    let mut begun = begun(&first);
    begun.expires = Some(12);
    begun.frontier = Frontier(vec![Offset(7), Offset(0)]);
    let number = server.erasures.begin(7, begun, &first).await.unwrap();
    server.erased.number = number;
    server.erased.sets.push((number, Arc::new(first)));
    server.log.set_erased(STREAM, server.erased.clone());
    server.carry_out().await.unwrap();
    check(all, everything.clone(), [20, 5], 18, 4).await;
    let start = server.erasures.start_of(STREAM);
    assert_eq!(start, Frontier(vec![Offset(7), Offset(0)]));
    assert_eq!(server.erasures.expired_until(STREAM), Some(12));
    assert_eq!(
        ErasureLog::open(dataset.store())
            .await
            .unwrap()
            .start_of(STREAM),
        start
    );
    assert_eq!(server.read().await.len(), 18);
}
