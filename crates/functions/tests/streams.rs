//! Triggers and queued events: what is delivered, retried, kept and never dropped.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use common::House;
use lambic_base::{Clock, SystemClock};
use lambic_functions::{
    AsyncSettings, Deployment, Event, Qualifier, Rules, Start, Trigger, system_streams,
};
use lambic_model::{FunctionName, StreamId, StreamName};
use serde_json::{Value, json};

fn triggered(mut deployment: Deployment, batch_size: usize, start: Start) -> Deployment {
    let stream = |name: &str| StreamName::new(name).unwrap();
    deployment.triggers = vec![Trigger {
        batch_size,
        start,
        ..Trigger::new(stream("input"))
    }];
    deployment.output = Some(stream("output"));
    deployment
}

fn numbers(rows: &[Value]) -> Vec<i64> {
    let mut numbers: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

const TEN_TIMES: &str = "\
def handler(event, context):
    return [{'n': r['data']['n'] * 10, 't': r['data']['t']} for r in event['Records']]
";

#[tokio::test(flavor = "multi_thread")]
async fn records_go_through_the_function_into_the_output_once() {
    let house = House::open().await;
    house.append(&[1, 2, 3]).await;
    let deployment = triggered(house.python("f", TEN_TIMES).await, 2, Start::Earliest);
    house.functions.deploy(deployment.clone()).await.unwrap();
    house.append(&[4]).await;
    house.append(&[5, 6]).await;
    house.wait_until_read().await;
    let rows = house.rows("output");
    assert_eq!(numbers(&rows), [10, 20, 30, 40, 50, 60]);
    // Partitions do not wait for each other.
    let first = rows.iter().find(|row| row["n"] == 10).unwrap();
    assert_eq!(first["t"], "t1");

    // Neither a restart nor a new deployment delivers a record again.
    let house = house.restart().await;
    house.append(&[7]).await;
    house.wait_until_read().await;
    house.functions.deploy(deployment).await.unwrap();
    house.append(&[8]).await;
    house.wait_until_read().await;
    assert_eq!(
        numbers(&house.rows("output")),
        [10, 20, 30, 40, 50, 60, 70, 80]
    );
    house.functions.flush().await;
    assert!(
        house
            .rows("lambic_invocations")
            .iter()
            .all(|row| row["kind"] == "stream" && row["outcome"] == "success")
    );
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_several_lanes_goes_on_with_the_next_deployment() {
    let house = House::open().await;
    house.append_to("keyed", &[1, 2], &["a", "b"]).await;
    let mut deployment = triggered(house.python("f", TEN_TIMES).await, 2, Start::Earliest);
    deployment.triggers[0].stream = StreamName::new("keyed").unwrap();
    deployment.triggers[0].rules.lanes = 2;
    house.functions.deploy(deployment.clone()).await.unwrap();
    house.wait_until_all_read("keyed").await;
    house.functions.deploy(deployment).await.unwrap();
    house.append_to("keyed", &[3], &["a"]).await;
    house.wait_until_all_read("keyed").await;
    // What was read is not read again, as it would be from the first record on.
    assert_eq!(numbers(&house.rows("output")), [10, 20, 30]);
}

/// Fails where there is a 13.
const UNLUCKY: &str = "\
def handler(event, context):
    if any(r['data']['n'] == 13 for r in event['Records']):
        raise ValueError('unlucky')
    return [{'n': r['data']['n'] * 10, 't': r['data']['t']} for r in event['Records']]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_keeps_the_rules_of_its_deployment() {
    let house = House::open().await;
    let stream = |name: &str| StreamName::new(name).unwrap();
    let mut deployment = triggered(house.python("f", UNLUCKY).await, 10, Start::Earliest);
    deployment.triggers[0].stream = stream("keyed");
    deployment.retries = 0;
    let rules = |deployment: &mut Deployment, change: fn(&mut Rules)| {
        change(&mut deployment.triggers[0].rules);
    };
    rules(&mut deployment, |rules| {
        rules.filters = vec![r#"{"data": {"n": [{"numeric": [">", 10]}]}}"#.to_owned()];
        rules.bisects = false;
    });
    let numbers_appended = [1, 12, 13, 14, 2];
    house.append_to("keyed", &numbers_appended, &["k"; 5]).await;
    house.functions.deploy(deployment.clone()).await.unwrap();
    house.wait_until_all_read("keyed").await;
    // The batch is not cut: what stands beside the 13 is given up with it.
    assert_eq!(house.rows("lambic_dead_letters").len(), 3);
    assert!(house.rows("output").is_empty());
    // The next deployment says otherwise, and goes on where this one was, also after a restart.
    rules(&mut deployment, |rules| rules.bisects = true);
    house.functions.deploy(deployment.clone()).await.unwrap();
    let house = house.restart().await;
    house.append_to("keyed", &[3, 15, 13, 16], &["k"; 4]).await;
    house.wait_until_all_read("keyed").await;
    assert_eq!(numbers(&house.rows("output")), [150, 160]);
    assert_eq!(house.rows("lambic_dead_letters").len(), 4);

    type Change = fn(&mut Rules);
    let cases: [(Change, &str); 5] = [
        (
            |rules| rules.filters = vec!["{".to_owned()],
            "Invalid filter pattern definition.",
        ),
        (|rules| rules.age_s_max = Some(1), "60 to 604800, not 1"),
        (|rules| rules.lanes = 2, "no key whose order"),
        (
            |rules| {
                let arn = "arn:aws:lambic:us-east-1:000000000000:stream/input";
                rules.on_failure = Some(arn.to_owned());
            },
            "a destination for its own records",
        ),
        (
            |rules| {
                let arn = "arn:aws:lambic:us-east-1:000000000000:stream/lambic_logs";
                rules.on_failure = Some(arn.to_owned());
            },
            "written by the system only",
        ),
    ];
    for (change, said) in cases {
        let mut refused = deployment.clone();
        refused.triggers[0].stream = stream("input");
        rules(&mut refused, change);
        let error = house.functions.deploy(refused).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_trigger_starts_at_the_head() {
    let house = House::open().await;
    house.append(&[1, 2, 3]).await;
    let deployment = triggered(house.python("f", TEN_TIMES).await, 100, Start::Latest);
    house.functions.deploy(deployment).await.unwrap();
    house.append(&[4]).await;
    house.wait_until_read().await;
    assert_eq!(numbers(&house.rows("output")), [40]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_keeps_failing_is_a_dead_letter_and_the_others_pass() {
    let house = House::open().await;
    let source = "\
def handler(event, context):
    for r in event['Records']:
        if r['data']['n'] == 13:
            raise ValueError('unlucky')
    return {'records': [{'n': r['data']['n']} for r in event['Records']]}
";
    let mut deployment = triggered(house.python("f", source).await, 100, Start::Earliest);
    deployment.retries = 1;
    house.append(&(1..=30).collect::<Vec<_>>()).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    let expected: Vec<i64> = (1..=30).filter(|&n| n != 13).collect();
    assert_eq!(numbers(&house.rows("output")), expected);
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["error_type"], "ValueError");
    assert_eq!(letters[0]["error_message"], "unlucky");
    assert_eq!(letters[0]["attempts"], 2);
    assert_eq!(letters[0]["kind"], "stream");
    let event: Value = serde_json::from_str(letters[0]["event"].as_str().unwrap()).unwrap();
    assert_eq!(event["data"], json!({"n": 13, "t": "t13"}));
    let source = format!("input:{}:{}", event["partition"], event["offset"]);
    assert_eq!(letters[0]["source"], source.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_batch_response_moves_to_the_failure_and_no_further() {
    let house = House::open().await;
    // Fails each multiple of 3 at its first delivery, by a file that outlives the invocation.
    let source = "\
import os, tempfile
def handler(event, context):
    done = []
    for r in event['Records']:
        n = r['data']['n']
        mark = os.path.join(tempfile.gettempdir(), str(n))
        if n % 3 == 0 and not os.path.exists(mark):
            open(mark, 'w').close()
            return {'records': done, 'batchItemFailures': [{'itemIdentifier': r['eventID']}]}
        done.append({'n': n})
    return {'records': done, 'batchItemFailures': []}
";
    let deployment = triggered(house.python("f", source).await, 100, Start::Earliest);
    house.append(&(1..=20).collect::<Vec<_>>()).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    let rows = house.rows("output");
    let in_order: Vec<i64> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    assert_eq!(in_order, (1..=20).collect::<Vec<i64>>());
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_behind_a_failure_is_not_kept_twice() {
    let house = House::open().await;
    // As above, but goes on behind the failure: AWS's example of a partial batch response.
    let source = "\
import os, tempfile
def handler(event, context):
    done, failed = [], []
    for r in event['Records']:
        n = r['data']['n']
        mark = os.path.join(tempfile.gettempdir(), str(n))
        if n % 3 == 0 and not os.path.exists(mark):
            open(mark, 'w').close()
            failed.append({'itemIdentifier': r['eventID']})
        else:
            done.append({'n': n})
    return {'records': done, 'batchItemFailures': failed}
";
    let deployment = triggered(house.python("f", source).await, 100, Start::Earliest);
    house.append(&(1..=20).collect::<Vec<_>>()).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    assert_eq!(
        numbers(&house.rows("output")),
        (1..=20).collect::<Vec<i64>>()
    );
    assert!(house.rows("lambic_dead_letters").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_does_not_fit_is_a_failure_that_says_why() {
    let house = House::open().await;
    let source = "def handler(event, context):\n    return [{'n': 1, 'colour': 'red'}]\n";
    let mut deployment = triggered(house.python("f", source).await, 1, Start::Earliest);
    deployment.retries = 0;
    house.append(&[1]).await;
    house.functions.deploy(deployment).await.unwrap();
    house.wait_until_read().await;
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters[0]["error_type"], "Lambic.BadOutput");
    let message = letters[0]["error_message"].as_str().unwrap();
    assert!(
        message.starts_with("the output does not fit stream `output`: record 1 on line 1, ")
            && message.contains("colour"),
        "{message}"
    );
    assert!(house.rows("output").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_events_end_in_success_or_dead_letter() {
    let house = House::open().await;
    let source = "\
def handler(event, context):
    if event['n'] % 2:
        raise ValueError('odd')
";
    house.deploy_python("f", source).await;
    let name = FunctionName::new("f").unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..10 {
        let event = json!({ "n": n }).to_string().into_bytes();
        let id = house.functions.invoke_async(&name, event).await.unwrap();
        expected.insert(id, if n % 2 == 0 { "done" } else { "dead" });
    }
    let rows = house.wait_for_rows("lambic_async", 20).await;
    let ended: BTreeMap<_, _> = rows
        .iter()
        .filter(|row| row["state"] != "queued")
        .map(|row| {
            (
                row["request_id"].as_str().unwrap().to_owned(),
                row["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(ended, expected);
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters.len(), 5);
    for letter in letters {
        assert_eq!(letter["attempts"], 3);
        assert_eq!(letter["error_type"], "ValueError");
        assert_eq!(expected[letter["request_id"].as_str().unwrap()], "dead");
    }
    house.functions.flush().await;
    let attempts = house.rows("lambic_invocations");
    assert_eq!(attempts.len(), 5 + 5 * 3);

    // What has ended is not run again.
    let house = house.restart().await;
    house
        .functions
        .invoke_async(&name, b"{\"n\": 0}".to_vec())
        .await
        .unwrap();
    house.wait_for_rows("lambic_async", 22).await;
    house.functions.flush().await;
    assert_eq!(house.rows("lambic_invocations").len(), 21);
}

/// As on AWS, `OnFailure` and the target of `DeadLetterConfig` both get it.
#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_failing_goes_to_the_target_of_dead_letters() {
    let house = House::open().await;
    let source = "def handler(event, context):\n    return 1 // event\n";
    let mut deployment = house.python("f", source).await;
    deployment.retries = 1;
    let target = json!({ "TargetArn": "arn:aws:lambic:us-east-1:000000000000:stream/lost" });
    let kept = &mut deployment.settings.kept;
    kept.insert("DeadLetterConfig".to_owned(), target);
    house.functions.deploy(deployment).await.unwrap();
    let echo = "def handler(event, context):\n    return event\n";
    house.deploy_python("next", echo).await;
    let name = FunctionName::new("f").unwrap();
    let settings = AsyncSettings {
        on_failure: Some("arn:aws:lambda:us-east-1:000000000000:function:next".to_owned()),
        ..AsyncSettings::default()
    };
    let set = house.functions.change(&name, |function| {
        function.async_settings.insert(Qualifier::LATEST, settings);
        Ok(())
    });
    set.await.unwrap();
    for event in ["1", "0"] {
        let queued = house.functions.invoke_async(&name, event.into()).await;
        queued.unwrap();
    }
    // Two of it, the one that goes on, and their ends.
    let rows = house.wait_for_rows("lambic_async", 6).await;
    let of_next = |row: &&Value| row["function"] == "next";
    assert_eq!(rows.iter().filter(of_next).count(), 2);
    let lost = house.rows("lost");
    assert_eq!(lost.len(), 1, "{lost:?}");
    let context = lost[0]["requestContext"].as_str().unwrap();
    let context: Value = serde_json::from_str(context).unwrap();
    assert_eq!(context["condition"], "RetriesExhausted");
    assert_eq!(context["approximateInvokeCount"], 2);
    assert_eq!(house.rows("lambic_dead_letters").len(), 1);
    house.close().await;
}

/// What the machine lacks is not the function's fault: such attempts are none of its retries.
#[tokio::test(flavor = "multi_thread")]
async fn a_queued_event_waits_for_a_machine_that_can_run_it() {
    let house = House::open().await;
    let source = "def handler(event, context):\n    return 1\n";
    let mut deployment = house.python("f", source).await;
    deployment.retries = 0;
    house.functions.deploy(deployment).await.unwrap();
    let house = house
        .restart_with(|options| options.memory_mb_max = 100)
        .await;
    let name = FunctionName::new("f").unwrap();
    let queued = house.functions.invoke_async(&name, Vec::new()).await;
    let id = queued.unwrap();
    let rows = house.wait_for_rows("lambic_invocations", 4).await;
    for row in rows {
        assert_eq!(row["error_type"], "ServiceException");
        assert_eq!(
            (&row["request_id"], &row["attempt"]),
            (&json!(id), &json!(1))
        );
    }
    assert!(house.rows("lambic_dead_letters").is_empty());
    let house = house.restart().await;
    let rows = house.wait_for_rows("lambic_async", 2).await;
    assert_eq!(
        (&rows[1]["state"], &rows[1]["request_id"]),
        (&json!("done"), &json!(id))
    );
    house.close().await;
}

/// Through all attempts, and a restart in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_queued_event_has_the_trace_of_its_caller() {
    let house = House::open().await;
    let source = "import os\n\
        def handler(event, context):\n\
        \x20   print(os.environ['_X_AMZN_TRACE_ID'])\n";
    house.deploy_python("f", source).await;
    let house = house
        .restart_with(|options| options.memory_mb_max = 100)
        .await;
    let trace = "Root=1-2-3;Parent=4;Sampled=1";
    let name = FunctionName::new("f").unwrap();
    let event = Event {
        trace_id: Some(trace.to_owned()),
        ..Event::default()
    };
    let queued = house.functions.invoke_async_with(&name, None, event);
    let id = queued.await.unwrap();
    house.wait_for_rows("lambic_invocations", 1).await;
    let house = house.restart().await;
    house.wait_for_rows("lambic_async", 2).await;
    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows.last().unwrap()["outcome"], "success");
    for row in &rows {
        assert_eq!(row["trace_id"], "1-2-3", "{row}");
    }
    let logs = house.rows("lambic_logs");
    let lines: Vec<&Value> = logs.iter().map(|row| &row["line"]).collect();
    assert!(lines.contains(&&json!(trace)), "{lines:?}");
    // One that came without a trace gets one, which is too long for nobody.
    for trace in [None, Some("x".repeat(2_000))] {
        let event = Event {
            trace_id: trace,
            ..Event::default()
        };
        let queued = house.functions.invoke_async_with(&name, None, event);
        assert_ne!(queued.await.unwrap(), id);
    }
    let rows = house.wait_for_rows("lambic_async", 6).await;
    let queued = rows.iter().filter(|row| row["state"] == "queued").skip(1);
    for row in queued {
        let trace = row["trace_id"].as_str().unwrap();
        assert!(trace.starts_with("Root=1-") && trace.len() < 64, "{trace}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_server_before_traces_are_read() {
    let dir = common::of_an_older_server(&system_streams(StreamId(1)).queue, 5, |_| {
        let at = TimestampMicrosecondArray::from(vec![SystemClock.now_us()]).with_timezone("UTC");
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        vec![
            Arc::new(at),
            text("old"),
            text("gone"),
            text("queued"),
            text("{\"n\":1}"),
        ]
    })
    .await;

    let house = House::open_in(dir).await;
    let rows = house.wait_for_rows("lambic_async", 2).await;
    assert_eq!(
        (&rows[0]["event"], &rows[0]["trace_id"]),
        (&json!("{\"n\":1}"), &Value::Null)
    );
    assert_eq!(
        (&rows[1]["request_id"], &rows[1]["state"]),
        (&json!("old"), &json!("dead"))
    );
    let letters = house.rows("lambic_dead_letters");
    assert_eq!(letters[0]["event"], "{\"n\":1}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_running_at_the_end_runs_again() {
    // It is found by its variables, which those that are split off have in their memory only.
    let house = House::open_with(|options| options.spares = 0).await;
    // It sees no file of the test's but its own code.
    let source = "import os, time\n\
         def handler(event, context):\n\
         \x20   if os.path.getmtime(__file__) > 1:\n\
         \x20       time.sleep(1000)\n";
    let mut deployment = house.python("f", source).await;
    let marker = uuid::Uuid::new_v4().to_string();
    deployment.environment = [("MARKER".to_owned(), marker.clone())].into();
    deployment.timeout = common::BOUND;
    house.functions.deploy(deployment).await.unwrap();
    let name = FunctionName::new("f").unwrap();
    let id = house
        .functions
        .invoke_async(&name, Vec::new())
        .await
        .unwrap();
    let start = std::time::Instant::now();
    while !goes_on(&marker) {
        assert!(start.elapsed() < common::BOUND);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let digest = house.functions.get("f").unwrap().digest;
    let code = house.dir.path().join("functions/code").join(digest);
    let long_ago = std::time::UNIX_EPOCH;
    std::fs::File::open(code.join("handler.py"))
        .and_then(|file| file.set_modified(long_ago))
        .unwrap();
    let house = house.restart().await;
    let rows = house.wait_for_rows("lambic_async", 2).await;
    assert_eq!(rows[1]["state"], "done");
    assert_eq!(rows[1]["request_id"], id.as_str());
}

/// What a stream does not take is not lost: it is a dead letter, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_its_destination_refuses_is_a_dead_letter() {
    let house = House::open().await;
    let source = "def handler(event, context):\n    return {'answer': 1 // event}\n";
    let mut deployment = house.python("f", source).await;
    deployment.retries = 0;
    house.functions.deploy(deployment).await.unwrap();
    let name = FunctionName::new("f").unwrap();
    // Its records have no `n`, which that stream wants; the other one does not exist.
    let stream = |name: &str| format!("arn:aws:lambic:us-east-1:000000000000:stream/{name}");
    let settings = AsyncSettings {
        on_success: Some(stream("output")),
        on_failure: Some(stream("nowhere")),
        ..AsyncSettings::default()
    };
    let set = house.functions.change(&name, |function| {
        function.async_settings.insert(Qualifier::LATEST, settings);
        Ok(())
    });
    set.await.unwrap();
    let mut ids = Vec::new();
    for event in ["1", "0"] {
        let queued = house.functions.invoke_async(&name, event.into()).await;
        ids.push(queued.unwrap());
    }
    let rows = house.wait_for_rows("lambic_async", 4).await;
    // In the same append as the ends.
    let letters = house.rows("lambic_dead_letters");
    let told = |id: &str| -> Vec<String> {
        let of_it = letters.iter().filter(|letter| letter["request_id"] == id);
        let text = |letter: &Value, member: &str| letter[member].as_str().unwrap().to_owned();
        let told = of_it.map(|letter| {
            let (kind, message) = (text(letter, "error_type"), text(letter, "error_message"));
            format!("{kind}: {message}")
        });
        told.collect()
    };
    let of_success = told(&ids[0]);
    assert_eq!(of_success.len(), 1, "{letters:?}");
    let reason = "Lambic.DestinationRefused: the record for stream output was refused: ";
    assert!(of_success[0].starts_with(reason), "{of_success:?}");
    let of_failure = told(&ids[1]);
    assert!(
        of_failure[0].starts_with("ZeroDivisionError: "),
        "{of_failure:?}"
    );
    assert_eq!(
        of_failure[1..],
        ["Lambic.DestinationRefused: the record for stream nowhere was refused: it does not exist"]
    );
    // So is one for a stream of the system, that was set before such were refused.
    let settings = AsyncSettings {
        on_success: Some(stream("lambic_invocations")),
        ..AsyncSettings::default()
    };
    let set = house.functions.change(&name, |function| {
        function.async_settings.insert(Qualifier::LATEST, settings);
        Ok(())
    });
    set.await.unwrap();
    let id = house
        .functions
        .invoke_async(&name, "1".into())
        .await
        .unwrap();
    house.wait_for_rows("lambic_async", 6).await;
    let all = house.rows("lambic_dead_letters");
    let of_it: Vec<_> = all
        .iter()
        .filter(|letter| letter["request_id"] == id.as_str())
        .collect();
    assert_eq!(of_it.len(), 1, "{all:?}");
    assert_eq!(
        of_it[0]["error_message"],
        "the record for stream lambic_invocations was refused: it is written by the system only"
    );
    let kept = house.rows("lambic_invocations");
    assert!(
        kept.iter().all(|row| !row["request_id"].is_null()),
        "{kept:?}"
    );
    let states: Vec<_> = rows.iter().map(|row| row["state"].clone()).collect();
    assert!(states.contains(&json!("done")) && states.contains(&json!("dead")));
    let record = letters
        .iter()
        .find(|letter| letter["request_id"] == ids[0].as_str());
    let record = record.unwrap()["event"].as_str().unwrap();
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!(record["responsePayload"], json!({"answer": 1}));
}

/// Whether a process with this variable runs; one between two events stands still.
fn goes_on(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|process| process.path()).any(|process| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let state = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        let stands_still = state
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'));
        String::from_utf8_lossy(&environment).contains(marker) && !state.is_empty() && !stands_still
    })
}
