//! A view over two streams: batches reach further in one of them, heads are looked at before and taken in after, and every
//! read counts each record once.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, Int64Array, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, Schema},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::execution::{TaskContext, runtime_env::RuntimeEnv};
use lambic_model::{Frontier, Frontiers, Offset, Stream, StreamId, StreamName};
use lambic_serving::ServedView;
use lambic_view::{Definition, Error, Run, ViewPlan, plan::Records, session, tail::TailSource};
use proptest::prelude::*;

const STREAMS: [StreamId; 2] = [StreamId(1), StreamId(2)];

fn stream(id: StreamId, name: &str) -> Arc<Stream> {
    Arc::new(Stream {
        id,
        name: StreamName::new(name).unwrap(),
        schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
        partitions: 1,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

/// Every record is its offset.
struct Offsets(Vec<Arc<Stream>>);

impl Offsets {
    fn records(&self, from: &Frontiers, to: &Frontiers) -> Records {
        let each = self.0.iter().map(|stream| {
            let (first, end) = (at(from, stream.id), at(to, stream.id));
            let offsets = || Int64Array::from_iter_values(first as i64..(end.max(first)) as i64);
            let length = offsets().values().len();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(offsets()),
                Arc::new(Int32Array::from(vec![0; length])),
                Arc::new(offsets()),
                Arc::new(TimestampMicrosecondArray::from(vec![0; length]).with_timezone("UTC")),
            ];
            let batch = RecordBatch::try_new(stream.schema_with_system(), columns).unwrap();
            (stream.id, vec![batch])
        });
        each.collect()
    }
}

#[async_trait]
impl TailSource for Offsets {
    async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        let records = self.records(from, to);
        plan.run_over(&records, from.clone(), to.clone(), task)
            .await
    }
}

fn at(frontiers: &Frontiers, stream: StreamId) -> u64 {
    frontiers.of(stream).0.first().map_or(0, |offset| offset.0)
}

fn frontiers(offsets: [u64; 2]) -> Frontiers {
    let mut frontiers = Frontiers::default();
    for (stream, offset) in STREAMS.into_iter().zip(offsets) {
        frontiers.set(stream, Frontier(vec![Offset(offset)]));
    }
    frontiers
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, u64),
    /// The speed layer looks at the heads …
    Look,
    /// … and takes them in, perhaps much later.
    Advance,
    /// One stream is sealed up to its head, the other stays, and a batch runs.
    Batch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..2usize, 1..5u64).prop_map(|(stream, records)| Step::Append(stream, records)),
        Just(Step::Look),
        Just(Step::Advance),
        (0..2usize).prop_map(Step::Batch),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn check(steps: Vec<Step>) {
    let streams = vec![stream(STREAMS[0], "a"), stream(STREAMS[1], "b")];
    let state = session::state(session::config(1), Arc::new(RuntimeEnv::default()));
    let sql = "SELECT count(*) AS records, sum(n) AS total FROM (SELECT n FROM a UNION ALL SELECT n FROM b) AS both";
    let plan = Arc::new(ViewPlan::new(sql, &state, &streams).await.unwrap());
    let tail = Arc::new(Offsets(streams));
    let definition: Definition = serde_json::from_value(serde_json::json!({
        "name": "v", "version": 1, "sql": sql, "batch_every": {"secs": 3600, "nanos": 0}, "functions": {},
    }))
    .unwrap();
    let view = ServedView::new(
        definition,
        Arc::clone(&plan),
        state.task_ctx(),
        Arc::clone(&tail) as _,
        None,
        None,
    );
    let (mut heads, mut looked, mut sealed) = ([0; 2], [0; 2], [0; 2]);
    let mut batches = 0;
    for step in steps {
        match step {
            Step::Append(stream, records) => heads[stream] += records,
            Step::Look => looked = heads,
            Step::Advance => {
                view.advance(&frontiers(looked)).await.unwrap();
            }
            Step::Batch(stream) => {
                sealed[stream] = heads[stream];
                let run = tail
                    .run_between(
                        &plan,
                        &Frontiers::default(),
                        &frontiers(sealed),
                        state.task_ctx(),
                    )
                    .await
                    .unwrap();
                batches += 1;
                view.publish(run, batches).await.unwrap();
            }
        }
        let answer = view
            .read(&view.runs(), &frontiers(heads), tail.as_ref())
            .await
            .unwrap();
        let row = &answer.batches[0];
        let value = |column: usize| row.column(column).as_primitive::<Int64Type>().value(0);
        assert_eq!(value(0) as u64, heads.iter().sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_record_is_counted_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps));
    }
}
