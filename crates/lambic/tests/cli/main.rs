//! Every command against a real server, good and bad input: data on stdout, the rest on stderr, exit codes.

#[path = "../common/mod.rs"]
mod common;
mod damage;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use common::{Server, text};
use damage::doctor;
use serde_json::{Value, json};

/// The output of a command that must fail with `code` and say `wanted`.
#[track_caller]
fn fails(output: &Output, code: i32, wanted: &[&str]) {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for wanted in wanted {
        assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).expect("the folder is ours");
    path.to_str().expect("a temporary path is UTF-8").to_owned()
}

#[test]
fn a_day_with_the_command_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);

    // Streams.
    server.ok(&[
        "stream",
        "create",
        "visits",
        "at timestamp, url text NOT NULL, ms bigint",
        "--with",
        "event_time=at",
    ]);
    let streams = json_of(&server.ok(&["stream", "list", "--json"]));
    assert!(
        streams
            .as_array()
            .expect("a list")
            .iter()
            .any(|stream| stream["name"] == "visits")
    );
    assert!(server.ok(&["stream", "show", "visits"]).contains("url"));
    fails(
        &server.cli(&["stream", "show", "vists"]),
        1,
        &["there is no stream vists", "did you mean visits?"],
    );

    // Appends, by format.
    let good = file(
        folder.path(),
        "a.ndjson",
        "{\"at\":\"2026-01-01T10:00:00\",\"url\":\"/\",\"ms\":12}\n{\"url\":\"/a\"}\n",
    );
    let said = json_of(&server.ok(&["append", "visits", &good, "--json"]));
    assert_eq!(
        (said["records"].as_u64(), said["bad"].as_u64()),
        (Some(2), Some(0)),
        "{said}"
    );
    let csv = file(folder.path(), "b.csv", "url,ms\n/,3\n\"/a,b\",4\n");
    server.ok(&["append", "visits", &csv]);
    let mut piped = common::lambic()
        .env("LAMBIC_URL", &server.url)
        .args(["append", "visits", "-", "--format", "ndjson"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut stdin = piped.stdin.take().expect("stdin is piped");
    stdin
        .write_all(b"{\"url\":\"/p\",\"ms\":7}\n")
        .expect("it reads");
    drop(stdin);
    assert!(piped.wait().expect("it ends").success());

    // The same load under the same name has no second effect.
    for appended in [2, 0] {
        let said =
            json_of(&server.ok(&["append", "visits", &csv, "--producer", "load-1", "--json"]));
        assert_eq!(said["records"].as_u64(), Some(appended), "{said}");
    }
    let count = |server: &Server| server.rows("SELECT count(*) AS n FROM visits")[0]["n"].as_u64();
    assert_eq!(count(&server), Some(7));

    // A bad line: named, nothing of the request kept; with skip, the good ones are.
    let bad = file(
        folder.path(),
        "bad.ndjson",
        "{\"url\":\"/x\"}\n{\"url\":\"/y\",\"ms\":\"soon\"}\n{\"url\":\"/z\"}\n",
    );
    fails(
        &server.cli(&["append", "visits", &bad]),
        1,
        &["bad.ndjson: line 2", "ms", "bigint", "--on-error skip"],
    );
    assert_eq!(count(&server), Some(7));
    let said = json_of(&server.ok(&["append", "visits", &bad, "--on-error", "skip", "--json"]));
    assert_eq!(
        (said["records"].as_u64(), said["bad"].as_u64()),
        (Some(2), Some(1)),
        "{said}"
    );
    assert_eq!(count(&server), Some(9));
    let dead = server.rows("SELECT error_message FROM lambic_dead_letters WHERE source = 'visits'");
    assert_eq!(dead.len(), 1, "{dead:?}");
    // A bad line in a later piece is found by its line in the file.
    let long: String = (0..100)
        .map(|i| format!("{{\"url\":\"/{i}\"}}\n"))
        .collect();
    let late = file(folder.path(), "late.ndjson", &(long + "{\"uri\":\"/\"}\n"));
    fails(
        &server.cli(&["append", "visits", &late, "--chunk-bytes", "200"]),
        1,
        &["line 101", "uri", "nothing was appended"],
    );
    assert_eq!(count(&server), Some(9), "a file is checked whole first");
    fails(
        &server.cli(&["append", "nowhere", &good]),
        1,
        &["there is no stream nowhere"],
    );
    fails(
        &server.cli(&["append", "visits", "no.such"]),
        1,
        &["cannot read no.such", "No such file"],
    );
    // Another file under a name that was used is another load; the same one is not, piece by piece.
    let part = |name: &str, first: u32| {
        let lines: String = (first..first + 50)
            .map(|i| format!("{{\"url\":\"/{i}\"}}\n"))
            .collect();
        file(folder.path(), name, &lines)
    };
    let (one, two) = (part("one.ndjson", 0), part("two.ndjson", 50));
    for (path, appended, repeated) in [(&one, 50, 0), (&two, 50, 0), (&one, 0, 50)] {
        let args = ["append", "visits", path, "--producer", "load-2"];
        let more = ["--chunk-bytes", "200", "--json"];
        let said = json_of(&server.ok(&[&args[..], &more[..]].concat()));
        assert_eq!(
            (said["records"].as_u64(), said["records_repeated"].as_u64()),
            (Some(appended), Some(repeated)),
            "{said}"
        );
    }
    server.ok(&["query", "CREATE STREAM single (a bigint)"]);
    let single = file(folder.path(), "single.csv", "a\n1\n");
    let output = server.cli(&["append", "single", &single]);
    assert!(text(&output.stderr).starts_with("1 record appended to single"));
    // What goes by once and stops in the middle says where to go on.
    let mut piped = common::lambic()
        .env("LAMBIC_URL", &server.url)
        .args([
            "append",
            "single",
            "-",
            "--format",
            "ndjson",
            "--chunk-bytes",
            "8",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut stdin = piped.stdin.take().expect("stdin is piped");
    stdin
        .write_all(b"{\"a\":2}\n{\"a\":3}\n{\"a\":\"x\"}\n")
        .expect("it reads");
    drop(stdin);
    let output = piped.wait_with_output().expect("it ends");
    fails(
        &output,
        1,
        &[
            "standard input: line 3",
            "2 records before line 3 are appended; go on with line 3",
        ],
    );
    fails(
        &server.cli(&["append", "visits", "Cargo.toml"]),
        1,
        &["--format"],
    );

    // SQL, by output.
    let one = [
        "query",
        "SELECT url, ms FROM visits WHERE url = '/' ORDER BY ms",
    ];
    assert_eq!(
        server.ok(&one),
        "url  ms\n───  ──\n/     3\n/     3\n/    12\n"
    );
    assert_eq!(
        server.ok(&[one[0], one[1], "--csv"]),
        "url,ms\n/,3\n/,3\n/,12\n"
    );
    assert_eq!(
        json_of(&server.ok(&[one[0], one[1], "--json"]))[2],
        json!({"url": "/", "ms": 12})
    );
    // Every digit, and the floats that JSON has no number for.
    let mut piped = common::lambic()
        .env("LAMBIC_URL", &server.url)
        .args(["query", "-", "--csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut stdin = piped.stdin.take().expect("stdin is piped");
    stdin.write_all(b"SELECT 7 AS a;").expect("it reads");
    drop(stdin);
    let output = piped.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), "a\n7\n");
    let exact = [
        "query",
        "SELECT CAST('12345678901234567890.1234567891' AS numeric(30,10)) AS n, 'NaN'::double precision AS f, '-Infinity'::real AS r",
    ];
    assert_eq!(
        server.ok(&exact),
        "                              n    f          r\n───────────────────────────────  ───  ─────────\n12345678901234567890.1234567891  NaN  -Infinity\n"
    );
    assert_eq!(
        server.ok(&[exact[0], exact[1], "--json"]),
        "[{\"n\":12345678901234567890.1234567891,\"f\":\"NaN\",\"r\":\"-Infinity\"}]\n"
    );
    // With --json an error is an object too.
    let error_of = |args: &[&str]| {
        let output = server.cli(args);
        assert_eq!(output.status.code(), Some(1));
        json_of(&text(&output.stderr))["error"].clone()
    };
    let error = error_of(&["query", "--json", "SELECT url,\n mss FROM visits"]);
    assert_eq!(
        (&error["sqlstate"], &error["place"]["line"]),
        (&json!("42703"), &json!(2)),
        "{error}"
    );
    let error = error_of(&["append", "visits", &bad, "--json"]);
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|message| message.contains("bad.ndjson: line 2")),
        "{error}"
    );
    let error = error_of(&["function", "invoke", "nobody", "--json"]);
    assert!(error["message"].is_string(), "{error}");
    let error = error_of(&["audit", "nothing", "--json"]);
    assert_eq!(error["sqlstate"], "42P01", "{error}");
    let script = file(
        folder.path(),
        "q.sql",
        "-- two\nSELECT 1 AS a;\n\nSELECT url,\n  mss FROM visits;\n",
    );
    let output = server.cli(&["query", "-f", &script]);
    assert!(text(&output.stdout).starts_with("a\n─\n1\n"));
    fails(
        &output,
        1,
        &[
            "q.sql:5:3",
            "mss FROM visits",
            "42703",
            "did you mean \"ms\"?",
        ],
    );
    fails(
        &server.cli(&["query", "SELECT * FORM visits"]),
        1,
        &["query:1:", "42601"],
    );

    // Views.
    let select = "SELECT url, count(*) AS visits, avg(ms) AS ms FROM visits GROUP BY url";
    server.ok(&["view", "create", "pages", select, "--batch-every", "1h"]);
    assert!(server.ok(&["view", "list"]).contains("pages"));
    assert!(server.ok(&["view", "show", "pages"]).contains("mergeable"));
    assert!(
        server
            .ok(&["view", "explain", "pages"])
            .contains("mergeable")
    );
    server.ok(&["view", "refresh", "pages"]);
    assert!(server.ok(&["batch", "run"]).contains("pages"));
    let batches = json_of(&server.ok(&["batch", "list", "--json"]));
    assert_eq!(batches[0]["name"], "pages");
    assert_eq!(
        server.rows("SELECT visits FROM pages WHERE url = '/'"),
        [json!({"visits": 3})]
    );
    fails(
        &server.cli(&["view", "create", "broken", "SELECT ulr FROM visits"]),
        1,
        &["42703", "did you mean \"url\"?"],
    );
    fails(
        &server.cli(&["view", "show", "pags"]),
        1,
        &["there is no view"],
    );
    assert!(server.ok(&["audit", "--all"]).contains("pages"));
    assert_eq!(
        json_of(&server.ok(&["audit", "pages", "--json"]))[0]["agrees"],
        json!(true)
    );
    fails(&server.cli(&["audit", "nothing"]), 1, &["nothing"]);

    // Functions.
    assert_eq!(server.ok(&["function", "list", "--json"]), "[]\n");
    fails(
        &server.cli(&["function", "invoke", "nobody"]),
        1,
        &["nobody"],
    );
    fails(
        &server.cli(&["function", "invoke", "nobody", "not json"]),
        1,
        &["the event is not JSON"],
    );

    let project = common::root().join("examples/flights");
    let project = project.to_str().expect("the path is UTF-8");
    server.ok(&["function", "deploy", "geohash", "--project", project]);
    assert_eq!(
        server.rows("SELECT geohash(57.64911, 10.40744, 6) AS cell"),
        [json!({"cell": "u4pruy"})]
    );
    for stream in ["flights", "alerts"] {
        server.ok(&["query", "-f", &format!("{project}/streams/{stream}.sql")]);
    }
    server.ok(&[
        "function",
        "deploy",
        "flag_long_delays",
        "--project",
        project,
    ]);
    let event = r#"{"Records":[{"data":{"date":"2001-01-01T00:01:00","delay":200,"origin":"ATL","destination":"SAV"}}]}"#;
    let answer = json_of(&server.ok(&["function", "invoke", "flag_long_delays", event]));
    assert_eq!(answer[0]["message"], "ATL to SAV left 3 h 20 min late");
    fails(
        &server.cli(&["function", "invoke", "flag_long_delays", "{}"]),
        1,
        &["the function failed"],
    );
    assert!(
        server
            .ok(&["function", "list"])
            .contains("flag_long_delays")
    );
    assert!(
        server
            .ok(&["function", "show", "geohash"])
            .contains("geohash")
    );
    common::eventually("what the function wrote is a stream", || {
        server
            .ok(&["function", "logs", "flag_long_delays"])
            .contains("180 minutes late")
    });
    fails(
        &server.cli(&["function", "deploy", "geohsh", "--project", project]),
        1,
        &["declares no function `geohsh`", "did you mean `geohash`?"],
    );
    // What a view calls is not deleted.
    server.ok(&[
        "view",
        "create",
        "cells",
        "SELECT geohash(CAST(ms AS double precision), 1.0, 4) AS cell, count(*) AS n FROM visits GROUP BY 1",
    ]);
    fails(
        &server.cli(&["function", "delete", "geohash"]),
        1,
        &["called by view cells", "DROP MATERIALIZED VIEW cells"],
    );
    server.ok(&["view", "drop", "cells"]);
    server.ok(&["function", "delete", "geohash"]);
    fails(
        &server.cli(&["function", "logs", "nope"]),
        1,
        &["Function not found", "nope"],
    );
    server.ok(&["function", "delete", "flag_long_delays"]);
    assert!(
        !server
            .ok(&["function", "logs", "flag_long_delays"])
            .is_empty(),
        "the lines of a deleted function are still there"
    );
    assert!(
        !server
            .ok(&["function", "list"])
            .contains("flag_long_delays")
    );

    // A second server on the same folder is refused, whichever ports it asks for.
    let (http, pg) = common::free_ports();
    let second = Server::start_on("serve", None, &data, http, pg, &[]);
    let told = second.err().expect("it must not start").join("\n");
    assert!(
        told.contains("data folder") && told.contains(&server.child.id().to_string()),
        "{told}"
    );

    // Leaving.
    server.ok(&["view", "drop", "pages"]);
    server.ok(&["stream", "drop", "visits"]);
    assert!(server.terminate().success(), "{}", server.said());

    let told = doctor(&data, 0);
    assert!(
        told.contains("dataset") && told.contains("every frame read"),
        "{told}"
    );
    // Whatever the machine has of it, it is told, and once.
    for part in [
        "python",
        "node",
        "user",
        "namespaces",
        "root folder",
        "network",
        "system calls",
        "control groups",
        "zygote",
        "groups left",
    ] {
        assert!(
            told.contains(&format!("\n{part} ")),
            "no {part:?} in {told}"
        );
    }
    assert!(!told.contains("WARN"), "{told}");
}

#[test]
fn an_audit_of_all_tells_of_each() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    // The second view fails where the first and the third do not.
    server.ok(&[
        "query",
        "CREATE STREAM s (a bigint); \
         CREATE MATERIALIZED VIEW a AS SELECT count(*) AS n FROM s; \
         CREATE MATERIALIZED VIEW b AS SELECT 10 / a AS n, count(*) AS c FROM s GROUP BY 1; \
         CREATE MATERIALIZED VIEW c AS SELECT max(a) AS n FROM s",
    ]);
    server.ok(&["query", "INSERT INTO s VALUES (0)"]);
    let output = server.cli(&["audit", "--all", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let rows = json_of(&text(&output.stdout));
    let agrees: Vec<&Value> = rows
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["agrees"])
        .collect();
    assert_eq!(agrees, [&json!(true), &json!(null), &json!(true)], "{rows}");
    assert!(
        rows[1]["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("not audited: ")),
        "{rows}"
    );
    assert_eq!(
        json_of(&text(&output.stderr))["error"]["message"],
        "1 of 3 views could not be audited"
    );
}

#[test]
fn a_transaction_is_sent_as_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM clicks (url text NOT NULL, button text); CREATE STREAM buys (n bigint)",
    ]);
    let count = || server.rows("SELECT count(*) AS n FROM clicks")[0]["n"].as_u64();
    let kept = server.cli(&[
        "query",
        "BEGIN; INSERT INTO clicks VALUES ('/x', 'y'); INSERT INTO buys VALUES (1); COMMIT",
    ]);
    assert_eq!(text(&kept.stderr), "COMMIT\n");
    assert_eq!(count(), Some(1));
    server.ok(&[
        "query",
        "START TRANSACTION; INSERT INTO clicks VALUES ('/y', 'y'); ROLLBACK",
    ]);
    assert_eq!(count(), Some(1));

    let run = |name: &str, sql: &str| {
        let script = file(folder.path(), name, sql);
        server.cli(&["query", "-f", &script])
    };
    let mixed = run(
        "mixed.sql",
        "SELECT 1 AS a;\nBEGIN;\nINSERT INTO clicks VALUES ('/a', 'b');\nSELECT 5 AS b;\nEND;\nSELECT count(*) AS n FROM clicks;\n",
    );
    let (shown, told) = (text(&mixed.stdout), text(&mixed.stderr));
    assert!(mixed.status.success(), "{told}");
    assert!(shown.starts_with("a\n─\n1\n"), "{shown}");
    assert!(shown.ends_with("n\n─\n2\n"), "{shown}");
    assert!(told.contains("the rows of 1 statement within"), "{told}");

    // A mistake has its place in the file, nothing of the transaction is kept, and nothing runs behind it.
    let wrong = run(
        "wrong.sql",
        "-- é\nBEGIN;\nINSERT INTO clicks VALUES ('/c', 'd');\nINSERT INTO clicks\n  SELECT nothing FROM buys;\nCOMMIT;\nSELECT 1 AS a;\n",
    );
    fails(&wrong, 1, &["wrong.sql:5:10", "42703"]);
    assert!(wrong.stdout.is_empty());
    let missing = run(
        "missing.sql",
        "BEGIN;\nINSERT INTO clicks VALUES ('/c', 'd');\nINSERT INTO clicks VALUES (NULL, 'd');\nCOMMIT;\n",
    );
    fails(&missing, 1, &["missing.sql:3:", "23502"]);
    assert_eq!(count(), Some(2));

    // Without an end nothing is run, also not what stands before it.
    let open = run(
        "open.sql",
        "INSERT INTO clicks VALUES ('/e', 'f');\n  BEGIN;\nINSERT INTO clicks VALUES ('/g', 'h');\n",
    );
    fails(
        &open,
        1,
        &["open.sql:2:3", "has no end", "COMMIT or ROLLBACK"],
    );
    assert_eq!(count(), Some(2));

    let mut piped = common::lambic()
        .env("LAMBIC_URL", &server.url)
        .args(["query", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut stdin = piped.stdin.take().expect("stdin is piped");
    stdin
        .write_all(b"BEGIN; INSERT INTO clicks VALUES ('/p', 'q'); COMMIT;")
        .expect("it reads");
    drop(stdin);
    assert!(piped.wait().expect("it ends").success());
    assert_eq!(count(), Some(3));
}

#[test]
fn without_a_server_it_says_how_to_start_one() {
    let url = format!("http://127.0.0.1:{}", common::free_port());
    for command in [
        &["query", "SELECT 1"][..],
        &["stream", "list"],
        &["audit", "--all"],
        &["function", "list"],
    ] {
        let output = common::lambic()
            .args(command)
            .args(["--server", &url])
            .output()
            .expect("the binary is there");
        fails(&output, 1, &["no server answers at", "lambic serve"]);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_usage_and_refusals_have_their_codes() {
    let run = |args: &[&str]| {
        common::lambic()
            .args(args)
            .output()
            .expect("the binary is there")
    };
    fails(&run(&["qurey"]), 2, &["query"]);
    fails(&run(&["audit"]), 2, &["--all"]);
    fails(&run(&["demo", "--for", "soon"]), 2, &["--for"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = file(
        folder.path(),
        "settings.toml",
        "[server]\nhttpp = \"127.0.0.1:1\"\n",
    );
    fails(
        &run(&["serve", "--config", &config]),
        78,
        &["settings.toml:2:1", "did you mean `http`?"],
    );
    let data = folder.path().join("data");
    let data = data.to_str().expect("a temporary path is UTF-8");
    fails(
        &run(&["serve", "--data", data, "--http", "0.0.0.0:0"]),
        78,
        &["not a loopback address"],
    );
    fails(
        &run(&["serve", "no/such/project", "--data", data]),
        78,
        &["no/such/project"],
    );
    // What cannot work is refused at its place.
    for (wrong, wanted) in [
        (
            "[dataset]\nseal_records = 0\n",
            ":2:1: `seal_records` = 0: it must be at least 1",
        ),
        (
            "[server]\nhttp = \"here\"\n",
            ":2:1: `http` = \"here\": invalid socket address",
        ),
    ] {
        let config = file(folder.path(), "settings.toml", wrong);
        fails(&run(&["serve", "--config", &config]), 78, &[wanted]);
    }
    let filter = common::lambic()
        .env("LAMBIC_LOG", "==bad")
        .args(["serve", "--print-defaults"])
        .output()
        .expect("the binary is there");
    fails(&filter, 2, &["LAMBIC_LOG", "is no filter of log lines"]);
    // A cause is said once.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let new = folder.path().join("not yet");
    for option in ["--http", "--pg"] {
        let other = ["--http", "--pg"]
            .into_iter()
            .find(|other| *other != option);
        let other = other.expect("there are two");
        let new = common::shown(&new);
        let both = [option, &address, other, "127.0.0.1:0"];
        let output = run(&[&["serve", "--data", new][..], &both].concat());
        fails(&output, 78, &["in use"]);
    }
    assert!(!new.exists(), "no folder is left behind");
    let output = run(&["serve", "--data", data, "--http", &address]);
    fails(&output, 78, &["in use"]);
    let told = text(&output.stderr);
    assert_eq!(told.matches("os error").count(), 1, "{told}");
    assert!(text(&run(&["serve", "--print-defaults"]).stdout).contains("append_bytes_max"));
    assert!(text(&run(&["completions", "bash"]).stdout).contains("lambic"));
}
