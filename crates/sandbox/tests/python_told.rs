//! What Python functions tell of errors and in their logs, and what is told of how they ended.

mod common;

use common::{LONG, answer, code, error, error_object, invocation, python_spec, texts};
use lambic_sandbox::{
    LogLine,
    process::{Environment, FailedStart},
};
use serde_json::Value;
use tempfile::TempDir;

async fn start(source: &str) -> Environment {
    let code = code(&[("app.py", source)]);
    common::start(python_spec(code.path(), "app.handler").await).await
}

async fn failed_start(source: &str) -> FailedStart {
    let code = code(&[("app.py", source)]);
    common::failed_start(python_spec(code.path(), "app.handler").await).await
}

/// With `LoggingConfig`'s format `JSON`. The code is there as long as its folder is.
async fn start_with_json_logs(source: &str, level: &str) -> (Environment, TempDir) {
    let code = code(&[("app.py", source)]);
    let mut spec = python_spec(code.path(), "app.handler").await;
    for (name, value) in [
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", level),
    ] {
        let variable = (name.to_owned(), value.to_owned());
        spec.environment_reserved.push(variable);
    }
    (common::start(spec).await, code)
}

fn objects(lines: &[LogLine]) -> Vec<Value> {
    let lines = texts(lines).into_iter();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// Its own figures go with it.
#[tokio::test]
async fn the_memory_of_a_process_that_died_is_what_was_seen_last() {
    let mut environment = start(
        "import os, time\n\
         def handler(event, context):\n\
         \x20   held = b'x' * (40 << 20)\n\
         \x20   time.sleep(0.5)\n\
         \x20   os._exit(len(held) >> 24)\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    let (kind, message) = error(&execution.outcome);
    assert_eq!(kind, "Runtime.ExitError");
    assert!(message.ends_with("exit status 2"), "{message}");
    let seen = execution.memory_peak_bytes;
    assert!((40 << 20..=128 << 20).contains(&seen), "{seen}");

    // Also what was seen with an event before.
    let mut environment = start(
        "import os\n\
         held = b'x' * (40 << 20)\n\
         def handler(event, context):\n\
         \x20   if event: os._exit(2)\n",
    )
    .await;
    let before = environment.invoke(invocation(b"0", LONG)).await;
    let before = before.memory_peak_bytes;
    assert!(before >= 40 << 20, "{before}");
    let ended = environment.invoke(invocation(b"1", LONG)).await;
    assert_eq!(error(&ended.outcome).0, "Runtime.ExitError");
    let seen = ended.memory_peak_bytes;
    assert!((before..=128 << 20).contains(&seen), "{seen} {before}");

    let failed =
        failed_start("import sys, time\nheld = b'x' * (40 << 20)\ntime.sleep(0.5)\nsys.exit(7)\n")
            .await;
    let seen = failed.memory_peak_bytes;
    assert!((40 << 20..=128 << 20).contains(&seen), "{seen}");
}

#[tokio::test]
async fn the_memory_of_what_it_started_counts() {
    let mut environment = start(
        "import os, time\n\
         def handler(event, context):\n\
         \x20   child = os.fork()\n\
         \x20   if child == 0:\n\
         \x20       held = b'x' * (60 << 20)\n\
         \x20       time.sleep(0.5)\n\
         \x20       os._exit(0)\n\
         \x20   os.waitpid(child, 0)\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    answer(&execution);
    let seen = execution.memory_peak_bytes;
    assert!((60 << 20..=128 << 20).contains(&seen), "{seen}");
}

#[tokio::test]
async fn a_crash_is_told_by_the_name_of_its_signal() {
    let mut environment = start(
        "import faulthandler\ndef handler(event, context):\n\x20   faulthandler._read_null()\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"{}", LONG)).await;
    assert_eq!(
        error(&execution.outcome),
        (
            "Runtime.ExitError".to_owned(),
            "RequestId: id Error: Runtime exited with error: signal: segmentation fault".to_owned()
        )
    );
}

#[tokio::test]
async fn root_loggers_write_as_on_aws() {
    let mut environment = start(
        "import logging\n\
         logger = logging.getLogger()\n\
         logger.setLevel(logging.INFO)\n\
         def handler(event, context):\n\
         \x20   logger.debug('not this')\n\
         \x20   logger.info('seen %s', event['x'])\n",
    )
    .await;
    let execution = environment.invoke(invocation(br#"{"x": 41}"#, LONG)).await;
    let lines = texts(&execution.lines);
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    let parts: Vec<&str> = line.split('\t').collect();
    let [level, at, id, message] = parts.as_slice() else {
        panic!("{line}")
    };
    assert_eq!((*level, *id, *message), ("[INFO]", "id", "seen 41"));
    // `2026-01-31T12:34:56.789Z`
    assert!(at.len() == 24 && at.ends_with('Z'), "{at}");
    environment.kill().await;
}

/// `LoggingConfig` with the format `JSON`.
#[tokio::test]
async fn root_loggers_write_json_where_the_function_wants_it() {
    let (mut environment, _code) = start_with_json_logs(
        "import logging\n\
         logger = logging.getLogger('mine')\n\
         def handler(event, context):\n\
         \x20   logger.info('not this')\n\
         \x20   logger.warning('two\\nlines %d', 5, extra={'order': 7})\n\
         \x20   try:\n\
         \x20       1 // event\n\
         \x20   except ZeroDivisionError:\n\
         \x20       logger.exception('caught')\n\
         \x20   raise ValueError('no')\n",
        "WARN",
    )
    .await;
    let execution = environment.invoke(invocation(b"0", LONG)).await;
    assert_eq!(error(&execution.outcome).0, "ValueError");
    let lines = objects(&execution.lines);
    let [warning, caught, failed] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    for (member, value) in [
        ("level", "WARNING"),
        ("message", "two\nlines 5"),
        ("logger", "mine"),
        ("requestId", "id"),
    ] {
        assert_eq!(warning[member], value, "{warning}");
    }
    assert_eq!(warning["order"], 7);
    assert_eq!(warning["timestamp"].as_str().unwrap().len(), 24);
    assert_eq!(caught["level"], "ERROR");
    assert_eq!(caught["errorType"], "ZeroDivisionError");
    assert!(
        caught["stackTrace"][0]
            .as_str()
            .unwrap()
            .contains("1 // event")
    );
    assert_eq!(failed["errorType"], "ValueError");
    assert_eq!(failed["requestId"], "id");
    environment.kill().await;
}

/// Text that is not UTF-8, as names of files may be, and errors that say nothing.
#[tokio::test]
async fn every_error_is_sent() {
    let mut environment = start(
        "import sys\n\
         class Silent(Exception):\n\
         \x20   def __str__(self): raise KeyError('no text')\n\
         def handler(event, context):\n\
         \x20   match event:\n\
         \x20       case 'half': raise ValueError('file \\udcff.txt')\n\
         \x20       case 'silent': raise Silent\n\
         \x20       case 'answer': return '\\udcff'\n\
         \x20       case 'deep':\n\
         \x20           deep = []\n\
         \x20           for _ in range(100_000): deep = [deep]\n\
         \x20           return deep\n\
         \x20       case 'closed':\n\
         \x20           sys.stdout.close()\n\
         \x20           raise ValueError('no good')\n",
    )
    .await;
    for (event, kind, said) in [
        ("half", "ValueError", "file \\udcff.txt"),
        ("silent", "Silent", "<Silent that has no text>"),
        ("answer", "Runtime.MarshalError", "Unable to marshal"),
        ("deep", "Runtime.MarshalError", "Unable to marshal"),
        ("closed", "ValueError", "no good"),
    ] {
        let event = serde_json::to_vec(event).unwrap();
        let execution = environment.invoke(invocation(&event, LONG)).await;
        let (found, message) = error(&execution.outcome);
        assert_eq!(found, kind, "{message}");
        assert!(message.starts_with(said), "{message}");
        assert_eq!(error_object(&execution.outcome)["requestId"], "id");
        assert!(execution.reusable, "{event:?}");
    }
    environment.kill().await;
    let failed = failed_start("raise ValueError('file \\udcff.txt')\n").await;
    let told = ("ValueError".to_owned(), "file \\udcff.txt".to_owned());
    assert_eq!(error(&failed.outcome), told);
}

#[tokio::test]
async fn lines_of_json_are_json_whatever_is_logged() {
    let (mut environment, _code) = start_with_json_logs(
        "import logging\n\
         logger = logging.getLogger()\n\
         def handler(event, context):\n\
         \x20   around = {}\n\
         \x20   around['self'] = around\n\
         \x20   logger.info('half \\udcff', extra={'n': float('nan'), 'all': [float('inf'), 1.5], 'pairs': {(1, 2): {3}}})\n\
         \x20   logger.info('around', extra={'it': around, 'large': 10**5000})\n\
         \x20   every = [{} for _ in range(300)]\n\
         \x20   for one in every:\n\
         \x20       one.update((str(n), other) for n, other in enumerate(every))\n\
         \x20   logger.info('many', extra={'it': every})\n\
         \x20   raise MemoryError\n",
        "INFO",
    )
    .await;
    let execution = environment.invoke(invocation(b"0", LONG)).await;
    assert_eq!(error(&execution.outcome).0, "MemoryError");
    let lines = objects(&execution.lines);
    let [numbers, around, many, failed] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(numbers["message"], "half \\udcff");
    assert_eq!(numbers["n"], Value::Null);
    assert_eq!(numbers["all"], serde_json::json!([null, 1.5]));
    assert_eq!(numbers["pairs"], serde_json::json!({"(1, 2)": "{3}"}));
    assert_eq!(around["message"], "around");
    assert_eq!(around["it"]["self"], "<dict>");
    assert_eq!(around["large"], "<int that has no text>");
    // It is in itself by more ways than anybody could write down.
    assert_eq!(many["message"], "many");
    assert!(many["it"].is_array(), "{many}");
    assert_eq!(failed["errorType"], "MemoryError");
    assert_eq!(failed["requestId"], "id");
    environment.kill().await;
}

#[tokio::test]
async fn decimals_are_numbers() {
    let mut environment = start(
        "def handler(event, context):\n\
         \x20   if event:\n\
         \x20       from decimal import Decimal\n\
         \x20       return [Decimal('1.5')]\n\
         \x20   return object()\n",
    )
    .await;
    let execution = environment.invoke(invocation(b"1", LONG)).await;
    assert_eq!(answer(&execution), serde_json::json!([1.5]));
    let execution = environment.invoke(invocation(b"0", LONG)).await;
    let (kind, message) = error(&execution.outcome);
    assert_eq!(kind, "Runtime.MarshalError");
    assert!(message.ends_with("Object of type object is not JSON serializable"));
    environment.kill().await;
}
