//! `REPLAY` and `lambic replay` against a real server: a replay of all is what is served, one up to a moment is what was
//! served, and nothing of it stays.

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use common::{Server, eventually, lambic, text};
use serde_json::{Value, json};

/// Of every class.
const VIEWS: [(&str, &str); 7] = [
    (
        "spelled",
        "SELECT k, v * 2 AS double, upper(k) AS big FROM e WHERE v % 3 <> 0",
    ),
    (
        "counts",
        "SELECT k, count(*) AS n, sum(x) AS total, stddev(x) AS spread, max(v) AS last FROM e GROUP BY k",
    ),
    ("overall", "SELECT count(*) AS n, avg(x) AS mean FROM e"),
    ("top", "SELECT k, n FROM counts ORDER BY n DESC, k LIMIT 2"),
    (
        "unnamed",
        "SELECT c.k, c.total FROM counts AS c LEFT JOIN names ON names.k = c.k WHERE names.k IS NULL",
    ),
    (
        "ranked",
        "SELECT k, v, rank() OVER (PARTITION BY k ORDER BY x DESC, v) AS place FROM e",
    ),
    (
        "pairs",
        "SELECT e.k, count(*) AS n, sum(e.x) AS total FROM e JOIN names ON names.k = e.k GROUP BY e.k",
    ),
];

fn start(folder: &Path) -> Server {
    let config = folder.join("settings.toml");
    let settings = "[log]\nsegment_bytes = 4096\n[dataset]\nseal_after_s = 1\n";
    fs::write(&config, settings).expect("our folder");
    let config = config.to_str().expect("UTF-8").to_owned();
    Server::start_with("serve", None, &folder.join("data"), &["--config", &config])
}

fn append(server: &Server, round: u64) {
    // Floats whose sum depends on the order unless it is made not to.
    server.ok(&[
        "query",
        &format!(
            "INSERT INTO e SELECT 'k' || value % 5, value, \
             power(10, value % 31 - 15) * CASE value % 2 WHEN 0 THEN 1 ELSE -1 END \
             FROM generate_series({}, {}) AS t(value);
             INSERT INTO names VALUES ('k{}', 'name {round}')",
            round * 100,
            round * 100 + 40,
            round % 4
        ),
    ]);
}

/// The rows that the changes of all steps leave.
fn left(server: &Server, view: &str, options: &str) -> Vec<String> {
    let sql = format!("REPLAY MATERIALIZED VIEW {view} WITH ({options})");
    let mut left: BTreeMap<String, i64> = BTreeMap::new();
    let answer = server.ok(&["query", "--json", &sql]);
    let rows: Vec<Value> = serde_json::from_str(&answer).expect("JSON");
    for mut row in rows {
        let row = row.as_object_mut().expect("a row");
        let diff = row["lambic_diff"].as_i64().expect("a number");
        row.retain(|name, _| !name.starts_with("lambic_"));
        let row = Value::Object(row.clone()).to_string();
        let count = left.entry(row).or_default();
        *count += diff;
        assert!(*count >= 0, "a row goes that never came");
    }
    let rows = left
        .into_iter()
        .flat_map(|(row, count)| vec![row; count as usize]);
    rows.collect()
}

#[test]
fn a_replay_of_all_is_what_is_served() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = start(folder.path());
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint, x double precision) WITH (partitions = 2); CREATE STREAM names (k text, name text)",
    ]);
    for (name, select) in VIEWS {
        let sql = format!("CREATE MATERIALIZED VIEW {name} AS {select}");
        server.ok(&["query", &sql]);
    }
    let frontier =
        "SELECT string_agg(name || '@' || frontier, ' ') FROM lambic_streams WHERE NOT is_system";
    let mut moments = Vec::new();
    for round in 0..4 {
        append(&server, round);
        moments.push((server.one(frontier), server.one("SELECT now()::text")));
        if round == 1 {
            server.ok(&["batch", "run"]);
        }
    }
    server.ok(&["query", "ERASE FROM e WHERE v = 105"]);
    let before =
        server.rows("SELECT name, version, batch_runs, sql FROM lambic_views ORDER BY name");
    for (name, select) in VIEWS {
        let served = server.sorted(&format!("SELECT * FROM {name}"));
        assert!(!served.is_empty());
        for statement in [
            format!("REPLAY MATERIALIZED VIEW {name}"),
            format!("REPLAY MATERIALIZED VIEW {name} VERSION 1 FROM TIMESTAMP '2020-01-01'"),
            format!("REPLAY MATERIALIZED VIEW {name} AS {select}"),
        ] {
            assert_eq!(server.sorted(&statement), served, "{statement}");
        }
        for (frontier, time) in &moments {
            let then = server.sorted(&format!("SELECT * FROM {name} AS OF OFFSET '{frontier}'"));
            for to in [
                format!("OFFSET '{frontier}'"),
                format!("TIMESTAMP '{time}'"),
            ] {
                let statement = format!("REPLAY MATERIALIZED VIEW {name} TO {to}");
                assert_eq!(server.sorted(&statement), then, "{statement}");
            }
        }
        // What came and went leaves what is there.
        let mut served: Vec<String> = server
            .rows(&format!("SELECT * FROM {name}"))
            .iter()
            .map(Value::to_string)
            .collect();
        served.sort();
        for options in ["step = '50 records'", "step = '1ms'", "step = '1 day'"] {
            assert_eq!(left(&server, name, options), served, "{name} {options}");
        }
        let rows = server.rows(&format!(
            "REPLAY MATERIALIZED VIEW {name} WITH (step = '50 records', show = 'rows')"
        ));
        let last = rows.iter().map(|row| row["lambic_step"].as_u64()).max();
        let rows = rows
            .iter()
            .filter(|row| row["lambic_step"].as_u64() == last.flatten());
        assert_eq!(rows.count(), served.len());
    }
    // Nothing has changed by it.
    let after =
        server.rows("SELECT name, version, batch_runs, sql FROM lambic_views ORDER BY name");
    assert_eq!(before, after);
    assert!(server.rows("SELECT * FROM lambic_replays").is_empty());
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success());
}

#[test]
fn the_command_line_replays() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint); CREATE STREAM f (v bigint) WITH (partitions = 2);
         CREATE MATERIALIZED VIEW t AS SELECT k, sum(v) AS total FROM e GROUP BY k;
         CREATE MATERIALIZED VIEW wide AS SELECT count(*) AS n FROM f;
         INSERT INTO e VALUES ('a', 1), ('b', 2), ('a', 3), ('b', -7), ('c', 1);
         CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, sum(abs(v)) AS total FROM e GROUP BY k",
    ]);
    let replay = |args: &[&str]| server.ok(&[&["replay", "t"], args].concat());
    let rows = |args: &[&str]| -> Vec<Value> {
        let answer = replay(&[args, &["--json"]].concat());
        let mut rows: Vec<Value> = serde_json::from_str(&answer).expect("JSON");
        rows.sort_by_key(Value::to_string);
        rows
    };
    let totals = |totals: &[(&str, i64)]| -> Vec<Value> {
        let rows = totals.iter();
        rows.map(|(k, total)| json!({"k": k, "total": total}))
            .collect()
    };
    assert_eq!(rows(&[]), totals(&[("a", 4), ("b", 9), ("c", 1)]));
    assert_eq!(
        rows(&["--version", "1"]),
        totals(&[("a", 4), ("b", -5), ("c", 1)])
    );
    assert_eq!(
        rows(&["--from", "1", "--to", "e@0:3"]),
        totals(&[("a", 3), ("b", 2)])
    );
    assert_eq!(rows(&["--from", "5"]), totals(&[]));
    let file = folder.path().join("t.sql");
    fs::write(
        &file,
        "-- new\nCREATE MATERIALIZED VIEW t AS\nSELECT k, max(v) AS total FROM e GROUP BY k;\n",
    )
    .expect("our folder");
    let path = file.to_str().expect("UTF-8");
    assert_eq!(
        rows(&["--sql", path]),
        totals(&[("a", 3), ("b", 2), ("c", 1)])
    );
    let table = replay(&["--sql", path, "--to", "1"]);
    expect_test::expect![[r#"
        k  total
        ─  ─────
        a      1
    "#]]
    .assert_eq(&table);
    let csv = replay(&["--to", "1", "--csv"]);
    assert_eq!(csv, "k,total\na,1\n");
    let steps = replay(&["--version", "1", "--step", "2 records", "--speed", "1000x"]);
    let steps: Vec<&str> = steps
        .lines()
        .map(|line| line.rsplit_once(", 20").map_or(line, |(told, _)| told))
        .collect();
    let mut expected = [
        "# k  total",
        "# step 1: 2 records to e@0:2",
        "+ a  1",
        "+ b  2",
        "# step 2: 2 records to e@0:4",
        "- a  1",
        "- b  2",
        "+ a  4",
        "+ b  -5",
        "# step 3: 1 record to e@0:5",
        "+ c  1",
    ];
    let mut found = steps.clone();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{steps:?}");
    for format in ["--json", "--csv"] {
        let answer = replay(&["--step", "2 records", "--rows", "--speed", "1000x", format]);
        assert!(
            answer.contains("lambic_step") && answer.contains("e@0:5"),
            "{answer}"
        );
    }
    let diff = rows(&["--diff", "--version", "1"]);
    let counted = |change: &str| {
        let row = diff
            .iter()
            .find(|row| row["change"] == change && !row["rows"].is_null());
        row.map(|row| row["rows"].clone())
    };
    assert_eq!(counted("equal"), Some(json!(2)), "{diff:?}");
    assert_eq!(counted("changed"), Some(json!(1)), "{diff:?}");
    mistakes(&server, &file);
    assert!(server.terminate().success());
}

fn mistakes(server: &Server, file: &Path) {
    let refused = |args: &[&str], code: i32, wanted: &[&str]| {
        let output = server.cli(args);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "{args:?}: no {wanted:?} in\n{told}");
        }
    };
    refused(&["replay", "u"], 1, &["there is no view \"u\""]);
    refused(&["replay", "e"], 1, &["\"e\" is a stream"]);
    refused(
        &["replay", "t", "--version", "7"],
        1,
        &["has no version 7", "there are: 1, 2 (served)"],
    );
    refused(
        &["replay", "t", "--to", "9"],
        1,
        &["stream \"e\" ends at 0:5"],
    );
    refused(
        &["replay", "t", "--from", "3", "--to", "2"],
        1,
        &["the stretch ends before it begins"],
    );
    refused(
        &["replay", "wide", "--to", "1"],
        1,
        &["of which stream and partition?", "users@0:40"],
    );
    refused(
        &["replay", "t", "--to", "2199-01-01"],
        1,
        &["has not come yet"],
    );
    refused(
        &["replay", "t", "--step", "soon"],
        1,
        &["`soon` is no step", "1000 records"],
    );
    refused(&["replay", "t", "--rows"], 2, &["--step"]);
    refused(
        &["replay", "t", "--speed", "0x", "--step", "1"],
        2,
        &["a speed is"],
    );
    refused(
        &["replay", "t", "--csv", "--json"],
        1,
        &["exclude each other"],
    );
    fs::write(file, "SELECT k,\n  summ(v) FROM e GROUP BY k").expect("our folder");
    let path = file.to_str().expect("UTF-8");
    refused(
        &["replay", "t", "--sql", path],
        1,
        &["t.sql:2:3", "did you mean \"sum\"?"],
    );
}

#[test]
fn a_replay_that_is_killed_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM e (k bigint);
         CREATE MATERIALIZED VIEW t AS SELECT k % 10 AS m, count(*) AS n FROM e GROUP BY k % 10;
         INSERT INTO e SELECT value FROM generate_series(1, 3000) AS s(value)",
    ]);
    let files = |data: &Path| {
        let listed = std::process::Command::new("find")
            .arg(data.join("views"))
            .output();
        text(&listed.expect("find(1) is there").stdout)
    };
    let before = files(&data);
    let replay = |server: &Server| {
        lambic()
            .env("LAMBIC_URL", &server.url)
            .args([
                "replay", "t", "--step", "1 record", "--json", "--speed", "0.001x",
            ])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary is there")
    };
    // The client goes: the server ends the replay.
    let mut client = replay(&server);
    let running = |server: &Server| {
        server.rows("SELECT view, through, steps, steps_total, records_total FROM lambic_replays")
    };
    eventually("it runs", || !running(&server).is_empty());
    let row = &running(&server)[0];
    assert_eq!(
        (&row["view"], &row["through"]),
        (&json!("t"), &json!("the served version"))
    );
    assert_eq!(
        (&row["steps_total"], &row["records_total"]),
        (&json!(3000), &json!(3000))
    );
    client.kill().expect("it is ours");
    client.wait().expect("it was killed");
    eventually("it has ended", || running(&server).is_empty());
    // The server goes.
    let mut client = replay(&server);
    eventually("it runs", || !running(&server).is_empty());
    server.kill();
    client.wait().expect("it ends with its server");
    assert_eq!(files(&data), before);
    server = Server::start(&data);
    assert!(running(&server).is_empty());
    assert_eq!(
        server.rows("SELECT sum(n) AS n FROM t")[0],
        json!({"n": 3000})
    );
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success());
}
