//! What only this room can arrange: appends that stand still, records that cannot be read.

use std::sync::{Arc, Condvar, Mutex};

use lambic_base::{Clock, SystemClock};
use lambic_log::Log;
use lambic_model::{
    Append, Frontier, FunctionName, Offset, OffsetRange, PartitionId, Stream, StreamId, Write,
};
use tokio::sync::watch;

use crate::{
    Functions, Options, SystemStreams, Trigger,
    mapping::Worker,
    queue,
    records::{self, QueueRow},
    registry::Mapping,
    system_streams,
};

/// A clock of the log at which its writer waits while it is closed: every append asks for the time.
#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    changed: Condvar,
    waits: watch::Sender<bool>,
}

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock().unwrap() = is_closed;
        self.changed.notify_all();
    }
}

impl Clock for Gate {
    fn now_us(&self) -> i64 {
        let mut is_closed = self.is_closed.lock().unwrap();
        while *is_closed {
            self.waits.send_replace(true);
            is_closed = self.changed.wait(is_closed).unwrap();
        }
        SystemClock.now_us()
    }

    fn monotonic(&self) -> std::time::Instant {
        SystemClock.monotonic()
    }
}

struct House {
    dir: tempfile::TempDir,
    log: Log,
    system: SystemStreams,
}

impl House {
    fn open(change: impl FnOnce(&mut lambic_log::Options)) -> House {
        let dir = tempfile::tempdir().unwrap();
        let system = system_streams(StreamId(1));
        let mut options = lambic_log::Options::new(dir.path().join("log"));
        change(&mut options);
        let log = Log::open(options, &system.all()).unwrap();
        House { dir, log, system }
    }

    async fn functions(&self) -> Functions {
        let lookup = Arc::new(|_: &str| None);
        let dir = self.dir.path().join("functions");
        let options = Options::new(dir, self.log.clone(), self.system.clone(), lookup);
        Functions::open(options).await.unwrap()
    }

    /// Queues an event of a function that does not exist: it becomes a dead letter at once.
    async fn enqueue(&self, event: String) {
        let row = QueueRow {
            at_us: 0,
            request_id: uuid::Uuid::new_v4().to_string(),
            function: "gone".to_owned(),
            state: "queued".to_owned(),
            event: Some(event),
        };
        let queue = &self.system.queue;
        let append = Append {
            writes: vec![Write {
                stream: queue.id,
                partition: None,
                batch: records::queue(queue, &[&row]),
            }],
            ..Append::default()
        };
        self.log.append(append).await.unwrap();
    }

    /// Waits until the stream holds `records`.
    async fn wait_for(&self, stream: &Stream, records: u64) {
        let mut commits = self.log.commits();
        let all = async {
            while self.log.snapshot().head(stream.id).records() < records {
                commits.changed().await.unwrap();
            }
        };
        let bound = std::time::Duration::from_secs(60);
        let waited = tokio::time::timeout(bound, all).await;
        waited.unwrap_or_else(|_| panic!("{} lacks records", stream.name));
    }
}

#[tokio::test]
async fn dead_letters_that_do_not_fit_into_one_append_are_all_kept() {
    let house = House::open(|log| log.append_bytes_max = 64 << 10);
    for n in 0..8 {
        house
            .enqueue(format!("\"{n}{}\"", "x".repeat(20 << 10)))
            .await;
    }
    let functions = house.functions().await;
    house.wait_for(&house.system.dead_letters, 8).await;
    house.wait_for(&house.system.queue, 16).await;
    functions.close().await;
    let cursor = house.log.cursor(queue::CURSOR).unwrap();
    assert!(cursor.frontier.0[0] >= Offset(8), "{cursor:?}");
}

/// The worker that follows reads the cursor: it must not move after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_under_way_ends_before_its_worker_stops() {
    let gate = Arc::new(Gate::default());
    let house = House::open(|log| log.clock = gate.clone());
    let functions = house.functions().await;
    let stream = house.system.logs.clone();
    let (stop, stopped) = watch::channel(false);
    let worker = Worker {
        inner: functions.0.clone(),
        function: FunctionName::new("f").unwrap(),
        trigger: Trigger::new(stream.name.clone()),
        mapping: Mapping {
            stream: stream.name.clone(),
            stream_id: stream.id,
            cursor: "c".to_owned(),
        },
        stream,
        stop: stopped,
    };
    let mut waits = gate.waits.subscribe();
    gate.set_closed(true);
    let commit = tokio::spawn(async move {
        let range = OffsetRange {
            partition: PartitionId(0),
            first: Offset(0),
            end: Offset(5),
        };
        let mut position = Frontier::zero(1);
        let kept = worker.commit(vec![], range, Offset(5), &mut position).await;
        (matches!(kept, Ok(Ok(()))), position)
    });
    waits.wait_for(|&waits| waits).await.unwrap();
    stop.send_replace(true);
    gate.set_closed(false);
    let (kept, position) = commit.await.unwrap();
    assert!(kept, "the commit was cancelled");
    assert_eq!(position, Frontier(vec![Offset(5)]));
    assert_eq!(house.log.cursor("c").unwrap().frontier, position);
    functions.close().await;
}
