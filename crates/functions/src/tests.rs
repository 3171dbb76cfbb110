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
    records::{self, DeadLetter, QueueRow},
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
        let mut options = Options::new(dir, self.log.clone(), self.system.clone(), lookup);
        options.retry_wait = std::time::Duration::from_millis(5);
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

/// A disk may fail for a moment: queued events wait for it, and need no restart.
#[tokio::test]
async fn the_queue_goes_on_after_it_could_not_be_read() {
    let house = House::open(|log| log.cache_bytes_max = 0);
    house.enqueue("\"event\"".to_owned()).await;
    let segment = std::fs::read_dir(house.dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let whole = std::fs::read(&segment).unwrap();
    // In place: the log holds the file open.
    let write = |bytes: &[u8]| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&segment)
            .unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    let at = whole
        .windows(7)
        .position(|bytes| bytes == b"\"event\"")
        .unwrap();
    let mut damaged = whole.clone();
    damaged[at + 1] = b'E';
    write(&damaged[..at + 2]);
    let functions = house.functions().await;
    // On this single thread the queue has its turn, and fails, before this goes on.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        house.log.snapshot().head(house.system.queue.id).records(),
        1
    );
    write(&whole[..at + 2]);
    house.wait_for(&house.system.dead_letters, 1).await;
    functions.close().await;
}

fn worker(functions: &Functions, stream: &Arc<Stream>, stop: watch::Receiver<bool>) -> Worker {
    Worker {
        inner: functions.0.clone(),
        function: FunctionName::new("f").unwrap(),
        trigger: Trigger::new(stream.name.clone()),
        mapping: Mapping {
            stream: stream.name.clone(),
            stream_id: stream.id,
            cursor: "c".to_owned(),
        },
        stream: stream.clone(),
        stop,
    }
}

/// A trigger does not stop at a record whose dead letter the log does not take.
#[tokio::test]
async fn a_record_too_large_for_a_dead_letter_is_told_without_its_data() {
    let house = House::open(|log| log.append_bytes_max = 64 << 10);
    let functions = house.functions().await;
    let (_stop, stopped) = watch::channel(false);
    let worker = worker(&functions, &house.system.logs, stopped);
    let range = OffsetRange {
        partition: PartitionId(0),
        first: Offset(3),
        end: Offset(4),
    };
    let letter = DeadLetter {
        at_us: 0,
        function: "f".to_owned(),
        request_id: "id".to_owned(),
        kind: "stream",
        source: None,
        error_type: "E".to_owned(),
        error_message: "no".to_owned(),
        attempts: 1,
        event: "x".repeat(100 << 10),
    };
    let mut position = Frontier::zero(1);
    let kept = worker.keep_dead_letter(letter, range, &mut position).await;
    assert!(kept.is_ok());
    assert_eq!(house.log.cursor("c").unwrap().frontier.0, [Offset(4)]);
    let letters = house.system.dead_letters.id;
    let first = OffsetRange {
        partition: PartitionId(0),
        first: Offset(0),
        end: Offset(1),
    };
    let read = house.log.snapshot().read(letters, first).unwrap();
    let events = read[0].column_by_name("event").unwrap();
    assert_eq!(
        arrow::array::AsArray::as_string::<i32>(events).value(0),
        r#"{"data":null,"eventSource":"lambic:stream","leftOut":"102400 bytes","offset":3,"partition":0,"stream":"lambic_logs"}"#
    );
    functions.close().await;
}

/// The worker that follows reads the cursor: it must not move after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_under_way_ends_before_its_worker_stops() {
    let gate = Arc::new(Gate::default());
    let house = House::open(|log| log.clock = gate.clone());
    let functions = house.functions().await;
    let (stop, stopped) = watch::channel(false);
    let worker = worker(&functions, &house.system.logs, stopped);
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
