//! `VERSION n` against a real server: what a version of a view says beside the served one, at one frontier.

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::{Server, eventually, lambic, pg::Pg, text};
use serde_json::{Value, json};

const CREATE: &str = "CREATE STREAM e (k text, v bigint);
    CREATE MATERIALIZED VIEW t AS SELECT k, sum(v) AS total FROM e GROUP BY k;
    INSERT INTO e VALUES ('a', 1), ('b', -5), ('c', 7)";
const SECOND: &str = "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, sum(abs(v)) AS total FROM e WHERE k <> 'c' GROUP BY k";
const THIRD: &str = "CREATE OR REPLACE MATERIALIZED VIEW t AS
    SELECT k, v, rank() OVER (ORDER BY v) AS place FROM e";

fn get(server: &Server, query: &str) -> (u16, Value) {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .new_agent();
    let mut answer = agent
        .get(format!("{}/v1/views/t?{query}", server.url))
        .call()
        .expect("an answer");
    let text = answer.body_mut().read_to_string().expect("text");
    let value = serde_json::from_str(&text).expect("JSON");
    (answer.status().as_u16(), value)
}

fn check(server: &Server, sql: &str, expected: Value) {
    assert_eq!(Value::Array(server.rows(sql)), expected, "{sql}");
}

#[test]
fn versions_are_read_beside_each_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    for sql in [CREATE, SECOND, THIRD] {
        server.ok(&["query", sql]);
    }
    all_versions(&server);
    // What is appended later is in all of them, also in a transaction's own eyes.
    let mut pg = Pg::connect(&server.pg);
    pg.ok("BEGIN");
    pg.ok("INSERT INTO e VALUES ('d', -2)");
    let both = "SELECT a.total, b.total FROM t VERSION 1 AS a JOIN t VERSION 2 AS b USING (k) WHERE a.k = 'd'";
    let text_of = |text: &str| Some(text.to_owned());
    assert_eq!(pg.ok(both), [[text_of("-2"), text_of("2")]]);
    pg.ok("ROLLBACK");
    assert_eq!(pg.ok(both), Vec::<Vec<Option<String>>>::new());
    let (_, answer) = get(&server, "version=1&k=b");
    assert_eq!(answer["rows"], json!([["b", -5]]));
    let (_, answer) = get(&server, "version=3&k=b");
    assert_eq!(answer["rows"], json!([["b", -5, 1]]));
    let (_, answer) = get(&server, "version=2&as_of=e@0:1");
    assert_eq!(answer["rows"], json!([["a", 1]]));
    let (status, answer) = get(&server, "version=9");
    assert_eq!(status, 400, "{answer}");
    assert_eq!(answer["error"]["sqlstate"], "22023");
    let (status, answer) = get(&server, "version=new");
    assert_eq!(status, 400, "{answer}");
    mistakes(&server);
    // After a kill, and after another version is served, they are the same.
    server.kill();
    server = Server::start(&data);
    all_versions(&server);
    server.ok(&["query", "ALTER MATERIALIZED VIEW t ROLLBACK TO VERSION 1"]);
    all_versions(&server);
    server.ok(&["query", "ERASE FROM e WHERE k = 'a'"]);
    check(
        &server,
        "SELECT k FROM t VERSION 2 UNION ALL SELECT k FROM t VERSION 3 ORDER BY k",
        json!([{"k": "b"}, {"k": "b"}, {"k": "c"}]),
    );
    assert!(server.terminate().success());
}

fn all_versions(server: &Server) {
    check(
        server,
        "SELECT * FROM t VERSION 1 ORDER BY k",
        json!([{"k": "a", "total": 1}, {"k": "b", "total": -5}, {"k": "c", "total": 7}]),
    );
    let second = json!([{"k": "a", "total": 1}, {"k": "b", "total": 5}]);
    for from in [
        "t VERSION 2",
        "public.t version as of 2",
        "\"t\" FOR VERSION AS OF 2",
        "t VERSION 2 AS x",
    ] {
        let sql = format!("SELECT * FROM {from} ORDER BY k");
        check(server, &sql, second.clone());
    }
    check(
        server,
        "SELECT t.k, t.place FROM t VERSION 3 WHERE t.v > 0 ORDER BY place",
        json!([{"k": "a", "place": 2}, {"k": "c", "place": 3}]),
    );
    check(
        server,
        "SELECT k, old.total AS was, new.total AS now FROM t VERSION 1 AS old LEFT JOIN t VERSION 2 new USING (k) ORDER BY k",
        json!([
            {"k": "a", "was": 1, "now": 1},
            {"k": "b", "was": -5, "now": 5},
            {"k": "c", "was": 7, "now": null},
        ]),
    );
    check(
        server,
        "SELECT k, total FROM t VERSION 2 AS OF OFFSET '2' WHERE k IN (SELECT k FROM t VERSION 1) ORDER BY total DESC",
        json!([{"k": "b", "total": 5}, {"k": "a", "total": 1}]),
    );
    check(
        server,
        "SELECT count(*) AS n FROM t VERSION 3",
        json!([{"n": 3}]),
    );
}

#[track_caller]
fn refused(server: &Server, sql: &str, wanted: &[&str]) {
    let output = server.cli(&["query", sql]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
    for wanted in wanted {
        assert!(told.contains(wanted), "{sql}: no {wanted:?} in\n{told}");
    }
}

fn mistakes(server: &Server) {
    let refused = |sql: &str, wanted: &[&str]| refused(server, sql, wanted);
    refused(
        "SELECT * FROM e JOIN t VERSION 7 USING (k)",
        &[
            "query:1:22: view \"t\" has no version 7",
            "there are: 1, 2, 3 (served)",
            "22023",
        ],
    );
    refused(
        "SELECT * FROM u VERSION 1",
        &["query:1:15: there is no view \"u\"", "42P01"],
    );
    refused(
        "SELECT * FROM e VERSION 1",
        &["\"e\" is a stream, not a view"],
    );
    refused(
        "SELECT * FROM lambic_views VERSION 1",
        &["there is no view \"lambic_views\""],
    );
    refused(
        "SELECT * FROM t x VERSION 1",
        &["query:1:19", "before its alias"],
    );
    refused(
        "SELECT * FROM t VERSION $1",
        &["query:1:25", "the number of a version is expected"],
    );
    refused(
        "SELECT total FROM t VERSION 3",
        &["column \"total\" does not exist"],
    );
    refused(
        "CREATE MATERIALIZED VIEW w AS SELECT * FROM t VERSION 1",
        &["query:1:45", "a view follows what it selects from", "0A000"],
    );
    refused(
        "SUBSCRIBE (SELECT * FROM t VERSION 1)",
        &["cannot read one VERSION"],
    );
    refused(
        "SELECT * FROM t VERSION 1 AS OF OFFSET '99'",
        &["stream \"e\" ends at 0:3"],
    );
}

#[test]
fn another_select_keeps_the_options() {
    const OPTIONS: &str =
        "batch_every = '2h', batch_memory = '64MB', float_sums = 'fast', expect = 'no rows'";
    const SELECT: &str = "SELECT k, sum(abs(v)) AS total FROM e GROUP BY k";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    let create = format!(
        "CREATE STREAM e (k text, v double precision);
         INSERT INTO e VALUES ('a', 1.5), ('b', -5.5), ('a', 2);
         CREATE MATERIALIZED VIEW t WITH ({OPTIONS}) AS SELECT k, sum(v) AS total FROM e GROUP BY k;
         CREATE MATERIALIZED VIEW w WITH (freshness = 'batch') AS SELECT count(*) AS n FROM e"
    );
    let alter = format!("ALTER MATERIALIZED VIEW public.t AS {SELECT}");
    let version = |server: &Server, expected: u32| {
        check(
            server,
            "SELECT version, batch_every FROM lambic_views WHERE name = 't'",
            json!([{"version": expected, "batch_every": "2h"}]),
        );
    };
    server.ok(&["query", &create]);
    server.ok(&["query", &alter]);
    let new = json!([{"k": "a", "total": 3.5}, {"k": "b", "total": 5.5}]);
    check(&server, "SELECT * FROM t ORDER BY k", new.clone());
    version(&server, 2);
    // The same again is no new version, however it is said: all options are those of before.
    server.ok(&["query", &alter]);
    let replace = |options: &str| {
        format!("CREATE OR REPLACE MATERIALIZED VIEW t WITH ({options}) AS {SELECT}")
    };
    server.ok(&["query", &replace(OPTIONS)]);
    version(&server, 2);
    server.kill();
    server = Server::start(&data);
    check(&server, "SELECT * FROM t ORDER BY k", new);
    server.ok(&["query", &replace(&OPTIONS.replace("64MB", "65MB"))]);
    version(&server, 3);
    server.ok(&["query", "ALTER MATERIALIZED VIEW t ROLLBACK TO VERSION 1"]);
    check(
        &server,
        "SELECT total FROM t WHERE k = 'b'",
        json!([{"total": -5.5}]),
    );
    // One that stands as of its last batch goes on to.
    server.ok(&[
        "query",
        "ALTER MATERIALIZED VIEW w AS SELECT count(*) * 2 AS n FROM e;
         INSERT INTO e VALUES ('c', 1)",
    ]);
    check(&server, "SELECT n FROM w", json!([{"n": 6}]));
    refused(
        &server,
        "ALTER MATERIALIZED VIEW u AS SELECT k FROM e",
        &["query:1:25: there is no view \"u\"", "42P01"],
    );
    refused(
        &server,
        "ALTER MATERIALIZED VIEW e AS SELECT k FROM e",
        &["\"e\" is a stream, not a view", "42809"],
    );
    refused(
        &server,
        "ALTER MATERIALIZED VIEW t AS SELECT kk FROM e",
        &["query:1:37", "column \"kk\" does not exist"],
    );
    refused(
        &server,
        "ALTER MATERIALIZED VIEW t WITH (batch_every = '1h') AS SELECT k FROM e",
        &[
            "query:1:27",
            "keeps the view's options",
            "CREATE OR REPLACE MATERIALIZED VIEW t WITH",
        ],
    );
    assert!(server.terminate().success());
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn all_versions_are_read_at_one_frontier() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k bigint) WITH (partitions = 2);
         CREATE MATERIALIZED VIEW t AS SELECT k % 3 AS m, count(*) AS n FROM e GROUP BY k % 3;
         CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k % 5 AS m, count(*) AS n FROM e GROUP BY k % 5",
    ]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also if what follows panics.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut pg = Pg::connect(&server.pg);
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                pg.ok(&format!("INSERT INTO e VALUES ({n}), ({n})"));
            }
        });
        let mut pg = Pg::connect(&server.pg);
        let mut last = 0;
        eventually("many records are read", || {
            let rows = pg.ok("SELECT (SELECT sum(n) FROM t VERSION 1) AS old, (SELECT sum(n) FROM t) AS new, (SELECT count(*) FROM e) AS n");
            let counts: Vec<u64> = rows[0]
                .iter()
                .map(|cell| {
                    cell.as_deref()
                        .map_or(0, |cell| cell.parse().expect("a number"))
                })
                .collect();
            assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
            assert!(counts[0] >= last);
            last = counts[0];
            last > 400
        });
    });
    assert!(server.terminate().success());
}

#[test]
fn a_version_that_is_being_built_is_told_of() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&["query", CREATE]);
    server.ok(&[
        "query",
        "INSERT INTO e SELECT 'x', value FROM generate_series(1, 100000) AS s(value)",
    ]);
    // It takes long, and the server ends before it does.
    let hashed = (0..8).map(|salt| {
        let start = format!("v::text || '{salt}'");
        let hashed = (0..8).fold(start, |inner, _| format!("md5({inner})"));
        format!("max({hashed}) AS h{salt}")
    });
    let slow = format!(
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, {} FROM e GROUP BY k",
        hashed.collect::<Vec<_>>().join(", ")
    );
    let mut builder = lambic()
        .env("LAMBIC_URL", &server.url)
        .args(["query", &slow])
        .spawn()
        .expect("the binary is there");
    let mut told = String::new();
    eventually("the version is being built", || {
        let output = server.cli(&["query", "SELECT * FROM t VERSION 2"]);
        assert!(!output.status.success(), "it is not built yet");
        told = text(&output.stderr);
        told.contains("still being built")
    });
    for wanted in [
        "version 2 of view \"t\" is still being built: for ",
        "of 100003 records",
        "until then version 1 is",
        "55000",
    ] {
        assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
    }
    let output = server.cli(&["query", "SELECT * FROM t VERSION 5"]);
    let told = text(&output.stderr);
    assert!(
        told.contains("there are: 1 (served), 2 (being built)"),
        "{told}"
    );
    check(
        &server,
        "SELECT total FROM t VERSION 1 WHERE k = 'a'",
        json!([{"total": 1}]),
    );
    server.kill();
    builder.wait().expect("it ends with its server");
}
