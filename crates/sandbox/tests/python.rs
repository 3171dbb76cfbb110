//! Python functions that behave, fail and attack, in real processes.

mod common;

use std::path::Path;

use common::{
    LONG, SECOND, answer, assert_gone, code, error, error_object, invocation, states, texts,
};
use lambic_sandbox::process::{Environment, FailedStart, Isolation, Spec};

async fn spec(code: &Path, handler: &str) -> Spec {
    common::python_spec(code, handler).await
}

async fn start(source: &str) -> Environment {
    let code = code(&[("app.py", source)]);
    common::start(spec(code.path(), "app.handler").await).await
}

async fn failed_start(source: &str, handler: &str) -> FailedStart {
    let code = code(&[("app.py", source)]);
    common::failed_start(spec(code.path(), handler).await).await
}

#[tokio::test]
async fn an_event_is_answered_and_the_environment_stays_warm() {
    let mut environment = start(
        "import os, sys\n\
         count = 0\n\
         def handler(event, context):\n\
         \x20   global count\n\
         \x20   count += 1\n\
         \x20   print('seen', event['x'])\n\
         \x20   print('aside', file=sys.stderr)\n\
         \x20   return {'x': event['x'] + 1, 'count': count, 'id': context.aws_request_id,\n\
         \x20           'name': context.function_name, 'memory': context.memory_limit_in_mb,\n\
         \x20           'version': context.function_version, 'colour': os.environ['COLOUR'],\n\
         \x20           'home': os.environ.get('CARGO_HOME', ''), 'left': context.get_remaining_time_in_millis() > 0,\n\
         \x20           'stream': context.log_stream_name != '', 'arn': context.invoked_function_arn}\n",
    )
    .await;
    for count in 1..=3 {
        let execution = environment.invoke(invocation(br#"{"x": 41}"#, LONG)).await;
        assert_eq!(
            answer(&execution),
            serde_json::json!({"x": 42, "count": count, "id": "id", "name": "probe", "memory": "128",
                "version": "7", "colour": "amber", "home": "", "left": true, "stream": true,
                "arn": "arn:aws:lambda:local:000000000000:function:probe"})
        );
        assert!(execution.reusable);
        assert!(execution.memory_peak_bytes > 1 << 20);
        let mut lines = texts(&execution.lines);
        lines.sort_unstable();
        assert_eq!(lines, ["aside", "seen 41"]);
    }
    let dir = environment.dir().to_owned();
    environment.kill().await;
    drop(environment);
    assert!(!dir.exists());
}

#[tokio::test]
async fn failures_have_the_shape_of_aws() {
    let source = "def handler(event, context):\n    return event['a']\n";
    for (source, handler, kind, message) in [
        (
            source,
            "app",
            "Runtime.MalformedHandlerName",
            "Bad handler 'app': not enough values to unpack (expected 2, got 1)",
        ),
        (
            source,
            "none.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'none': No module named 'none'",
        ),
        (
            source,
            "app.other",
            "Runtime.HandlerNotFound",
            "Handler 'other' missing on module 'app'",
        ),
        (
            "def handler(:\n",
            "app.handler",
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module 'app': invalid syntax (app.py, line 1)",
        ),
        (
            "1 / 0\n",
            "app.handler",
            "ZeroDivisionError",
            "division by zero",
        ),
        (
            "import sys\nsys.exit(3)\n",
            "app.handler",
            "Runtime.ExitError",
            "RequestId: init Error: Runtime exited with error: exit status 3",
        ),
    ] {
        let failed = failed_start(source, handler).await;
        assert_eq!(
            error(&failed.outcome),
            (kind.to_owned(), message.to_owned())
        );
    }
    let mut environment = start(
        "import os\n\
         def handler(event, context):\n\
         \x20   match event:\n\
         \x20       case 'raise': raise ValueError('no good')\n\
         \x20       case 'set': return {1, 2}\n\
         \x20       case 'nan': return float('nan')\n\
         \x20       case 'large': return 'x' * 6_300_000\n\
         \x20       case 'fine': return None\n\
         \x20       case 'exit': os._exit(5)\n",
    )
    .await;
    for (event, kind, message) in [
        ("raise", "ValueError", "no good"),
        (
            "set",
            "Runtime.MarshalError",
            "Unable to marshal response: Object of type set is not JSON serializable",
        ),
        (
            "nan",
            "Runtime.MarshalError",
            "Unable to marshal response: Out of range float values are not JSON compliant",
        ),
        (
            "large",
            "Function.ResponseSizeTooLarge",
            "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        ),
    ] {
        let event = serde_json::to_vec(event).unwrap();
        let execution = environment.invoke(invocation(&event, LONG)).await;
        assert_eq!(
            error(&execution.outcome),
            (kind.to_owned(), message.to_owned())
        );
        assert!(execution.reusable);
    }
    let execution = environment.invoke(invocation(b"\"fine\"", LONG)).await;
    assert_eq!(answer(&execution), serde_json::Value::Null);
    let execution = environment.invoke(invocation(b"\"exit\"", LONG)).await;
    assert_eq!(
        error(&execution.outcome),
        (
            "Runtime.ExitError".to_owned(),
            "RequestId: id Error: Runtime exited with error: exit status 5".to_owned()
        )
    );
    assert!(!execution.reusable && !environment.is_alive());
}

#[tokio::test]
async fn an_exception_names_the_place() {
    let mut environment =
        start("def handler(event, context):\n    raise ValueError('no good')\n").await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let payload = error_object(&execution.outcome);
    let stack = payload["stackTrace"][0].as_str().unwrap();
    assert!(
        stack.contains("app.py") && stack.contains("line 2"),
        "{stack}"
    );
    assert!(texts(&execution.lines).contains(&"[ERROR] ValueError: no good"));
}

#[tokio::test]
async fn at_the_deadline_everything_it_started_dies() {
    let mut environment = start(
        "import subprocess, sys, time\n\
         def handler(event, context):\n\
         \x20   subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', event],\n\
         \x20                    start_new_session=True)\n\
         \x20   print('started')\n\
         \x20   time.sleep(1000)\n",
    )
    .await;
    let mark = format!("lambic-mark-{}-deadline", std::process::id());
    let event = serde_json::to_vec(&mark).unwrap();
    let execution = environment.invoke(invocation(&event, SECOND)).await;
    assert_eq!(
        error(&execution.outcome),
        (
            "Sandbox.Timedout".to_owned(),
            "RequestId: id Error: Task timed out after 1.00 seconds".to_owned()
        )
    );
    assert_eq!(texts(&execution.lines), ["started"]);
    assert!(!execution.reusable && !environment.is_alive());
    assert_gone(&mark).await;
}

#[tokio::test]
async fn a_dropped_environment_leaves_nothing_behind() {
    let mut environment = start(
        "import subprocess, sys\n\
         def handler(event, context):\n\
         \x20   subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', event])\n",
    )
    .await;
    let mark = format!("lambic-mark-{}-drop", std::process::id());
    let event = serde_json::to_vec(&mark).unwrap();
    answer(&environment.invoke(invocation(&event, LONG)).await);
    drop(environment);
    assert_gone(&mark).await;
}

#[tokio::test]
async fn what_a_handler_leaves_running_stands_still_until_the_next_event() {
    let mut environment = start(
        "import subprocess, sys, threading\n\
         count, go = 0, threading.Event()\n\
         def work():\n\
         \x20   global count\n\
         \x20   while True:\n\
         \x20       count += 1\n\
         \x20       go.set()\n\
         def handler(event, context):\n\
         \x20   if event:\n\
         \x20       subprocess.Popen([sys.executable, '-c', 'while True: pass', event])\n\
         \x20       threading.Thread(target=work, daemon=True).start()\n\
         \x20   go.clear()\n\
         \x20   go.wait()\n\
         \x20   return count\n",
    )
    .await;
    let mark = format!("lambic-mark-{}-still", std::process::id());
    let event = serde_json::to_vec(&mark).unwrap();
    let execution = environment.invoke(invocation(&event, LONG)).await;
    assert!(execution.reusable);
    let first = answer(&execution).as_u64().unwrap();
    assert_eq!(states(&mark), ['T']);
    // It goes on with the next event, and stops again.
    let execution = environment.invoke(invocation(b"null", LONG)).await;
    assert!(answer(&execution).as_u64().unwrap() > first);
    assert_eq!(states(&mark), ['T']);
    environment.kill().await;
    assert_gone(&mark).await;
}

#[tokio::test]
async fn an_environment_over_its_limits_is_not_kept() {
    let mut environment = start(
        "import os, time\n\
         def handler(event, context):\n\
         \x20   for _ in range(100):\n\
         \x20       if os.fork() == 0:\n\
         \x20           time.sleep(1000)\n\
         \x20           os._exit(0)\n\
         \x20   return 'fine'\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    // Seen during the invocation or after it, by chance.
    assert!(!execution.reusable && !environment.is_alive());
}

#[tokio::test]
async fn memory_has_a_limit_for_one_and_for_all() {
    let mut environment =
        start("def handler(event, context):\n    return len(bytearray(700 << 20))\n").await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let failed = (String::from("MemoryError"), String::new());
    assert_eq!(error(&execution.outcome), failed);
    let object = error_object(&execution.outcome);
    let stack = object["stackTrace"][0].as_str().unwrap();
    assert!(stack.contains("app.py") && stack.contains("line 2"));
    assert_eq!(object["requestId"], "id");
    let lines = texts(&execution.lines);
    assert!(lines.contains(&"[ERROR] MemoryError"), "{lines:?}");

    // What its frames held is let go of, so that there is memory to tell where it was.
    let mut environment = start(
        "import weakref\n\
         class Large:\n\
         \x20   pass\n\
         def handler(event, context):\n\
         \x20   held = Large()\n\
         \x20   weakref.finalize(held, print, 'let go')\n\
         \x20   raise MemoryError\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let lines = texts(&execution.lines);
    assert_eq!(lines[..2], ["let go", "[ERROR] MemoryError"], "{lines:?}");

    let mut environment = start(
        "def handler(event, context):\n\
         \x20   held = []\n\
         \x20   while True:\n\
         \x20       held.append(bytearray(1 << 16))\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    // Where memory is counted for all, that may be quicker.
    let kind = error(&execution.outcome).0;
    if kind != "Runtime.OutOfMemory" {
        assert_eq!(kind, "MemoryError");
        let object = error_object(&execution.outcome);
        let stack = object["stackTrace"][0].as_str().unwrap();
        assert!(stack.contains("app.py"), "{object}");
    }

    let mut environment = start(
        "import os, time\n\
         def handler(event, context):\n\
         \x20   for _ in range(4):\n\
         \x20       if os.fork() == 0:\n\
         \x20           keep = bytearray(b'x') * (60 << 20)\n\
         \x20           time.sleep(1000)\n\
         \x20   time.sleep(1000)\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        error(&execution.outcome),
        (
            "Runtime.OutOfMemory".to_owned(),
            "RequestId: id Error: Memory limit of 128 MB exceeded".to_owned()
        )
    );
    // Whatever they had when it was seen.
    let told = execution.memory_peak_bytes;
    assert!((60 << 20..=128 << 20).contains(&told), "{told}");
}

/// Of a stack of 8 MB each uses little.
#[tokio::test]
async fn a_small_function_has_threads_enough() {
    let mut environment = start(
        "from concurrent.futures import ThreadPoolExecutor\n\
         from threading import Barrier\n\
         def handler(event, context):\n\
         \x20   all = Barrier(event)\n\
         \x20   with ThreadPoolExecutor(event) as pool:\n\
         \x20       return len(list(pool.map(lambda _: all.wait(10), range(event))))\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"50", LONG)).await;
    assert_eq!(answer(&execution), 50);
    environment.kill().await;
}

#[tokio::test]
async fn a_flood_of_processes_is_ended() {
    let mut environment = start(
        "import os, time\n\
         def handler(event, context):\n\
         \x20   for _ in range(200):\n\
         \x20       if os.fork() == 0:\n\
         \x20           time.sleep(1000)\n\
         \x20   time.sleep(1000)\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let (kind, _) = error(&execution.outcome);
    // Forked interpreters share pages, which resident memory counts for each.
    assert!(
        ["Runtime.TooManyProcesses", "Runtime.OutOfMemory"].contains(&kind.as_str()),
        "{kind}"
    );
    assert!(!environment.is_alive());
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_does_not_block() {
    let mut environment = start(
        "def handler(event, context):\n\
         \x20   for i in range(200_000):\n\
         \x20       print('line', i, 'of a very talkative function')\n\
         \x20   return 'done'\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(answer(&execution), "done");
    let last = &execution.lines.last().unwrap().line;
    assert!(
        last.ends_with("bytes of output were dropped: one invocation may write 65536"),
        "{last}"
    );
    let kept: usize = execution.lines.iter().map(|line| line.line.len()).sum();
    assert!(kept < 70 << 10, "{kept}");
}

#[tokio::test]
async fn the_code_cannot_be_changed_by_the_function() {
    let isolation = Isolation::probe(Path::new("/nowhere")).await.unwrap();
    let mut environment = start(
        "import os, tempfile\n\
         def handler(event, context):\n\
         \x20   with tempfile.NamedTemporaryFile() as f:\n\
         \x20       f.write(b'x')\n\
         \x20       own = f.name.startswith(os.environ['TMPDIR'])\n\
         \x20   try:\n\
         \x20       open(os.path.join(os.environ['LAMBDA_TASK_ROOT'], 'app.py'), 'a').close()\n\
         \x20       return [own, 'changed', os.getpid()]\n\
         \x20   except OSError as e:\n\
         \x20       return [own, 'refused', os.getpid()]\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let answer = answer(&execution);
    assert_eq!(answer[0], true);
    // Root passes by file permissions, where this machine's interpreter does not let us become another user.
    if isolation.user.is_some() {
        assert_eq!(answer[1], "refused");
    }
    if isolation.namespaces {
        assert_eq!(answer[2], 1);
    }
}

#[tokio::test]
async fn the_covered_folder_is_not_there() {
    let covered = tempfile::tempdir().unwrap();
    std::fs::write(covered.path().join("secret"), "x").unwrap();
    // For whichever user: only the cover hides it.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(covered.path(), open).unwrap();
    let code = code(&[(
        "app.py",
        "import os\n\
         def handler(event, context):\n\
         \x20   try:\n\
         \x20       return os.listdir(event)\n\
         \x20   except FileNotFoundError:\n\
         \x20       return []\n",
    )]);
    let mut spec = spec(code.path(), "app.handler").await;
    spec.isolation = Isolation::probe(covered.path()).await.unwrap();
    assert!(spec.isolation.namespaces, "{:?}", spec.isolation.lacks());
    let mut environment = common::start(spec).await;
    let event = serde_json::to_vec(covered.path()).unwrap();
    let execution = environment.invoke(invocation(&event, LONG)).await;
    assert_eq!(answer(&execution), serde_json::json!([]));
}

/// A module that is a client of its own, and says what the endpoint answers to what a runtime must not do.
const STATES: &str = r#"
import http.client, json, os
api = "/2018-06-01/runtime"
seen = []
def ask(method, path, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, api + path, body)
    response = connection.getresponse()
    text = response.read()
    return response, text
def note(method, path, body=None):
    response, text = ask(method, path, body)
    seen.append([response.status, json.loads(text).get("errorType", "")])
note("POST", "/invocation/none/response", "{}")
response, _ = ask("GET", "/invocation/next")
id = response.headers["Lambda-Runtime-Aws-Request-Id"]
note("GET", "/invocation/next")
note("POST", "/invocation/other/response", "{}")
note("POST", "/invocation/other/error", "{}")
note("POST", "/init/error", "{}")
note("GET", "/nothing")
ask("POST", f"/invocation/{id}/response", json.dumps(seen))
note("POST", f"/invocation/{id}/response", "{}")
response, _ = ask("GET", "/invocation/next")
ask("POST", f"/invocation/{id}/error", json.dumps({"errorType": "Mine", "errorMessage": str(seen[-1])}))
ask("GET", "/invocation/next")
"#;

#[tokio::test]
async fn wrong_states_and_ids_are_answered_as_aws_does() {
    let mut environment = start(STATES).await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        answer(&execution),
        serde_json::json!([
            [403, "InvalidStateTransition"],
            [403, "InvalidStateTransition"],
            [400, "InvalidRequestID"],
            [400, "InvalidRequestID"],
            [403, "InvalidStateTransition"],
            [404, "NotFound"]
        ])
    );
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        error(&execution.outcome),
        (
            "Mine".to_owned(),
            "[403, 'InvalidStateTransition']".to_owned()
        )
    );
}
