//! Environments of real processes, and what can be seen of them from outside.

#![allow(dead_code, reason = "each file of tests uses its part")]

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lambic_model::Outcome;
use lambic_sandbox::{
    Execution, LogLine,
    process::{
        Environment, FailedStart, Interpreter, Invocation, Isolation, Launch, Network, Spec,
    },
};

pub const SECOND: Duration = Duration::from_secs(1);
pub const LONG: Duration = Duration::from_secs(60);

/// A function of 128 MB that only lacks its program.
pub async fn spec(launch: Launch, runtime: &str, code: &Path, handler: &str) -> Spec {
    Spec {
        function: "probe".to_owned(),
        function_arn: "arn:aws:lambda:local:000000000000:function:probe".to_owned(),
        qualifier: "7".to_owned(),
        runtime: runtime.to_owned(),
        launch,
        handler: handler.to_owned(),
        code_dir: code.to_owned(),
        layers: Vec::new(),
        environment: vec![("COLOUR".to_owned(), "amber".to_owned())],
        environment_reserved: vec![("AWS_REGION".to_owned(), "eu-north-1".to_owned())],
        memory_mb: 128,
        tmp_mb: 512,
        network: Network::None,
        log_bytes_max: 64 << 10,
        init_timeout: LONG,
        isolation: Isolation::probe(Path::new("/nowhere"))
            .await
            .expect("there is a shell"),
    }
}

pub async fn python() -> Interpreter {
    Interpreter::python(Path::new("python3"))
        .await
        .expect("python3 is installed")
}

pub async fn python_spec(code: &Path, handler: &str) -> Spec {
    let python = python().await;
    let runtime = format!("python{}", python.version);
    spec(Launch::Python(python), &runtime, code, handler).await
}

pub async fn node_spec(code: &Path, handler: &str) -> Spec {
    let node = Interpreter::node(Path::new("node"))
        .await
        .expect("node is installed");
    let runtime = format!("nodejs{}.x", node.version);
    spec(Launch::Node(node), &runtime, code, handler).await
}

pub async fn bootstrap_spec(code: &Path) -> Spec {
    spec(Launch::Bootstrap, "provided.al2023", code, "any.handler").await
}

/// A folder of these files; scripts can be executed.
pub fn code(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        if content.starts_with("#!") {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    dir
}

/// Puts the libraries that a program of this machine needs into the root of an image.
pub fn copy_libraries(program: &Path, root: &Path) {
    let listed = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .unwrap();
    for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        if word.starts_with('/') {
            let to = root.join(word.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(word, to).unwrap();
        }
    }
}

pub async fn start(spec: Spec) -> Environment {
    Environment::start(Arc::new(spec))
        .await
        .unwrap()
        .unwrap_or_else(|failed| panic!("{} {failed:?}", shown(&failed.outcome)))
}

pub async fn failed_start(spec: Spec) -> FailedStart {
    match Environment::start(Arc::new(spec)).await.unwrap() {
        Ok(_) => panic!("it started"),
        Err(failed) => failed,
    }
}

pub fn invocation(payload: &[u8], timeout: Duration) -> Invocation {
    Invocation {
        request_id: "id".to_owned(),
        payload: Bytes::copy_from_slice(payload),
        timeout,
        ..Invocation::default()
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success(payload) | Outcome::Failure { payload, .. } => {
            String::from_utf8_lossy(payload).into_owned()
        }
    }
}

pub fn answer(execution: &Execution) -> serde_json::Value {
    match &execution.outcome {
        Outcome::Success(answer) => serde_json::from_slice(answer).unwrap(),
        outcome @ Outcome::Failure { .. } => panic!("{} {:?}", shown(outcome), execution.lines),
    }
}

pub fn error_object(outcome: &Outcome) -> serde_json::Value {
    let Outcome::Failure { payload, .. } = outcome else {
        panic!("it succeeded: {}", shown(outcome))
    };
    serde_json::from_slice(payload).unwrap()
}

/// Type and message.
pub fn error(outcome: &Outcome) -> (String, String) {
    let Outcome::Failure {
        error_type,
        payload,
    } = outcome
    else {
        panic!("it succeeded: {}", shown(outcome))
    };
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!(payload["errorType"], error_type.as_str());
    (
        error_type.clone(),
        payload["errorMessage"].as_str().unwrap().to_owned(),
    )
}

pub fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}

/// Waits until no process has `mark` in its command line.
pub async fn assert_gone(mark: &str) {
    let start = Instant::now();
    while states(mark).iter().any(|&state| state != 'Z') {
        assert!(start.elapsed() < LONG, "a process outlived its environment");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The states of all processes that have `mark` in their command line.
pub fn states(mark: &str) -> Vec<char> {
    let mut states = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(mark) {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            states.extend(stat.rsplit(") ").next().unwrap().chars().next());
        }
    }
    states
}
