//! `lambic function` against a real server: bad input first, then the life of functions.

#[path = "../common/mod.rs"]
mod common;
mod imports;
mod refusals;
mod templates;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use common::{Server, json, refused, shown, text};
use serde_json::{Value, json as object};

const PYTHON: &str = "def handler(event, context):\n    print('seen', event)\n    if event.get('fail'):\n        raise ValueError('as asked')\n    return {'got': event}\n";

struct World {
    /// Where commands run.
    folder: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start(&folder.path().join("data"));
        World { folder, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is ours");
        fs::write(&path, content).expect("the folder is ours");
        shown(&path).to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary is there")
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = common::lambic();
        command
            .current_dir(self.folder.path())
            .env("LAMBIC_URL", &self.server.url)
            .arg("function")
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// It must succeed; gives stdout.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let told = text(&output.stderr);
        assert!(
            output.status.success(),
            "{args:?}: {told}\n{}",
            self.server.said()
        );
        text(&output.stdout)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        json(&self.ok(&[args, &["--json"]].concat()))
    }

    #[track_caller]
    fn fails(&self, args: &[&str], said: &[&str]) {
        refused(&self.run(args), 1, said);
    }

    /// A function `name` in Python, in a folder of its name.
    fn function(&self, name: &str) {
        self.file(&format!("{name}/handler.py"), PYTHON);
        self.ok(&["create", name, name, "--runtime", "python"]);
    }
}

/// What an import tells of functions that are as their source has them.
#[track_caller]
fn assert_unchanged(told: &Value) {
    for function in told["functions"].as_array().expect("a list") {
        assert_eq!(function["change"], "unchanged", "{told}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/function_cli")
        .join(name)
}

#[test]
fn code_that_is_none_is_refused_before_a_server_is_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is ours");
        fs::write(path, content).expect("the folder is ours");
    };
    write("notes.zip", b"hello");
    write("cut.zip", b"PK\x03\x04hello");
    write("core.wasm", b"\0asm\x01\0\0\0");
    write("empty/.gitignore", b"x");
    write("go/go.mod", b"module x");
    write("both/app.py", b"def handler(event, context): ...");
    write("both/index.js", b"exports.handler = 1");
    write("linked/handler.py", PYTHON.as_bytes());
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("linked/host"))
        .expect("the folder is ours");
    write("good/handler.py", PYTHON.as_bytes());
    let create = |args: &[&str]| {
        let mut command = common::lambic();
        command
            .current_dir(folder.path())
            .args(["function", "create", "f"])
            .args(args);
        command
            .args(["--server", "http://127.0.0.1:1"])
            .output()
            .expect("the binary is there")
    };
    for (args, said) in [
        (
            &["none.zip"][..],
            &["cannot read none.zip", "No such file"][..],
        ),
        (&["notes.zip"], &["notes.zip is no zip"]),
        (&["cut.zip"], &["cut.zip is no zip that can be read"]),
        (&["core.wasm"], &["core module", "wasm32-wasip2"]),
        (
            &["empty"],
            &[
                "nothing in empty can be seen to be a function",
                "--runtime and --handler",
            ],
        ),
        (&["go"], &["build it first", "-o bootstrap"]),
        (
            &["both"],
            &["app.handler", "index.handler", "say --runtime"],
        ),
        (
            &["linked"],
            &[
                "linked/host is a symbolic link to /etc/hostname",
                ".lambicignore",
            ],
        ),
        (
            &["good", "--runtime", "pythn3.11"],
            &["no runtime", "did you mean python3.11?"],
        ),
        (
            &["good", "--handler", "other.go"],
            &["no file for the handler other.go", "handler.py"],
        ),
        (
            &["good", "--runtime", "python", "--handler", "other.go"],
            &["wants the file other.py", "it holds handler.py"],
        ),
        (
            &["good", "--runtime", "python", "--handler", "handler.hander"],
            &[
                "handler.py has no function hander",
                "did you mean the handler handler.handler?",
            ],
        ),
        (
            &["good", "--runtime", "bootstrap"],
            &["a program named bootstrap"],
        ),
        (&["good"], &["no server answers", "lambic serve"]),
    ] {
        refused(&create(args), 1, said);
    }
    // What is written wrongly is wrong usage.
    for (args, said) in [
        (&["good", "--env", "LEVEL"][..], &["--env", "KEY=VALUE"][..]),
        (&["good", "--timeout", "soon"], &["--timeout"]),
        (&["good", "--memory", "much"], &["--memory"]),
    ] {
        refused(&create(args), 2, said);
    }
}

#[test]
fn a_place_for_traces_that_is_none_is_told_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, none) = (
        folder.path().join("data"),
        folder.path().join("none/t.jsonl"),
    );
    for (traces, said) in [
        (shown(&none), "there is no folder"),
        (shown(folder.path()), "a file is wanted"),
    ] {
        let output = common::lambic()
            .args(["serve", "--data", shown(&data), "--traces", traces])
            .args(["--http", "127.0.0.1:0", "--pg", "127.0.0.1:0"])
            .output()
            .expect("the binary is there");
        refused(
            &output,
            78,
            &["traces cannot be written to", traces, "--traces", said],
        );
        let told = text(&output.stderr);
        assert!(!told.contains("cannot open the data folder"), "{told}");
    }
}

#[test]
fn what_is_too_large_names_the_largest_files() {
    let world = World::new();
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, megabytes) in [("handler.py", 0), ("words.bin", 14), ("model.bin", 40)] {
        writer.start_file(name, stored).expect("memory");
        writer.write_all(&vec![0; megabytes << 20]).expect("memory");
    }
    let large = world.file("large.zip", writer.finish().expect("memory").into_inner());
    world.fails(
        &["create", "large", &large],
        &[
            "54.0 MB when packed",
            "at most 50.0 MB",
            "model.bin (40.0 MB), words.bin (14.0 MB)",
            ".lambicignore",
        ],
    );
    // Unpacked it has a bound, too; a file of holes takes no time to make.
    world.file("folder/handler.py", PYTHON);
    let holes = fs::File::create(world.path("folder/data.bin")).expect("the folder is ours");
    holes.set_len(300 << 20).expect("the folder is ours");
    world.fails(
        &["create", "folder", "folder"],
        &[
            "300.0 MB in 2 files",
            "at most 250.0 MB",
            "data.bin (300.0 MB)",
        ],
    );
    world.file("folder/.lambicignore", "*.bin\n");
    world.ok(&["create", "folder", "folder"]);
}

#[test]
fn the_life_of_a_function() {
    let world = World::new();
    world.fails(
        &["create", &"x".repeat(65), &world.file("f.py", PYTHON)],
        &["less than or equal to 64"],
    );
    world.file("hello/handler.py", PYTHON);
    let created = world.run(&[
        "create",
        "hello",
        "hello",
        "--env",
        "AA=1",
        "--env",
        "BB=2",
        "--timeout",
        "20s",
    ]);
    let told = text(&created.stderr);
    assert!(created.status.success(), "{told}");
    for part in [
        "function hello created: python3",
        "handler.handler (handler.py has a function handler)",
        "1 file",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert!(created.stdout.is_empty());
    world.fails(
        &["create", "hello", "hello"],
        &["already exist", "lambic function update hello CODE"],
    );
    let listed = world.ok(&["list"]);
    assert!(
        listed.contains("hello") && listed.contains("handler.handler"),
        "{listed}"
    );

    // Invoking: the answer as it is, and every way to fail.
    assert_eq!(
        world.ok(&["invoke", "hello", "{\"a\":1}"]),
        "{\"got\": {\"a\": 1}}"
    );
    let event = world.file("event.json", "{\"b\": 2}");
    assert_eq!(
        world.ok(&["invoke", "hello", &format!("@{event}")]),
        "{\"got\": {\"b\": 2}}"
    );
    let mut piped = world.command(&["invoke", "hello", "-"]);
    let mut piped = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut stdin = piped.stdin.take().expect("stdin is piped");
    stdin.write_all(b"{\"c\": 3}").expect("it reads");
    drop(stdin);
    let output = piped.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), "{\"got\": {\"c\": 3}}");
    let tail = world.run(&["invoke", "hello", "--tail"]);
    assert!(
        text(&tail.stderr).contains("REPORT RequestId"),
        "{}",
        text(&tail.stderr)
    );
    world.fails(
        &["invoke", "hello", "{\n  \"a\": nul\n}"],
        &["event:2:", "the event is not JSON", "2 |   \"a\": nul", "^"],
    );
    world.fails(
        &["invoke", "hello", "@none.json"],
        &["cannot read none.json"],
    );
    world.fails(
        &["invoke", "helo"],
        &["Function not found", "did you mean hello?"],
    );
    world.fails(
        &["invoke", "hello", "--qualifier", "7"],
        &["Function not found"],
    );
    let failed = world.run(&["invoke", "hello", "{\"fail\": true}"]);
    refused(
        &failed,
        1,
        &[
            "the function failed: ValueError: as asked",
            "handler.py",
            "lambic function logs hello --request",
        ],
    );
    assert_eq!(json(&text(&failed.stdout))["errorType"], "ValueError");
    assert!(text(&world.run(&["invoke", "hello", "--async"]).stderr).starts_with("queued as "));
    let queued = world.json(&["invoke", "hello", "--queued"]);
    assert!(queued["request_id"].is_string(), "{queued}");

    // Updating: only what is named changes.
    world.fails(&["update", "hello"], &["there is nothing to update"]);
    world.fails(
        &["update", "helo", "--timeout", "1m"],
        &["did you mean hello?"],
    );
    world.fails(
        &["update", "hello", "--unset-env", "C"],
        &["no environment variable C"],
    );
    world.file("wrong/main.py", PYTHON);
    world.fails(
        &["update", "hello", "wrong"],
        &[
            "wants the file handler.py",
            "it holds main.py",
            "say --handler",
        ],
    );
    world.ok(&[
        "update",
        "hello",
        "--env",
        "AA=3",
        "--unset-env",
        "BB",
        "--memory",
        "256",
        "--description",
        "says hello",
    ]);
    let function = world.json(&["show", "hello"]);
    assert_eq!(function["Environment"]["Variables"], object!({ "AA": "3" }));
    assert_eq!(
        (&function["Timeout"], &function["MemorySize"]),
        (&object!(20), &object!(256))
    );
    world.ok(&["update", "hello", "wrong", "--handler", "main.handler"]);
    assert_eq!(
        world.ok(&["invoke", "hello", "{\"d\": 4}"]),
        "{\"got\": {\"d\": 4}}"
    );
    // A handler alone is looked for in the code that is there.
    world.fails(
        &["update", "hello", "--handler", "nope.handler"],
        &[
            "wants the file nope.py, which is not in the code of hello",
            "`lambic function update hello CODE`",
        ],
    );
    let shown = world.ok(&["show", "hello"]);
    for part in ["main.handler", "AA=3", "says hello", "Active"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }

    // Versions and aliases.
    assert_eq!(
        world.ok(&["publish", "hello", "--description", "first"]),
        "1\n"
    );
    world.ok(&["alias", "set", "hello", "live", "1"]);
    world.file(
        "wrong/main.py",
        "def handler(event, context):\n    return 'second'\n",
    );
    world.ok(&["update", "hello", "wrong", "--publish"]);
    let versions = world.ok(&["versions", "hello"]);
    assert!(
        versions.contains("$LATEST") && versions.contains("first"),
        "{versions}"
    );
    assert_eq!(
        world.ok(&["invoke", "hello", "--qualifier", "2"]),
        "\"second\""
    );
    assert_eq!(world.ok(&["invoke", "hello:live", "{}"]), "{\"got\": {}}");
    world.ok(&["alias", "set", "hello", "live", "1", "--weight", "2=0.5"]);
    let aliases = world.ok(&["alias", "list", "hello"]);
    assert!(aliases.contains("2=0.5"), "{aliases}");
    let whole = world.ok(&["show", "hello"]);
    assert!(whole.contains("live → 1 (2=0.5)"), "{whole}");
    let whole = world.json(&["show", "hello"]);
    let weights = &whole["Aliases"][0]["RoutingConfig"]["AdditionalVersionWeights"];
    assert_eq!(weights["2"], 0.5, "{whole}");
    assert_eq!(whole["Handler"], "main.handler");
    let live = world.ok(&["show", "hello:live"]);
    assert!(live.contains("live → 1 (2=0.5)"), "{live}");
    world.fails(
        &["show", "hello", "--qualifier", "liv"],
        &["Function not found", "did you mean the alias live?"],
    );
    world.fails(
        &["alias", "delete", "hello", "liv"],
        &["does not have an alias liv", "did you mean live?"],
    );
    world.fails(
        &["update", "hello", "--runtime", "pyton3.11"],
        &["no runtime", "did you mean python3.11?"],
    );
    world.ok(&["alias", "set", "hello", "live", "2"]);
    let aliases = world.json(&["alias", "list", "hello"]);
    assert_eq!(aliases[0]["FunctionVersion"], "2", "{aliases}");
    world.fails(&["alias", "set", "hello", "live", "9"], &["9"]);
    refused(
        &world.run(&["alias", "set", "hello", "live", "1", "--weight", "2"]),
        2,
        &["VERSION=SHARE"],
    );
    world.fails(&["alias", "delete", "hello", "none"], &["not"]);
    world.ok(&["alias", "delete", "hello", "live"]);
    world.ok(&["delete", "hello", "--version", "1", "--yes"]);
    assert_eq!(
        world.json(&["versions", "hello"]).as_array().map(Vec::len),
        Some(2)
    );

    // Concurrency.
    assert!(
        world
            .ok(&["concurrency", "hello"])
            .starts_with("none reserved")
    );
    assert_eq!(world.ok(&["concurrency", "hello", "5"]), "5\n");
    assert_eq!(world.json(&["concurrency", "hello"])["concurrency"], 5);
    world.ok(&["concurrency", "hello", "0"]);
    for more in [&[][..], &["--stream"]] {
        world.fails(
            &[&["invoke", "hello:2", "{}"][..], more].concat(),
            &[
                "Rate Exceeded.",
                "`lambic function concurrency hello --none`",
            ],
        );
    }
    world.ok(&["concurrency", "hello", "--none"]);
    world.fails(
        &["concurrency", "hello", "5000"],
        &["UnreservedConcurrentExecution"],
    );
    world.fails(&["concurrency", "helo"], &["did you mean hello?"]);

    // The end.
    world.fails(&["delete", "helo"], &["did you mean hello?"]);
    world.ok(&["delete", "hello"]);
    world.fails(&["show", "hello"], &["Function not found"]);
    assert_eq!(world.ok(&["list", "--json"]), "[]\n");
}

/// The Python of whoever types the command is not what runs the function.
#[test]
fn a_runtime_without_a_version_is_the_servers() {
    let world = World::new();
    let python = world.file("bin/python3", "#!/bin/sh\necho Python 3.99.0\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&python, executable).expect("the file is ours");
    world.file("own/handler.py", PYTHON);
    let created = world
        .command(&["create", "own", "own", "--runtime", "python", "--json"])
        .env("PATH", world.path("bin"))
        .output()
        .expect("the binary is there");
    assert!(created.status.success(), "{}", text(&created.stderr));
    let runtime = json(&text(&created.stdout))["Runtime"].clone();
    let runtime = runtime.as_str().expect("it has one");
    assert!(
        runtime.starts_with("python3.") && runtime != "python3.99",
        "{runtime}"
    );
}

#[test]
fn logs_are_found_and_followed() {
    let world = World::new();
    world.fails(&["logs", "nope"], &["Function not found"]);
    world.function("talker");
    assert_eq!(world.ok(&["logs", "talker"]), "");
    let mut follower = world.command(&["logs", "talker", "--follow", "--json"]);
    let mut follower = follower
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut lines = {
        use std::io::{BufRead, BufReader};
        BufReader::new(follower.stdout.take().expect("stdout is piped")).lines()
    };
    world.ok(&["invoke", "talker", "{\"n\": 1}"]);
    let said = lines
        .by_ref()
        .map_while(Result::ok)
        .map(|line| json(&line))
        .find(|line| {
            line["line"]
                .as_str()
                .is_some_and(|line| line.contains("seen {'n': 1}"))
        })
        .expect("the follower ends only when it is told to");
    let id = said["request_id"]
        .as_str()
        .expect("a line has one")
        .to_owned();
    world.ok(&["invoke", "talker", "{\"n\": 2}"]);
    let later = lines
        .map_while(Result::ok)
        .find(|line| line.contains("seen {'n': 2}"));
    assert!(later.is_some(), "what comes later is followed as well");
    follower.kill().expect("it is our child");
    follower.wait().expect("it is our child");

    let one = world.ok(&["logs", "talker", "--request", &id]);
    assert!(
        one.contains("START") && one.contains("'n': 1") && !one.contains("'n': 2"),
        "{one}"
    );
    let recent = world.ok(&["logs", "talker", "--since", "1h"]);
    assert!(
        recent.contains("'n': 1") && recent.contains("'n': 2"),
        "{recent}"
    );
    let newest = world.json(&["logs", "talker", "--lines", "1"]);
    assert_eq!(newest.as_array().map(Vec::len), Some(1));
    assert!(newest[0].get("_offset").is_none(), "{newest}");
    refused(
        &world.run(&["logs", "talker", "--since", "soon"]),
        2,
        &["--since"],
    );
}

#[test]
fn what_a_function_writes_does_not_act_on_a_terminal() {
    let world = World::new();
    world.file(
        "colour/handler.py",
        "def handler(event, context):\n    print('\\x1b[31mred\\x1b[0m \\x9b2J')\n",
    );
    world.ok(&["create", "colour", "colour", "--runtime", "python"]);
    world.ok(&["invoke", "colour"]);
    // A file or a program gets it as it is.
    common::eventually("the line is in the log", || {
        world.ok(&["logs", "colour"]).contains("\x1b[31mred\x1b[0m")
    });
    let on_terminal = |args: &[&str]| {
        let lambic = common::lambic();
        let output = std::process::Command::new("python3")
            .args(["-c", "import pty, sys; pty.spawn(sys.argv[1:])"])
            .arg(lambic.get_program())
            .arg("function")
            .args(args)
            .env("LAMBIC_URL", &world.server.url)
            .stdin(Stdio::null())
            .output()
            .expect("python3 is there");
        text(&output.stdout)
    };
    for args in [
        &["logs", "colour"][..],
        &["logs", "colour", "--json"],
        &["invoke", "colour", "--tail"],
    ] {
        let told = on_terminal(args);
        let escaped = ["\\x1b[31mred", "\\u001b[31mred"];
        assert!(escaped.iter().any(|part| told.contains(part)), "{told:?}");
        assert!(!told.contains(['\x1b', '\u{9b}']), "{told:?}");
    }
}

#[test]
fn a_url_is_made_changed_and_taken_away() {
    let world = World::new();
    world.fails(&["url", "web"], &["Function not found"]);
    world.fails(&["url", "web", "--create"], &["Function not found"]);
    world.file(
        "web/handler.py",
        "def handler(event, context):\n    return {'statusCode': 201, 'body': event['rawPath']}\n",
    );
    world.ok(&["create", "web", "web"]);
    world.fails(&["url", "web"], &["function web has no URL", "--create"]);
    world.fails(&["url", "web", "--delete"], &["has no URL"]);
    refused(
        &world.run(&["url", "web", "--auth", "none"]),
        2,
        &["--create"],
    );
    let url = world.ok(&[
        "url",
        "web",
        "--create",
        "--auth",
        "none",
        "--cors-origin",
        "https://a.example",
    ]);
    let call = |url: &str| {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut answer = agent
            .get(format!("{}x", url.trim()))
            .call()
            .expect("it answers");
        (
            answer.status().as_u16(),
            answer.body_mut().read_to_string().expect("text"),
        )
    };
    assert_eq!(call(&url), (201, "/x".to_owned()));
    // Again: the same URL, with what is named changed.
    assert_eq!(world.ok(&["url", "web", "--create"]), url);
    assert_eq!(world.ok(&["url", "web"]), url);
    let about = world.json(&["url", "web"]);
    assert_eq!(
        about["Cors"]["AllowOrigins"],
        object!(["https://a.example"])
    );
    assert!(world.ok(&["show", "web"]).contains(url.trim()));
    assert_eq!(world.ok(&["url", "web", "--create", "--auth", "iam"]), url);
    assert_eq!(call(&url).0, 403);
    assert_eq!(world.ok(&["url", "web", "--create", "--auth", "none"]), url);
    assert_eq!(call(&url).0, 201);
    world.ok(&["url", "web", "--delete"]);
    assert_eq!(call(&url).0, 404);
}

#[test]
fn an_answer_that_is_streamed_is_printed() {
    let world = World::new();
    world.function("streamed");
    let output = world.run(&["invoke", "streamed", "{\"a\":1}", "--stream"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "{\"got\": {\"a\": 1}}");
    world.fails(&["invoke", "nobody", "--stream"], &["error:"]);
}
