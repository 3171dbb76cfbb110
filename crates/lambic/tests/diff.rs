//! What changes from one version of a view to another, against a real server.

mod common;

use std::fs;

use common::{Server, text};
use serde_json::{Value, json};

/// The rows of an answer as lists.
fn lists(answer: &str) -> Value {
    let rows: Vec<Value> = serde_json::from_str(answer).expect("JSON");
    let columns = ["change", "rows", "key", "old", "new"];
    let lists = rows
        .into_iter()
        .map(|row| columns.map(|column| row[column].clone()));
    lists.map(Value::from_iter).collect()
}

#[track_caller]
fn check(server: &Server, args: &[&str], expected: Value) {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    assert_eq!(lists(&server.ok(&args)), expected, "{args:?}");
}

#[test]
fn versions_and_candidates_are_compared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint);
         INSERT INTO e VALUES ('a', 1), ('a', 2), ('b', -5), ('c', 7);
         CREATE MATERIALIZED VIEW t AS SELECT k, sum(v) AS total FROM e GROUP BY k",
    ]);
    let refused = |args: &[&str], wanted: &[&str]| {
        let output = server.cli(args);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
        }
    };
    refused(&["view", "diff", "t"], &["no former version"]);
    refused(&["view", "diff", "u"], &["there is no view \"u\""]);
    server.ok(&[
        "query",
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, sum(abs(v)) AS total FROM e WHERE k <> 'c' GROUP BY k",
    ]);
    let rows = json!([
        ["equal", 1, null, null, null],
        ["added", 0, null, null, null],
        ["removed", 1, null, null, null],
        ["changed", 1, null, null, null],
        ["changed", null, "k=b", "total=-5", "total=5"],
        ["removed", null, "k=c", "total=7", null],
    ]);
    check(&server, &["view", "diff", "t"], rows.clone());
    check(&server, &["view", "diff", "t", "1"], rows.clone());
    check(&server, &["view", "diff", "t", "1", "2"], rows);
    // Both at one frontier, and at an earlier one.
    check(
        &server,
        &["view", "diff", "t", "--as-of", "e@0:2"],
        json!([
            ["equal", 1, null, null, null],
            ["added", 0, null, null, null],
            ["removed", 0, null, null, null],
            ["changed", 0, null, null, null],
        ]),
    );
    candidates(&server, folder.path(), &refused);
    refused(
        &["view", "diff", "t", "7"],
        &["no former version 7", "versions kept: 1"],
    );
    for wrong in [
        "DIFF t",
        "DIFF MATERIALIZED VIEW t VERSION x",
        "DIFF MATERIALIZED VIEW t WITH 3",
    ] {
        refused(
            &["query", wrong],
            &["DIFF MATERIALIZED VIEW name [VERSION 1]"],
        );
    }
    // Nothing of it stays.
    assert_eq!(server.rows("SELECT name FROM lambic_views").len(), 1);
    assert!(server.terminate().success());
}

fn candidates(server: &Server, folder: &std::path::Path, refused: &dyn Fn(&[&str], &[&str])) {
    let file = folder.join("t.sql");
    let path = file.to_str().expect("UTF-8");
    let with = ["view", "diff", "t", "--sql", path];
    fs::write(
        &file,
        "-- more columns\nSELECT k, sum(abs(v)) AS total, count(*) AS n FROM e GROUP BY k;\n",
    )
    .expect("our folder");
    check(
        server,
        &with,
        json!([
            ["equal", 2, null, null, null],
            ["added", 1, null, null, null],
            ["removed", 0, null, null, null],
            ["changed", 0, null, null, null],
            ["column added", null, null, null, "n bigint"],
            ["added", null, "k=c", null, "total=7"],
        ]),
    );
    // What a project's folder holds, of another class and without a key.
    let create = "CREATE MATERIALIZED VIEW t WITH (batch_every = '1h') AS\n\
                  SELECT k, max(total) OVER () AS total FROM (SELECT k, sum(v) AS total FROM e GROUP BY k) AS s";
    fs::write(&file, create).expect("our folder");
    let answer = lists(&server.ok(&[with.as_slice(), &["--json"]].concat()));
    let counts: Vec<&Value> = answer
        .as_array()
        .expect("rows")
        .iter()
        .take(3)
        .map(|row| &row[1])
        .collect();
    assert_eq!(
        counts,
        [0, 3, 2].map(|n| json!(n)).iter().collect::<Vec<_>>(),
        "{answer}"
    );
    fs::write(&file, "SELECT k,\n  summ(v) FROM e GROUP BY k").expect("our folder");
    refused(&with, &["t.sql:2:3", "did you mean \"sum\"?"]);
    fs::write(&file, "SELECT 1; SELECT 2").expect("our folder");
    refused(&with, &["does not hold one statement"]);
}
