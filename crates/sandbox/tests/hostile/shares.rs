//! Who gets the processors: an event in its first milliseconds more than its memory gives, for which others make room.

use std::time::Duration;

use lambic_sandbox::process::Environment;

use crate::{
    common::{LONG, answer, code, invocation, python_spec, start},
    left::groups,
};

const TIME_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::test]
async fn what_runs_long_has_the_share_of_its_memory_and_the_next_event_more() {
    let code = code(&[(
        "app.py",
        "import time\ndef handler(event, context):\n    time.sleep(event)\n",
    )]);
    let mut environment = start(python_spec(code.path(), "app.handler").await).await;
    let folders = groups(&name(&environment));
    let share = || share(&folders).expect("this machine shares processors by groups");
    let of_its_memory = share();
    for _ in 0..2 {
        // On a busy machine also this one may run long.
        let until = std::time::Instant::now() + TIME_MAX;
        while share() <= of_its_memory {
            assert!(std::time::Instant::now() < until, "it never had more");
            answer(&environment.invoke(invocation(b"0", LONG)).await);
        }
        let event = invocation(b"1", LONG);
        let (execution, ()) = tokio::join!(environment.invoke(event), async {
            while share() != of_its_memory {
                assert!(std::time::Instant::now() < until, "it has more for ever");
                tokio::time::sleep(PAUSE).await;
            }
        });
        answer(&execution);
    }
}

/// It works on while nobody waits for an answer any more.
const WORKS_ON: &str = r#"#!/usr/bin/python3
import http.client, json, os, time
def ask(method, path, headers, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, "/2020-01-01/extension/" + path, body, headers)
    response = connection.getresponse()
    response.read()
    return response.headers
events = json.dumps({"events": ["INVOKE"]})
headers = ask("POST", "register", {"Lambda-Extension-Name": "works"}, events)
id = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
while True:
    ask("GET", "event/next", id)
    time.sleep(0.3)
"#;

#[tokio::test]
async fn an_extension_that_works_on_after_the_answer_has_the_share_of_its_memory() {
    let code = code(&[("app.py", "def handler(event, context):\n    pass\n")]);
    let layer = crate::common::code(&[("extensions/works", WORKS_ON)]);
    let mut spec = python_spec(code.path(), "app.handler").await;
    spec.layers = vec![layer.path().to_owned()];
    let mut environment = start(spec).await;
    let folders = groups(&name(&environment));
    let of_its_memory = share(&folders);
    assert!(of_its_memory.is_some());
    let execution = environment.invoke(invocation(b"0", LONG)).await;
    answer(&execution);
    assert!(execution.reusable);
    assert_eq!(share(&folders), of_its_memory);
}

fn name(environment: &Environment) -> String {
    let name = environment.dir().file_name().expect("it has one");
    name.to_string_lossy().into_owned()
}

fn share(folders: &[String]) -> Option<u64> {
    let files = folders
        .iter()
        .flat_map(|folder| ["cpu.shares", "cpu.weight"].map(|file| format!("{folder}/{file}")));
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.next()?.trim().parse().ok()
}
