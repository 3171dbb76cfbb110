//! Views of every class against a real server: exact after every append, through kill -9 and restart,
//! through new versions and back.

mod common;

use std::{fs, path::Path};

use common::{Server, eventually, text};
use serde_json::Value;

/// The rows of a query as JSON arrays.
fn rows(server: &Server, sql: &str) -> Vec<Value> {
    let answer = server.ok(&["query", "--json", sql]);
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let rows = answer.as_array().expect("a list of rows").iter();
    rows.map(|row| match row {
        Value::Object(columns) => columns.values().cloned().collect(),
        other => other.clone(),
    })
    .collect()
}

#[track_caller]
fn check(server: &Server, sql: &str, expected: Value) {
    assert_eq!(Value::Array(rows(server, sql)), expected, "{sql}");
}

#[track_caller]
fn refused(server: &Server, sql: &str, wanted: &[&str]) {
    let output = server.cli(&["query", sql]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
    for wanted in wanted {
        assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
    }
}

const VIEWS: [&str; 7] = [
    "CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n, sum(v) AS total FROM e GROUP BY k",
    // Views over views, top-k.
    "CREATE MATERIALIZED VIEW top AS SELECT k, n FROM counts ORDER BY n DESC, k LIMIT 2",
    "CREATE MATERIALIZED VIEW over_top AS SELECT count(*) AS how_many, sum(n) AS n FROM top",
    // Outer and anti joins.
    "CREATE MATERIALIZED VIEW unnamed AS
         SELECT c.k, c.n FROM counts AS c LEFT JOIN names ON names.k = c.k WHERE names.k IS NULL",
    // Window functions.
    "CREATE MATERIALIZED VIEW ranked AS SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) AS place FROM e",
    // Recursion and set operations.
    "CREATE MATERIALIZED VIEW reach AS
         WITH RECURSIVE r AS (SELECT 1::bigint AS at UNION SELECT v FROM e JOIN r ON e.v = r.at + 1) SELECT at FROM r",
    "CREATE MATERIALIZED VIEW shares AS
         SELECT k, count(*) * 100 / (SELECT count(*) FROM e) AS percent FROM e GROUP BY k EXCEPT SELECT name, 0 FROM names",
];

fn check_all(server: &Server) {
    check(
        server,
        "SELECT * FROM top ORDER BY n DESC",
        serde_json::json!([["a", 3], ["b", 2]]),
    );
    check(
        server,
        "SELECT * FROM over_top",
        serde_json::json!([[2, 5]]),
    );
    check(
        server,
        "SELECT * FROM unnamed ORDER BY k",
        serde_json::json!([["b", 2], ["c", 1]]),
    );
    check(
        server,
        "SELECT v FROM ranked WHERE place = 1 ORDER BY v",
        serde_json::json!([[1], [2], [9]]),
    );
    check(
        server,
        "SELECT * FROM reach ORDER BY at",
        serde_json::json!([[1], [2], [3]]),
    );
    check(
        server,
        "SELECT * FROM shares ORDER BY k",
        serde_json::json!([["a", 50], ["b", 33], ["c", 16]]),
    );
    let audit = server.ok(&["audit", "--all", "--json"]);
    let audit: Value = serde_json::from_str(&audit).expect("JSON");
    let audit = audit.as_array().expect("a list of views");
    assert_eq!(audit.len(), VIEWS.len());
    assert!(audit.iter().all(|view| view["agrees"] == true), "{audit:?}");
}

#[test]
fn every_class_is_exact_and_survives() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint); CREATE STREAM names (k text, name text)",
    ]);
    for view in VIEWS {
        server.ok(&["query", view]);
    }
    check(&server, "SELECT * FROM top", serde_json::json!([]));
    server.ok(&["query", "INSERT INTO e VALUES ('a', 1), ('a', 2), ('b', 9)"]);
    check(
        &server,
        "SELECT k FROM top ORDER BY k",
        serde_json::json!([["a"], ["b"]]),
    );
    server.ok(&["batch", "run"]);
    server.ok(&["query", "INSERT INTO e VALUES ('a', 3), ('b', 11), ('c', 2); INSERT INTO names VALUES ('a', 'Anna')"]);
    check_all(&server);
    // Read again: the rows of the last run still stand, and a new record makes them new.
    check_all(&server);
    let explained = server.ok(&["query", "EXPLAIN MATERIALIZED VIEW top"]);
    for wanted in ["recompute", "LIMIT", "counts", "rows of the last run"] {
        assert!(explained.contains(wanted), "no {wanted} in {explained}");
    }
    server.kill();
    let server = Server::start(&data);
    check_all(&server);
    // A batch over what is new, and one over everything, give the same.
    server.ok(&["batch", "run"]);
    check_all(&server);
    server.ok(&["query", "REFRESH MATERIALIZED VIEW counts FULL"]);
    check_all(&server);
    damage_and_restart(server, &data);
}

/// What is derived can be computed again: a damaged batch view does not keep a server down.
fn damage_and_restart(mut server: Server, data: &Path) {
    server.kill();
    let views = data.join("views/counts/v1");
    let mut damaged = 0;
    for entry in fs::read_dir(&views).expect("the view has a folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_file() {
            let mut bytes = fs::read(&path).expect("a readable file");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("the folder is ours");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there was something to damage");
    let mut server = Server::start(data);
    check_all(&server);
    assert!(server.terminate().success());
}

#[test]
fn versions_change_and_come_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&["query", "CREATE STREAM e (k text, v bigint)"]);
    server.ok(&["query", "INSERT INTO e VALUES ('a', 1), ('a', 2)"]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW t AS SELECT k, sum(v) AS total FROM e GROUP BY k",
    ]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW biggest AS SELECT max(total) AS total FROM t",
    ]);
    // A mistake, and the way back.
    server.ok(&[
        "query",
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, sum(v * 2) AS total FROM e GROUP BY k",
    ]);
    check(&server, "SELECT * FROM t", serde_json::json!([["a", 6]]));
    check(&server, "SELECT * FROM biggest", serde_json::json!([[6]]));
    server.ok(&["query", "INSERT INTO e VALUES ('a', 4), ('b', 1)"]);
    server.ok(&["query", "ALTER MATERIALIZED VIEW t ROLLBACK"]);
    check(
        &server,
        "SELECT * FROM t ORDER BY k",
        serde_json::json!([["a", 7], ["b", 1]]),
    );
    check(&server, "SELECT * FROM biggest", serde_json::json!([[7]]));
    server.kill();
    let mut server = Server::start(&data);
    check(
        &server,
        "SELECT * FROM t ORDER BY k",
        serde_json::json!([["a", 7], ["b", 1]]),
    );
    server.ok(&["query", "ALTER MATERIALIZED VIEW t ROLLBACK TO VERSION 2"]);
    check(
        &server,
        "SELECT * FROM t ORDER BY k",
        serde_json::json!([["a", 14], ["b", 2]]),
    );
    server.ok(&["audit", "--all"]);

    refused(
        &server,
        "ALTER MATERIALIZED VIEW t ROLLBACK TO VERSION 9",
        &["no former version 9", "versions kept: 1"],
    );
    refused(
        &server,
        "ALTER MATERIALIZED VIEW biggest ROLLBACK",
        &["no former version"],
    );
    refused(
        &server,
        "ALTER MATERIALIZED VIEW t SET SCHEMA x",
        &["ROLLBACK"],
    );
    refused(
        &server,
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, count(*) AS n FROM e GROUP BY k",
        &["read by biggest", "total"],
    );
    refused(
        &server,
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT 'a' AS k, total FROM biggest",
        &["select from itself"],
    );
    refused(
        &server,
        "DROP MATERIALIZED VIEW t",
        &["view biggest depends on it", "drop those first"],
    );
    refused(&server, "DROP STREAM e", &["view biggest", "view t"]);
    server.ok(&[
        "query",
        "DROP MATERIALIZED VIEW biggest; DROP MATERIALIZED VIEW t; DROP STREAM e",
    ]);
    assert!(
        !has_files(&data.join("views")),
        "dropped views leave no files"
    );
    assert!(server.terminate().success());
}

fn has_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.path().is_file() || has_files(&entry.path()))
    })
}

/// What `EXPLAIN MATERIALIZED VIEW` says under a name; nothing if it has no such row.
fn explained(server: &Server, view: &str, property: &str) -> String {
    let explained = rows(server, &format!("EXPLAIN MATERIALIZED VIEW {view}"));
    let row = explained.iter().find(|row| row[0] == property);
    let value = row.and_then(|row| row[1].as_str());
    value.unwrap_or_default().to_owned()
}

#[track_caller]
fn starts(told: &str, wanted: &str) {
    assert!(told.starts_with(wanted), "no {wanted:?} in {told:?}");
}

#[test]
fn the_cost_of_a_read_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint);
         INSERT INTO e VALUES ('a', 1), ('a', 2), ('b', 9);
         CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM e GROUP BY k;
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM e;
         CREATE MATERIALIZED VIEW ranked AS SELECT k, v, rank() OVER (ORDER BY v) AS place FROM e;
         CREATE MATERIALIZED VIEW top AS SELECT k, n FROM counts ORDER BY n DESC LIMIT 1;
         CREATE MATERIALIZED VIEW most AS
             SELECT k, n FROM (SELECT k, count(*) AS n FROM e GROUP BY k) AS c ORDER BY n DESC LIMIT 1;
         CREATE MATERIALIZED VIEW still WITH (freshness = 'batch') AS SELECT k, rank() OVER (ORDER BY v) AS place FROM e;
         REFRESH MATERIALIZED VIEW counts",
    ]);
    let read = |view: &str| explained(&server, view, "read");
    // Kept: its states, until the finished rows are at hand; a key is found in its runs.
    starts(&read("counts"), "merges 2 batch and 0 real-time states, ");
    let by_key = || explained(&server, "counts", "read by key");
    assert_eq!(
        by_key(),
        "touches one key (k) in each of 1 runs, found in O(log n)"
    );
    assert_eq!(explained(&server, "total", "read by key"), "");
    check(
        &server,
        "SELECT count(*) FROM counts",
        serde_json::json!([[2]]),
    );
    starts(&read("counts"), "gives the 2 rows of the last read again, ");
    // Recomputed: records, views and parts, until the rows are kept.
    starts(
        &read("ranked"),
        "runs the SELECT over 3 records of e, and keeps the rows if they take at most 64 MiB",
    );
    starts(&read("top"), "runs the SELECT over the rows of view counts");
    starts(&read("most"), "runs the SELECT over a part that merges ");
    check(
        &server,
        "SELECT count(*) FROM ranked",
        serde_json::json!([[3]]),
    );
    let kept = read("ranked");
    starts(&kept, "gives the 3 rows of the last read again, ");
    assert!(kept.ends_with(" bytes, until an input changes"), "{kept}");
    check(
        &server,
        "SELECT count(*) FROM still",
        serde_json::json!([[3]]),
    );
    server.ok(&["query", "INSERT INTO e VALUES ('c', 4)"]);
    starts(&read("ranked"), "runs the SELECT over 4 records of e");
    let still = read("still");
    starts(&still, "gives the 3 rows of the last read again, ");
    assert!(
        still.ends_with("until the next batch; the rows stand as of the batch frontier"),
        "{still}"
    );
    eventually("the speed layer has the record", || {
        read("counts").starts_with("merges 2 batch and 1 real-time states, ")
    });
    assert!(by_key().contains("in each of 2 runs"));
    assert!(server.terminate().success());
}

#[test]
fn a_large_result_is_made_as_it_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&["query", "CREATE STREAM e (v bigint)"]);
    server.ok(&[
        "query",
        "INSERT INTO e SELECT value FROM generate_series(1, 3000) AS t(value)",
    ]);
    // Nine million rows of 16 bytes are more than is kept between reads.
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW pairs AS SELECT a.v AS a, b.v AS b FROM e AS a CROSS JOIN e AS b",
    ]);
    for _ in 0..2 {
        check(
            &server,
            "SELECT count(*), sum(a) FROM pairs",
            serde_json::json!([[9_000_000, 13_504_500_000_i64]]),
        );
    }
    assert!(server.terminate().success());
}
