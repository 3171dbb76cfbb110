//! Event source mappings by AWS's settings: filters, what is given up and where it goes, lanes, windows.

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use common::House;
use lambic_base::{Clock, SystemClock};
use lambic_functions::{
    Changes, Destination, Error, EventSource, FunctionVersion, NewSource, Rules, Runtime, Start,
    Trigger,
};
use lambic_model::{FunctionName, StreamName};
use serde_json::{Value, json};

const LOST: &str = "arn:aws:lambic:us-east-1:000000000000:stream/lost";

/// Gives back what it is given.
const PASS: &str = "\
def handler(event, context):
    return [{'n': r['data']['n'], 't': r['data']['t']} for r in event['Records']]
";

/// The same, but fails where there is a 13.
const UNLUCKY: &str = "\
def handler(event, context):
    if any(r['data']['n'] == 13 for r in event['Records']):
        raise ValueError('unlucky')
    return [{'n': r['data']['n']} for r in event['Records']]
";

/// A mapping of `input` that starts at its first record and does not try again.
fn new_source(stream: &str, batch_size: usize, rules: Rules) -> NewSource {
    NewSource {
        trigger: Trigger {
            batch_size,
            start: Start::Earliest,
            ..Trigger::new(StreamName::new(stream).unwrap())
        },
        qualifier: None,
        is_enabled: true,
        retries: Some(0),
        rules,
        kept: BTreeMap::new(),
    }
}

/// A function `f` with the output stream `output`.
async fn deploy(house: &House, source: &str) {
    let mut deployment = house.python("f", source).await;
    deployment.output = Some(StreamName::new("output").unwrap());
    house.functions.deploy(deployment).await.unwrap();
}

async fn create(house: &House, new: NewSource) -> (String, EventSource) {
    let name = FunctionName::new("f").unwrap();
    house.functions.create_source(&name, new).await.unwrap()
}

/// Waits until it says so of its last batch: that is told when the batch is kept.
async fn says(house: &House, source: &EventSource, expected: &str) {
    let start = std::time::Instant::now();
    while house.functions.processed(source) != expected {
        assert!(
            start.elapsed() < common::BOUND,
            "{}",
            house.functions.processed(source)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn numbers(rows: &[Value]) -> Vec<i64> {
    let mut numbers: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn filters(pattern: &str) -> Rules {
    Rules {
        filters: vec![pattern.to_owned()],
        ..Rules::default()
    }
}

/// A column of the stream `lost`, which holds JSON.
fn told(row: &Value, column: &str) -> Value {
    serde_json::from_str(row[column].as_str().unwrap_or("null")).unwrap()
}

/// What feeds nothing any more says so where people look.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_whose_stream_is_gone_is_a_problem() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let (_, source) = create(&house, new_source("input", 10, Rules::default())).await;
    assert_eq!(house.functions.processed(&source), "No records processed");
    let mut streams = house.streams.lock().unwrap();
    streams.retain(|stream| stream.name.as_str() != "input");
    drop(streams);
    let told = house.functions.processed(&source);
    assert!(
        told.starts_with("PROBLEM: the stream does not exist"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_is_told_beforehand() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let functions = &house.functions;
    let name = |name: &str| FunctionName::new(name).unwrap();
    let (there, new) = (name("f"), name("not-yet"));
    let before = functions.get("f").unwrap();
    let check = |name: &FunctionName, stream: &str, rules: &Rules| {
        let trigger = Trigger::new(StreamName::new(stream).unwrap());
        functions.check_source(name, None, &trigger, rules)
    };
    let plain = Rules::default();
    for name in [&there, &new] {
        assert!(check(name, "input", &plain).is_ok());
        let missing = check(name, "none", &plain);
        assert!(matches!(missing, Err(Error::UnknownStream { .. })));
        let looped = check(name, "lambic_logs", &plain);
        assert!(matches!(looped, Err(Error::TriggerLoop { .. })));
        let crowded = Rules {
            lanes: 11,
            ..Rules::default()
        };
        assert!(check(name, "input", &crowded).is_err());
        let settings = |timeout_s: u64, variable: &str| {
            let changes = Changes {
                runtime: Some((Runtime::Python, "python3.11".to_owned())),
                timeout: Some(Duration::from_secs(timeout_s)),
                environment: Some([(variable.to_owned(), "1".to_owned())].into()),
                ..Changes::default()
            };
            functions.check_settings(name, changes)
        };
        assert!(settings(900, "A").is_ok());
        assert!(settings(901, "A").is_err());
        assert!(settings(3, "A=B").is_err());
    }
    let output = check(&there, "output", &plain);
    assert!(matches!(output, Err(Error::TriggerLoop { .. })));
    // Nothing has come of it.
    assert!(functions.sources().is_empty());
    assert!(functions.get("not-yet").is_none());
    let after = functions.get("f").unwrap();
    assert_eq!(after.revision, before.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_there_is_checked_without_changing_it() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let rules = Rules::default();
    let (uuid, source) = create(&house, new_source("input", 4, rules)).await;
    let functions = &house.functions;
    let name = FunctionName::new("f").unwrap();
    assert!(functions.check_changed_source(&name, &source).is_ok());
    let mut crowded = source.clone();
    crowded.rules.lanes = 11;
    assert!(functions.check_changed_source(&name, &crowded).is_err());
    let mut large = source.clone();
    large.trigger.batch_size = 0;
    assert!(functions.check_changed_source(&name, &large).is_err());
    // Its stream may be gone.
    let mut orphan = source.clone();
    orphan.trigger.stream = StreamName::new("none").unwrap();
    assert!(functions.check_changed_source(&name, &orphan).is_ok());
    let sources = functions.sources();
    let kept = sources.iter().find(|(_, id, _)| *id == uuid);
    assert_eq!(kept.map(|(_, _, kept)| kept), Some(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_no_filter_lets_through_are_passed_over() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    house.append(&(1..=20).collect::<Vec<_>>()).await;
    let rules =
        filters(r#"{"data": {"n": [{"numeric": [">", 10]}], "t": [{"anything-but": "t15"}]}}"#);
    let (_, source) = create(&house, new_source("input", 4, rules)).await;
    house.wait_until_read().await;
    let expected: Vec<i64> = (11..=20).filter(|&n| n != 15).collect();
    assert_eq!(numbers(&house.rows("output")), expected);
    // Nothing of this is for the function, and still it is read.
    house.append(&[1, 2, 3]).await;
    house.wait_until_read().await;
    says(&house, &source, "OK (14 filtered out)").await;
    house.functions.flush().await;
    // 9 records in batches of 4, whatever lies between them.
    assert_eq!(house.rows("lambic_invocations").len(), 3);
    let house = house.restart().await;
    house.append(&[11]).await;
    house.wait_until_read().await;
    assert_eq!(house.rows("output").len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_records_that_pass_the_filter() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let mut new = new_source("input", 3, filters(r#"{"data": {"n": [10, 20, 30]}}"#));
    new.trigger.window_ms = 300_000;
    create(&house, new).await;
    house.append(&(1..=30).collect::<Vec<_>>()).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [10, 20, 30]);
    house.functions.flush().await;
    assert_eq!(house.rows("lambic_invocations").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_no_destination() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let name = FunctionName::new("f").unwrap();
    let published = house.functions.change(&name, |function| {
        function.publish(None)?;
        let first = FunctionVersion::Number(1);
        function.create_alias("live", first, String::new(), None)?;
        Ok(())
    });
    published.await.unwrap();
    let function =
        |target: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{target}");
    let stream = |name: &str| format!("arn:aws:lambic:us-east-1:000000000000:stream/{name}");
    for (arn, missing) in [
        (function("f"), None),
        (function("f:$LATEST"), None),
        (function("f:1"), None),
        (function("f:live"), None),
        (stream("lost"), None),
        (function("g"), Some("there is no function g ")),
        (function("g:live"), Some("there is no function g ")),
        (
            function("f:2"),
            Some("no version or alias of the name in f:2"),
        ),
        (
            function("f:dead"),
            Some("no version or alias of the name in f:dead"),
        ),
        (stream("found"), Some("there is no stream found ")),
        (stream("lambic_logs"), Some("written by the system only")),
        (
            stream("lambic_dead_letters"),
            Some("written by the system only"),
        ),
    ] {
        let to = Destination::parse(&arn).unwrap();
        let checked = house.functions.check_destination(&to);
        match missing {
            None => assert!(checked.is_ok(), "{arn}: {checked:?}"),
            Some(part) => {
                let error = checked.unwrap_err();
                assert!(matches!(error, Error::BadValue { .. }), "{error:?}");
                assert!(error.to_string().contains(part), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_keeps_failing_goes_to_the_destination_as_a_whole() {
    let house = House::open().await;
    deploy(&house, UNLUCKY).await;
    house.append(&[11, 12, 13, 14, 15]).await;
    let mut new = new_source(
        "input",
        3,
        Rules {
            on_failure: Some(LOST.to_owned()),
            ..Rules::default()
        },
    );
    new.retries = Some(1);
    let (_, source) = create(&house, new).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [14, 15]);
    let rows = house.rows("lost");
    assert_eq!(rows.len(), 1);
    let context = told(&rows[0], "requestContext");
    assert_eq!(context["condition"], "RetryAttemptsExhausted");
    assert_eq!(context["approximateInvokeCount"], 2);
    assert_eq!(
        context["functionArn"],
        "arn:aws:lambda:us-east-1:000000000000:function:f"
    );
    assert_eq!(
        told(&rows[0], "responseContext"),
        json!({ "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" })
    );
    let batch = told(&rows[0], "KinesisBatchInfo");
    assert_eq!(batch["startSequenceNumber"], "0");
    assert_eq!(batch["endSequenceNumber"], "2");
    assert_eq!(batch["batchSize"], 3);
    assert_eq!(
        batch["streamArn"],
        "arn:aws:lambic:us-east-1:000000000000:stream/input"
    );
    // Nothing is dropped: every record of the batch is a dead letter too.
    let letters = house.rows("lambic_dead_letters");
    let request_ids: Vec<&Value> = letters.iter().map(|letter| &letter["request_id"]).collect();
    assert_eq!(request_ids, [&context["requestId"]; 3]);
    says(&house, &source, "OK").await;
    let house = house.restart().await;
    house.append(&[16]).await;
    house.wait_until_read().await;
    assert_eq!(house.rows("lost").len(), 1);
    assert_eq!(house.rows("lambic_dead_letters").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_cut_until_the_record_that_fails_stands_alone() {
    let house = House::open().await;
    deploy(&house, UNLUCKY).await;
    let source =
        "def handler(event, context):\n    print('lost', event['KinesisBatchInfo']['batchSize'])\n";
    house.deploy_python("g", source).await;
    house.append(&(1..=30).collect::<Vec<_>>()).await;
    let to = "arn:aws:lambda:us-east-1:000000000000:function:g";
    let rules = Rules {
        bisects: true,
        on_failure: Some(to.to_owned()),
        ..Rules::default()
    };
    let mut new = new_source("input", 100, rules);
    new.retries = Some(2);
    create(&house, new).await;
    house.wait_until_read().await;
    let expected: Vec<i64> = (1..=30).filter(|&n| n != 13).collect();
    assert_eq!(numbers(&house.rows("output")), expected);
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["attempts"], 3);
    // The destination is a function: its event is queued with the move of the cursor, and runs once.
    house.wait_for_rows("lambic_async", 2).await;
    house.functions.flush().await;
    let lines = house.rows("lambic_logs");
    let lost = lines.iter().filter(|line| line["line"] == "lost 1");
    assert_eq!(lost.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_reported_only_by_mappings_that_ask_for_them() {
    let house = House::open().await;
    let source = "\
def handler(event, context):
    failed = [r['eventID'] for r in event['Records'] if r['data']['n'] == 13]
    return {'batchItemFailures': [{'itemIdentifier': id} for id in failed]}
";
    house.deploy_python("f", source).await;
    house.append(&[11, 12, 13, 14]).await;
    let rules = Rules {
        on_failure: Some(LOST.to_owned()),
        ..Rules::default()
    };
    let (uuid, _) = create(&house, new_source("input", 100, rules.clone())).await;
    house.wait_until_read().await;
    assert!(house.rows("lost").is_empty(), "AWS ignores it as well");
    house.functions.remove_source(&uuid).await.unwrap();
    let rules = Rules {
        reports_failures: true,
        ..rules
    };
    create(&house, new_source("input", 100, rules)).await;
    house.wait_until_read().await;
    // What stands before the failure is done; with the rest, in vain tried again, it ends.
    let rows = house.rows("lost");
    assert_eq!(rows.len(), 1);
    let batch = told(&rows[0], "KinesisBatchInfo");
    assert_eq!(batch["startSequenceNumber"], "2");
    assert_eq!(batch["endSequenceNumber"], "3");
    assert_eq!(
        told(&rows[0], "responseContext"),
        json!({ "statusCode": 200, "executedVersion": "$LATEST" })
    );
}

/// A clock that is so many seconds ahead of that of the log.
#[derive(Debug, Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now_us(&self) -> i64 {
        SystemClock.now_us() + self.0.load(SeqCst) * 1_000_000
    }

    fn monotonic(&self) -> std::time::Instant {
        SystemClock.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_too_old_are_told_and_not_delivered() {
    let ahead = |options: &mut lambic_functions::Options| {
        options.clock = Arc::new(Ahead(AtomicI64::new(120)));
    };
    let house = House::open_in_with(tempfile::tempdir().unwrap(), ahead).await;
    deploy(&house, PASS).await;
    house.append(&[1, 2, 3]).await;
    let rules = Rules {
        age_s_max: Some(60),
        on_failure: Some(LOST.to_owned()),
        ..Rules::default()
    };
    let (uuid, _) = create(&house, new_source("input", 100, rules)).await;
    house.wait_until_read().await;
    assert!(house.rows("output").is_empty());
    assert!(
        house.rows("lambic_dead_letters").is_empty(),
        "nothing has failed"
    );
    let rows = house.rows("lost");
    assert_eq!(rows.len(), 1);
    let context = told(&rows[0], "requestContext");
    assert_eq!(context["condition"], "RecordAgeExceeded");
    assert_eq!(context["approximateInvokeCount"], 0);
    assert_eq!(told(&rows[0], "KinesisBatchInfo")["batchSize"], 3);
    let older = house.functions.update_source(&uuid, |source| {
        source.rules.age_s_max = Some(3_600);
        Ok(())
    });
    older.await.unwrap();
    house.append(&[4]).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [4]);
}

/// What the machine lacks is not the function's fault: it uses up no retries, and no batch is cut for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_a_machine_that_can_run_it() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let house = house
        .restart_with(|options| options.memory_mb_max = 100)
        .await;
    house.append(&[1, 2, 3, 4, 5, 6]).await;
    let rules = Rules {
        bisects: true,
        on_failure: Some(LOST.to_owned()),
        ..Rules::default()
    };
    create(&house, new_source("input", 100, rules)).await;
    let rows = house.wait_for_rows("lambic_invocations", 8).await;
    for row in rows {
        assert_eq!(row["error_type"], "ServiceException");
        assert_eq!(
            (&row["kind"], &row["attempt"]),
            (&json!("stream"), &json!(1))
        );
    }
    assert!(house.rows("lost").is_empty());
    assert!(house.rows("lambic_dead_letters").is_empty());
    let house = house.restart().await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [1, 2, 3, 4, 5, 6]);
    assert!(house.rows("lambic_dead_letters").is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_a_machine_until_it_is_too_old() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let clock = Arc::new(Ahead::default());
    let house = house
        .restart_with(|options| {
            options.memory_mb_max = 100;
            options.clock = clock.clone();
        })
        .await;
    house.append_to("keyed", &[1, 2], &["k"; 2]).await;
    let rules = Rules {
        age_s_max: Some(60),
        on_failure: Some(LOST.to_owned()),
        ..Rules::default()
    };
    create(&house, new_source("keyed", 100, rules)).await;
    house.wait_for_rows("lambic_invocations", 3).await;
    clock.0.store(120, SeqCst);
    let letters = house.wait_for_rows("lambic_dead_letters", 2).await;
    for letter in &letters {
        assert_eq!(letter["error_type"], "ServiceException", "{letter}");
    }
    let rows = house.rows("lost");
    assert_eq!(rows.len(), 1, "{rows:?}");
    let context = told(&rows[0], "requestContext");
    assert_eq!(context["condition"], "RecordAgeExceeded");
    // With those that were not the function's fault, as in the dead letters.
    let tried = context["approximateInvokeCount"].as_i64().unwrap();
    assert!(tried >= 3 && letters[0]["attempts"] == tried, "{tried}");
    let response = told(&rows[0], "responseContext");
    assert_eq!(response["statusCode"], 500);
    assert!(response.get("functionError").is_none());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_starts_at_a_time() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    house.append(&[1]).await;
    house.append(&[2]).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let start = SystemClock.now_us();
    house.append(&[3]).await;
    house.append(&[4]).await;
    house.append(&[5]).await;
    let mut new = new_source("input", 100, Rules::default());
    new.trigger.start = Start::AtUs(start);
    let (uuid, _) = create(&house, new.clone()).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [3, 4, 5]);
    house.functions.remove_source(&uuid).await.unwrap();
    // Behind everything that is there.
    new.trigger.start = Start::AtUs(SystemClock.now_us() + 1_000_000);
    create(&house, new).await;
    house.append(&[6]).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [3, 4, 5, 6]);
}

/// As [`PASS`], but a batch with a `stuck` record does not end until its code is touched.
const STUCK: &str = "\
import os, time
def handler(event, context):
    for r in event['Records']:
        while r['data']['t'] == 'stuck' and os.path.getmtime(__file__) > 1:
            time.sleep(0.01)
    return [{'n': r['data']['n'], 't': r['data']['t']} for r in event['Records']]
";

fn let_go(house: &House) {
    let digest = house.functions.get("f").unwrap().digest;
    let code = house.dir.path().join("functions/code").join(digest);
    std::fs::File::open(code.join("handler.py"))
        .and_then(|file| file.set_modified(UNIX_EPOCH))
        .unwrap();
}

/// The numbers of each key, in the order of the output.
fn by_key(rows: &[Value]) -> BTreeMap<String, Vec<i64>> {
    let mut keys: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let key = row["t"].as_str().unwrap().to_owned();
        keys.entry(key)
            .or_default()
            .push(row["n"].as_i64().unwrap());
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_slow_does_not_hold_the_others_up_and_keys_stay_in_order() {
    let house = House::open().await;
    deploy(&house, STUCK).await;
    let keys: Vec<String> = (0..20).map(|key| format!("k{key}")).collect();
    let keys: Vec<&str> = ["stuck"]
        .into_iter()
        .chain(keys.iter().map(String::as_str))
        .collect();
    for round in 0..5 {
        let numbers: Vec<i64> = (0..keys.len() as i64).map(|n| round * 100 + n).collect();
        house.append_to("keyed", &numbers, &keys).await;
    }
    let rules = Rules {
        lanes: 10,
        ..Rules::default()
    };
    let (uuid, _) = create(&house, new_source("keyed", 3, rules)).await;
    // Of twenty keys, some are on other lanes than `stuck`: those pass, also when the server starts again.
    house.wait_for_rows("output", 5).await;
    let house = house.restart().await;
    assert!(!by_key(&house.rows("output")).contains_key("stuck"));
    let_go(&house);
    house.wait_until_all_read("keyed").await;
    let rows = house.rows("output");
    assert_eq!(
        rows.len(),
        5 * keys.len(),
        "each once, also across a restart"
    );
    for (key, numbers) in by_key(&rows) {
        assert!(
            numbers.is_sorted() && numbers.len() == 5,
            "{key}: {numbers:?}"
        );
    }

    // Another number of lanes goes on from there.
    for lanes in [3, 1, 2] {
        house.append_to("keyed", &[1_000], &["k1"]).await;
        let changed = house.functions.update_source(&uuid, move |source| {
            source.rules.lanes = lanes;
            Ok(())
        });
        changed.await.unwrap();
        house
            .append_to("keyed", &[1_001, 1_002], &["k1", "stuck"])
            .await;
        house.wait_until_all_read("keyed").await;
    }
    assert_eq!(house.rows("output").len(), 5 * keys.len() + 9);
    let house = house.restart().await;
    house.wait_until_all_read("keyed").await;
    assert_eq!(house.rows("output").len(), 5 * keys.len() + 9);
    house.functions.remove_source(&uuid).await.unwrap();
    let kept = house.functions.cursors();
    assert!(!kept.0.contains_key(&house.stream("keyed").id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mapped_so_is_refused() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let name = FunctionName::new("f").unwrap();
    for (rules, part) in [
        (filters("{"), "Invalid filter pattern definition."),
        (
            Rules {
                lanes: 2,
                ..Rules::default()
            },
            "have no key",
        ),
    ] {
        let new = new_source("input", 100, rules);
        let error = house.functions.create_source(&name, new).await.unwrap_err();
        assert!(matches!(error, Error::BadValue { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let (uuid, _) = create(&house, new_source("input", 100, Rules::default())).await;
    let update = house.functions.update_source(&uuid, |source| {
        source.rules.filters = vec!["{}".to_owned()];
        Ok(())
    });
    assert!(update.await.is_err());
    house.append(&[1]).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [1], "the former rules hold");
}

/// Sums up, and says the sum at the end of a window.
const SUM: &str = "\
def handler(event, context):
    n = event['state'].get('n', 0) + sum(r['data']['n'] for r in event['Records'])
    if event['isFinalInvokeForWindow']:
        assert event['Records'] == [] and event['shardId'].startswith('shardId-')
        return [{'n': n, 't': event['window']['start']}]
    return {'state': {'n': n, 'x': 'x' * (2_000_000 if n == 666 else 0)}} if not event['isWindowTerminatedEarly'] \\
        else [{'n': n, 't': 'early'}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_window_hands_its_state_on_and_says_it_at_the_end() {
    let house = House::open().await;
    deploy(&house, SUM).await;
    let rules = Rules {
        window_s: 2,
        ..Rules::default()
    };
    create(&house, new_source("keyed", 2, rules)).await;
    let sum = |house: &House| numbers(&house.rows("output")).iter().sum::<i64>();
    house.append_to("keyed", &[1, 2, 3, 4, 5], &["k"; 5]).await;
    house.wait_until_all_read("keyed").await;
    // The state outlives the server.
    let house = house.restart().await;
    house.append_to("keyed", &[6], &["k"]).await;
    house.wait_until_all_read("keyed").await;
    // However the records fall into windows, each is in one of them.
    let start = std::time::Instant::now();
    while sum(&house) < 21 {
        assert!(
            start.elapsed() < common::BOUND,
            "{:?}",
            house.rows("lambic_logs")
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows = house.rows("output");
    assert_eq!(sum(&house), 21);
    assert!(rows.len() < 6, "a window for each record: {rows:?}");
    let starts: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["t"].to_string()).collect();
    assert_eq!(starts.len(), rows.len(), "a window ends once: {rows:?}");
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_with_too_much_state_ends_early() {
    let house = House::open().await;
    deploy(&house, SUM).await;
    let rules = Rules {
        window_s: 900,
        ..Rules::default()
    };
    create(&house, new_source("keyed", 100, rules)).await;
    house.append_to("keyed", &[666], &["k"]).await;
    let rows = house.wait_for_rows("output", 1).await;
    assert_eq!(
        (&rows[0]["n"], &rows[0]["t"]),
        (&json!(666), &json!("early"))
    );
    // The window goes on with a fresh state.
    house.append_to("keyed", &[1], &["k"]).await;
    house.wait_until_all_read("keyed").await;
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_state_is_a_failure_where_there_are_windows() {
    let house = House::open().await;
    deploy(&house, PASS).await;
    let rules = Rules {
        window_s: 1,
        ..Rules::default()
    };
    create(&house, new_source("keyed", 100, rules)).await;
    house.append_to("keyed", &[1], &["k"]).await;
    house.wait_until_all_read("keyed").await;
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters.len(), 1);
    let message = letters[0]["error_message"].as_str().unwrap();
    assert!(message.contains("no `state`"), "{message}");
}
