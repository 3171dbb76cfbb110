//! Queued events, on a log.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use arrow::array::AsArray;
use lambic_base::{Clock, SystemClock};
use lambic_model::{FunctionName, OffsetRange, Stream};

use super::*;
use crate::{
    Code, Deployment, Functions, Runtime,
    tests::{ECHO, Gate, House, component},
};

/// Of a function that does not exist it becomes a dead letter at once.
fn queued(function: &str, event: &str) -> QueueRow {
    QueueRow {
        at_us: SystemClock.now_us(),
        request_id: uuid::Uuid::new_v4().to_string(),
        function: function.to_owned(),
        state: "queued".to_owned(),
        event: Some(event.to_owned()),
        trace_id: None,
    }
}

/// What a text column of a stream has.
fn texts(house: &House, stream: &Stream, column: &str) -> Vec<String> {
    let snapshot = house.log.snapshot();
    let all = OffsetRange {
        partition: PARTITION,
        first: Offset(0),
        end: snapshot.head(stream.id).offset(PARTITION),
    };
    let batches = snapshot.read(stream.id, all).unwrap();
    let of = |batch: &arrow::record_batch::RecordBatch| -> Vec<String> {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>();
        let texts = column
            .iter()
            .map(|text| text.unwrap_or_default().to_owned());
        texts.collect()
    };
    batches.iter().flat_map(of).collect()
}

async fn deploy(functions: &Functions, name: &str, code: Code, retries: u32) {
    let name = FunctionName::new(name).unwrap();
    let mut deployment = Deployment::new(name, Runtime::Wasm, code);
    deployment.timeout = Duration::from_secs(60);
    deployment.retries = retries;
    functions.deploy(deployment).await.unwrap();
}

#[tokio::test]
async fn dead_letters_that_do_not_fit_into_one_append_are_all_kept() {
    let house = House::open(|log| log.append_bytes_max = 64 << 10);
    for n in 0..8 {
        let event = format!("\"{n}{}\"", "x".repeat(20 << 10));
        house.enqueue(&[queued("gone", &event)]).await;
    }
    let functions = house.functions().await;
    house.wait_for(&house.system.dead_letters, 8).await;
    house.wait_for(&house.system.queue, 16).await;
    functions.close().await;
    let cursor = house.log.cursor(CURSOR).unwrap();
    assert!(cursor.frontier.0[0] >= Offset(8), "{cursor:?}");
}

/// In one append: a kill leaves both or neither.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_success_comes_with_the_end_of_its_event() {
    let house = House::open(|_| {});
    let functions = house.functions().await;
    deploy(&functions, "echo", component(ECHO), 0).await;
    let name = FunctionName::new("echo").unwrap();
    for _ in 0..20 {
        functions.invoke_async(&name, b"1".to_vec()).await.unwrap();
    }
    let mut commits = house.log.commits();
    loop {
        commits.borrow_and_update();
        let snapshot = house.log.snapshot();
        let records = |stream: &lambic_model::Stream| snapshot.head(stream.id).records();
        let ended = records(&house.system.queue) - 20;
        assert_eq!(records(&house.system.invocations), ended);
        if ended == 20 {
            break;
        }
        let changed = tokio::time::timeout(Duration::from_secs(60), commits.changed()).await;
        changed.expect("events end").unwrap();
    }
    functions.close().await;
    let invocations = house.system.invocations.id;
    assert_eq!(house.log.snapshot().head(invocations).records(), 20);
}

#[tokio::test]
async fn the_log_need_not_keep_what_has_ended() {
    let house = House::open(|_| {});
    house.enqueue(&[queued("gone", "1")]).await;
    let functions = house.functions().await;
    house.wait_for(&house.system.queue, 2).await;
    let queue = house.system.queue.id;
    let all = async {
        while functions.cursors().of(queue) != house.log.snapshot().head(queue) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    all.expect("also the record that says that it has ended");
    functions.close().await;
}

/// A disk may fail for a moment: queued events wait for it, and need no restart.
#[tokio::test]
async fn the_queue_goes_on_after_it_could_not_be_read() {
    let house = House::open(|log| log.cache_bytes_max = 0);
    house.enqueue(&[queued("gone", "\"event\"")]).await;
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
    // Another one, step by step.
    let mut queue = Queue::new(functions.0.clone());
    queue.read();
    let done = queue.tasks.join_next_with_id().await.unwrap();
    queue.take(done);
    assert!(queue.ended_before.is_none());
    let again_at = queue.read_again_at.unwrap();
    queue.read();
    assert!(queue.tasks.is_empty(), "it waits");
    write(&whole[..at + 2]);
    tokio::time::sleep_until(again_at).await;
    queue.wake();
    queue.read();
    let done = queue.tasks.join_next_with_id().await.unwrap();
    queue.take(done);
    assert!(queue.ended_before.is_some());
    house.wait_for(&house.system.dead_letters, 1).await;
    functions.close().await;
}

/// Its events stand behind more of another function than there are turns, and than there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_keeps_failing_does_not_keep_others_waiting() {
    let house = House::open(|_| {});
    let functions = house
        .functions_with(|options| {
            options.async_retry_waits = [5, 500].map(Duration::from_millis).into();
        })
        .await;
    deploy(&functions, "bad", component("unreachable"), 10_000).await;
    deploy(&functions, "good", component(ECHO), 0).await;
    let mut rows: Vec<_> = (0..1_100).map(|_| queued("bad", "1")).collect();
    rows.push(queued("good", "2"));
    house.enqueue(&rows).await;
    house.wait_for(&house.system.queue, 1_102).await;
    assert_eq!(
        house
            .log
            .snapshot()
            .head(house.system.dead_letters.id)
            .records(),
        0
    );
    functions.close().await;
    // The oldest event has not ended: the good one is found to have ended at the next start.
    let cursor = house.log.cursor(CURSOR).unwrap();
    assert_eq!(cursor.frontier.0, [Offset(0)]);
    let functions = house.functions().await;
    functions
        .remove(&FunctionName::new("bad").unwrap())
        .await
        .unwrap();
    house.wait_for(&house.system.dead_letters, 1_100).await;
    house.wait_for(&house.system.queue, 2_202).await;
    functions.close().await;
    assert_eq!(
        house.log.snapshot().head(house.system.queue.id).records(),
        2_202
    );
}

/// More than there is room for: the rest is read from the stream when there is.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_long_queue_ends() {
    let house = House::open(|_| {});
    for _ in 0..25 {
        let rows: Vec<_> = (0..100).map(|_| queued("gone", "1")).collect();
        house.enqueue(&rows).await;
    }
    let functions = house.functions().await;
    house.wait_for(&house.system.dead_letters, 2_500).await;
    functions.close().await;
    let cursor = house.log.cursor(CURSOR).unwrap();
    assert!(cursor.frontier.0[0] >= Offset(2_500), "{cursor:?}");
}

#[tokio::test]
async fn the_cursor_stands_at_the_oldest_event_that_has_not_ended() {
    let house = House::open(|_| {});
    let functions = house.functions().await;
    let mut queue = Queue::new(functions.0.clone());
    let scan = |from, to, function: Option<&str>| Scan {
        from,
        to,
        function: function.map(str::to_owned),
    };
    let events = |function: &str, offsets: std::ops::Range<u64>| -> Vec<Queued> {
        let event = |offset| Queued {
            offset,
            at_us: 0,
            request_id: String::new(),
            function: function.to_owned(),
            attempts: 0,
            waits: 0,
        };
        offsets.map(event).collect()
    };
    let end = |queue: &mut Queue, function: &str, offset: u64| {
        let end = Ended {
            offset,
            row: queued(function, ""),
            invocation: None,
            dead_letter: None,
            follow: Vec::new(),
            to_house: false,
            is_short: false,
        };
        queue.take_kept(vec![end], Ok(()));
    };
    queue.take_in(scan(0, 2_000, None), events("a", 0..1_500));
    queue.take_in(scan(2_000, 2_010, None), events("b", 2_000..2_001));
    assert_eq!(queue.position, 2_010);
    assert_eq!(queue.cursor_without(&[]), Offset(0));
    let turn = |queue: &mut Queue| queue.lines.next_event().unwrap().function;
    assert_eq!([turn(&mut queue), turn(&mut queue)], ["a", "b"]);
    end(&mut queue, "a", 0);
    for offset in 1..1_000 {
        turn(&mut queue);
        end(&mut queue, "a", offset);
    }
    assert_eq!(
        queue.cursor_without(&[]),
        Offset(1_000),
        "what found no room"
    );
    queue.was_new = true;
    let next = queue.next_scan(2_010).unwrap();
    assert_eq!(
        (next.from, next.to, next.function.as_deref()),
        (1_000, 2_000, Some("a"))
    );
    queue.take_in(next, events("a", 1_000..1_500));
    let next = queue.next_scan(2_010).unwrap();
    assert_eq!((next.from, next.to), (2_000, 2_010));
    queue.take_in(next, Vec::new());
    assert!(queue.next_scan(2_010).is_none());
    for offset in 1_000..1_500 {
        turn(&mut queue);
        end(&mut queue, "a", offset);
    }
    assert_eq!(queue.cursor_without(&[]), Offset(2_000));
    end(&mut queue, "b", 2_000);
    assert_eq!(queue.cursor_without(&[]), Offset(2_010));
    functions.close().await;
}

/// It may have been kept: the same append again has no second effect.
#[tokio::test(flavor = "multi_thread")]
async fn ends_whose_append_is_lost_are_appended_again() {
    let gate = Arc::new(Gate::default());
    let house = House::open(|log| log.clock = gate.clone());
    let functions = house.functions().await;
    let mut queue = Queue::new(functions.0.clone());
    queue.ended.push(Ended {
        offset: 0,
        row: QueueRow {
            state: "done".to_owned(),
            event: None,
            ..queued("f", "")
        },
        invocation: None,
        dead_letter: None,
        follow: Vec::new(),
        to_house: false,
        is_short: false,
    });
    let mut waits = gate.waits.subscribe();
    gate.set_closed(true);
    queue.keep();
    waits.wait_for(|&waits| waits).await.unwrap();
    queue.tasks.abort_all();
    let lost = queue.tasks.join_next_with_id().await.unwrap();
    assert!(lost.is_err());
    queue.take(lost);
    assert!(queue.keeping.is_some());
    gate.set_closed(false);
    let kept = queue.tasks.join_next_with_id().await.unwrap();
    queue.take(kept);
    assert!(queue.keeping.is_none() && queue.parts.is_empty());
    assert_eq!(texts(&house, &house.system.queue, "state"), ["done"]);
    functions.close().await;
}

/// A clock that panics once when it is told to.
#[derive(Debug, Default)]
struct Breaks(AtomicBool);

impl Clock for Breaks {
    fn now_us(&self) -> i64 {
        let breaks = self.0.swap(false, Ordering::SeqCst);
        assert!(!breaks, "as the test wants it");
        SystemClock.now_us()
    }

    fn monotonic(&self) -> std::time::Instant {
        SystemClock.monotonic()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let bound = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < bound, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The queue panics while the end of an event is being appended: that it has ended is not in the log yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_begins_anew_does_not_run_what_the_former_one_still_ends() {
    let (gate, clock) = (Arc::new(Gate::default()), Arc::new(Breaks::default()));
    let house = House::open(|log| log.clock = gate.clone());
    let functions = house
        .functions_with(|options| options.clock = clock.clone())
        .await;
    // An event that waits for a turn makes the queue look, and ask for the time, every second.
    for (name, concurrency) in [("echo", 1), ("stopped", 0)] {
        let name = FunctionName::new(name).unwrap();
        let mut deployment = Deployment::new(name, Runtime::Wasm, component(ECHO));
        deployment.timeout = Duration::from_secs(60);
        deployment.concurrency = Some(concurrency);
        functions.deploy(deployment).await.unwrap();
    }
    let entry = functions.0.chosen("echo").unwrap();
    let turn = entry.turn_now().unwrap();
    let events = [queued("stopped", "1"), queued("echo", "2")];
    house.enqueue(&events).await;
    let mut waits = gate.waits.subscribe();
    gate.set_closed(true);
    drop(turn);
    waits.wait_for(|&waits| waits).await.unwrap();
    until("it has run", || entry.turn_now().is_some()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let busy = || functions.0.queue_busy.receiver_count();
    until("its end is being kept", || busy() == 1).await;
    clock.0.store(true, Ordering::SeqCst);
    until("the queue panics", || !clock.0.load(Ordering::SeqCst)).await;
    // Another one begins after a pause; one that did not wait would have read the log by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(busy(), 1);
    gate.set_closed(false);
    let stopped = FunctionName::new("stopped").unwrap();
    functions.remove(&stopped).await.unwrap();
    house.wait_for(&house.system.queue, 4).await;
    functions.close().await;
    let states = texts(&house, &house.system.queue, "state");
    assert_eq!(states, ["queued", "queued", "done", "dead"]);
    let invocations = house.system.invocations.id;
    assert_eq!(house.log.snapshot().head(invocations).records(), 1);
}

/// Of a function that may be tried twice more.
fn failure(cause: Cause) -> Attempt {
    Attempt::Failure {
        cause,
        error_type: "E".to_owned(),
        message: "no".to_owned(),
        payload: "1".to_owned(),
        retries: 2,
        age_max: Duration::from_secs(21_600),
        follow: vec![attempt::Follow {
            to: crate::Destination::Function("next".to_owned()),
            last: crate::destination::Last {
                version: crate::FunctionVersion::Latest,
                is_failure: true,
                request: "1".to_owned(),
                response: b"null".to_vec(),
            },
        }],
    }
}

fn event(age_s: i64) -> Queued {
    Queued {
        offset: 7,
        at_us: SystemClock.now_us() - age_s * 1_000_000,
        request_id: "id".to_owned(),
        function: "f".to_owned(),
        attempts: 0,
        waits: 0,
    }
}

/// The event waits; for how many seconds?
fn waits(queue: &mut Queue, event: Queued, cause: Cause) -> (Queued, f64) {
    let now = Instant::now();
    queue.take_attempt(event, failure(cause));
    assert!(queue.ended.is_empty());
    let ((due, _), event) = queue.waiting.pop_first().unwrap();
    (event, due.duration_since(now).as_secs_f64())
}

/// The condition that its end tells, and the attempts that its dead letter does.
fn ends(queue: &mut Queue, event: Queued, cause: Cause) -> (String, i32) {
    queue.take_attempt(event, failure(cause));
    assert!(queue.waiting.is_empty());
    let end = queue.ended.pop().unwrap();
    assert_eq!(end.row.state, "dead");
    let [Follow::To { record, .. }] = &end.follow[..] else {
        panic!("it goes on");
    };
    let record: serde_json::Value = serde_json::from_str(record).unwrap();
    let condition = record["requestContext"]["condition"].as_str().unwrap();
    (condition.to_owned(), end.dead_letter.unwrap().attempts)
}

#[tokio::test]
async fn a_failed_event_is_tried_again_as_on_aws() {
    let house = House::open(|_| {});
    let functions = house
        .functions_with(|options| {
            options.retry_wait = Duration::from_secs(1);
            options.async_retry_waits = [60, 120].map(Duration::from_secs).into();
        })
        .await;
    let mut queue = Queue::new(functions.0.clone());
    // What the function did: a minute, then two.
    let (first, wait) = waits(&mut queue, event(0), Cause::Function);
    assert!((60.0..61.0).contains(&wait), "{wait}");
    let (second, wait) = waits(&mut queue, first, Cause::Function);
    assert!((120.0..121.0).contains(&wait), "{wait}");
    let exhausted = ("RetriesExhausted".to_owned(), 3);
    assert_eq!(ends(&mut queue, second, Cause::Function), exhausted);
    // What was not its fault uses up none of that: 1 s to 5 minutes, half of it left to chance.
    let mut tried = event(21_000);
    for n in 0..20 {
        let (again, wait) = waits(&mut queue, tried, Cause::Platform);
        tried = again;
        let full = 2_f64.powi(n).min(300.0);
        assert!((full / 2.0..full + 1.0).contains(&wait), "{n}: {wait}");
    }
    assert_eq!((tried.attempts, tried.waits), (0, 20));
    let (tried, wait) = waits(&mut queue, tried, Cause::Function);
    assert!((60.0..61.0).contains(&wait), "{wait}");
    // Until it is too old.
    let old = Queued {
        at_us: tried.at_us - 1_000_000_000,
        ..tried
    };
    let too_old = ("EventAgeExceeded".to_owned(), 21);
    assert_eq!(ends(&mut queue, old, Cause::Platform), too_old);
    let never_tried = ("EventAgeExceeded".to_owned(), 0);
    assert_eq!(ends(&mut queue, event(22_000), Cause::TooOld), never_tried);
    functions.close().await;
}

/// Also one that gets no turn at all; by default after six hours.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_old_is_a_dead_letter() {
    let house = House::open(|_| {});
    let functions = house.functions().await;
    deploy(&functions, "runs", component(ECHO), 2).await;
    let name = FunctionName::new("stopped").unwrap();
    let mut stopped = Deployment::new(name, Runtime::Wasm, component(ECHO));
    stopped.concurrency = Some(0);
    functions.deploy(stopped).await.unwrap();
    let hours = |hours: i64| SystemClock.now_us() - hours * 3_600_000_000;
    let aged = |function: &str, age: i64| QueueRow {
        at_us: hours(age),
        ..queued(function, "1")
    };
    let rows = [
        aged("stopped", 5),
        aged("stopped", 7),
        aged("runs", 7),
        aged("runs", 5),
    ];
    house.enqueue(&rows).await;
    house.wait_for(&house.system.queue, 7).await;
    house.wait_for(&house.system.dead_letters, 2).await;
    functions.close().await;
    let letters = &house.system.dead_letters;
    let of = |column: &str| texts(&house, letters, column);
    assert_eq!(of("error_type"), ["EventAgeExceeded", "EventAgeExceeded"]);
    let mut functions = of("function");
    functions.sort();
    assert_eq!(functions, ["runs", "stopped"]);
    let states = texts(&house, &house.system.queue, "state");
    assert_eq!(states.iter().filter(|state| *state == "done").count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever fits into memory at one time.
    #[test]
    fn what_ended_is_known(
        rows in prop::collection::vec((0..12_u8, any::<bool>()), 1..60),
        ids_max in 0..5_usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let house = House::open(|_| {});
            // An event is queued once and ends once, after that.
            let (mut begun, mut expected) = (HashMap::new(), BTreeSet::new());
            let mut made = Vec::new();
            for (id, ends) in rows {
                let mut row = queued("f", "1");
                row.request_id = format!("{id}");
                match begun.get(&id) {
                    None => {
                        begun.insert(id, made.len() as u64);
                    }
                    Some(&offset) if ends && expected.insert(offset) => row.state = "done".to_owned(),
                    Some(_) => continue,
                }
                made.push(row);
            }
            house.enqueue(&made).await;
            let (_stop, stopped) = tokio::sync::watch::channel(false);
            let (snapshot, queue) = (house.log.snapshot(), house.system.queue.id);
            let ended = EndedBefore::read(&snapshot, queue, 0, ids_max, &stopped).unwrap().unwrap();
            let found: BTreeSet<u64> = (0..made.len() as u64 + 3).filter(|&at| ended.has(at)).collect();
            assert_eq!(found, expected);
            let head = made.len() as u64;
            let open = intake::events(&snapshot, queue, 0, head, &ended, None).unwrap();
            assert_eq!(open.len(), begun.len() - expected.len());
        });
    }
}
