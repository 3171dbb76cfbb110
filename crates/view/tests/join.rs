//! The merge law for joins: whatever the split of the records of all sides, the merged states give the rows that the
//! `SELECT` gives as plain SQL over all records, by indexes and by scans; and only what matches is read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    compute::filter_record_batch,
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit},
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{MemTable, TableProvider},
    execution::{SessionState, runtime_env::RuntimeEnv},
    physical_plan::collect,
};
use lambic_model::{
    Erasures, Frontier, Frontiers, Offset, PartitionId, Stream, StreamId, StreamName,
};
use lambic_view::{
    Class, Error, History, Planned, Run, Source, ViewPlan, audit,
    join::{IndexMemory, IndexStanding},
    session,
};
use proptest::prelude::*;

/// `a` and `b` share keys of several types, `c` those of `b`.
const VIEWS: [&str; 24] = [
    "SELECT a.k, count(*) AS n, sum(a.v) AS v, sum(b.w) AS w FROM a JOIN b ON a.k = b.k GROUP BY a.k",
    "SELECT k, sum(v * w) AS s, min(f), max(g), avg(f) AS m FROM a JOIN b USING (k) GROUP BY k",
    "SELECT count(*) AS n, sum(a.f) AS f, bool_or(b.g > 0) AS p FROM a, b WHERE a.k = b.k AND a.v < b.w",
    "SELECT DISTINCT a.k, b.w % 2 AS odd FROM a JOIN b ON a.k = b.k AND a.v + b.w > 3",
    // Keys of other types: integer and bigint, doubles with NaN and -0, and expressions.
    "SELECT a.i, count(*) AS n, sum(f) AS f FROM a JOIN b ON a.i = b.w GROUP BY a.i",
    "SELECT a.f, count(*) AS n FROM a JOIN b ON a.f = b.g GROUP BY a.f",
    "SELECT f, count(*) AS n FROM a JOIN b ON b.w % 3 = a.v % 3 AND a.f = b.g GROUP BY f",
    "SELECT upper(a.k) AS u, count(DISTINCT b.w) AS d FROM a JOIN b ON upper(a.k) = upper(b.k) WHERE a.v > 1 AND b.w < 9 GROUP BY 1",
    "SELECT date_trunc('minute', a.t) AS m, count(*) AS n FROM a JOIN b ON date_trunc('minute', a.t) = date_trunc('minute', b.t) GROUP BY 1",
    // A stream with itself, once, twice and filtered otherwise.
    "SELECT x.k, count(*) AS n, sum(x.v - y.v) AS d FROM a AS x JOIN a AS y ON x.k = y.k GROUP BY x.k",
    "SELECT x.k, count(*) AS n FROM a x JOIN a y ON x.k = y.k JOIN a z ON z.v = y.v WHERE z.v > 2 GROUP BY x.k",
    "SELECT count(*) AS n FROM (SELECT * FROM a WHERE v > 4) x JOIN (SELECT k AS l, v + 1 AS u FROM a) y ON x.k = y.l AND x.v = y.u",
    // Three sides: a chain, a star, a triangle, and in another order than they are tied.
    "SELECT c.name, count(*) AS n, sum(a.v) AS v FROM a JOIN b ON a.k = b.k JOIN c ON c.id = b.w GROUP BY c.name",
    "SELECT a.k, max(c.name) AS name, sum(b.w) AS w FROM a, c, b WHERE a.k = b.k AND a.v = c.id GROUP BY a.k",
    "SELECT count(*) AS n FROM a, b, c WHERE a.k = b.k AND b.w = c.id AND a.v = c.id",
    "SELECT t.k, sum(s) AS s FROM (SELECT a.k, a.v + b.w AS s, b.w FROM a JOIN b ON a.k = b.k WHERE a.v <> b.w) AS t JOIN c ON c.id = t.w GROUP BY t.k",
    // Sides with constants and lists, system columns, and rows that become several above the join.
    "SELECT size, count(*) AS n FROM a JOIN b ON a.k = b.k CROSS JOIN (VALUES (1), (10)) AS s (size) WHERE a.v > size GROUP BY size",
    "SELECT label, sum(w) AS w FROM (SELECT k, label FROM a JOIN (VALUES (1, 'one'), (2, 'two')) AS l (id, label) ON l.id = a.v) AS x JOIN b ON b.k = x.k GROUP BY label",
    "SELECT a.k, max(a._offset) AS o, sum(b._offset + b._partition) AS p FROM a JOIN b ON a.k = b.k GROUP BY a.k",
    "SELECT a.k, window_start, count(*) AS n FROM HOP(a, t, INTERVAL '5 seconds', INTERVAL '10 seconds') AS a JOIN b ON a.k = b.k GROUP BY 1, 2",
    "SELECT u, count(*) AS n FROM (SELECT unnest(make_array(v, w)) AS u FROM a JOIN b ON a.k = b.k) AS x GROUP BY u",
    // A condition that makes an outer join an inner one, HAVING, computed columns, FILTER and coalesce.
    "SELECT a.k, count(*) AS n FROM a LEFT JOIN b ON a.k = b.k WHERE b.w > 2 GROUP BY a.k",
    "SELECT a.k, coalesce(sum(b.w), 0) + 1 AS s, count(*) FILTER (WHERE coalesce(a.v, 0) > 3) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.k HAVING count(*) > 1",
    "SELECT a.k, approx_distinct(b.w) AS d, stddev(a.f) AS s, median(b.w) AS m, corr(a.f, b.g) AS c FROM a JOIN b ON a.k = b.k GROUP BY a.k",
];

const STREAMS: [(u32, &str, u32); 3] = [(7, "a", 2), (8, "b", 1), (9, "c", 1)];

fn streams() -> Vec<Arc<Stream>> {
    let timestamp = || DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = |name: &str| match name {
        "a" => vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
            Field::new("i", DataType::Int32, true),
            Field::new("f", DataType::Float64, true),
            Field::new("t", timestamp(), true),
        ],
        "b" => vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("w", DataType::Int64, true),
            Field::new("g", DataType::Float64, true),
            Field::new("t", timestamp(), true),
        ],
        _ => vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
        ],
    };
    let each = STREAMS.iter().map(|&(id, name, partitions)| {
        Arc::new(Stream {
            id: StreamId(id),
            name: StreamName::new(name).expect("a valid name"),
            schema: Arc::new(Schema::new(columns(name))),
            partitions,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        })
    });
    each.collect()
}

/// A record of one of the streams: which, its partition and what makes its values.
type Record = (usize, u32, Option<u8>, Option<i64>, Option<f64>);

fn batch(stream: &Stream, records: &[(i64, Record)]) -> RecordBatch {
    let keys = || -> ArrayRef {
        Arc::new(
            records
                .iter()
                .map(|(_, r)| r.2.map(|k| format!("k{k}")))
                .collect::<StringArray>(),
        )
    };
    let numbers =
        || -> ArrayRef { Arc::new(records.iter().map(|(_, r)| r.3).collect::<Int64Array>()) };
    let doubles =
        || -> ArrayRef { Arc::new(records.iter().map(|(_, r)| r.4).collect::<Float64Array>()) };
    let times = || -> ArrayRef {
        let times = records.iter().map(|(_, r)| r.3.map(|v| v * 13_000_000));
        Arc::new(times.collect::<TimestampMicrosecondArray>())
    };
    let mut columns: Vec<ArrayRef> = match stream.name.as_str() {
        "a" => vec![
            keys(),
            numbers(),
            Arc::new(
                records
                    .iter()
                    .map(|(_, r)| r.3.map(|v| v as i32 % 4))
                    .collect::<Int32Array>(),
            ),
            doubles(),
            times(),
        ],
        "b" => vec![keys(), numbers(), doubles(), times()],
        _ => vec![
            Arc::new(
                records
                    .iter()
                    .map(|(_, r)| Some(r.3.unwrap_or(3)))
                    .collect::<Int64Array>(),
            ),
            keys(),
        ],
    };
    columns.push(Arc::new(
        records
            .iter()
            .map(|(_, r)| r.1 as i32)
            .collect::<Int32Array>(),
    ));
    columns.push(Arc::new(
        records
            .iter()
            .map(|(offset, _)| *offset)
            .collect::<Int64Array>(),
    ));
    let at = TimestampMicrosecondArray::from(vec![0; records.len()]).with_timezone("UTC");
    columns.push(Arc::new(at));
    RecordBatch::try_new(stream.schema_with_system(), columns).expect("columns of the schema")
}

/// All records, in memory; counts those that are read.
struct Memory {
    state: SessionState,
    all: HashMap<StreamId, RecordBatch>,
    erased: HashSet<(StreamId, i32, i64)>,
    erasures: Erasures,
    read: AtomicU64,
}

impl Memory {
    fn new(state: SessionState, records: &[Record]) -> Memory {
        let mut all = HashMap::new();
        for (index, stream) in streams().iter().enumerate() {
            let mut next = BTreeMap::new();
            let own: Vec<(i64, Record)> = (records.iter().filter(|record| record.0 == index))
                .map(|record| {
                    let next = next.entry(record.1).or_insert(-1);
                    *next += 1;
                    (*next, *record)
                })
                .collect();
            all.insert(stream.id, batch(stream, &own));
        }
        Memory {
            state,
            all,
            erased: HashSet::new(),
            erasures: Erasures::default(),
            read: AtomicU64::new(0),
        }
    }

    fn within(&self, stream: StreamId, from: &Frontier, to: &Frontier) -> RecordBatch {
        let all = &self.all[&stream];
        let place = all.num_columns() - 3;
        let partitions = all
            .column(place)
            .as_primitive::<Int32Type>()
            .values()
            .iter();
        let offsets = all
            .column(place + 1)
            .as_primitive::<Int64Type>()
            .values()
            .iter();
        let chosen = partitions.zip(offsets).map(|(&partition, &offset)| {
            let at = PartitionId(partition as u32);
            let within = (from.offset(at).0..to.offset(at).0).contains(&(offset as u64));
            Some(within && !self.erased.contains(&(stream, partition, offset)))
        });
        filter_record_batch(all, &chosen.collect::<BooleanArray>()).expect("as many")
    }

    fn heads(&self) -> Frontiers {
        let mut heads = Frontiers::default();
        for (id, _, partitions) in STREAMS {
            let all = &self.all[&StreamId(id)];
            let place = all.num_columns() - 3;
            let mut head = Frontier::zero(partitions);
            for &partition in all.column(place).as_primitive::<Int32Type>().values() {
                head.0[partition as usize].0 += 1;
            }
            heads.set(StreamId(id), head);
        }
        heads
    }
}

impl History for Memory {
    fn records(
        &self,
        stream: &Arc<Stream>,
        from: &Frontier,
        to: &Frontier,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        let records = self.within(stream.id, from, to);
        self.read
            .fetch_add(records.num_rows() as u64, Ordering::Relaxed);
        let table = MemTable::try_new(stream.schema_with_system(), vec![vec![records]])?;
        Ok(Arc::new(table))
    }

    fn erasures(&self) -> Erasures {
        self.erasures.clone()
    }

    fn state(&self) -> &SessionState {
        &self.state
    }
}

/// Whose indexes may hold so much.
fn state(index_bytes_max: usize) -> SessionState {
    let config = session::config(2).with_extension(Arc::new(IndexMemory::new(index_bytes_max)));
    session::state(config, Arc::new(RuntimeEnv::default()))
}

async fn planned(sql: &str, state: &SessionState) -> ViewPlan {
    let plan = ViewPlan::new(sql, state, &streams()).await;
    let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(plan.class, Class::JoinMergeable, "{sql}");
    plan
}

async fn run(plan: &ViewPlan, from: &Frontiers, to: &Frontiers, history: &Memory) -> Run {
    let join = plan.join().expect("it joins");
    let run = plan
        .run_between(join, from, to, history, history.state.task_ctx())
        .await;
    run.unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"))
}

/// The `SELECT`, not split, over the records up to `to`.
async fn plain_sql(plan: &ViewPlan, to: &Frontiers, history: &Memory) -> Vec<RecordBatch> {
    let whole = plan.from_scratch(&|source| {
        let Source::Stream(stream) = source else {
            panic!("it reads streams")
        };
        let records = history.within(stream.id, &Frontier::default(), &to.of(stream.id));
        let table = MemTable::try_new(stream.schema_with_system(), vec![vec![records]])?;
        Ok(Arc::new(table) as Arc<dyn TableProvider>)
    });
    let state = &history.state;
    let whole = state
        .create_physical_plan(&whole.expect("it takes tables"))
        .await;
    let found = collect(whole.expect("it plans"), state.task_ctx()).await;
    plan.finished(found.expect("it runs"))
        .expect("rows of the view")
}

/// Runs between frontiers that follow one another make up the rows at the last; each is computed by the plan's indexes
/// as they stand, which may be further than the frontier.
async fn check(sql: &str, plan: &ViewPlan, frontiers: &[Frontiers], history: &Memory) {
    let mut parts = Vec::new();
    let mut from = Frontiers::default();
    for to in frontiers {
        parts.push(Arc::new(run(plan, &from, to, history).await));
        from = to.clone();
    }
    let whole = run(plan, &Frontiers::default(), &from, history).await;
    let merged = plan
        .merge(&parts, history.state.task_ctx())
        .await
        .expect("states merge");
    let served = plan
        .finish(vec![merged.states.clone()], history.state.task_ctx())
        .await;
    let expected = plain_sql(plan, &from, history).await;
    let served = served.expect("states finish");
    let compared = audit::compare(plan, (&served, &merged), (&expected, &whole));
    let compared = compared.expect("comparable");
    assert!(
        compared.agrees(),
        "{sql} at {frontiers:?}: {:?}",
        compared.examples
    );
}

/// Frontiers that follow one another up to the head; the streams go on in any order.
fn frontiers(heads: &Frontiers, steps: &[Vec<u64>]) -> Vec<Frontiers> {
    let mut at = Frontiers::default();
    let mut frontiers = Vec::new();
    for step in steps {
        let mut step = step.iter();
        for (stream, head) in &heads.0 {
            let mut next = at.of(*stream);
            for (partition, end) in head.0.iter().enumerate() {
                let more = step.next().copied().unwrap_or(0);
                let partition = PartitionId(partition as u32);
                next.set(
                    partition,
                    Offset((next.offset(partition).0 + more).min(end.0)),
                );
            }
            at.set(*stream, next);
        }
        frontiers.push(at.clone());
    }
    frontiers.push(heads.clone());
    frontiers
}

const SPECIAL: [f64; 5] = [f64::NAN, -f64::NAN, 0.0, -0.0, f64::INFINITY];

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (
        prop_oneof![3 => Just(0usize), 2 => Just(1), 1 => Just(2)],
        0u32..2,
        prop::option::weighted(0.9, 0u8..4),
        prop::option::weighted(0.9, 0i64..12),
        prop::option::weighted(
            0.9,
            prop_oneof![
                2 => (0i64..3).prop_map(|v| v as f64),
                1 => -1e9..1e9f64,
                2 => prop::sample::select(SPECIAL.to_vec()),
            ],
        ),
    );
    let record = record.prop_map(|(stream, partition, key, number, double)| {
        (stream, partition % STREAMS[stream].2, key, number, double)
    });
    prop::collection::vec(record, 0..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn every_split_gives_the_rows_of_plain_sql(
        records in records(),
        steps in prop::collection::vec(prop::collection::vec(0u64..9, 4), 0..5),
        others in prop::collection::vec(prop::collection::vec(0u64..9, 4), 0..3),
        erased in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        view in 0..VIEWS.len(),
        scanned in prop::bool::weighted(0.2),
    ) {
        let sql = VIEWS[view];
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let state = state(if scanned { 0 } else { 1 << 30 });
            let plan = planned(sql, &state).await;
            let mut history = Memory::new(state, &records);
            let heads = history.heads();
            check(sql, &plan, &frontiers(&heads, &steps), &history).await;
            check(sql, &plan, &frontiers(&heads, &others), &history).await;
            // What is erased is in no index any more.
            for index in erased {
                let stream = StreamId(STREAMS[index.index(STREAMS.len())].0);
                let all = &history.all[&stream];
                if all.num_rows() > 0 {
                    let row = index.index(all.num_rows());
                    let place = all.num_columns() - 3;
                    let partition = all.column(place).as_primitive::<Int32Type>().value(row);
                    let offset = all.column(place + 1).as_primitive::<Int64Type>().value(row);
                    history.erased.insert((stream, partition, offset));
                    *history.erasures.0.entry(stream).or_default() += 1;
                }
            }
            check(sql, &plan, &frontiers(&heads, &steps), &history).await;
            assert!(scanned || !plan.join().expect("it joins").scans());
        });
    }
}

#[tokio::test]
async fn every_view_at_every_split_of_a_small_input() {
    let records: Vec<Record> = (0..24u8)
        .map(|i| {
            let stream = [0usize, 1, 0, 2, 1, 0][usize::from(i) % 6];
            (
                stream,
                u32::from(i / 6) % STREAMS[stream].2,
                (i % 7 != 0).then_some(i * 5 % 3),
                (i % 8 != 1).then_some(i64::from(i) * 3 % 10),
                Some(SPECIAL[usize::from(i) % SPECIAL.len()]),
            )
        })
        .collect();
    for bytes in [1 << 30, 0] {
        let state = state(bytes);
        let history = Memory::new(state.clone(), &records);
        let heads = history.heads();
        for sql in VIEWS {
            let plan = planned(sql, &state).await;
            let steps: [&[u64]; 3] = [&[1, 2, 3, 0], &[1, 0, 1, 2], &[2, 1, 0, 1]];
            let steps = steps.map(<[u64]>::to_vec);
            check(sql, &plan, &frontiers(&heads, &steps), &history).await;
            // Of an index that is further by now.
            if bytes > 0 {
                check(
                    sql,
                    &plan,
                    &frontiers(&heads, &[vec![0, 3, 4, 0]]),
                    &history,
                )
                .await;
            }
            assert_eq!(plan.join().expect("it joins").scans(), bytes == 0, "{sql}");
        }
    }
}

/// Counted, not measured: one new record of a side reads itself, and in an index that stands what came since.
#[tokio::test]
async fn a_delta_reads_what_is_new() {
    let sql = "SELECT a.k, count(*) AS n, sum(a.v * b.w) AS s FROM a JOIN b ON a.k = b.k WHERE a.v > 0 GROUP BY a.k";
    let mut counts = Vec::new();
    for history_records in [1_000u64, 10_000] {
        let state = state(1 << 30);
        let plan = planned(sql, &state).await;
        let records: Vec<Record> = (0..history_records * 2)
            .map(|i| {
                (
                    (i % 2) as usize,
                    0,
                    Some((i / 2 % 200) as u8),
                    Some(i as i64),
                    Some(0.5),
                )
            })
            .collect();
        let history = Memory::new(state, &records);
        let heads = history.heads();
        let before = |a: u64, b: u64| {
            let mut at = heads.clone();
            for (stream, less) in [(StreamId(7), a), (StreamId(8), b)] {
                let mut head = at.of(stream);
                head.0[0].0 -= less;
                at.set(stream, head);
            }
            at
        };
        let read = |from: Frontiers, to: Frontiers| {
            let (plan, history) = (&plan, &history);
            async move {
                history.read.store(0, Ordering::Relaxed);
                let states = run(plan, &from, &to, history).await.rows();
                (history.read.load(Ordering::Relaxed), states)
            }
        };
        // The first of each side builds the index of the other one.
        let (first, _) = read(before(9, 9), before(8, 9)).await;
        assert_eq!(first, 1 + history_records - 9);
        let (first, _) = read(before(8, 9), before(8, 8)).await;
        assert_eq!(first, 1 + history_records - 8);
        let mut found = vec![read(before(8, 8), before(7, 8)).await];
        found.push(read(before(7, 8), before(7, 7)).await);
        found.push(read(before(7, 7), before(4, 3)).await);
        found.push(read(before(4, 3), before(0, 0)).await);
        // As it was before.
        found.push(read(before(9, 9), before(8, 8)).await);
        counts.push(found);
    }
    // Records of both sides are read for the product and for the index of their side.
    assert_eq!(counts[0], [(2, 1), (2, 1), (11, 4), (15, 4), (2, 1)]);
    assert_eq!(counts[0], counts[1]);
}

/// One key on both sides: the rows of the join are many, what is held is not.
#[tokio::test]
async fn many_matches_are_summed_up_as_they_come() {
    let sql = "SELECT count(*) AS n, sum(a.v) AS v FROM a JOIN b ON a.k = b.k WHERE a.v <> b.w";
    let state = state(1 << 30);
    let plan = planned(sql, &state).await;
    let records: Vec<Record> = (0..4_000i64)
        .map(|i| ((i % 2) as usize, 0, Some(1), Some(i / 2), None))
        .collect();
    let history = Memory::new(state, &records);
    let heads = history.heads();
    check(
        sql,
        &plan,
        &frontiers(&heads, &[vec![1_990, 0, 1_995]]),
        &history,
    )
    .await;
}

/// An index that would hold too much is given up, and the answers stay the same.
#[tokio::test]
async fn an_index_is_bounded() {
    let sql = "SELECT a.k, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.k";
    let records: Vec<Record> = (0..6_000u64)
        .map(|i| {
            (
                usize::from(i % 300 == 0),
                0,
                Some((i % 100) as u8),
                Some(i as i64),
                None,
            )
        })
        .collect();
    let bytes_max = 100_000;
    let state = state(bytes_max);
    let memory = state
        .config()
        .get_extension::<IndexMemory>()
        .expect("it was set");
    let plan = planned(sql, &state).await;
    let history = Memory::new(state.clone(), &records);
    let heads = history.heads();
    check(
        sql,
        &plan,
        &frontiers(
            &heads,
            &[vec![5_900, 0, 15], vec![10, 0, 1], vec![10, 0, 1]],
        ),
        &history,
    )
    .await;
    let standings = plan.join().expect("it joins").standings();
    assert_eq!(standings[0].index, IndexStanding::TooLarge, "{standings:?}");
    assert!(
        matches!(
            standings[1].index,
            IndexStanding::Kept { rows: 15..=20, .. }
        ),
        "{standings:?}"
    );
    assert!((1..bytes_max).contains(&memory.held()));
    drop(plan);
    assert_eq!(memory.held(), 0);
}

/// A reader from before an erasure does not see less, one from after it not more.
#[tokio::test]
async fn an_index_is_of_one_set_of_erasures() {
    let sql = "SELECT a.k, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.k";
    let records: Vec<Record> = (0..200u64)
        .map(|i| {
            (
                (i % 2) as usize,
                0,
                Some((i % 3) as u8),
                Some(i as i64),
                None,
            )
        })
        .collect();
    let state = state(1 << 30);
    let plan = planned(sql, &state).await;
    let before = Memory::new(state.clone(), &records);
    let mut after = Memory::new(state, &records);
    after
        .erased
        .extend((10..30).map(|offset| (StreamId(8), 0, offset)));
    after.erasures.0.insert(StreamId(8), 1);
    let frontiers = frontiers(&before.heads(), &[vec![40, 0, 50], vec![20, 0, 0]]);
    for history in [&before, &after, &before, &after] {
        check(sql, &plan, &frontiers, history).await;
    }
}

#[tokio::test]
async fn what_is_no_join_of_this_kind_says_why() {
    let state = state(1 << 30);
    for (sql, reason) in [
        (
            "SELECT a.k, b.w FROM a JOIN b ON a.k = b.k",
            "it joins, and does not aggregate",
        ),
        (
            "SELECT a.k, count(b.w) AS n FROM a LEFT JOIN b ON a.k = b.k GROUP BY a.k",
            "it has an outer join",
        ),
        (
            "SELECT count(*) AS n FROM a FULL JOIN b ON a.k = b.k",
            "it has an outer join",
        ),
        (
            "SELECT count(*) AS n FROM a LEFT SEMI JOIN b ON a.k = b.k",
            "it asks whether there is a match",
        ),
        (
            "SELECT count(*) AS n FROM a CROSS JOIN b",
            "it joins without equal columns",
        ),
        (
            "SELECT count(*) AS n FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k",
            "it joins without equal columns",
        ),
        (
            "SELECT count(*) AS n FROM a JOIN b ON a.v < b.w",
            "it joins without equal columns",
        ),
        (
            "SELECT count(*) AS n FROM a JOIN b ON a.k = b.k JOIN c ON c.id < a.v",
            "it joins without equal columns",
        ),
        (
            "SELECT count(*) AS n FROM a JOIN b ON a.k = b.k AND 1 = 2",
            "it joins under a condition that never holds",
        ),
        (
            "SELECT count(*) AS n FROM (SELECT k FROM a UNION ALL SELECT k FROM b) AS u JOIN c ON c.name = u.k",
            "it joins a UNION",
        ),
        (
            "SELECT count(*) AS n FROM a JOIN (SELECT k, count(*) AS n FROM b GROUP BY k) AS g ON g.k = a.k",
            "it aggregates what is aggregated already",
        ),
        (
            "SELECT a.k, array_agg(b.w ORDER BY b.w) AS ws FROM a JOIN b ON a.k = b.k GROUP BY a.k",
            "first_value, last_value, array_agg or string_agg over UNION, UNNEST or a join has no defined order",
        ),
        (
            "SELECT a.k, sum(DISTINCT b.w) AS s FROM a JOIN b ON a.k = b.k GROUP BY a.k",
            "the states of sum(DISTINCT …) do not merge exactly",
        ),
    ] {
        let planned = Planned::new(sql, &state, &streams(), &[]).await;
        match planned.unwrap_or_else(|error| panic!("{sql}: {error}")) {
            Planned::Recomputed(plan) => assert_eq!(plan.reason, reason, "{sql}"),
            Planned::Kept(plan) => panic!("{sql} is {}", plan.class.name()),
        }
    }
}

/// An aggregation over a join within a view that is recomputed.
#[tokio::test]
async fn a_join_can_be_a_part() {
    let state = state(1 << 30);
    let sql = "SELECT k, n, rank() OVER (ORDER BY n) AS r \
               FROM (SELECT a.k, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.k) AS c";
    let planned = Planned::new(sql, &state, &streams(), &[])
        .await
        .expect("it plans");
    let Planned::Recomputed(plan) = planned else {
        panic!("it ranks")
    };
    let classes: Vec<Class> = plan.parts.iter().map(|part| part.class).collect();
    assert_eq!(classes, [Class::JoinMergeable]);
}
