//! Events that nobody waits for: each that was accepted ends once, whatever was killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{Load, pause, rows};
use crate::common::{
    Server,
    aws::{Api, BASH, FUNCTIONS, ROLE, base64, zipped},
};

const PYTHON: &str = r#"
import random, time


def handler(event, context):
    if "n" not in event:
        return "a record of a destination"
    if event["kind"] == "slow":
        time.sleep(random.uniform(0.1, 1))
    if event["kind"] == "fails" or event["kind"] == "flaky" and random.random() < 0.5:
        raise ValueError(event["kind"])
    return event["n"]
"#;

/// An event of that kind, and the function that it is for, of so many in a hundred.
const KINDS: [(&str, &str, u32); 7] = [
    ("wasm", "kill-wasm", 45),
    ("python", "kill-python", 20),
    ("chained", "kill-python:live", 10),
    ("fails", "kill-fails", 8),
    ("flaky", "kill-flaky", 7),
    ("slow", "kill-slow", 5),
    ("bash", "kill-bash", 5),
];

/// How an event of that kind may end.
fn ends(kind: &str) -> &'static [&'static str] {
    match kind {
        "fails" => &["dead"],
        "flaky" => &["done", "dead"],
        _ => &["done"],
    }
}

pub fn declare(server: &Server, api: &Api) {
    for stream in ["kill_results", "kill_failures"] {
        server.ok(&[
            "query",
            &format!(
                r#"CREATE STREAM {stream} ("requestContext" text, "requestPayload" text, "responsePayload" text)
                   WITH (partitions = '2')"#
            ),
        ]);
    }
    let python = zipped(&[("app.py", PYTHON)]);
    let wasm = zipped(&[("app.wasm", include_str!("../../src/bench/echo.wat"))]);
    let bash = zipped(&[("bootstrap", BASH)]);
    for (name, runtime, handler, zip, retries) in [
        ("kill-wasm", "wasm", "app.wasm", &wasm, 2),
        ("kill-python", "python3.11", "app.handler", &python, 2),
        ("kill-fails", "python3.11", "app.handler", &python, 1),
        ("kill-flaky", "python3.11", "app.handler", &python, 1),
        ("kill-slow", "python3.11", "app.handler", &python, 2),
        ("kill-last", "python3.11", "app.handler", &python, 2),
        ("kill-bash", "provided.al2023", "any.thing", &bash, 2),
    ] {
        api.ok(
            "POST",
            FUNCTIONS,
            &json!({
                "FunctionName": name, "Runtime": runtime, "Role": ROLE, "Handler": handler, "Timeout": 60,
                "Code": {"ZipFile": base64(zip)}, "Publish": true,
            }),
        );
        let stream = |name: &str| {
            let arn = format!("arn:aws:lambic:us-east-1:000000000000:stream/{name}");
            json!({"Destination": arn})
        };
        let settings = json!({
            "MaximumRetryAttempts": retries,
            "DestinationConfig": {"OnSuccess": stream("kill_results"), "OnFailure": stream("kill_failures")},
        });
        put_settings(api, name, "$LATEST", &settings);
    }
    let alias = json!({"Name": "live", "FunctionVersion": "1"});
    let path = format!("{FUNCTIONS}/kill-python/aliases");
    api.ok("POST", &path, &alias);
    let next = "arn:aws:lambda:us-east-1:000000000000:function:kill-last";
    let settings = json!({"DestinationConfig": {"OnSuccess": {"Destination": next}}});
    put_settings(api, "kill-python", "live", &settings);
}

fn put_settings(api: &Api, name: &str, qualifier: &str, settings: &Value) {
    let qualifier = qualifier.replace('$', "%24");
    let path = format!("/2019-09-25/functions/{name}/event-invoke-config?Qualifier={qualifier}");
    api.ok("PUT", &path, settings);
}

/// The ids of accepted events, with their number and kind.
pub type Accepted = HashMap<String, (u64, &'static str)>;

pub fn write(load: &Load, mut chance: StdRng) -> Accepted {
    let mut accepted = Accepted::new();
    while let Some(n) = load.events.next() {
        let mut at = chance.random_range(0..100);
        let (kind, function, _) = KINDS
            .iter()
            .find(|(_, _, share)| match at < *share {
                true => true,
                false => {
                    at -= share;
                    false
                }
            })
            .expect("they are a hundred together");
        match load.api.queue(function, &json!({"n": n, "kind": kind})) {
            Some(id) => {
                accepted.insert(id, (n, kind));
            }
            // Whether it was kept is not known; it is not sent again.
            None => pause(),
        }
    }
    accepted
}

/// What the queue says of one event.
#[derive(Default)]
struct Seen {
    queued: u32,
    ends: Vec<String>,
    n: Option<u64>,
    function: String,
}

pub fn check(server: &Server, accepted: &Accepted) -> String {
    wait_until_drained(server);
    let mut events: BTreeMap<String, Seen> = BTreeMap::new();
    for row in rows(
        server,
        "SELECT request_id, function, state, event FROM lambic_async",
    ) {
        let seen = events.entry(text(&row, "request_id")).or_default();
        match text(&row, "state").as_str() {
            "queued" => {
                seen.queued += 1;
                seen.function = text(&row, "function");
                let event: Value = parsed(&text(&row, "event"));
                seen.n = event["n"].as_u64();
            }
            end => seen.ends.push(end.to_owned()),
        }
    }
    let mut wrong = Vec::new();
    for (id, seen) in &events {
        if seen.queued != 1 || seen.ends.len() != 1 {
            wrong.push(format!(
                "{id} of {}: queued {} times, ended as {:?}",
                seen.function, seen.queued, seen.ends
            ));
        }
    }
    for (id, (n, kind)) in accepted {
        match events.get(id) {
            None => wrong.push(format!("{id}, event {n} of kind {kind}: lost")),
            Some(seen) if seen.n != Some(*n) => {
                wrong.push(format!("{id}: event {:?} instead of {n}", seen.n));
            }
            Some(seen)
                if !seen
                    .ends
                    .iter()
                    .all(|end| ends(kind).contains(&end.as_str())) =>
            {
                wrong.push(format!("{id}, event {n} of kind {kind}: {:?}", seen.ends));
            }
            Some(_) => {}
        }
    }
    let ended = |end: &str, to_stream: bool| -> BTreeSet<&String> {
        let has = |(_, seen): &(&String, &Seen)| {
            seen.ends.first().is_some_and(|one| one == end)
                && (!to_stream || seen.function != "kill-python:live")
        };
        events.iter().filter(has).map(|(id, _)| id).collect()
    };
    for (stream, end, condition) in [
        ("kill_results", "done", "Success"),
        ("kill_failures", "dead", "RetriesExhausted"),
    ] {
        let records = destinations(server, stream, condition, &mut wrong);
        compare(&records, &ended(end, true), stream, &mut wrong);
    }
    let letters = rows(
        server,
        "SELECT request_id FROM lambic_dead_letters WHERE kind = 'async'",
    );
    let letters: Vec<String> = letters.iter().map(|row| text(row, "request_id")).collect();
    compare(&letters, &ended("dead", false), "dead letters", &mut wrong);
    // What succeeded was kept together with the end: of an attempt whose end was lost, there is no record either.
    let succeeded = rows(
        server,
        "SELECT request_id, count(*) AS n FROM lambic_invocations WHERE kind = 'async' AND outcome = 'success' GROUP BY request_id",
    );
    for row in succeeded.iter().filter(|row| row["n"] != 1) {
        wrong.push(format!("recorded as a success more than once: {row}"));
    }
    let succeeded: Vec<String> = succeeded
        .iter()
        .map(|row| text(row, "request_id"))
        .collect();
    compare(&succeeded, &ended("done", false), "successes", &mut wrong);
    // The next of a chain has one event for each that ended before it.
    let count = |function: &str| {
        let of = |seen: &&Seen| seen.function == function;
        events.values().filter(of).count()
    };
    if count("kill-python:live") != count("kill-last") {
        let (first, last) = (count("kill-python:live"), count("kill-last"));
        wrong.push(format!("{first} events went on, {last} arrived"));
    }
    assert!(
        wrong.is_empty(),
        "{} wrong of {}:\n{}\nthe server said:\n{}",
        wrong.len(),
        events.len(),
        wrong[..wrong.len().min(20)].join("\n"),
        server.said()
    );
    assert!(!accepted.is_empty(), "nothing was accepted, nothing shown");
    format!(
        "{} events accepted, {} queued, {} done, {} dead letters, each once",
        accepted.len(),
        events.len(),
        ended("done", false).len(),
        ended("dead", false).len(),
    )
}

/// As long as events end, there is patience.
fn wait_until_drained(server: &Server) {
    let count = || {
        let rows = rows(
            server,
            "SELECT state = 'queued' AS is_queued, count(*) AS n FROM lambic_async GROUP BY 1",
        );
        let of = |is_queued: bool| {
            let row = rows.iter().find(|row| row["is_queued"] == is_queued);
            row.and_then(|row| row["n"].as_u64()).unwrap_or(0)
        };
        (of(true), of(false))
    };
    let (mut had, mut since) = (0, Instant::now());
    loop {
        let (queued, ended) = count();
        if queued == ended {
            return;
        }
        if ended > had {
            (had, since) = (ended, Instant::now());
        }
        assert!(
            since.elapsed() < crate::common::PATIENCE,
            "{ended} of {queued} events have ended, and no more do:\n{}",
            server.said()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Whose records are there, as often as they are.
fn destinations(
    server: &Server,
    stream: &str,
    condition: &str,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let mut ids = Vec::new();
    for row in rows(server, &format!("SELECT * FROM {stream}")) {
        let context = parsed(&text(&row, "requestContext"));
        let id = context["requestId"].as_str().unwrap_or_default();
        if context["condition"] != condition {
            wrong.push(format!("{id} in {stream}: {context}"));
        }
        ids.push(id.to_owned());
    }
    ids
}

fn compare(has: &[String], wanted: &BTreeSet<&String>, what: &str, wrong: &mut Vec<String>) {
    let set: BTreeSet<&String> = has.iter().collect();
    if set.len() != has.len() {
        wrong.push(format!("{what}: {} twice", has.len() - set.len()));
    }
    for id in wanted.difference(&set) {
        wrong.push(format!("{what}: {id} is missing"));
    }
    for id in set.difference(wanted) {
        wrong.push(format!("{what}: {id} does not belong there"));
    }
}

fn text(row: &Value, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
