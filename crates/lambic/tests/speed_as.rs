//! Views that are brought up to the head approximately: what they serve, and how far off it is.

mod common;

use common::{Server, pg::Pg, text};
use serde_json::{Value, json};

/// Named visits of each key. The speed path takes it that every new visit is named.
const VIEW: &str = "CREATE MATERIALIZED VIEW named WITH (speed_as = $$
        SELECT coalesce(b.k, s.k) AS k, coalesce(b.n, 0) + coalesce(s.n, 0) AS n
        FROM named AS b FULL JOIN (SELECT k, count(*) AS n FROM e GROUP BY k) AS s ON s.k = b.k
    $$, batch_every = '1h') AS
    SELECT e.k AS k, count(names.name) AS n FROM e LEFT JOIN names ON names.k = e.k GROUP BY e.k";

#[track_caller]
fn check(server: &Server, sql: &str, expected: Value) {
    assert_eq!(Value::Array(server.rows(sql)), expected, "{sql}");
}

fn rows(server: &Server, expected: Value) {
    check(server, "SELECT k, n FROM named ORDER BY k", expected);
}

/// What the audit says of it.
fn audit(server: &Server) -> (Value, String) {
    let row = server.rows("AUDIT MATERIALIZED VIEW named").remove(0);
    let detail = row["detail"].as_str().expect("a text").to_owned();
    (row["agrees"].clone(), detail)
}

#[test]
fn a_view_is_served_approximately_and_its_drift_is_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint) WITH (partitions = 2); CREATE STREAM names (k text, name text);
         INSERT INTO names VALUES ('a', 'Anna'), ('b', 'Bert');
         INSERT INTO e VALUES ('a', 1), ('a', 2), ('b', 1), ('x', 1)",
    ]);
    server.ok(&["query", VIEW]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW most AS SELECT max(n) AS n FROM named",
    ]);
    let exact = json!([{"k": "a", "n": 2}, {"k": "b", "n": 1}, {"k": "x", "n": 0}]);
    rows(&server, exact.clone());
    let none = (json!(true), "drift: none".to_owned());
    assert_eq!(audit(&server), none);
    // A new visit of a key without a name counts, a new name does not.
    server.ok(&["query", "INSERT INTO e VALUES ('a', 3), ('x', 2), ('y', 1); INSERT INTO names VALUES ('x', 'Xaver')"]);
    let served =
        json!([{"k": "a", "n": 3}, {"k": "b", "n": 1}, {"k": "x", "n": 1}, {"k": "y", "n": 1}]);
    rows(&server, served.clone());
    check(&server, "SELECT n FROM most", json!([{"n": 3}]));
    let (agrees, detail) = audit(&server);
    assert_eq!(agrees, json!(true));
    assert_eq!(
        detail,
        "drift: of 4 keys 2 differ, 0 are missing, 0 are extra; n: worst 1 (100.00 %) at k=x, mean 0.5 (37.50 %)"
    );
    figures(&server);
    // Whatever is killed, the last batch is where it was.
    server.kill();
    server = Server::start(&data);
    rows(&server, served.clone());
    explained(&server);
    server.ok(&["audit", "--all"]);
    // A moment of the past is exact; so is a replay.
    check(
        &server,
        "SELECT k, n FROM named AS OF TIMESTAMP (now()) ORDER BY n DESC, k",
        json!([{"k": "a", "n": 3}, {"k": "x", "n": 2}, {"k": "b", "n": 1}, {"k": "y", "n": 0}]),
    );
    assert_eq!(server.rows("REPLAY MATERIALIZED VIEW named").len(), 4);
    let mut pg = Pg::connect(&server.pg);
    pg.ok("BEGIN");
    pg.ok("INSERT INTO e VALUES ('z', 1)");
    assert_eq!(pg.ok("SELECT n FROM named WHERE k = 'z'").len(), 1);
    pg.ok("ROLLBACK");
    rows(&server, served);
    // A batch at the head leaves no drift.
    server.ok(&["query", "REFRESH MATERIALIZED VIEW named"]);
    assert_eq!(audit(&server), none);
    let exact =
        json!([{"k": "a", "n": 3}, {"k": "b", "n": 1}, {"k": "x", "n": 2}, {"k": "y", "n": 0}]);
    rows(&server, exact);
    // What is erased is in neither part.
    server.ok(&[
        "query",
        "INSERT INTO e VALUES ('a', 9); ERASE FROM e WHERE k = 'a'",
    ]);
    rows(
        &server,
        json!([{"k": "b", "n": 1}, {"k": "x", "n": 2}, {"k": "y", "n": 0}]),
    );
    // Without it, it is another view.
    let plain = "CREATE OR REPLACE MATERIALIZED VIEW named AS SELECT e.k AS k, count(names.name) AS n FROM e LEFT JOIN names ON names.k = e.k GROUP BY e.k";
    server.ok(&["query", plain]);
    check(
        &server,
        "SELECT version, freshness FROM lambic_views WHERE name = 'named'",
        json!([{"version": 2, "freshness": "now"}]),
    );
    let output = server.cli(&["audit", "named", "--drift"]);
    assert!(text(&output.stderr).contains("what is served of it is exact"));
    server.ok(&["query", "ALTER MATERIALIZED VIEW named ROLLBACK"]);
    server.ok(&["query", "INSERT INTO e VALUES ('w', 1)"]);
    check(
        &server,
        "SELECT n FROM named WHERE k = 'w'",
        json!([{"n": 1}]),
    );
    assert!(server.terminate().success());
}

fn figures(server: &Server) {
    let figures = server.ok(&["audit", "named", "--drift", "--json"]);
    let figures: Vec<Value> = serde_json::from_str(&figures).expect("JSON");
    let value = |measure: &str| {
        let line = figures.iter().find(|line| line["measure"] == measure);
        line.unwrap_or_else(|| panic!("no {measure} in {figures:?}"))
    };
    assert_eq!(value("keys equal")["value"], json!(2.0));
    assert_eq!(value("keys different")["value"], json!(2.0));
    let worst = value("difference, worst");
    assert_eq!(
        (&worst["column"], &worst["value"], &worst["view"]),
        (&json!("n"), &json!(1.0), &json!("named"))
    );
    let different: Vec<&Value> = figures
        .iter()
        .filter(|line| line["measure"] == "key different")
        .map(|line| &line["key"])
        .collect();
    // Both are off by all of it or by half.
    assert_eq!(different, [&json!("k=y"), &json!("k=x")]);
}

fn explained(server: &Server) {
    let explained = server.ok(&["query", "EXPLAIN MATERIALIZED VIEW named"]);
    for wanted in [
        "recompute",
        "approximate: 4 records after the last batch are served by speed_as",
        "runs speed_as over ",
        "3 records of e",
        "1 records of names",
        "FULL JOIN",
        "speed key",
        "batch frontier",
    ] {
        assert!(explained.contains(wanted), "no {wanted} in {explained}");
    }
    check(
        server,
        "SELECT freshness, lag_records FROM lambic_views WHERE name = 'named'",
        json!([{"freshness": "approximate", "lag_records": 4}]),
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint); CREATE STREAM other (k text);
         CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM e GROUP BY k;
         INSERT INTO e VALUES ('a', 1), ('a', 2)",
    ]);
    let refused = |sql: &str, wanted: &[&str]| {
        let output = server.cli(&["query", sql]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "{sql}: no {wanted:?} in\n{told}");
        }
    };
    let ranked = "SELECT k, v, rank() OVER (ORDER BY v) AS place FROM e";
    let create = |options: &str, select: &str| {
        format!("CREATE MATERIALIZED VIEW w WITH ({options}) AS {select}")
    };
    refused(
        &create(
            "speed_as = $$ SELECT k, count(*) AS n FROM e GROUP BY k $$",
            "SELECT k, count(*) AS n FROM e GROUP BY k",
        ),
        &["its class is mergeable", "leave speed_as out", "22023"],
    );
    refused(
        &create(
            "speed_as = $$ SELECT k, v FROM e $$, speed_key = 'k'",
            ranked,
        ),
        &[
            "speed_as gives other columns",
            "k text, v bigint; not: k text, v bigint, place",
            "42804",
        ],
    );
    refused(
        &create(
            "speed_as = $$ SELECT k, vv, 1 AS place FROM w $$, speed_key = 'k'",
            ranked,
        ),
        &["query:1:58", "column \"vv\" does not exist", "42703"],
    );
    refused(
        &create(
            "speed_as = $$ SELECT * FROM counts $$, speed_key = 'k'",
            ranked,
        ),
        &[
            "counts",
            "speed_as reads \"w\", which is the rows of its last batch",
            "42P01",
        ],
    );
    refused(
        &create(
            "speed_as = $$ SELECT w.* FROM w JOIN other ON other.k = w.k $$, speed_key = 'k'",
            ranked,
        ),
        &["reads stream \"other\", which the view's SELECT does not read"],
    );
    refused(
        &create("speed_as = $$ SELECT * FROM w $$", ranked),
        &[
            "by which columns its rows are told apart",
            "speed_key = 'a, b'",
        ],
    );
    refused(
        &create(
            "speed_as = $$ SELECT * FROM w $$, speed_key = 'k, z'",
            ranked,
        ),
        &["speed_key names \"z\"", "there are: k, v, place", "42703"],
    );
    refused(
        &create(
            "speed_as = $$ SELECT * FROM w $$, freshness = 'now'",
            ranked,
        ),
        &["exclude each other"],
    );
    refused(
        &create(
            "speed_as = $$ SELECT * FROM w $$, batch_every = 'never'",
            ranked,
        ),
        &["needs batches"],
    );
    refused(
        &create("speed_key = 'k'", ranked),
        &["there is no speed_as"],
    );
    refused(
        "AUDIT MATERIALIZED VIEW counts WITH (drift)",
        &["what is served of it is exact", "42809"],
    );
    // A key that does not tell rows apart is only known when it is measured.
    server.ok(&[
        "query",
        &create("speed_as = $$ SELECT * FROM w $$, speed_key = 'k'", ranked),
    ]);
    refused(
        "AUDIT MATERIALIZED VIEW w",
        &["several rows have the key k=a"],
    );
    // It is written for the SELECT that it has.
    refused(
        "ALTER MATERIALIZED VIEW w AS SELECT k, v, 1 AS place FROM e",
        &[
            "view \"w\" has a speed_as",
            "write both: CREATE OR REPLACE MATERIALIZED VIEW w WITH (speed_as",
            "0A000",
        ],
    );
    check(&server, "SELECT count(*) AS n FROM w", json!([{"n": 2}]));
    assert!(server.terminate().success());
}
