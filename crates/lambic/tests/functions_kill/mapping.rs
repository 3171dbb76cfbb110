//! A mapping whose function's output goes to a stream: every record is delivered, and its output is there once.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{Load, pause, rows};
use crate::common::{
    PATIENCE, Server,
    aws::{Api, base64},
};

/// Some records fail always.
const PYTHON: &str = r#"
def handler(event, context):
    numbers = [record["data"]["n"] for record in event["Records"]]
    if any(n % 50 == 7 for n in numbers):
        raise ValueError("seven")
    return [{"n": n} for n in numbers]
"#;

pub fn declare(server: &Server, api: &Api) {
    server.ok(&[
        "query",
        "CREATE STREAM kill_orders (n bigint NOT NULL) WITH (partitions = '2');
         CREATE STREAM kill_copies (n bigint NOT NULL) WITH (partitions = '2')",
    ]);
    api.ok(
        "PUT",
        "/v1/functions/kill-copy",
        &json!({
            "runtime": "python", "handler": "app.handler", "timeout_s": 30, "output": "kill_copies", "retries": 0,
            "files": {"app.py": base64(PYTHON.as_bytes())},
        }),
    );
    api.ok(
        "POST",
        "/2015-03-31/event-source-mappings",
        &json!({
            "FunctionName": "kill-copy", "StartingPosition": "TRIM_HORIZON", "BatchSize": 20, "MaximumRetryAttempts": 0,
            "BisectBatchOnFunctionError": true,
            "EventSourceArn": "arn:aws:lambic:us-east-1:000000000000:stream/kill_orders",
        }),
    );
}

/// Numbers that were acknowledged; what was not answered is not sent again.
pub fn append(load: &Load, mut chance: StdRng) -> BTreeSet<u64> {
    let (mut next, mut acknowledged) = (0, BTreeSet::new());
    while load.appends.next().is_some() {
        let numbers = next..next + chance.random_range(1..=10);
        next = numbers.end;
        let body: String = numbers
            .clone()
            .map(|n| format!("{{\"n\":{n}}}\n"))
            .collect();
        let sent = ureq::post(format!("{}/v1/streams/kill_orders/records", load.url))
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .header("content-type", "application/x-ndjson")
            .send(&body);
        match sent {
            Ok(answer) if answer.status().is_success() => acknowledged.extend(numbers),
            Ok(answer) if answer.status().is_client_error() => {
                load.refuse(format!("an append: {}", answer.status()));
            }
            Ok(_) | Err(_) => pause(),
        }
    }
    acknowledged
}

pub fn check(server: &Server, acknowledged: &BTreeSet<u64>) -> String {
    let appended = numbers(&rows(server, "SELECT n FROM kill_orders"));
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|n| !appended.contains_key(*n))
        .collect();
    assert!(lost.is_empty(), "appended and lost: {lost:?}");
    let since = Instant::now();
    loop {
        let mut delivered = numbers(&rows(server, "SELECT n FROM kill_copies"));
        let letters = rows(
            server,
            "SELECT event FROM lambic_dead_letters WHERE function = 'kill-copy'",
        );
        for letter in &letters {
            let event = letter["event"].as_str().unwrap_or_default();
            let event: Value = serde_json::from_str(event).unwrap_or_default();
            let n = event["data"]["n"].as_u64().expect("it has its record");
            assert_eq!(
                n % 50,
                7,
                "a record that does not fail became a dead letter"
            );
            *delivered.entry(n).or_default() += 1;
        }
        let twice: Vec<_> = delivered.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "delivered more than once: {twice:?}");
        if delivered.len() == appended.len() {
            assert!(delivered.keys().eq(appended.keys()), "numbers of nobody");
            return format!(
                "{} records appended, each delivered once, {} of them to the dead letters",
                appended.len(),
                letters.len()
            );
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{} of {} records were delivered:\n{}",
            delivered.len(),
            appended.len(),
            server.said()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn numbers(rows: &[Value]) -> BTreeMap<u64, u32> {
    let mut numbers = BTreeMap::new();
    for row in rows {
        let n = row["n"].as_u64().expect("it is a number");
        *numbers.entry(n).or_default() += 1;
    }
    numbers
}
