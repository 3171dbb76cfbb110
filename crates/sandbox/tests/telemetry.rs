//! Extensions that subscribe to telemetry: what they are sent, when, and what is refused.

mod common;

use std::time::Instant;

use common::{LONG, answer, code, invocation, python_spec, start};
use lambic_sandbox::{LogLine, LogSource, process::Environment};
use serde_json::Value;

/// What the extensions of these tests have in common.
const COMMON: &str = r#"#!/usr/bin/python3
import http.client, http.server, json, os, socket, sys, threading
name = os.path.basename(sys.argv[0])
def ask(method, path, headers, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    return response, json.loads(response.read())
class Listener(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        for event in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            print("got", json.dumps(event), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
def listen(port):
    server = http.server.ThreadingHTTPServer(("sandbox.localdomain", port), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
def register(*events):
    response, _ = ask("POST", "/2020-01-01/extension/register", {"Lambda-Extension-Name": name}, {"events": events})
    return {"Lambda-Extension-Identifier": response.headers["Lambda-Extension-Identifier"]}
def subscribe(id, path="/2022-07-01/telemetry", **changes):
    body = {"schemaVersion": "2022-12-13", "types": ["platform", "function"],
            "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:4243/x"}, **changes}
    response, told = ask("PUT", path, id, {name: value for name, value in body.items() if value is not None})
    print("subscribe", response.status, told if isinstance(told, str) else told["errorType"], flush=True)
def events(id):
    while True:
        _, event = ask("GET", "/2020-01-01/extension/event/next", id)
        yield event
        if event["eventType"] == "SHUTDOWN":
            return
"#;

const HELLO: &str = "\
import os
def handler(event, context):
    print('hello', event)
    print('no end of line', end='')
    return os.environ.get('_X_AMZN_TRACE_ID')
";

/// An environment of `HELLO` with an extension that does this.
async fn with_extension(script: &str) -> (Environment, [tempfile::TempDir; 2]) {
    with_extension_of(HELLO, script).await
}

async fn with_extension_of(source: &str, script: &str) -> (Environment, [tempfile::TempDir; 2]) {
    let code = code(&[("app.py", source)]);
    let layer = common::code(&[("extensions/watch", &format!("{COMMON}{script}"))]);
    let mut spec = python_spec(code.path(), "app.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    (start(spec).await, [code, layer])
}

fn said(lines: &[LogLine]) -> Vec<&str> {
    let of_extension = lines
        .iter()
        .filter(|line| line.source == LogSource::Extension);
    of_extension.map(|line| line.line.as_str()).collect()
}

fn got(lines: &[LogLine]) -> Vec<Value> {
    let got = said(lines)
        .into_iter()
        .filter_map(|line| line.strip_prefix("got "));
    got.map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn an_extension_is_sent_what_happens() {
    let script = r#"
listen(4243)
id = register("INVOKE", "SHUTDOWN")
subscribe(id)
for event in events(id):
    pass
"#;
    let (mut environment, _kept) = with_extension(script).await;
    let mut invoke = async || {
        environment
            .invoke(lambic_sandbox::process::Invocation {
                trace_id: "Root=1-2-3;Sampled=0".to_owned(),
                ..invocation(b"7", LONG)
            })
            .await
    };
    let first = invoke().await;
    assert_eq!(answer(&first), "Root=1-2-3;Sampled=0");
    assert!(first.reusable);
    assert!(
        said(&first.lines).contains(&"subscribe 200 OK"),
        "{:?}",
        first.lines
    );
    let events = got(&first.lines);
    let (mut of_start, of_invocation): (Vec<&str>, Vec<&str>) = {
        let types = types(&events);
        let start = types.iter().position(|of| *of == "platform.start").unwrap();
        (types[..start].to_vec(), types[start..].to_vec())
    };
    assert_eq!(of_start[0], "platform.initStart");
    assert_eq!(*of_start.last().unwrap(), "platform.initReport");
    of_start.sort_unstable();
    assert_eq!(
        of_start,
        [
            "platform.extension",
            "platform.initReport",
            "platform.initRuntimeDone",
            "platform.initStart",
            "platform.telemetrySubscription",
        ]
    );
    let expected = [
        "platform.start",
        "function",
        "function",
        "platform.runtimeDone",
        "platform.report",
    ];
    assert_eq!(of_invocation, expected, "before it stands still");
    let of = |kind: &str| {
        let mut of_kind = events.iter().filter(|event| event["type"] == kind);
        of_kind.next().unwrap()["record"].clone()
    };
    assert_eq!(of("platform.start")["requestId"], "id");
    assert_eq!(of("platform.start")["version"], "7");
    assert_eq!(
        of("platform.start")["tracing"]["value"],
        "Root=1-2-3;Sampled=0"
    );
    assert_eq!(of("function"), "hello 7");
    assert_eq!(of("platform.runtimeDone")["status"], "success");
    assert_eq!(
        of("platform.extension")["events"],
        serde_json::json!(["INVOKE", "SHUTDOWN"])
    );
    let metrics = &of("platform.report")["metrics"];
    assert_eq!(metrics["memorySizeMB"], 128);
    assert!(metrics["initDurationMs"].as_f64().unwrap() > 0.0);
    assert!(metrics["billedDurationMs"].as_u64().unwrap() >= 1);

    let second = invoke().await;
    let events = got(&second.lines);
    assert_eq!(types(&events), expected);
    let report = &events.last().unwrap()["record"]["metrics"];
    assert!(report.get("initDurationMs").is_none(), "{report}");
    environment.end().await;
}

#[tokio::test]
async fn failures_are_told_before_the_end() {
    let script = r#"
listen(4243)
id = register("INVOKE", "SHUTDOWN")
subscribe(id, types=["platform"])
for event in events(id):
    pass
"#;
    let source = "\
def handler(event, context):
    while event == 'for ever':
        pass
    raise ValueError(event)
";
    let (mut environment, _kept) = with_extension_of(source, script).await;
    let failed = environment.invoke(invocation(b"\"x\"", LONG)).await;
    let done = |lines: &[LogLine]| {
        let events = got(lines);
        let mut done = events
            .into_iter()
            .filter(|event| event["type"] == "platform.runtimeDone");
        done.next().unwrap()["record"].clone()
    };
    let first = done(&failed.lines);
    assert_eq!(
        (&first["status"], &first["errorType"]),
        (&"error".into(), &"ValueError".into())
    );
    let timed_out = environment
        .invoke(invocation(b"\"for ever\"", common::SECOND))
        .await;
    assert!(!timed_out.reusable);
    assert_eq!(done(&timed_out.lines)["status"], "timeout");
}

#[tokio::test]
async fn lines_go_over_tcp_too() {
    let script = r#"
listener = socket.create_server(("127.0.0.1", 4244))
def read():
    while True:
        connection, _ = listener.accept()
        for line in connection.makefile():
            print("got", line.strip(), flush=True)
threading.Thread(target=read, daemon=True).start()
id = register("INVOKE")
subscribe(id, types=["function"], buffering={"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 25},
          destination={"protocol": "TCP", "URI": "tcp://sandbox.localdomain:4244"})
for event in events(id):
    import time
    time.sleep(0.2)
"#;
    let (mut environment, _kept) = with_extension(script).await;
    let mut lines = Vec::new();
    // What TCP has taken may be read a moment later: with the next event at the latest.
    let begin = Instant::now();
    while got(&lines).len() < 4 {
        assert!(begin.elapsed() < LONG, "{lines:?}");
        lines.extend(environment.invoke(invocation(b"1", LONG)).await.lines);
    }
    let records: Vec<Value> = got(&lines)
        .iter()
        .map(|event| event["record"].clone())
        .collect();
    assert_eq!(
        records[..4],
        ["hello 1", "no end of line", "hello 1", "no end of line"]
    );
    assert!(types(&got(&lines)).iter().all(|of| *of == "function"));
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let script = r#"
listen(4243)
id = register("INVOKE")
subscribe({})
subscribe({"Lambda-Extension-Identifier": "nobody"})
subscribe(id, schemaVersion="2020-08-15")
subscribe(id, schemaVersion=None)
subscribe(id, types=[])
subscribe(id, buffering={"maxItems": 1})
subscribe(id, destination={"protocol": "HTTP", "URI": "http://example.org:80"})
subscribe(id, "/2020-08-15/logs")
subscribe(id, "/2020-08-15/logs", schemaVersion="2021-03-18")
subscribe(id, "/2020-08-15/logs", schemaVersion="2021-03-18")
subscribe(id)
for event in events(id):
    subscribe(id)
    subscribe(id, "/2020-08-15/logs", schemaVersion=None)
"#;
    let (mut environment, _kept) = with_extension(script).await;
    let execution = environment.invoke(invocation(b"7", LONG)).await;
    let lines = said(&execution.lines);
    let answers: Vec<&str> = lines
        .into_iter()
        .filter_map(|line| line.strip_prefix("subscribe "))
        .collect();
    assert_eq!(
        answers,
        [
            "403 Extension.MissingExtensionIdentifier",
            "403 Extension.UnknownExtensionIdentifier",
            "400 ValidationError",
            "400 ValidationError",
            "400 ValidationError",
            "400 ValidationError",
            "400 ValidationError",
            "400 Logs.ValidationError",
            "200 OK",
            "200 OK",
            "400 ValidationError",
            "403 Telemetry.SubscriptionClosed",
            "403 Logs.SubscriptionClosed",
        ]
    );
    // By the Logs API, in its form, and once.
    let events = got(&execution.lines);
    let types = types(&events);
    for (kind, count) in [
        ("platform.logsSubscription", 1),
        ("platform.start", 1),
        ("platform.runtimeDone", 1),
        ("platform.end", 1),
        ("platform.report", 1),
        ("platform.initStart", 0),
        ("platform.telemetrySubscription", 0),
    ] {
        let found = types.iter().filter(|of| **of == kind).count();
        assert_eq!(found, count, "{kind} {types:?}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_listener_that_is_not_there() {
    let script = r#"
id = register("INVOKE", "SHUTDOWN")
subscribe(id)
for event in events(id):
    # From the third event on there is one, and it is sent all.
    if event["eventType"] == "INVOKE" and event["requestId"] == "late":
        listen(4243)
"#;
    let (mut environment, _kept) = with_extension(script).await;
    for _ in 0..2 {
        let execution = environment.invoke(invocation(b"7", LONG)).await;
        assert!(execution.reusable);
        assert!(got(&execution.lines).is_empty());
    }
    let begin = Instant::now();
    let mut lines = Vec::new();
    while got(&lines).len() < 20 {
        assert!(begin.elapsed() < LONG, "{lines:?}");
        let late = lambic_sandbox::process::Invocation {
            request_id: if lines.is_empty() { "late" } else { "later" }.to_owned(),
            ..invocation(b"7", LONG)
        };
        lines.extend(environment.invoke(late).await.lines);
    }
    let events = got(&lines);
    assert_eq!(events[0]["type"], "platform.initStart");
    let starts = events
        .iter()
        .filter(|event| event["type"] == "platform.start");
    assert!(starts.count() >= 3, "{events:?}");
}
