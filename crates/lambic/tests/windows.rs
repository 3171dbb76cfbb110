//! Windows of time, fast sums and sketches against a real server: records that come late, batches, kills.

mod common;

use common::{Server, text};
use serde_json::{Value, json};

const VIEWS: [&str; 6] = [
    "CREATE MATERIALIZED VIEW per_ten AS SELECT window_start, window_end, url, count(*) AS n, sum(ms) AS ms
         FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(at), INTERVAL '10' MINUTE)) GROUP BY window_start, window_end, url",
    "CREATE MATERIALIZED VIEW sliding AS SELECT window_start, count(*) AS n
         FROM HOP(visits, at, INTERVAL '10 minutes', INTERVAL '30 minutes') GROUP BY window_start",
    "CREATE MATERIALIZED VIEW sessions AS SELECT visitor, window_start, window_end, count(*) AS n
         FROM TABLE(SESSION(TABLE visits PARTITION BY visitor, DESCRIPTOR(at), INTERVAL '30' MINUTE))
         GROUP BY visitor, window_start, window_end",
    "CREATE MATERIALIZED VIEW hours AS SELECT window_start AS hour, sum(n) AS n
         FROM TUMBLE((SELECT window_start AS at, n FROM per_ten), at, INTERVAL '1 hour') GROUP BY 1",
    "CREATE MATERIALIZED VIEW quick WITH (float_sums = 'fast') AS
         SELECT url, sum(ms) AS ms, stddev(ms) AS spread, corr(ms, ms) AS c FROM visits GROUP BY url",
    "CREATE MATERIALIZED VIEW readers AS
         SELECT url, theta_sketch_build(visitor) AS visitors, hll_sketch_build(visitor) AS h FROM visits GROUP BY url",
];

/// The rows of a query as JSON arrays, columns in the order of their names.
#[track_caller]
fn check(server: &Server, sql: &str, expected: Value) {
    let rows = server.rows(sql).into_iter().map(|row| match row {
        Value::Object(columns) => columns.into_iter().map(|(_, value)| value).collect(),
        other => other,
    });
    let rows: Vec<Value> = rows.collect();
    assert_eq!(Value::Array(rows), expected, "{sql}");
}

fn check_all(server: &Server) {
    let clock = |column: &str| format!("to_char({column}, 'HH24:MI')");
    let (start, end) = (clock("window_start"), clock("window_end"));
    check(
        server,
        &format!(
            "SELECT {start} AS a, {end} AS b, url AS c, n AS d, ms AS e FROM per_ten ORDER BY window_start, url"
        ),
        json!([
            ["09:50", "10:00", "/a", 2, 1.5],
            ["10:00", "10:10", "/a", 1, 4.0],
            ["10:00", "10:10", "/b", 1, 8.0],
            ["10:40", "10:50", "/b", 1, 16.0]
        ]),
    );
    check(
        server,
        &format!("SELECT {start} AS a, n FROM sliding ORDER BY window_start"),
        json!([
            ["09:30", 2],
            ["09:40", 4],
            ["09:50", 4],
            ["10:00", 2],
            ["10:20", 1],
            ["10:30", 1],
            ["10:40", 1]
        ]),
    );
    check(
        server,
        &format!(
            "SELECT visitor AS a, {start} AS b, {end} AS c, n FROM sessions ORDER BY visitor, window_start"
        ),
        json!([
            ["ann", "09:55", "10:35", 3],
            ["bob", "09:59", "10:29", 1],
            ["bob", "10:40", "11:10", 1]
        ]),
    );
    check(
        server,
        &format!("SELECT {} AS a, n FROM hours ORDER BY hour", clock("hour")),
        json!([["09:00", 2], ["10:00", 3]]),
    );
    check(
        server,
        "SELECT url AS a, ms AS b, round(c) AS c FROM quick ORDER BY url",
        json!([["/a", 5.5, 1.0], ["/b", 24.0, 1.0]]),
    );
    check(
        server,
        "SELECT url AS a, theta_sketch_get_estimate(visitors) AS b, round(hll_sketch_get_estimate(h)) AS c FROM readers ORDER BY url",
        json!([["/a", 2.0, 2.0], ["/b", 2.0, 2.0]]),
    );
    check(
        server,
        "SELECT theta_sketch_get_estimate(theta_sketch_intersection(visitors)) AS both FROM readers",
        json!([[2.0]]),
    );
    let audit = server.ok(&["audit", "--all", "--json"]);
    let audit: Value = serde_json::from_str(&audit).expect("JSON");
    let audit = audit.as_array().expect("a list of views");
    assert_eq!(audit.len(), VIEWS.len());
    assert!(audit.iter().all(|view| view["agrees"] == true), "{audit:?}");
    let quick = audit.iter().find(|view| view["view"] == "quick");
    let detail = quick
        .and_then(|view| view["detail"].as_str())
        .expect("a detail");
    assert!(detail.contains("1e-9"), "{detail}");
    assert!(detail.contains("ms, spread, c"), "{detail}");
}

#[test]
fn windows_take_late_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM visits (at timestamp, url text, visitor text, ms double precision) WITH (event_time = 'at')",
    ]);
    for view in VIEWS {
        server.ok(&["query", view]);
    }
    for (view, class) in [
        ("per_ten", "mergeable"),
        ("sliding", "mergeable"),
        ("sessions", "recompute"),
        ("quick", "mergeable"),
    ] {
        let explained = server.ok(&["query", &format!("EXPLAIN MATERIALIZED VIEW {view}")]);
        assert!(explained.contains(class), "no {class} in {explained}");
    }
    server.ok(&[
        "query",
        "INSERT INTO visits VALUES ('2026-01-01 10:40', '/b', 'bob', 16), ('2026-01-01 10:05', '/a', 'ann', 4), (NULL, '/b', 'bob', 0)",
    ]);
    server.ok(&["batch", "run"]);
    // Late ones, some after the batch has covered their window.
    server.ok(&[
        "query",
        "INSERT INTO visits VALUES ('2026-01-01 09:55', '/a', 'ann', 1), ('2026-01-01 10:00', '/b', 'ann', 8);
         INSERT INTO visits VALUES ('2026-01-01 09:59', '/a', 'bob', 0.5)",
    ]);
    check_all(&server);
    server.kill();
    let server = Server::start(&data);
    check_all(&server);
    server.ok(&["batch", "run"]);
    check_all(&server);
    refusals(&server);
    sessions_may_begin_with_a_tie(&server);
}

/// What no other column tells apart belongs to one session, as in the same `SELECT` that no view is made of.
fn sessions_may_begin_with_a_tie(server: &Server) {
    server.ok(&["query", "CREATE STREAM ties (ts timestamp, u text)"]);
    server.ok(&[
        "query",
        "INSERT INTO ties VALUES ('2026-01-01 10:00', 'b'), ('2026-01-02 10:00', 'b'), ('2026-01-02 10:00', 'b')",
    ]);
    let select = "SELECT u, window_start, window_end, count(*) AS n
                  FROM SESSION(ties, u, ts, INTERVAL '30 minutes') GROUP BY 1, 2, 3";
    let view = format!("CREATE MATERIALIZED VIEW tied AS {select}");
    server.ok(&["query", &view]);
    let plain = format!("({select}) AS plain");
    for from in ["tied", &plain] {
        check(
            server,
            &format!(
                "SELECT to_char(window_start, 'DD HH24:MI') AS a, to_char(window_end, 'DD HH24:MI') AS b, n FROM {from} ORDER BY 1"
            ),
            json!([["01 10:00", "01 10:30", 1], ["02 10:00", "02 10:30", 2]]),
        );
    }
}

fn refusals(server: &Server) {
    for (sql, wanted) in [
        (
            "SELECT * FROM TUMBLE(vists, at, INTERVAL '1 day')",
            vec!["there is no stream or view \"vists\"", "visits"],
        ),
        (
            "SELECT * FROM TUMBLE(TABLE visits, DESCRIPTOR(att), INTERVAL '1' DAY)",
            vec!["column \"att\" does not exist", "did you mean \"at\"?", "^"],
        ),
        (
            "SELECT * FROM TUMBLE(visits, url, INTERVAL '1 day')",
            vec!["windows are of timestamps, not of text", "::timestamp"],
        ),
        (
            "SELECT * FROM HOP(visits, at, INTERVAL '40 minutes', INTERVAL '1 hour')",
            vec!["must be a multiple of their slide"],
        ),
        (
            "CREATE MATERIALIZED VIEW w WITH (float_sums = 'slow') AS SELECT sum(ms) FROM visits",
            vec!["float_sums must be 'exact' or 'fast', not 'slow'"],
        ),
    ] {
        let output = server.cli(&["query", sql]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
        }
    }
}
