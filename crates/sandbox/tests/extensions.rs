//! Programs beside the runtime, from a layer, as monitoring tools bring them.

mod common;

use std::time::Instant;

use common::{
    LONG, answer, assert_gone, code, error, failed_start, invocation, python_spec, start, texts,
};

/// Registers and says what it hears; at the end it takes a moment.
const WATCH: &str = r#"#!/usr/bin/python3
import http.client, json, os, sys, time
def ask(method, path, headers, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, "/2020-01-01/extension/" + path, body, headers)
    response = connection.getresponse()
    return response, json.loads(response.read())
name = os.path.basename(sys.argv[0])
time.sleep(0.2)
response, about = ask("POST", "register", {"Lambda-Extension-Name": name}, json.dumps({"events": ["INVOKE", "SHUTDOWN"]}))
id = {"Lambda-Extension-Identifier": response.headers["Lambda-Extension-Identifier"]}
print("registered", json.dumps(about, sort_keys=True), flush=True)
while True:
    _, event = ask("GET", "event/next", id)
    if event["eventType"] == "SHUTDOWN":
        time.sleep(0.1)
        open("/tmp/end", "w").close()
        print("end", event["shutdownReason"], flush=True)
        break
    time.sleep(0.1)
    print("heard", event["requestId"], event["tracing"]["value"], flush=True)
"#;

#[tokio::test]
async fn an_extension_hears_of_all() {
    let code = code(&[(
        "app.py",
        "def handler(event, context):\n\
         \x20   print('handler')\n\
         \x20   return event\n",
    )]);
    let layer = common::code(&[("extensions/watch", WATCH)]);
    let mut spec = python_spec(code.path(), "app.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    let mut environment = start(spec).await;
    for round in 0..2 {
        let execution = environment
            .invoke(lambic_sandbox::process::Invocation {
                trace_id: "Root=1".to_owned(),
                ..invocation(b"7", LONG)
            })
            .await;
        assert_eq!(answer(&execution), 7);
        assert!(execution.reusable);
        let mut lines = texts(&execution.lines);
        lines.sort_unstable();
        let registered = r#"registered {"functionName": "probe", "functionVersion": "7", "handler": "app.handler"}"#;
        let expected = ["handler", "heard id Root=1", registered];
        assert_eq!(lines, &expected[..if round == 0 { 3 } else { 2 }]);
    }
    let began = Instant::now();
    environment.end().await;
    assert!(began.elapsed() < LONG);
    let lines = environment.lines();
    assert_eq!(texts(&lines), ["end spindown"]);
    assert_gone("/opt/extensions/watch").await;
}

#[tokio::test]
async fn an_extension_that_does_not_register_holds_the_start_up() {
    let code = code(&[("app.py", "def handler(event, context): return event\n")]);
    let layer = common::code(&[("extensions/idle", "#!/bin/sh\nsleep 1000\n")]);
    let mut spec = python_spec(code.path(), "app.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    spec.init_timeout = common::SECOND;
    let failed = failed_start(spec).await;
    assert_eq!(error(&failed.outcome).0, "Sandbox.Timedout");
}
