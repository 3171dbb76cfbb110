//! A batch has the same states whatever memory it may use, in how many slices it is computed, and where it was cut off.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
    row::{RowConverter, SortField},
};
use datafusion::execution::{SessionState, runtime_env::RuntimeEnv};
use lambic_batch::{Batch, BatchInfo, BatchState, Error, Kept, Limits, MadeBy};
use lambic_dataset::{Dataset, LocalStore, Options, Reader};
use lambic_log::Log;
use lambic_model::{
    Append, Erased, Offset, OffsetRange, OffsetSet, PartitionId, Stream, StreamId, StreamName,
    Write,
};
use lambic_view::{Definition, Run, ViewPlan, session};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const STREAMS: [(StreamId, &str); 2] = [(StreamId(7), "a"), (StreamId(8), "b")];

const JOIN: &str = "SELECT a.s, count(*) AS n, sum(b.x) AS x, max(a.y) AS y FROM a JOIN b ON a.k = b.k GROUP BY a.s";

/// Of every class of view that batches are computed for.
const VIEWS: [&str; 10] = [
    "SELECT k, count(*) AS n, sum(x) AS x, avg(y) AS y FROM a GROUP BY k",
    "SELECT s, k, min(y) AS low, max(s) AS high, stddev(y) AS spread FROM a GROUP BY s, k",
    "SELECT k % 7 AS week, count(DISTINCT s) AS texts, array_agg(x ORDER BY x) AS all_x FROM a GROUP BY k % 7",
    "SELECT count(*) AS n, sum(y) AS y, max(s) AS s FROM a",
    "SELECT DISTINCT s FROM a",
    "SELECT k, x, s FROM a WHERE x % 3 = 0",
    "SELECT s, count(*) AS n, sum(y) AS y FROM (SELECT s, y FROM a UNION ALL SELECT s, y FROM b) AS both GROUP BY s",
    JOIN,
    "SELECT DISTINCT b.s FROM a JOIN b ON a.k = b.k AND a.x < b.x",
    "SELECT k, approx_distinct(s) AS texts, last_value(x ORDER BY x) AS newest FROM a GROUP BY k",
];

fn stream((id, name): (StreamId, &str)) -> Arc<Stream> {
    Arc::new(Stream {
        id,
        name: StreamName::new(name).unwrap(),
        schema: Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("x", DataType::Int64, false),
            Field::new("y", DataType::Float64, true),
            Field::new("s", DataType::Utf8, true),
        ])),
        partitions: 2,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

struct Machine {
    log: Log,
    dataset: Dataset,
    state: SessionState,
    streams: Vec<Arc<Stream>>,
    chance: StdRng,
    _scratch: tempfile::TempDir,
}

impl Machine {
    async fn new(seed: u64) -> Machine {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(scratch.path()).unwrap());
        let options = Options {
            file_rows_max: 700,
            ..Options::default()
        };
        let dataset = Dataset::open(store, options).await.unwrap();
        let streams = STREAMS.map(stream).to_vec();
        for stream in &streams {
            dataset.add_stream(Arc::clone(stream)).await.unwrap();
        }
        let options = lambic_log::Options::new(scratch.path().join("log"));
        Machine {
            log: Log::open(options, &streams).unwrap(),
            dataset,
            state: session::state(session::config(2), Arc::new(RuntimeEnv::default())),
            streams,
            chance: StdRng::seed_from_u64(seed),
            _scratch: scratch,
        }
    }

    async fn append(&mut self, records: usize, keys: i64) {
        for stream in self.streams.clone() {
            for partition in 0..stream.partitions {
                let chance = &mut self.chance;
                let count = chance.random_range(0..=records);
                let each = 0..count;
                let k = each
                    .clone()
                    .map(|_| Some(chance.random_range(0..keys)).filter(|k| k % 11 != 5));
                let k: Int64Array = k.collect();
                let x = Int64Array::from_iter_values(
                    each.clone().map(|_| chance.random_range(-1000..1000)),
                );
                let y: Float64Array = each
                    .clone()
                    .map(|_| Some(chance.random::<f64>() * 1e6 - 3e5).filter(|y| *y > -2e5))
                    .collect();
                let s: StringArray = each
                    .map(|n| {
                        (n % 13 != 0).then(|| format!("text {}", chance.random_range(0..keys)))
                    })
                    .collect();
                let columns: Vec<arrow::array::ArrayRef> =
                    vec![Arc::new(k), Arc::new(x), Arc::new(y), Arc::new(s)];
                let batch = RecordBatch::try_new(Arc::clone(&stream.schema), columns).unwrap();
                let write = Write {
                    stream: stream.id,
                    partition: Some(PartitionId(partition)),
                    batch,
                    schema: None,
                };
                let append = Append {
                    writes: vec![write],
                    ..Append::default()
                };
                if count > 0 {
                    self.log.append(append).await.unwrap();
                }
            }
            let sealed = self.dataset.seal(stream.id, &self.log.snapshot()).await;
            sealed.unwrap();
        }
    }

    fn batch(&self, limits: Limits) -> Batch {
        let runtime = self.state.runtime_env();
        let reader = Reader::new(self.dataset.clone(), self.log.clone(), runtime).unwrap();
        Batch::new(reader, self.state.clone(), limits).unwrap()
    }

    async fn plan(&self, sql: &str) -> ViewPlan {
        ViewPlan::new(sql, &self.state, &self.streams)
            .await
            .unwrap()
    }

    async fn files_of(&self, definition: &Definition) -> Vec<String> {
        use futures::TryStreamExt;
        let store = self.dataset.store();
        let prefix = object_store::path::Path::from(definition.directory());
        let listed = store
            .list(Some(&prefix))
            .map_ok(|object| object.location.to_string());
        let mut files: Vec<String> = listed.try_collect().await.unwrap();
        files.sort();
        files
    }
}

fn definition(name: &str, sql: &str) -> Definition {
    serde_json::from_value(serde_json::json!({
        "name": name, "version": 1, "sql": sql,
        "batch_every": {"secs": 3600, "nanos": 0}, "functions": {},
    }))
    .unwrap()
}

/// What readers see of the states, in an order of its own.
async fn rows(machine: &Machine, plan: &ViewPlan, run: &Run) -> Vec<Vec<u8>> {
    let rows = plan
        .finish(vec![run.states.clone()], machine.state.task_ctx())
        .await;
    let fields = plan.schema.fields().iter();
    let fields = fields.map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).unwrap();
    let mut all = Vec::new();
    for batch in rows.unwrap() {
        let rows = converter.convert_columns(batch.columns()).unwrap();
        all.extend(rows.iter().map(|row| row.as_ref().to_vec()));
    }
    all.sort_unstable();
    all
}

fn last(batch: &Batch) -> BatchInfo {
    batch.progress().infos().pop().unwrap()
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    view: usize,
    records: usize,
    keys: i64,
    memory_bytes: u64,
    slice_records: u64,
    /// After how many polls the first attempt is given up.
    cut_off_after: Option<usize>,
}

fn cases() -> impl Strategy<Value = Case> {
    let memory = prop_oneof![
        Just(1u64),
        1..20_000u64,
        20_000..2_000_000u64,
        Just(4 << 30)
    ];
    let slices = prop_oneof![Just(10_000_000u64), 100..3_000u64];
    let shape = (any::<u64>(), 0..VIEWS.len(), 0..1_500usize, 1..5_000i64);
    let cut = proptest::option::of(1..60usize);
    (shape, memory, slices, cut).prop_map(
        |((seed, view, records, keys), memory_bytes, slice_records, cut_off_after)| Case {
            seed,
            view,
            records,
            keys,
            memory_bytes,
            slice_records,
            cut_off_after,
        },
    )
}

/// The states of one key, or one side of a join, which the memory must hold.
fn cannot_be_divided(plan: &ViewPlan, error: &Error) -> bool {
    match error {
        Error::OneKey { .. } => true,
        Error::Memory { .. } => plan.join().is_some(),
        _ => false,
    }
}

/// Polls so often and no more.
async fn cut_off<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        use std::task::Poll;
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn check(case: Case) {
    let mut machine = Machine::new(case.seed).await;
    let sql = VIEWS[case.view];
    let plan = machine.plan(sql).await;
    let free = machine.batch(Limits::default());
    let bounded = machine.batch(Limits {
        memory_bytes: case.memory_bytes,
        slice_records: case.slice_records,
        ..Limits::default()
    });
    // Pairs are many more than records.
    let records = case.records / if plan.join().is_some() { 5 } else { 1 };
    let (mine, theirs) = (definition("mine", sql), definition("theirs", sql));
    let (mut base, mut free_base) = (None, None);
    // From the first record on, and then what is new.
    for _ in 0..2 {
        machine.append(records, case.keys).await;
        if let Some(polls) = case.cut_off_after {
            // What it was still doing is over when its threads are.
            in_own_threads(async || {
                let cut = cut_off(bounded.publish(&mine, &plan, base.as_ref()), polls).await;
                if let Some(Err(error)) = cut {
                    assert!(cannot_be_divided(&plan, &error), "{case:?}: {error}");
                }
            });
        }
        let expected = free
            .publish(&theirs, &plan, free_base.as_ref())
            .await
            .unwrap();
        let published = match bounded.publish(&mine, &plan, base.as_ref()).await {
            Ok(published) => published,
            // What of one key, or of one side of a join, is too much is said, and nothing of it stays.
            Err(error) if case.memory_bytes < 2_000_000 && cannot_be_divided(&plan, &error) => {
                let files = machine.files_of(&mine).await;
                assert!(
                    !files.iter().any(|file| file.contains("/slices/")),
                    "{files:?}"
                );
                return;
            }
            Err(error) => panic!("{case:?}: {error}"),
        };
        // The attempt that was cut off may have come to its end.
        let published = match published {
            Some(published) => Some(published),
            None => bounded.load(Kept::Batch, &mine, &plan).await.unwrap(),
        };
        let files = machine.files_of(&mine).await;
        assert!(
            !files.iter().any(|file| file.contains("/slices/")),
            "{files:?}"
        );
        let Some((expected, _)) = expected else {
            continue;
        };
        let (run, _) = published.unwrap();
        let wanted = rows(&machine, &plan, &expected).await;
        assert_eq!(run.rows(), expected.rows(), "{case:?}");
        assert!(rows(&machine, &plan, &run).await == wanted, "{case:?}");
        assert_eq!(
            (&run.from, &run.to, &run.erasures),
            (&expected.from, &expected.to, &expected.erasures)
        );
        // What is on disk is the same.
        let (kept, _) = bounded
            .load(Kept::Batch, &mine, &plan)
            .await
            .unwrap()
            .unwrap();
        assert!(rows(&machine, &plan, &kept).await == wanted, "{case:?}");
        base = Some(Arc::new(run));
        free_base = Some(Arc::new(expected));
    }
}

fn in_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn in_own_threads(test: impl AsyncFnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| in_runtime(test()));
        run.join().expect("it does not panic");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn the_budget_changes_nothing(case in cases()) {
        in_runtime(check(case));
    }
}

const WIDE: &str = VIEWS[0];

/// A machine with some 20,000 records of as many keys.
async fn many_keys() -> (Machine, ViewPlan, Definition) {
    let mut machine = Machine::new(3).await;
    for _ in 0..6 {
        machine.append(4_000, 1 << 40).await;
    }
    let plan = machine.plan(WIDE).await;
    (machine, plan, definition("wide", WIDE))
}

#[test]
fn a_view_larger_than_its_memory_goes_by_way_of_the_disk() {
    in_runtime(async {
        let (machine, plan, definition) = many_keys().await;
        // Tables of keys have some MB in any case; states that wait have these.
        let batch = machine.batch(Limits {
            memory_bytes: 300_000,
            slice_records: 2_000,
            ..Limits::default()
        });
        let (run, number) = batch
            .publish(&definition, &plan, None)
            .await
            .unwrap()
            .unwrap();
        let info = last(&batch);
        assert!(info.bytes_spilled > 1_000_000, "{info:?}");
        assert_eq!(info.records, info.records_total);
        assert_eq!((info.slices, info.slices_resumed), (info.slices_total, 0));
        assert!(info.slices > 5 && info.full, "{info:?}");
        assert_eq!(info.state, BatchState::Finished);
        assert!(run.bytes() > 1_000_000 && number == 1);
        // Of what it spilled nothing is left.
        assert_eq!(machine.files_of(&definition).await.len(), 2);
    });
}

#[test]
fn a_view_may_have_a_memory_of_its_own() {
    in_runtime(async {
        let (machine, plan, definition) = many_keys().await;
        let definition = Definition {
            batch_memory: Some(200_000),
            ..definition
        };
        let batch = machine.batch(Limits {
            slice_records: 2_000,
            ..Limits::default()
        });
        batch
            .publish(&definition, &plan, None)
            .await
            .unwrap()
            .unwrap();
        let alone = last(&batch).bytes_spilled;
        // Slices are written in any case, but not merged by way of the disk.
        let free = Definition {
            batch_memory: None,
            ..definition
        };
        batch.publish(&free, &plan, None).await.unwrap().unwrap();
        assert!(alone > last(&batch).bytes_spilled, "{alone}");
    });
}

#[test]
fn who_is_over_a_bound_is_told_and_nothing_is_left() {
    in_runtime(async {
        let (machine, plan, definition) = many_keys().await;
        let free = machine.batch(Limits::default());
        free.publish(&definition, &plan, None)
            .await
            .unwrap()
            .unwrap();
        let before = machine.files_of(&definition).await;
        let small = Limits {
            memory_bytes: 300_000,
            slice_records: 2_000,
            ..Limits::default()
        };
        let bounds = [
            Limits {
                disk_bytes: 500_000,
                ..small
            },
            Limits {
                view_bytes: 500_000,
                ..small
            },
            Limits {
                view_bytes: 500_000,
                ..Limits::default()
            },
        ];
        for limits in bounds {
            let batch = machine.batch(limits);
            let error = batch.publish(&definition, &plan, None).await.unwrap_err();
            assert!(error.is_over_budget(), "{error}");
            assert!(error.to_string().contains("488.3 KiB"), "{error}");
            assert_eq!(last(&batch).state, BatchState::Failed(error.to_string()));
            // The former batch view is as it was.
            assert_eq!(machine.files_of(&definition).await, before);
        }
        // All records in the array of one key.
        let sql = "SELECT array_agg(x ORDER BY x) AS x FROM a";
        let (plan, one) = (machine.plan(sql).await, self::definition("one", sql));
        let batch = machine.batch(Limits {
            memory_bytes: 50_000,
            ..small
        });
        let error = batch.publish(&one, &plan, None).await.unwrap_err();
        assert!(matches!(error, Error::OneKey { .. }), "{error}");
        assert!(machine.files_of(&one).await.is_empty());
    });
}

/// Gives a batch up when it has finished some slices.
async fn left_unfinished(machine: &Machine, plan: &ViewPlan, definition: &Definition) -> u64 {
    let batch = machine.batch(Limits {
        slice_records: 2_000,
        ..Limits::default()
    });
    let slices = || {
        batch
            .progress()
            .infos()
            .last()
            .map_or(0, |info| info.slices)
    };
    in_own_threads(async || {
        let mut publishing = Box::pin(batch.publish(definition, plan, None));
        let cut = std::future::poll_fn(|context| {
            use std::task::Poll;
            match publishing.as_mut().poll(context) {
                Poll::Ready(_) => panic!("it came to its end before it was cut off"),
                Poll::Pending if slices() >= 3 => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        });
        cut.await;
    });
    assert_eq!(last(&batch).state, BatchState::Cancelled);
    last(&batch).slices
}

#[test]
fn finished_slices_are_not_computed_again() {
    in_runtime(async {
        let (mut machine, plan, definition) = many_keys().await;
        let finished = left_unfinished(&machine, &plan, &definition).await;
        // More records make no difference, nor does another memory.
        machine.append(500, 100).await;
        let batch = machine.batch(Limits {
            memory_bytes: 1_000_000,
            slice_records: 3_000,
            ..Limits::default()
        });
        batch.tidy().await.unwrap();
        let from = batch.unfinished(&definition, &plan).await.unwrap();
        assert!(from.is_some_and(|from| from.0.is_empty()));
        let (run, _) = batch
            .publish(&definition, &plan, None)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(last(&batch).slices_resumed, finished);
        assert!(last(&batch).slices_total > finished);
        let theirs = self::definition("theirs", WIDE);
        let free = machine.batch(Limits::default());
        let (expected, _) = free.publish(&theirs, &plan, None).await.unwrap().unwrap();
        assert_eq!(run.states, expected.states);
        assert_eq!(run.to, expected.to);
        assert!(
            batch
                .unfinished(&definition, &plan)
                .await
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn slices_that_do_not_fit_any_more_are_dropped() {
    in_runtime(async {
        let (machine, plan, definition) = many_keys().await;
        let all = machine.batch(Limits {
            slice_records: 3_000,
            ..Limits::default()
        });
        let resumed = async |definition: &Definition, plan: &ViewPlan| {
            let (run, _) = all.publish(definition, plan, None).await.unwrap().unwrap();
            (last(&all).slices_resumed, run)
        };
        // Another plan, in the folder of the same view.
        left_unfinished(&machine, &plan, &definition).await;
        let other = VIEWS[1];
        let other_plan = machine.plan(other).await;
        let other = self::definition("wide", other);
        assert!(all.unfinished(&other, &other_plan).await.unwrap().is_none());
        assert_eq!(resumed(&other, &other_plan).await.0, 0);
        // Another begin: it is a batch of what is new.
        all.forget(&definition).await.unwrap();
        left_unfinished(&machine, &plan, &definition).await;
        all.forget_published(&definition).await.unwrap();
        assert!(all.unfinished(&definition, &plan).await.unwrap().is_some());
        // A damaged file.
        let files = machine.files_of(&definition).await;
        let states = files.iter().find(|file| file.ends_with(".states")).unwrap();
        let path = object_store::path::Path::from(states.as_str());
        let store = machine.dataset.store();
        use object_store::ObjectStoreExt;
        let mut bytes = store
            .get(&path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        store.put(&path, bytes.into()).await.unwrap();
        let (slices, run) = resumed(&definition, &plan).await;
        assert_eq!(slices, 0);
        // Records were erased between.
        left_unfinished(&machine, &plan, &definition).await;
        let mut gone = OffsetSet::default();
        let range = OffsetRange {
            partition: PartitionId(0),
            first: Offset(0),
            end: Offset(10),
        };
        gone.add(range);
        let sets = vec![(1, Arc::new(gone))];
        machine
            .log
            .set_erased(StreamId(7), Erased { number: 1, sets });
        assert!(all.unfinished(&definition, &plan).await.unwrap().is_none());
        let (slices, fewer) = resumed(&definition, &plan).await;
        assert_eq!(slices, 0);
        let counted = |run: &Run| -> i64 {
            let counts = run
                .states
                .column(1)
                .as_primitive::<arrow::datatypes::Int64Type>();
            counts.values().iter().sum()
        };
        assert_eq!(counted(&run) - counted(&fewer), 10);
        assert_eq!(fewer.states.column(0).len(), fewer.rows());
    });
}

#[test]
fn joins_of_files_that_may_lack_pairs_are_computed_again() {
    in_runtime(async {
        let mut machine = Machine::new(3).await;
        machine.append(10, 5).await;
        for (sql, is_kept) in [(JOIN, false), (VIEWS[0], true)] {
            let (definition, plan) = (definition("v", sql), machine.plan(sql).await);
            let made_by = MadeBy::new(&definition, &plan);
            assert!(made_by.fits(&definition, &plan, &Default::default()));
            let mut older = serde_json::to_value(&made_by).unwrap();
            older.as_object_mut().unwrap().remove("is_whole_join");
            let older: MadeBy = serde_json::from_value(older).unwrap();
            let fits = older.fits(&definition, &plan, &Default::default());
            assert_eq!(fits, is_kept, "{sql}");
        }
    });
}

#[test]
fn records_of_all_slices_are_joined() {
    in_runtime(async {
        let joins = VIEWS
            .iter()
            .enumerate()
            .filter(|(_, sql)| sql.contains(" JOIN "));
        for (view, _) in joins {
            check(Case {
                seed: 5,
                view,
                records: 1_000,
                keys: 20,
                memory_bytes: 4 << 30,
                slice_records: 30,
                cut_off_after: None,
            })
            .await;
        }
    });
}
