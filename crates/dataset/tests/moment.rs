//! A stream looked back at: where it ended at every time, and what it held there, however its records are spread over
//! files and log.

use std::{path::Path, sync::Arc, time::Duration};

use arrow::{
    array::{AsArray as _, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use datafusion::prelude::SessionContext;
use lambic_base::ManualClock;
use lambic_dataset::{Dataset, Error, LocalStore, Options, Pin, Reader, StreamTable};
use lambic_log::Log;
use lambic_model::{Append, Frontier, Frontiers, PartitionId, Stream, StreamId, StreamName, Write};

const STREAM: StreamId = StreamId(7);
const START_US: i64 = 1_000_000;

fn stream() -> Arc<Stream> {
    Arc::new(Stream {
        id: STREAM,
        name: StreamName::new("visits").unwrap(),
        schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
        partitions: 2,
        event_time: None,
        record_id: None,
        partition_by: None,
        evolution: Default::default(),
    })
}

fn append(partition: u32, values: std::ops::Range<i64>) -> Append {
    let batch = RecordBatch::try_new(
        stream().schema.clone(),
        vec![Arc::new(Int64Array::from_iter_values(values))],
    );
    Append {
        writes: vec![Write {
            stream: STREAM,
            partition: Some(PartitionId(partition)),
            batch: batch.unwrap(),
            schema: None,
        }],
        ..Append::default()
    }
}

struct Store {
    clock: Arc<ManualClock>,
    log: Log,
    dataset: Dataset,
    context: SessionContext,
}

impl Store {
    async fn open(dir: &Path) -> Store {
        let store = Arc::new(LocalStore::open(dir).unwrap());
        let options = Options {
            // Files end within appends.
            file_rows_max: 5,
            ..Options::default()
        };
        let dataset = Dataset::open(store, options).await.unwrap();
        dataset.add_stream(stream()).await.unwrap();
        let clock = Arc::new(ManualClock::new(START_US));
        let options = lambic_log::Options {
            clock: Arc::clone(&clock) as _,
            // A segment for every few appends, so that the log can be trimmed.
            segment_bytes: 1,
            ..lambic_log::Options::new(dir.join("log"))
        };
        Store {
            log: Log::open(options, &[stream()]).unwrap(),
            clock,
            dataset,
            context: SessionContext::new(),
        }
    }

    fn reader(&self) -> Reader {
        let runtime = self.context.runtime_env();
        Reader::new(self.dataset.clone(), self.log.clone(), &runtime).unwrap()
    }

    async fn values(&self, pin: &Pin) -> Vec<i64> {
        self.read(pin.table(&stream())).await
    }

    async fn read(&self, table: StreamTable) -> Vec<i64> {
        let table = Arc::new(table);
        let batches = self.context.read_table(table).unwrap().collect().await;
        let mut values = Vec::new();
        for batch in batches.unwrap() {
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
        values.sort_unstable();
        values
    }
}

/// What stood at a time.
struct Moment {
    at_us: i64,
    head: Frontier,
    values: Vec<i64>,
}

impl Moment {
    async fn check(&self, store: &Store) {
        let reader = store.reader();
        reader.settle(self.at_us).await.unwrap();
        let pin = reader.pin();
        let head = pin.head_at(STREAM, self.at_us).await.unwrap();
        assert_eq!(head, self.head, "at {}", self.at_us);
        let mut heads = Frontiers::default();
        heads.set(STREAM, head);
        assert_eq!(
            store.values(&pin.at(heads)).await,
            self.values,
            "at {}",
            self.at_us
        );
    }

    async fn check_since(&self, store: &Store) {
        let pin = store.reader().pin();
        let since = store
            .read(pin.table_since(&stream(), self.head.clone()))
            .await;
        let all = store.values(&pin).await;
        assert_eq!(since, all[self.values.len()..], "since {}", self.at_us);
    }
}

#[tokio::test]
async fn every_moment_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await;
    let mut moments = vec![Moment {
        at_us: 0,
        head: Frontier::zero(2),
        values: Vec::new(),
    }];
    let mut values = Vec::new();
    for round in 0..40_i64 {
        store.clock.advance(Duration::from_micros(10));
        // Some times have several appends, of one or both partitions.
        for partition in 0..=u32::from(round % 3 == 0) {
            let partition = (round as u32 + partition) % 2;
            let new = values.len() as i64..values.len() as i64 + 1 + round % 7;
            store
                .log
                .append(append(partition, new.clone()))
                .await
                .unwrap();
            values.extend(new);
        }
        for later in [0, 9] {
            moments.push(Moment {
                at_us: START_US + 10 * (round + 1) + later,
                head: store.log.snapshot().head(STREAM),
                values: values.clone(),
            });
        }
        if round % 11 == 5 {
            store
                .dataset
                .seal(STREAM, &store.log.snapshot())
                .await
                .unwrap();
        }
        if round == 25 {
            let mut keep = Frontiers::default();
            keep.set(STREAM, store.dataset.manifest(STREAM).frontier.clone());
            assert!(store.log.trim(&keep).unwrap() > 0, "the log is trimmed");
        }
    }
    store.clock.advance(Duration::from_micros(10));
    for moment in &moments {
        moment.check(&store).await;
    }
    for moment in moments.iter().step_by(9) {
        moment.check_since(&store).await;
    }
    store
        .dataset
        .seal(STREAM, &store.log.snapshot())
        .await
        .unwrap();
    for moment in &moments {
        moment.check(&store).await;
    }
    for moment in moments.iter().step_by(9) {
        moment.check_since(&store).await;
    }
    let future = store.reader().settle(START_US * 2).await;
    assert!(matches!(future, Err(Error::NotYet { .. })), "{future:?}");
    store.log.close().await;
}
