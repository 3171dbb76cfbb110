//! What only this room can arrange: appends that stand still, records that cannot be read.

use std::sync::{Arc, Condvar, Mutex};

use lambic_base::{Clock, SystemClock};
use lambic_log::Log;
use lambic_model::{
    Append, Frontier, FunctionName, Offset, OffsetRange, PartitionId, Stream, StreamId, StreamName,
    Write,
};
use tokio::sync::watch;

use crate::{
    Code, Deployment, Functions, Options, Rules, Runtime, Start, SystemStreams, Trigger,
    mapping::{Batches, Cut, Worker, lanes::Lane},
    records::{self, DeadLetter, QueueRow},
    registry::Mapping,
    system_streams,
};

/// A clock of the log at which its writer waits while it is closed: every append asks for the time.
#[derive(Debug, Default)]
pub struct Gate {
    is_closed: Mutex<bool>,
    changed: Condvar,
    pub waits: watch::Sender<bool>,
}

impl Gate {
    pub fn set_closed(&self, is_closed: bool) {
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

pub struct House {
    pub dir: tempfile::TempDir,
    pub log: Log,
    pub system: SystemStreams,
    /// Of a user.
    input: Arc<Stream>,
}

/// A component whose `handle` runs `body`; the event is at `$at`, of `$length` bytes.
pub fn component(body: &str) -> Code {
    let text = format!(
        r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle") (param $at i32) (param $length i32) (result i32) {body}))
  (core instance $i (instantiate $m))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#
    );
    Code::Bytes(text.into_bytes())
}

/// Answers with its event.
pub const ECHO: &str = "\
(i32.store8 (i32.const 16) (i32.const 0))
(i32.store (i32.const 20) (local.get $at))
(i32.store (i32.const 24) (local.get $length))
(i32.const 16)";

impl House {
    pub fn open(change: impl FnOnce(&mut lambic_log::Options)) -> House {
        let dir = tempfile::tempdir().unwrap();
        let system = system_streams(StreamId(1));
        let mut options = lambic_log::Options::new(dir.path().join("log"));
        change(&mut options);
        let input = Arc::new(Stream {
            id: StreamId(20),
            name: StreamName::new("input").unwrap(),
            ..Stream::clone(&system.logs)
        });
        let mut streams = system.all().to_vec();
        streams.push(input.clone());
        let log = Log::open(options, &streams).unwrap();
        House {
            dir,
            log,
            system,
            input,
        }
    }

    pub async fn functions(&self) -> Functions {
        self.functions_with(|_| {}).await
    }

    pub async fn functions_with(&self, change: impl FnOnce(&mut Options)) -> Functions {
        let input = self.input.clone();
        let lookup = Arc::new(move |name: &str| (name == "input").then(|| input.clone()));
        let dir = self.dir.path().join("functions");
        let mut options = Options::new(
            dir,
            self.log.clone(),
            self.system.clone(),
            lookup,
            Arc::new(lambic_connectors::json_list),
        );
        options.retry_wait = std::time::Duration::from_millis(5);
        options.async_retry_waits = vec![options.retry_wait];
        change(&mut options);
        Functions::open(options).await.unwrap()
    }

    /// Appends rows to the queue's stream, as they are.
    pub async fn enqueue(&self, rows: &[QueueRow]) {
        let queue = &self.system.queue;
        let append = Append {
            writes: vec![Write {
                stream: queue.id,
                partition: None,
                batch: records::queue(queue, &rows.iter().collect::<Vec<_>>()),
                schema: None,
            }],
            ..Append::default()
        };
        self.log.append(append).await.unwrap();
    }

    /// Waits until the stream holds `records`.
    pub async fn wait_for(&self, stream: &Stream, records: u64) {
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

fn batches(functions: &Functions, stream: &Arc<Stream>, stop: watch::Receiver<bool>) -> Batches {
    let worker = Worker {
        inner: functions.0.clone(),
        function: FunctionName::new("f").unwrap(),
        target: "f".to_owned(),
        retries: 2,
        cut: Cut::AfterRetries,
        rules: Rules::of_triggers(),
        trigger: Trigger::new(stream.name.clone()),
        mapping: Mapping {
            stream: stream.name.clone(),
            stream_id: stream.id,
            cursor: "c".to_owned(),
        },
        stream: stream.clone(),
        stop,
    };
    let lane = Lane::new("c".to_owned(), Frontier::zero(1));
    Batches::new(
        &Arc::new(worker),
        Arc::new(lane),
        (0, 1),
        PartitionId(0),
        Arc::default(),
    )
}

/// A trigger does not stop at a record whose dead letter the log does not take.
#[tokio::test]
async fn a_record_too_large_for_a_dead_letter_is_told_without_its_data() {
    let house = House::open(|log| log.append_bytes_max = 64 << 10);
    let functions = house.functions().await;
    let (_stop, stopped) = watch::channel(false);
    let batches = batches(&functions, &house.system.logs, stopped);
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
        source: Some("lambic_logs:0:3".to_owned()),
        error_type: "E".to_owned(),
        error_message: "no".to_owned(),
        attempts: 1,
        event: "x".repeat(100 << 10),
    };
    let kept = batches.keep(vec![letter], None, range).await;
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
    let batches = batches(&functions, &house.system.logs, stopped);
    let mut waits = gate.waits.subscribe();
    gate.set_closed(true);
    let commit = tokio::spawn(async move {
        let kept = batches.commit(vec![], Offset(5), None).await;
        (matches!(kept, Ok(Ok(()))), batches.offset())
    });
    waits.wait_for(|&waits| waits).await.unwrap();
    stop.send_replace(true);
    gate.set_closed(false);
    let (kept, position) = commit.await.unwrap();
    assert!(kept, "the commit was cancelled");
    assert_eq!(position, Offset(5));
    assert_eq!(house.log.cursor("c").unwrap().frontier.0, [position]);
    functions.close().await;
}

/// A function whose new trigger reads from the start of `input`.
fn triggered() -> Deployment {
    let name = FunctionName::new("f").unwrap();
    let mut deployment = Deployment::new(name, Runtime::Wasm, component(ECHO));
    deployment.triggers = vec![Trigger {
        start: Start::Earliest,
        ..Trigger::new(StreamName::new("input").unwrap())
    }];
    deployment
}

/// Whoever asks for a deployment may go away before it is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_goes_on_to_its_end_and_the_log_keeps_what_it_will_read() {
    let gate = Arc::new(Gate::default());
    let house = House::open(|log| log.clock = gate.clone());
    let functions = house.functions().await;
    let mut waits = gate.waits.subscribe();
    gate.set_closed(true);
    let client = tokio::spawn({
        let functions = functions.clone();
        async move { functions.deploy(triggered()).await.map(drop) }
    });
    // The place of the trigger is being appended.
    waits.wait_for(|&waits| waits).await.unwrap();
    let kept = functions.cursors();
    let start = house.log.snapshot().start(house.input.id);
    assert_eq!(kept.0.get(&house.input.id), Some(&start));
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.set_closed(false);
    let bound = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while functions.get("f").is_none() {
        assert!(std::time::Instant::now() < bound, "it was not deployed");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(functions.cursors().0.contains_key(&house.input.id));
    functions.close().await;
    assert_eq!(house.functions().await.list().len(), 1);
}

/// Whoever holds all of something is not next, however early its events came.
#[tokio::test(flavor = "multi_thread")]
async fn starts_and_components_go_to_the_function_that_has_least() {
    let house = House::open(|_| {});
    let functions = house.functions().await;
    let machine = &functions.0.machine;
    let python = Code::Bytes(b"def handler(event, context):\n    return event\n".to_vec());
    for (runtime, code, given_out, [much, little]) in [
        (
            Runtime::Wasm,
            component(ECHO),
            &machine.components,
            ["b-wasm", "c-wasm"],
        ),
        (
            Runtime::Python,
            python,
            &machine.starts,
            ["b-python", "c-python"],
        ),
    ] {
        for name in [much, little] {
            let name = FunctionName::new(name).unwrap();
            let mut deployment = Deployment::new(name, runtime, code.clone());
            deployment.timeout = std::time::Duration::from_secs(60);
            deployment.trial = false;
            functions.deploy(deployment).await.unwrap();
        }
        let held = given_out.now(much, given_out.limit()).unwrap();
        let mut callers = Vec::new();
        for (name, waiting) in [(much, 1), (much, 2), (little, 3)] {
            let (functions, name) = (functions.clone(), FunctionName::new(name).unwrap());
            callers.push(tokio::spawn(async move {
                functions.invoke(&name, b"7".to_vec()).await
            }));
            let bound = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while given_out.waiting() < waiting {
                assert!(std::time::Instant::now() < bound, "it does not wait");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        let next = given_out.whose_turn().unwrap();
        assert_eq!((&*next.line, next.amount), (little, 1));
        drop(held);
        for caller in callers {
            let answer = caller.await.unwrap().unwrap();
            assert_eq!(answer.payload(), b"7", "{}", answer.log_tail);
        }
    }
    functions.close().await;
}
