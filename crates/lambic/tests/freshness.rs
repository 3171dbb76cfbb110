//! Views that are served as of their last batch: they stand still, say how old they are, and are exact where they stand.

mod common;

use common::{Server, eventually};
use serde_json::Value;

fn one(server: &Server, sql: &str) -> Value {
    let rows = server.rows(sql);
    let row = rows.first().and_then(Value::as_object);
    let value = row.and_then(|row| row.values().next());
    value
        .unwrap_or_else(|| panic!("{sql} gave {rows:?}"))
        .clone()
}

#[test]
fn rows_stand_until_the_next_batch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint); INSERT INTO e VALUES ('a', 1);
         CREATE MATERIALIZED VIEW counts WITH (freshness = 'batch') AS SELECT k, count(*) AS n FROM e GROUP BY k;
         CREATE MATERIALIZED VIEW ranked WITH (freshness = 'batch') AS
             SELECT k, v, rank() OVER (ORDER BY v DESC) AS place FROM e;
         CREATE MATERIALIZED VIEW live AS SELECT k, count(*) AS n FROM e GROUP BY k;
         CREATE MATERIALIZED VIEW over AS SELECT count(*) AS n FROM ranked",
    ]);
    let count =
        |server: &Server, table: &str| one(server, &format!("SELECT count(*) AS n FROM {table}"));
    let check = |server: &Server, ranked: u64, live: u64| {
        assert_eq!(count(server, "ranked"), ranked);
        assert_eq!(
            one(server, "SELECT n FROM over"),
            ranked,
            "what it shows is what readers see"
        );
        assert_eq!(count(server, "live"), live);
        server.ok(&["audit", "--all"]);
    };
    check(&server, 1, 1);
    server.ok(&["query", "INSERT INTO e VALUES ('b', 2), ('c', 3)"]);
    check(&server, 1, 3);
    assert_eq!(count(&server, "counts"), 1);
    for view in ["counts", "ranked"] {
        let stands = server.rows(&format!("SELECT * FROM lambic_views WHERE name = '{view}'"));
        assert_eq!(stands[0]["freshness"], "batch");
        assert_eq!(stands[0]["batch_frontier"], "e@0:1");
        assert_eq!(stands[0]["lag_records"], 2);
        assert!(stands[0]["age_ms"].as_u64().is_some());
        let explained = server.ok(&["query", &format!("EXPLAIN MATERIALIZED VIEW {view}")]);
        assert!(
            explained.contains("which lack 2 records; the oldest has waited"),
            "{explained}"
        );
    }
    assert_eq!(
        server.rows("SELECT age_ms FROM lambic_views WHERE name = 'live'")[0]["age_ms"],
        Value::Null
    );
    // One frontier within a statement, though the batch runs meanwhile; another moment where it is asked for.
    assert_eq!(count(&server, "ranked AS OF OFFSET 'e@0:2'"), 2);
    assert_eq!(count(&server, "counts AS OF OFFSET 'e@0:3'"), 3);
    check(&server, 1, 3);
    server.kill();
    let server = Server::start(&data);
    check(&server, 1, 3);
    server.ok(&[
        "query",
        "REFRESH MATERIALIZED VIEW ranked; REFRESH MATERIALIZED VIEW counts",
    ]);
    check(&server, 3, 3);
    assert_eq!(count(&server, "counts"), 3);
    let stands = server.rows("SELECT age_ms, lag_records FROM lambic_views WHERE name = 'ranked'");
    assert_eq!(
        (&stands[0]["age_ms"], &stands[0]["lag_records"]),
        (&Value::from(0), &Value::from(0))
    );
    replaced(server);
}

/// It can become a view that is current, and the batch comes by itself.
fn replaced(mut server: Server) {
    server.ok(&[
        "query",
        "CREATE OR REPLACE MATERIALIZED VIEW ranked AS SELECT k, v, rank() OVER (ORDER BY v DESC) AS place FROM e;
         CREATE OR REPLACE MATERIALIZED VIEW counts WITH (freshness = 'batch', batch_every = '1s') AS
             SELECT k, rank() OVER (ORDER BY v) AS n FROM e;
         INSERT INTO e VALUES ('d', 4)",
    ]);
    assert_eq!(one(&server, "SELECT count(*) AS n FROM ranked"), 4);
    eventually("the batch ran by itself", || {
        one(&server, "SELECT count(*) AS n FROM counts") == 4
    });
    let output = server.cli(&[
        "query",
        "CREATE MATERIALIZED VIEW x WITH (freshness = 'sometimes') AS SELECT k FROM e",
    ]);
    let told = common::text(&output.stderr);
    assert!(
        told.contains("freshness must be 'now' or 'batch', not 'sometimes'"),
        "{told}"
    );
    server.ok(&["query", "DROP MATERIALIZED VIEW counts"]);
    assert!(server.terminate().success());
}
