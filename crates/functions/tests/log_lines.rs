//! What the platform says in a function's log about how an invocation ended.

mod common;

use common::{BOUND, House, name};
use lambic_functions::Error;
use serde_json::{Value, json};

/// Lines of one invocation, in their order.
fn lines_of(house: &House, request_id: &str) -> Vec<String> {
    let rows = house.rows("lambic_logs");
    let of_it = rows.iter().filter(|row| row["request_id"] == request_id);
    of_it
        .map(|row| row["line"].as_str().unwrap().to_owned())
        .collect()
}

/// What the function could not say itself.
#[tokio::test(flavor = "multi_thread")]
async fn why_an_invocation_failed_stands_in_the_log_with_its_id() {
    let house = House::open().await;
    let source = "\
import os, signal, time
def handler(event, context):
    if event == 'large':
        return 'x' * (7 << 20)
    if event == 'exit':
        os._exit(3)
    if event == 'raise':
        raise ValueError('no')
    time.sleep(1000)
";
    let mut deployment = house.python("f", source).await;
    deployment.timeout = std::time::Duration::from_secs(5);
    house.functions.deploy(deployment).await.unwrap();
    for (event, error_type, reason) in [
        (
            "large",
            "Function.ResponseSizeTooLarge",
            Some("Response payload size exceeded maximum allowed payload size (6291556 bytes)."),
        ),
        (
            "exit",
            "Runtime.ExitError",
            Some("Runtime exited with error: exit status 3"),
        ),
        ("raise", "ValueError", None),
    ] {
        let result = house.invoke("f", &json!(event).to_string()).await;
        assert_eq!(result.error_type(), Some(error_type));
        house.functions.flush().await;
        let lines = lines_of(&house, &result.request_id);
        let id = &result.request_id;
        let told = lines.iter().position(|line| line == error_type);
        let Some(reason) = reason else {
            assert_eq!(told, None, "{lines:?}");
            continue;
        };
        let told = told.unwrap_or_else(|| panic!("{lines:?}"));
        assert_eq!(
            lines[told - 1],
            format!("RequestId: {id} Error: {reason}"),
            "{lines:?}"
        );
        assert_eq!(lines[told + 1], format!("END RequestId: {id}"));
        assert!(!lines[told + 2].contains("Max Memory Used: 0 MB"));
    }
    let result = house.invoke("f", "\"sleep\"").await;
    let id = &result.request_id;
    let told = format!(" {id} Task timed out after 5.00 seconds\nEND RequestId: {id}\n");
    assert!(result.log_tail.contains(&told), "{}", result.log_tail);
    house.close().await;
}

/// The start does not know the request; its log does.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_failed_is_told_with_the_request_that_waited_for_it() {
    let house = House::open().await;
    let start = |function: &str, source: &'static str| {
        let (house, function) = (&house, function.to_owned());
        async move {
            let mut deployment = house.python(&function, source).await;
            deployment.timeout = BOUND;
            deployment.trial = false;
            house.functions.deploy(deployment).await.unwrap();
            let result = house.invoke(&function, "{}").await;
            house.functions.flush().await;
            let lines = lines_of(house, &result.request_id);
            (result, lines)
        }
    };
    let is_report = |line: &str, error_type: &str| {
        line.starts_with("INIT_REPORT Init Duration: ")
            && line.ends_with(&format!(
                " ms\tPhase: init\tStatus: error\tError Type: {error_type}"
            ))
    };
    let source = "\
import sys, time
held = b'x' * (40 << 20)
print('begins')
time.sleep(0.5)
sys.exit(7)
";
    let (result, lines) = start("exits", source).await;
    let id = &result.request_id;
    let reason = format!("RequestId: {id} Error: Runtime exited with error: exit status 7");
    let error: Value = serde_json::from_slice(result.payload()).unwrap();
    assert_eq!(
        error,
        json!({ "errorType": "Runtime.ExitError", "errorMessage": reason })
    );
    assert_eq!(lines[0], "begins");
    assert!(is_report(&lines[1], "Runtime.ExitError"), "{lines:?}");
    let expected = [
        format!("START RequestId: {id} Version: $LATEST"),
        reason,
        "Runtime.ExitError".to_owned(),
        format!("END RequestId: {id}"),
    ];
    assert_eq!(lines[2..6], expected);
    assert!(result.memory_peak_mb >= 40, "{}", result.memory_peak_mb);
    let used = format!("\tMax Memory Used: {} MB\t", result.memory_peak_mb);
    assert!(lines[6].contains(&used), "{lines:?}");

    // Its client has written the reason.
    let (result, lines) = start("raises", "raise KeyError('no')\n").await;
    assert_eq!(result.error_type(), Some("KeyError"));
    assert_eq!(lines[0], "[ERROR] KeyError: 'no'");
    let reported = lines.iter().position(|line| is_report(line, "KeyError"));
    let reported = reported.unwrap_or_else(|| panic!("{lines:?}"));
    let id = &result.request_id;
    let expected = [
        format!("START RequestId: {id} Version: $LATEST"),
        format!("END RequestId: {id}"),
    ];
    assert_eq!(lines[reported + 1..reported + 3], expected);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_at_the_end_is_told_and_runs_again() {
    let house = House::open().await;
    let source =
        "import time\ndef handler(event, context):\n    print('begins')\n    time.sleep(event)\n";
    house.deploy_python("f", source).await;
    let (functions, f) = (house.functions.clone(), name("f"));
    let queued = functions.invoke_async(&f, b"1000".to_vec()).await.unwrap();
    let sync = tokio::spawn(async move { functions.invoke(&f, b"1000".to_vec()).await });
    // Each with its first line, so that both run.
    house.wait_for_rows("lambic_logs", 4).await;
    house.functions.close().await;
    assert!(matches!(sync.await.unwrap(), Err(Error::Closed)));
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows.len(), 2, "{rows:?}");
    let reason = "the server was stopped before the invocation had ended";
    for row in &rows {
        assert_eq!(row["outcome"], "failure");
        assert_eq!(row["error_type"], "ServiceException");
        assert_eq!(row["error_message"], reason);
        assert!(row["duration_ms"].as_f64().unwrap() > 0.0);
        let id = row["request_id"].as_str().unwrap();
        let lines = lines_of(&house, id);
        let expected = [
            format!("START RequestId: {id} Version: $LATEST"),
            "begins".to_owned(),
            format!("RequestId: {id} Error: {reason}"),
            "ServiceException".to_owned(),
            format!("END RequestId: {id}"),
        ];
        assert_eq!(lines[..5], expected);
        assert!(lines[5].starts_with(&format!("REPORT RequestId: {id}\tDuration: ")));
    }
    assert!(rows.iter().any(|row| row["request_id"] == queued.as_str()));
    // It stays a try of the queue, which has no end.
    assert!(house.rows("lambic_dead_letters").is_empty());
    let house = house.restart().await;
    let is_again = |house: &House| {
        let lines = lines_of(house, &queued);
        lines.iter().filter(|line| *line == "begins").count() == 2
    };
    house.wait_until("it runs again", is_again).await;
    house.close().await;
}

/// AWS's events instead of its lines.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_json_where_the_function_asks_for_it() {
    let house = House::open().await;
    let source = "\
import logging
logger = logging.getLogger()
def handler(event, context):
    logger.info('got %s', event)
    logger.debug('not this')
    return 1 // event
";
    let mut deployment = house.python("f", source).await;
    deployment.timeout = BOUND;
    let logging = json!({ "LogFormat": "JSON", "SystemLogLevel": "DEBUG" });
    let kept = &mut deployment.settings.kept;
    kept.insert("LoggingConfig".to_owned(), logging);
    house.functions.deploy(deployment).await.unwrap();
    for (event, status, own) in [("1", "success", 1), ("0", "error", 2)] {
        let result = house.invoke("f", event).await;
        house.functions.flush().await;
        let lines = lines_of(&house, &result.request_id);
        let lines: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        let types: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["type"].as_str())
            .collect();
        let expected = ["platform.start", "platform.runtimeDone", "platform.report"];
        assert_eq!(types, expected, "{lines:?}");
        assert_eq!(lines.len(), 3 + own, "{lines:?}");
        assert_eq!(lines[1]["message"], format!("got {event}"));
        assert_eq!(lines[1]["requestId"], result.request_id.as_str());
        let report = &lines.last().unwrap()["record"];
        assert_eq!(report["status"], status);
        assert_eq!(report["metrics"]["memorySizeMB"], 128);
    }
    house.close().await;
}
