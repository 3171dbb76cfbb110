//! A component that `componentize-py` (from PyPI, unmodified) makes of Python.

mod components;

use std::{fs, path::Path, process::Command, sync::Arc};

use components::{Kept, LIMITS, invoke, lines, load, result};
use lambic_sandbox::wasm::{Limits, World};

const APP: &str = r#"
import json, sys
from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import key_value, types

class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        print("handling", file=sys.stderr)
        count = int(key_value.get("seen", "count") or b"0") + 1
        key_value.set("seen", "count", str(count).encode())
        body = {"path": request.path_with_query(), "count": count}
        response = types.OutgoingResponse(types.Fields())
        outgoing = response.body()
        types.ResponseOutparam.set(response_out, Ok(response))
        with outgoing.write() as stream:
            stream.blocking_write_and_flush(json.dumps(body).encode())
        types.OutgoingBody.finish(outgoing, None)
"#;

fn run(command: &mut Command) {
    let output = command.output().expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn python_answers_requests_and_keeps_values() {
    let dir = tempfile::tempdir().unwrap();
    let (packages, wit) = (dir.path().join("packages"), dir.path().join("wit"));
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["componentize-py==0.25.1", "--target"])
        .arg(&packages));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(wit.join("deps")).unwrap();
    for (from, to) in [
        ("tests/components/worlds.wit", "worlds.wit"),
        ("wit/deps/lambic-functions.wit", "deps/lambic-functions.wit"),
        ("wit/deps/wasi-keyvalue.wit", "deps/wasi-keyvalue.wit"),
    ] {
        fs::copy(root.join(from), wit.join(to)).unwrap();
    }
    fs::write(dir.path().join("app.py"), APP).unwrap();
    run(Command::new("python3")
        .args(["-c", "from componentize_py import script; script()"])
        .args([
            "-d",
            "wit",
            "-w",
            "http",
            "componentize",
            "app",
            "-o",
            "app.wasm",
        ])
        .current_dir(dir.path())
        .env("PYTHONPATH", &packages));
    let code = fs::read(dir.path().join("app.wasm")).unwrap();

    let services = Arc::new(Kept::default());
    let module = load(&code).unwrap().with_services(services);
    assert_eq!(module.world(), Some(World::Http));
    let limits = Limits {
        memory_mb: 128,
        ..LIMITS
    };
    for count in 1..=3 {
        let execution = invoke(&module, "{}", limits).await;
        assert_eq!(
            result(&execution),
            format!(r#"{{"path": "/", "count": {count}}}"#)
        );
        assert_eq!(lines(&execution), ["handling"]);
    }
}
