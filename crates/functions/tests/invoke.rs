//! Deploying and invoking: what callers get, and what the system streams keep of it.

mod common;

use common::{BOUND, ECHO, House, folder};
use lambic_functions::{Code, Deployment, Error, Event, Runtime, TraceFile, Trigger};
use lambic_model::{FunctionName, StreamName};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_is_answered_and_recorded() {
    let house = House::open().await;
    house
        .deploy_python(
            "double",
            "def handler(event, context):\n    print('got', event)\n    return event * 2\n",
        )
        .await;
    let result = house.invoke("double", "21").await;
    assert!(result.is_success());
    assert_eq!(result.payload(), b"42");
    assert!(!result.cold, "the trial at deployment left it warm");
    let lines: Vec<&str> = result.log_tail.lines().collect();
    let id = &result.request_id;
    assert_eq!(lines[0], format!("START RequestId: {id} Version: $LATEST"));
    assert_eq!(lines[1], "got 21");
    assert_eq!(lines[2], format!("END RequestId: {id}"));
    assert!(lines[3].starts_with(&format!("REPORT RequestId: {id}\tDuration: ")));

    house.functions.flush().await;
    let rows = house.rows("lambic_invocations");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["request_id"], id.as_str());
    assert_eq!(rows[0]["outcome"], "success");
    assert_eq!(rows[0]["kind"], "sync");
    assert_eq!(rows[0]["error_type"], json!(null));
    assert_eq!(rows[0]["digest"], result.digest.as_str());
    // Numbers are read from JSON to the last bit but one.
    let overhead_ms = rows[0]["overhead_ms"].as_f64().unwrap();
    assert!(
        (overhead_ms - result.overhead_ms).abs() < 1e-9,
        "{overhead_ms}"
    );
    let trace = rows[0]["trace_id"].as_str().unwrap();
    assert!(trace.starts_with("1-") && trace.len() == 35, "{trace}");
    let logs = house.rows("lambic_logs");
    let kept: Vec<_> = logs
        .iter()
        .map(|row| (&row["stream"], &row["line"]))
        .collect();
    assert_eq!(kept[0].0, "platform");
    assert_eq!(kept[1], (&json!("stdout"), &json!("got 21")));
    assert_eq!(logs.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_recorded_while_an_invocation_runs_in_order_and_once() {
    let house = House::open().await;
    let source = "import time\ndef handler(event, context):\n    print('first')\n    time.sleep(event)\n    print('second')\n";
    house.deploy_python("f", source).await;
    let result = house.invoke("f", "2.5").await;
    assert!(result.is_success(), "{}", result.log_tail);
    house.functions.flush().await;
    let rows = house.rows("lambic_logs");
    let is_of = |row: &&serde_json::Value| row["request_id"] == result.request_id.as_str();
    assert!(rows.iter().all(|row| is_of(&row)), "{rows:?}");
    let lines: Vec<&str> = rows
        .iter()
        .map(|row| row["line"].as_str().unwrap())
        .collect();
    let words = lines.iter().map(|line| line.split(' ').next().unwrap());
    let words: Vec<&str> = words.collect();
    assert_eq!(words, ["START", "first", "second", "END", "REPORT"]);
    // Also what was recorded before the end is in the answer.
    assert_eq!(result.log_tail.lines().collect::<Vec<_>>(), lines);

    let (functions, f) = (house.functions.clone(), FunctionName::new("f").unwrap());
    let runs = tokio::spawn(async move { functions.invoke(&f, b"50".to_vec()).await });
    let rows = house.wait_for_rows("lambic_logs", 7).await;
    assert_eq!(rows[6]["line"], "first");
    assert_ne!(rows[6]["request_id"], result.request_id.as_str());
    // It had not ended: the end does not wait for it.
    house.functions.close().await;
    assert!(matches!(runs.await.unwrap(), Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_an_outcome_and_the_next_event_is_fine() {
    let house = House::open().await;
    let mut deployment = house
        .python(
            "sleepy",
            "import time\ndef handler(event, context):\n    time.sleep(event['s'])\n    return 'awake'\n",
        )
        .await;
    deployment.timeout = std::time::Duration::from_secs(1);
    house.functions.deploy(deployment).await.unwrap();
    let result = house.invoke("sleepy", r#"{"s": 1000}"#).await;
    let error: serde_json::Value = serde_json::from_slice(result.payload()).unwrap();
    let message = format!(
        "RequestId: {} Error: Task timed out after 1.00 seconds",
        result.request_id
    );
    assert_eq!(
        error,
        json!({"errorType": "Sandbox.Timedout", "errorMessage": message})
    );
    let result = house.invoke("sleepy", r#"{"s": 0}"#).await;
    assert_eq!(result.payload(), b"\"awake\"");
    assert!(result.cold && result.init_ms.is_some());
    let result = house.invoke("sleepy", "{}").await;
    assert!(!result.is_success() && !result.cold);

    house.functions.flush().await;
    let kept: Vec<_> = house
        .rows("lambic_invocations")
        .iter()
        .map(|row| (row["outcome"].clone(), row["error_type"].clone()))
        .collect();
    assert_eq!(
        kept,
        [
            (json!("failure"), json!("Sandbox.Timedout")),
            (json!("success"), json!(null)),
            (json!("failure"), json!("KeyError"))
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_invoked() {
    let house = House::open().await;
    let code = folder(&[("echo.wasm", ECHO.as_bytes())]);
    let name = FunctionName::new("echo").unwrap();
    let mut deployment = Deployment::new(
        name.clone(),
        Runtime::Wasm,
        Code::Folder(code.path().to_owned()),
    );
    deployment.timeout = BOUND;
    let info = house.functions.deploy(deployment).await.unwrap();
    assert!(info.invocable && info.scalars.is_empty());
    assert_eq!(info.handler, "echo.wasm");
    let result = house.invoke("echo", r#"{"a": [1]}"#).await;
    assert_eq!(result.payload(), br#"{"a": [1]}"#, "{}", result.log_tail);

    // It is there after a restart, from its compiled form.
    let house = house.restart().await;
    assert_eq!(house.functions.list(), [info]);
    let result = house.invoke("echo", "7").await;
    assert_eq!(result.payload(), b"7");
    house.functions.remove(&name).await.unwrap();
    assert!(matches!(
        house.functions.invoke(&name, Vec::new()).await,
        Err(Error::NotFound { .. })
    ));
    let house = house.restart().await;
    assert!(house.functions.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_deployment_leaves_the_former_one_serving() {
    let house = House::open().await;
    house
        .deploy_python("f", "def handler(event, context):\n    return 'former'\n")
        .await;
    let bytes = |source: &str| Code::Bytes(source.as_bytes().to_vec());
    let fine = bytes("def handler(event, context): return 'new'\n");
    let stream = |name: &str| StreamName::new(name).unwrap();
    type Change = Box<dyn Fn(&mut Deployment)>;
    let empty = tempfile::tempdir().unwrap();
    let empty_path = empty.path().to_owned();
    let cases: Vec<(Code, Change, &str)> = vec![
        (
            bytes("def handler(:\n"),
            Box::new(|_| {}),
            "its start failed with Runtime.UserCodeSyntaxError: Syntax error in module 'handler'",
        ),
        (
            bytes("import nothing_such\n"),
            Box::new(|_| {}),
            "Runtime.ImportModuleError: Unable to import module 'handler': No module named 'nothing_such'",
        ),
        (
            fine.clone(),
            Box::new(|d| d.handler = Some("handler.other".to_owned())),
            "Runtime.HandlerNotFound: Handler 'other' missing on module 'handler'",
        ),
        (
            fine.clone(),
            Box::new(|d| d.handler = Some("handler".to_owned())),
            "`handler` is not a handler; write `file.function`",
        ),
        (
            fine.clone(),
            Box::new(|d| d.handler = Some("/tmp/elsewhere.handler".to_owned())),
            "its handler `/tmp/elsewhere.handler` is not the name of a file in its folder",
        ),
        (
            Code::Folder(empty_path.clone()),
            Box::new(|d| {
                d.runtime = Runtime::Wasm;
                d.handler = Some("../../elsewhere.wasm".to_owned());
            }),
            "its handler `../../elsewhere.wasm` is not the name of a file in its folder",
        ),
        (
            Code::Folder(empty_path.clone()),
            Box::new(|_| {}),
            "its handler `handler.handler` needs the file `handler.py`, which is not in the code",
        ),
        (
            Code::Folder(empty_path),
            Box::new(|d| d.runtime = Runtime::Wasm),
            "has no `.wasm` file; build the component first",
        ),
        (
            bytes("not wasm"),
            Box::new(|d| d.runtime = Runtime::Wasm),
            "the code is not a WebAssembly component",
        ),
        (
            bytes("(component (import \"x\" (func)))"),
            Box::new(|d| d.runtime = Runtime::Wasm),
            "it imports `x`; a SQL function may import WASI only",
        ),
        (
            bytes("(component)"),
            Box::new(|d| d.runtime = Runtime::Wasm),
            "it exports no function",
        ),
        (
            fine.clone(),
            Box::new(move |d| d.triggers = vec![Trigger::new(stream("none"))]),
            "stream `none` does not exist",
        ),
        (
            fine.clone(),
            Box::new(move |d| d.triggers = vec![Trigger::new(stream("lambic_logs"))]),
            "cannot be triggered by `lambic_logs`: its own invocations are recorded there",
        ),
        (
            fine.clone(),
            Box::new(move |d| {
                d.triggers = vec![Trigger::new(stream("input"))];
                d.output = Some(stream("input"));
            }),
            "that is its output too",
        ),
        (
            fine.clone(),
            Box::new(move |d| d.output = Some(stream("lambic_logs"))),
            "`lambic_logs` is written by the system only",
        ),
        (
            fine.clone(),
            Box::new(move |d| d.dead_letter = Some(stream("output"))),
            "does not have the columns of `lambic_dead_letters`",
        ),
        (
            fine.clone(),
            Box::new(|d| {
                let hosts = "https://api.example.com".to_owned();
                d.environment.insert("LAMBIC_HOSTS".to_owned(), hosts);
            }),
            "`https://api.example.com` is not a host",
        ),
        (
            fine.clone(),
            Box::new(|d| d.memory_mb = 0),
            "its memory must be 1 to 10240 MB",
        ),
        (
            fine.clone(),
            Box::new(|d| d.concurrency = Some(usize::MAX)),
            "its concurrency must be 0 to 1000, not 18446744073709551615",
        ),
        (
            fine.clone(),
            Box::new(|d| d.retries = u32::MAX),
            "its retries must be 0 to 10000, not 4294967295",
        ),
        (
            fine.clone(),
            Box::new(|d| d.timeout = std::time::Duration::MAX),
            "its timeout must be 1 ms to 900 seconds",
        ),
        (
            fine,
            Box::new(move |d| {
                d.triggers = vec![Trigger {
                    window_ms: u64::MAX,
                    ..Trigger::new(stream("input"))
                }];
            }),
            "the window of its trigger must be 0 to 300000 ms",
        ),
    ];
    for (code, change, reason) in cases {
        let mut deployment = house.python("f", "").await;
        deployment.code = code;
        change(&mut deployment);
        let error = house.functions.deploy(deployment).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error} / {reason}");
    }
    assert_eq!(house.invoke("f", "").await.payload(), b"\"former\"");
    assert_eq!(house.functions.get("f").unwrap().deployment, 1);
    house
        .deploy_python("f", "def handler(event, context):\n    return 'latter'\n")
        .await;
    assert_eq!(house.invoke("f", "").await.payload(), b"\"latter\"");
    let house = house.restart().await;
    assert_eq!(house.invoke("f", "").await.payload(), b"\"latter\"");
    assert_eq!(house.functions.get("f").unwrap().deployment, 2);
    assert!(
        "perl"
            .parse::<Runtime>()
            .unwrap_err()
            .to_string()
            .contains("`perl` is not a runtime")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_are_refused() {
    let house = House::open().await;
    house
        .deploy_python("f", "def handler(event, context):\n    return event\n")
        .await;
    let name = FunctionName::new("f").unwrap();
    let error = house
        .functions
        .invoke(&name, b"{".to_vec())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::PayloadNotJson { .. }));
    // Nobody looks into this text, so it must be looked at here: the queue keeps text.
    let not_text = b"{\"a\": \"\xff\"}".to_vec();
    let error = house.functions.invoke_async(&name, not_text.clone()).await;
    assert!(matches!(error, Err(Error::PayloadNotJson { .. })));
    let error = house.functions.invoke(&name, not_text).await;
    assert!(matches!(error, Err(Error::PayloadNotJson { .. })));
    assert!(house.rows("lambic_async").is_empty());
    let large = format!("\"{}\"", "x".repeat(6 << 20)).into_bytes();
    let error = house.functions.invoke(&name, large).await.unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { .. }));
    assert_eq!(house.invoke("f", "").await.payload(), b"{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_the_environments() {
    let house = House::open().await;
    let mut deployment = house
        .python(
            "f",
            "import os\ndef handler(event, context):\n    return os.environ['AWS_LAMBDA_LOG_STREAM_NAME']\n",
        )
        .await;
    deployment.concurrency = Some(2);
    house.functions.deploy(deployment).await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let functions = house.functions.clone();
        running.spawn(async move {
            let name = FunctionName::new("f").unwrap();
            let result = functions.invoke(&name, Vec::new()).await.unwrap();
            String::from_utf8(result.payload().to_vec()).unwrap()
        });
    }
    let environments: std::collections::BTreeSet<String> =
        running.join_all().await.into_iter().collect();
    assert!((1..=2).contains(&environments.len()), "{environments:?}");
}

/// What a server without bounds on these wrote; it panicked on it at each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_stored_without_bounds_is_brought_within_them() {
    let house = House::open().await;
    let mut deployment = house
        .python("f", "def handler(event, context):\n    return 'runs'\n")
        .await;
    deployment.trial = false;
    deployment.concurrency = Some(7);
    deployment.triggers = vec![Trigger::new(StreamName::new("input").unwrap())];
    house.functions.deploy(deployment).await.unwrap();
    let stored = house.dir.path().join("functions/functions/f.json");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&stored).unwrap()).unwrap();
    // As servers wrote it that had neither bounds nor checksums.
    let mut content = kept["content"].clone();
    content["info"]["concurrency"] = json!(u64::MAX);
    content["info"]["retries"] = json!(u32::MAX);
    content["info"]["timeout_ms"] = json!(u64::MAX);
    content["info"]["triggers"][0]["window_ms"] = json!(u64::MAX);
    std::fs::write(&stored, content.to_string()).unwrap();
    let house = house.restart().await;
    let info = house.functions.get("f").unwrap();
    assert_eq!(info.concurrency, Some(1_000));
    assert_eq!(info.retries, 10_000);
    assert_eq!(info.timeout_ms, 900_000);
    assert_eq!(info.triggers[0].window_ms, 300_000);
    house.append(&[1]).await;
    assert_eq!(house.invoke("f", "").await.payload(), b"\"runs\"");
}

/// Code that is not what was deployed does not run, and deploying it again brings it back.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_code_is_noticed_and_mended() {
    let house = House::open().await;
    let python = "def handler(event, context):\n    return 'fine'\n";
    house.deploy_python("p", python).await;
    let mut wasm = Deployment::new(
        FunctionName::new("w").unwrap(),
        Runtime::Wasm,
        Code::Bytes(ECHO.as_bytes().to_vec()),
    );
    wasm.timeout = BOUND;
    let of_wasm = house.functions.deploy(wasm.clone()).await.unwrap();
    let of_python = house.functions.get("p").unwrap();
    let code = house.dir.path().join("functions/code");
    let of_python = code.join(of_python.digest);
    let of_wasm = code.join(of_wasm.digest);
    let bad_python = python.replace("fine", "bad");
    let damages: [(&str, &[u8], &str, &[u8]); 3] = [
        (
            "handler.py",
            bad_python.as_bytes(),
            "function.wasm",
            b"(component)",
        ),
        ("json.py", b"", "function.wasm", b""),
        // Python takes compiled code where it is newer.
        ("__pycache__/handler.pyc", b"", "function.wasm", b"x"),
    ];
    let mut house = house;
    for (file, content, component, bytes) in damages {
        let path = of_python.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        std::fs::write(of_wasm.join(component), bytes).unwrap();
        house = house.restart().await;
        for name in ["p", "w"] {
            let answer = house.invoke(name, "7").await;
            let answer = String::from_utf8(answer.payload().to_vec()).unwrap();
            assert!(
                answer.contains(
                    "is damaged: its content is not what was deployed; deploy the function again, or bring the file back from a backup"
                ),
                "{answer}"
            );
        }
        house.deploy_python("p", python).await;
        house.functions.deploy(wasm.clone()).await.unwrap();
        assert_eq!(house.invoke("p", "7").await.payload(), b"\"fine\"");
        assert_eq!(house.invoke("w", "7").await.payload(), b"7");
    }
    // Nothing of it is left behind.
    let left: Vec<_> = std::fs::read_dir(&code)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// One that is configured but not there, and another one in a folder.
#[tokio::test(flavor = "multi_thread")]
async fn an_interpreter_is_found_in_a_folder() {
    let ask = "import sys; print(sys.executable); print('python%d.%d' % sys.version_info[:2])";
    let said = std::process::Command::new("python3")
        .args(["-c", ask])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let [python, version] = said.lines().collect::<Vec<_>>().try_into().unwrap();
    let pythons = tempfile::tempdir().unwrap();
    let bin = pythons.path().join("one/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(python, bin.join(version)).unwrap();
    let house = House::open_with(|options| {
        options.python = "no-such-python".into();
        options.interpreters = vec![pythons.path().to_owned()];
    })
    .await;
    let source = "import sys\ndef handler(event, context):\n    return 'python%d.%d' % sys.version_info[:2]\n";
    let mut deployment = house.python("f", source).await;
    deployment.settings.runtime_name = version.to_owned();
    house.functions.deploy(deployment.clone()).await.unwrap();
    let answer = format!("\"{version}\"");
    assert_eq!(house.invoke("f", "").await.payload(), answer.as_bytes());
    assert_eq!(house.functions.own_runtime(Runtime::Python), None);
    let runtimes = house.functions.runtimes().await;
    assert!(runtimes.all.contains(version), "{runtimes:?}");

    deployment.settings.runtime_name = "python3.99".to_owned();
    let refused = house
        .functions
        .deploy(deployment.clone())
        .await
        .unwrap_err();
    let told = refused.to_string();
    assert!(told.contains("python3.99 is not on this machine"), "{told}");
    assert!(told.contains(version), "{told}");
    deployment.settings.runtime_name = String::new();
    let refused = house.functions.deploy(deployment.clone()).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("no-such-python"), "{told}");

    // What runs functions that name none is known from the start on.
    let configured = std::path::PathBuf::from(python);
    let house = house
        .restart_with(|options| options.python = configured.clone())
        .await;
    house.functions.deploy(deployment).await.unwrap();
    let house = house
        .restart_with(|options| options.python = configured)
        .await;
    let own = house.functions.own_runtime(Runtime::Python);
    assert_eq!(own.as_deref(), Some(version));
    assert_eq!(house.functions.own_runtime(Runtime::Wasm), None);
}

/// Of each invocation a line, with its phases as spans below it.
#[tokio::test(flavor = "multi_thread")]
async fn traces_have_the_phases_of_an_invocation() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("traces.jsonl");
    let house = House::open_with(|options| {
        options.traces = Some(TraceFile {
            path: file.clone(),
            bytes_max: 1 << 20,
        });
    })
    .await;
    let source = "def handler(event, context):\n    return event['x']\n";
    let mut deployment = house.python("f", source).await;
    deployment.trial = false;
    house.functions.deploy(deployment).await.unwrap();
    let event = Event {
        payload: b"{\"x\": 1}".to_vec(),
        trace_id: Some(
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".to_owned(),
        ),
        ..Event::default()
    };
    let f = FunctionName::new("f").unwrap();
    let cold = house.functions.invoke_at(&f, None, event).await.unwrap();
    let failed = house.invoke("f", "{}").await;
    assert!(cold.is_success() && cold.cold && !failed.is_success() && !failed.cold);
    house.functions.close().await;

    let text = std::fs::read_to_string(&file).unwrap();
    let traces: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(traces.len(), 2);
    let attribute = |of: &serde_json::Value, key: &str| {
        let all = of["attributes"].as_array().unwrap();
        let one = all.iter().find(|attribute| attribute["key"] == key);
        one.map(|attribute| attribute["value"].clone())
    };
    let time = |span: &serde_json::Value, key: &str| -> u64 {
        span[key].as_str().unwrap().parse().unwrap()
    };
    for (trace, result, phases) in [
        (&traces[0], &cold, ["overhead", "init", "invoke"].as_slice()),
        (&traces[1], &failed, ["overhead", "invoke"].as_slice()),
    ] {
        let of_function = &trace["resourceSpans"][0]["resource"];
        let name = json!({ "stringValue": "f" });
        assert_eq!(attribute(of_function, "faas.name"), Some(name));
        let spans = &trace["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let spans = spans.as_array().unwrap();
        let root = &spans[0];
        let id = json!({ "stringValue": result.request_id });
        assert_eq!(attribute(root, "faas.invocation_id"), Some(id));
        let is_cold = json!({ "boolValue": result.cold });
        assert_eq!(attribute(root, "faas.coldstart"), Some(is_cold));
        assert_eq!(root["status"]["code"] == 2, !result.is_success());
        let mut lasted = std::collections::BTreeMap::new();
        // One follows the other, and together they are the whole.
        let mut now = time(root, "startTimeUnixNano");
        for span in &spans[1..] {
            assert_eq!(span["traceId"], root["traceId"]);
            assert_eq!(span["parentSpanId"], root["spanId"]);
            assert_eq!(time(span, "startTimeUnixNano"), now);
            now = time(span, "endTimeUnixNano");
            let ms = (now - time(span, "startTimeUnixNano")) as f64 / 1e6;
            *lasted.entry(span["name"].as_str().unwrap()).or_insert(0.0) += ms;
        }
        assert_eq!(now, time(root, "endTimeUnixNano"));
        for phase in phases {
            let told = match *phase {
                "init" => result.init_ms.unwrap(),
                "invoke" => result.duration_ms,
                _ => result.overhead_ms,
            };
            assert!((lasted[phase] - told).abs() < 0.01, "{phase}: {lasted:?}");
        }
        assert_eq!(lasted.len(), phases.len(), "{lasted:?}");
    }
    let root = &traces[0]["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(root["traceId"], "5759e988bd862e3fe1be46a994272793");
    assert_eq!(root["parentSpanId"], "53995c3f42cd8ad8");
}
