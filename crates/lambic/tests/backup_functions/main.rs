//! Backups of what is deployed: functions with all that belongs to them come back and go on where they were, also when
//! the backup was made while they were deployed; what is damaged is named.

#[path = "../common/mod.rs"]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use common::{
    Server,
    aws::{Api, BASH, FUNCTIONS, ROLE, base64, zipped},
    disk::Tmpfs,
    eventually, lambic, refused, shown, text,
};
use serde_json::{Value, json};

const PYTHON: &str = "
import helper, os


def handler(event, context):
    return {'layer': helper.WORD, 'level': os.environ['LEVEL'], 'version': context.function_version, 'event': event}
";

/// Says the sum at the end of a window.
const SUM: &str = "
def handler(event, context):
    n = event['state'].get('n', 0) + sum(record['data']['n'] for record in event['Records'])
    if event['isFinalInvokeForWindow']:
        return [{'n': n}]
    return {'state': {'n': n}}
";

const LAST: &str = include_str!("last.wat");
const LAYERS: &str = "/2018-10-31/layers";

fn run(args: &[&str]) -> Output {
    let mut command = lambic();
    let output = command.args(args).stdin(Stdio::null()).output();
    output.expect("the binary is there")
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "lambic {args:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn create(api: &Api, name: &str, runtime: &str, handler: &str, zip: &[u8], more: &Value) {
    let mut body = json!({
        "FunctionName": name, "Runtime": runtime, "Role": ROLE, "Handler": handler, "Timeout": 30,
        "Code": {"ZipFile": base64(zip)},
    });
    let members = body.as_object_mut().expect("it is one");
    members.extend(more.as_object().cloned().unwrap_or_default());
    api.ok("POST", FUNCTIONS, &body);
}

fn invoke(api: &Api, function: &str, event: &Value) -> Value {
    let path = format!("{FUNCTIONS}/{function}/invocations");
    api.ok("POST", &path, event)
}

fn get(api: &Api, path: &str) -> Value {
    let answer = api.call("GET", path, None);
    let (status, answer) = answer.unwrap_or_else(|| panic!("{path}: no answer"));
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

fn stream_arn(name: &str) -> String {
    format!("arn:aws:lambic:us-east-1:000000000000:stream/{name}")
}

/// A function of each kind, with what belongs to functions.
fn deploy(server: &Server, api: &Api, window_s: u32) {
    server.ok(&[
        "query",
        "CREATE STREAM orders (n bigint NOT NULL); CREATE STREAM sums (n bigint NOT NULL)",
    ]);
    let layer = zipped(&[("python/helper.py", "WORD = 'layered'")]);
    let layer = api.ok(
        "POST",
        &format!("{LAYERS}/words/versions"),
        &json!({"Content": {"ZipFile": base64(&layer)}, "Description": "words"}),
    );
    create(
        api,
        "python",
        "python3.11",
        "app.handler",
        &zipped(&[("app.py", PYTHON)]),
        &json!({
            "Layers": [layer["LayerVersionArn"]], "Publish": true, "Tags": {"team": "a"}, "MemorySize": 256,
            "Environment": {"Variables": {"LEVEL": "one"}},
        }),
    );
    let of_python = format!("{FUNCTIONS}/python");
    api.ok(
        "POST",
        &format!("{of_python}/aliases"),
        &json!({"Name": "live", "FunctionVersion": "1"}),
    );
    api.ok(
        "POST",
        "/2021-10-31/functions/python/url",
        &json!({"AuthType": "NONE"}),
    );
    api.ok(
        "POST",
        &format!("{of_python}/policy"),
        &json!({
            "StatementId": "all", "Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE",
        }),
    );
    api.ok(
        "PUT",
        &format!("{of_python}/configuration"),
        &json!({"Environment": {"Variables": {"LEVEL": "two"}}}),
    );
    let bash = zipped(&[("bootstrap", BASH)]);
    create(
        api,
        "bash",
        "provided.al2023",
        "any.thing",
        &bash,
        &json!({}),
    );
    let last = zipped(&[("app.wasm", LAST)]);
    create(api, "last", "wasm", "app.wasm", &last, &json!({}));
    api.ok(
        "PUT",
        "/v1/functions/sum",
        &json!({
            "runtime": "python", "handler": "app.handler", "timeout_s": 30, "output": "sums",
            "files": {"app.py": base64(SUM.as_bytes())},
        }),
    );
    api.ok(
        "POST",
        "/2015-03-31/event-source-mappings",
        &json!({
            "FunctionName": "sum", "StartingPosition": "TRIM_HORIZON", "BatchSize": 5, "EventSourceArn": stream_arn("orders"),
            "TumblingWindowInSeconds": window_s, "FilterCriteria": {"Filters": [{"Pattern": r#"{"data": {"n": [{"numeric": [">", 0]}]}}"#}]},
        }),
    );
}

/// What a server says of all that is deployed, but for where it is reached.
fn told(api: &Api) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        format!("{FUNCTIONS}/python"),
        format!("{FUNCTIONS}/python?Qualifier=1"),
        format!("{FUNCTIONS}/python/versions"),
        format!("{FUNCTIONS}/python/aliases"),
        format!("{FUNCTIONS}/python/policy"),
        format!("{FUNCTIONS}/bash"),
        format!("{FUNCTIONS}/last"),
        format!("{FUNCTIONS}/sum"),
        "/2021-10-31/functions/python/url".to_owned(),
        format!("{LAYERS}/words/versions"),
    ] {
        let mut answer = get(api, &path);
        if let Some(answer) = answer.as_object_mut() {
            answer.remove("Code");
            answer.remove("FunctionUrl");
        }
        all.push(answer);
    }
    let mut mappings = get(api, "/2015-03-31/event-source-mappings");
    for mapping in mappings["EventSourceMappings"]
        .as_array_mut()
        .expect("a list")
    {
        let mapping = mapping.as_object_mut().expect("an object");
        mapping.remove("LastProcessingResult");
    }
    all.push(mappings);
    all
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(files_below(&path)),
            path => files.push(path),
        }
    }
    files.sort();
    files
}

fn append(server: &Server, numbers: std::ops::Range<u64>) -> u64 {
    let values: Vec<String> = numbers.clone().map(|n| format!("({n})")).collect();
    let sql = format!("INSERT INTO orders VALUES {}", values.join(", "));
    server.ok(&["query", &sql]);
    numbers.sum()
}

fn number(server: &Server, sql: &str) -> u64 {
    let rows = server.rows(sql);
    let value = rows[0].as_object().and_then(|row| row.values().next());
    value.and_then(Value::as_u64).unwrap_or_default()
}

#[test]
fn what_is_deployed_comes_back_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let target = folder.path().join("backups");
    let mut server = Server::start(&data);
    let api = Api::new(&server.url);
    deploy(&server, &api, 10);
    assert_eq!(invoke(&api, "last", &json!("one")), Value::Null);
    // These events wait: the function is stopped.
    let concurrency = "/2017-10-31/functions/bash/concurrency";
    api.ok(
        "PUT",
        concurrency,
        &json!({"ReservedConcurrentExecutions": 0}),
    );
    let queued: Vec<String> = (0..20)
        .map(|n| api.queue("bash", &json!({"n": n})).expect("it is queued"))
        .collect();
    let before = append(&server, 1..40);
    eventually("a window is open", || {
        !files_below(&data.join("functions/windows")).is_empty()
    });
    server.ok(&["backup", shown(&target)]);
    let then = told(&api);
    // All of this happens afterwards.
    assert_eq!(invoke(&api, "last", &json!("two")), "one");
    api.call("DELETE", &format!("{FUNCTIONS}/python"), None);
    api.call("DELETE", &format!("{LAYERS}/words/versions/1"), None);
    api.call("DELETE", concurrency, None);
    assert!(server.terminate().success(), "{}", server.said());
    ok(&["backup", shown(&target), "--data", shown(&data)]);
    ok(&["backup", "verify", shown(&target)]);

    let listed = common::json(&ok(&["backup", "list", shown(&target), "--json"]));
    let id = |index: usize| listed[index]["backup"].as_str().expect("an id").to_owned();
    let restored = folder.path().join("restored");
    ok(&[
        "restore",
        shown(&target),
        "--backup",
        &id(0),
        shown(&restored),
    ]);
    assert!(!restored.join("functions/kv-saved").exists());
    let doctor = ok(&["doctor", "--data", shown(&restored)]);
    assert!(doctor.contains("4 functions"), "{doctor}");
    assert!(doctor.contains("1 value"), "{doctor}");
    let mut server = Server::start(&restored);
    let api = Api::new(&server.url);
    assert_eq!(told(&api), then);
    let answer = |function: &str| invoke(&api, function, &json!({"n": 7}));
    let said = |level: &str, version: &str| json!({"layer": "layered", "level": level, "version": version, "event": {"n": 7}});
    assert_eq!(answer("python:live"), said("one", "1"));
    assert_eq!(answer("python"), said("two", "$LATEST"));
    assert_eq!(answer("last"), json!("one"), "as it was kept at the backup");
    let urls = get(&api, "/2021-10-31/functions/python/url");
    assert!(urls["FunctionUrl"].is_string(), "{urls}");

    // Each event ends once.
    api.call("DELETE", concurrency, None);
    let ends = "SELECT count(*) FROM lambic_async WHERE state <> 'queued'";
    eventually("all events end", || number(&server, ends) >= 20);
    assert_eq!(answer("bash"), json!({"n": 7}));
    for id in &queued {
        let of_it =
            format!("SELECT state FROM lambic_async WHERE request_id = '{id}' ORDER BY _offset");
        let states = server.rows(&of_it);
        assert_eq!(
            states,
            [json!({"state": "queued"}), json!({"state": "done"})]
        );
    }
    assert_eq!(number(&server, ends), 20);
    // What the open window held is not lost, and counts once.
    let all = before + append(&server, 100..110);
    eventually("all windows are over", || {
        number(&server, "SELECT coalesce(sum(n), 0)::bigint FROM sums") >= all
    });
    assert_eq!(number(&server, "SELECT sum(n)::bigint FROM sums"), all);
    assert!(server.terminate().success(), "{}", server.said());
    assert!(!server.said().contains("ERROR"), "{}", server.said());
    ok(&["doctor", "--data", shown(&restored)]);

    // The later backup, of a stopped server.
    let later = folder.path().join("later");
    ok(&["restore", shown(&target), "--backup", &id(1), shown(&later)]);
    ok(&["doctor", "--data", shown(&later)]);
    let server = Server::start(&later);
    let api = Api::new(&server.url);
    let gone = api.call("GET", &format!("{FUNCTIONS}/python"), None);
    assert_eq!(gone.expect("an answer").0, 404);
    assert_eq!(invoke(&api, "last", &json!("three")), "two");
}

#[test]
fn backups_are_whole_while_functions_are_deployed_and_code_is_swept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let target = folder.path().join("backups");
    let mut server = Server::start(&data);
    let api = Api::new(&server.url);
    let wasm = |n: u64| {
        let echo = include_str!("../../src/bench/echo.wat");
        let code = format!("{echo};; {n}");
        zipped(&[("app.wasm", code.as_str())])
    };
    create(&api, "steady", "wasm", "app.wasm", &wasm(0), &json!({}));
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let deploying = {
        let (stop, rounds, api) = (stop.clone(), rounds.clone(), api.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let n = rounds.load(Ordering::SeqCst) + 1;
                let code = json!({"ZipFile": base64(&wasm(n))});
                api.ok("PUT", &format!("{FUNCTIONS}/steady/code"), &code);
                let word = format!("WORD = {n}");
                let layer = zipped(&[("python/word.py", word.as_str())]);
                let layer = json!({"Content": {"ZipFile": base64(&layer)}});
                api.ok("POST", &format!("{LAYERS}/words/versions"), &layer);
                let name = format!("passing{}", n % 3);
                create(&api, &name, "wasm", "app.wasm", &wasm(n), &json!({}));
                let version = format!("{LAYERS}/words/versions/{n}");
                api.call("DELETE", &version, None);
                api.call("DELETE", &format!("{FUNCTIONS}/{name}"), None);
                rounds.store(n, Ordering::SeqCst);
            }
        })
    };
    for _ in 0..4 {
        server.ok(&["backup", shown(&target)]);
        let before = rounds.load(Ordering::SeqCst);
        eventually("what is deployed has changed", || {
            rounds.load(Ordering::SeqCst) > before + 1
        });
    }
    stop.store(true, Ordering::SeqCst);
    deploying.join().expect("it does not panic");
    assert!(server.terminate().success(), "{}", server.said());
    ok(&["backup", "verify", shown(&target)]);
    let listed = common::json(&ok(&["backup", "list", shown(&target), "--json"]));
    for backup in listed.as_array().expect("a list") {
        let id = backup["backup"].as_str().expect("an id");
        let restored = folder.path().join(id);
        ok(&["restore", shown(&target), "--backup", id, shown(&restored)]);
        ok(&["doctor", "--data", shown(&restored)]);
        let server = Server::start(&restored);
        let api = Api::new(&server.url);
        let functions = get(&api, FUNCTIONS);
        let functions = functions["Functions"].as_array().expect("a list").clone();
        assert!(!functions.is_empty());
        for function in functions {
            let name = function["FunctionName"].as_str().expect("a name");
            assert_eq!(invoke(&api, name, &json!({"n": 1})), json!({"n": 1}));
        }
        assert!(!server.said().contains("ERROR"), "{}", server.said());
    }
}

/// Flips one bit in the middle.
fn damage(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).expect("it can be read");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(path, flipped).expect("it is ours");
    bytes
}

#[test]
fn what_is_damaged_or_missing_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let target = folder.path().join("backups");
    let mut server = Server::start(&data);
    let api = Api::new(&server.url);
    deploy(&server, &api, 900);
    invoke(&api, "last", &json!("kept"));
    append(&server, 1..3);
    eventually("a window is open", || {
        !files_below(&data.join("functions/windows")).is_empty()
    });
    server.ok(&["backup", shown(&target)]);
    assert!(server.terminate().success(), "{}", server.said());

    let of = |part: &str| -> PathBuf {
        let all = files_below(&data.join("functions"));
        let mut found = all.into_iter().filter(|path| shown(path).contains(part));
        found.next().unwrap_or_else(|| panic!("no file {part}"))
    };
    // By what a user is told: the file itself, or the folder of the code.
    for part in [
        "functions/functions/python.json",
        "/layers/words.json",
        "/zips/",
        "/app.py",
        "/helper.py",
    ] {
        let path = of(part);
        let named = match part {
            "/app.py" => path.parent().expect("it has one").to_owned(),
            "/helper.py" => path.ancestors().nth(2).expect("it has one").to_owned(),
            _ => path.clone(),
        };
        let whole = damage(&path);
        let doctor = run(&["doctor", "--data", shown(&data)]);
        refused(&doctor, 1, &[shown(&named)]);
        let name = named
            .file_name()
            .expect("it has one")
            .to_string_lossy()
            .into_owned();
        let backup = run(&["backup", shown(&target), "--data", shown(&data)]);
        match part {
            // Its content is in the target already, and the data folder's is not looked at.
            "/zips/" => assert!(backup.status.success(), "{}", text(&backup.stderr)),
            _ => refused(&backup, 1, &[name.as_str(), "no backup is made of it"]),
        }
        fs::remove_file(&path).expect("it is ours");
        let doctor = run(&["doctor", "--data", shown(&data)]);
        refused(&doctor, 1, &[shown(&named)]);
        fs::write(&path, whole).expect("it is ours");
    }
    let window = of("/windows/");
    let whole = damage(&window);
    refused(
        &run(&["doctor", "--data", shown(&data)]),
        1,
        &[shown(&window)],
    );
    fs::write(&window, whole).expect("it is ours");
    ok(&["doctor", "--data", shown(&data)]);
    let fresh = folder.path().join("fresh");
    let zip = of("/zips/");
    let whole = damage(&zip);
    let backup = run(&["backup", shown(&fresh), "--data", shown(&data)]);
    refused(&backup, 1, &["/zips/", "not what its name says"]);
    fs::write(&zip, whole).expect("it is ours");

    // In the target: named by the files that it is of.
    let listed = common::json(&ok(&["backup", "list", shown(&target), "--json"]));
    let id = listed[0]["backup"].as_str().expect("an id");
    let manifest = fs::read_to_string(target.join(format!("backups/{id}.json")));
    let manifest = common::json(&manifest.expect("it is there"));
    let files = manifest["backup"]["files"].as_array().expect("a list");
    for wanted in [
        "functions/deployed.json",
        "functions/functions/python.json",
        "functions/layers/words.json",
        "functions/zips/",
        "functions/code/",
        "functions/windows/",
        "functions/kv-saved/last-000000.values",
    ] {
        let is_wanted = |file: &&Value| {
            let path = file["path"].as_str().expect("a path");
            path.starts_with(wanted)
        };
        let file = files.iter().find(is_wanted);
        let file = file.unwrap_or_else(|| panic!("no {wanted} in the backup"));
        let path = file["path"].as_str().expect("a path");
        let sha256 = file["sha256"].as_str().expect("a hash");
        let content = target.join("files").join(&sha256[..2]).join(sha256);
        let whole = damage(&content);
        let verify = run(&["backup", "verify", shown(&target)]);
        refused(&verify, 1, &["is damaged", path]);
        let to = folder.path().join("half");
        let restore = run(&["restore", shown(&target), "--backup", id, shown(&to)]);
        refused(&restore, 1, &["cannot be restored", path]);
        fs::remove_file(&content).expect("it is ours");
        refused(
            &run(&["backup", "verify", shown(&target)]),
            1,
            &["is missing", path],
        );
        fs::write(&content, whole).expect("it is ours");
        // The restore that was cut short goes on.
        ok(&["restore", shown(&target), "--backup", id, shown(&to)]);
        ok(&["doctor", "--data", shown(&to)]);
        fs::remove_dir_all(&to).expect("it is ours");
    }
}

#[test]
fn a_full_disk_leaves_no_half_backup() {
    const DISK_BYTES: u64 = 4 << 20;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = match Tmpfs::mount(&folder.path().join("disk"), DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("not shown: a tmpfs cannot be mounted here: {reason}");
            return;
        }
    };
    let data = folder.path().join("data");
    let server = Server::start(&data);
    let api = Api::new(&server.url);
    // What cannot be packed, so that the zip is as large.
    let noise: String = (0..6 << 20)
        .map(|_| char::from(rand::random_range(b'a'..=b'z')))
        .collect();
    let zip = zipped(&[
        ("app.py", "def handler(event, context):\n    return 1\n"),
        ("noise", noise.as_str()),
    ]);
    create(&api, "large", "python3.11", "app.handler", &zip, &json!({}));
    let target = disk.0.join("backups");
    let full = server.cli(&["backup", shown(&target)]);
    refused(&full, 1, &["no backup was made"]);
    assert!(files_below(&target.join("backups")).is_empty());
    assert!(files_below(&data.join("tmp")).is_empty());
    assert_eq!(invoke(&api, "large", &json!({})), 1);
    let room = folder.path().join("backups");
    server.ok(&["backup", shown(&room)]);
    ok(&["backup", "verify", shown(&room)]);
    let restored = folder.path().join("restored");
    ok(&["restore", shown(&room), shown(&restored)]);
    ok(&["doctor", "--data", shown(&restored)]);

    // A disk that fills up while a backup is restored: no data folder yet.
    fs::remove_dir_all(&target).expect("it is ours");
    let small = disk.0.join("restored");
    let restore = run(&["restore", shown(&room), shown(&small)]);
    assert!(!restore.status.success(), "{}", text(&restore.stdout));
    let doctor = run(&["doctor", "--data", shown(&small)]);
    refused(&doctor, 1, &["was cut short"]);
}
