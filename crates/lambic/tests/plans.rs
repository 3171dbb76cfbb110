//! Kept plans at the doors: `/metrics` shows that a prepared statement, and a text that comes again, is not planned
//! again.

mod common;

use common::{Server, pg::Pg};

/// How many statements were planned, how many executions took a kept plan.
fn counts(server: &Server) -> (u64, u64) {
    let count = |name: &str| {
        let value = server.metric(name).expect("it is counted");
        value.parse().expect("a number")
    };
    (
        count("lambic_sql_plans_made_total"),
        count("lambic_sql_plans_reused_total"),
    )
}

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|cell| Some((*cell).to_owned())).collect()
}

#[test]
fn plans_are_kept_at_every_door() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint);
         CREATE MATERIALIZED VIEW t AS SELECT k, sum(v) AS total FROM e GROUP BY k",
    ]);
    let mut pg = Pg::connect(&server.pg);
    pg.prepare("put", "INSERT INTO e VALUES ($1, $2)")
        .expect("it is right");
    pg.prepare("get", "SELECT total FROM t WHERE k = $1")
        .expect("it is right");
    let (made, reused) = counts(&server);
    for round in 1..=20u64 {
        let value = round.to_string();
        assert_eq!(pg.execute("put", &["a", &value]), Ok(Vec::new()));
        let total = (round * (round + 1) / 2).to_string();
        assert_eq!(pg.execute("get", &["a"]), Ok(vec![row(&[&total])]));
        assert_eq!(pg.execute("get", &["b"]), Ok(Vec::new()));
    }
    assert_eq!(counts(&server), (made, reused + 60));
    // A statement without a name is sent anew each time, and known by its text.
    let sql = "SELECT k, total FROM t WHERE total > $1";
    for _ in 0..2 {
        pg.prepare("", sql).expect("it is right");
        pg.execute("", &["1"]).expect("rows");
    }
    let (made, _) = counts(&server);
    for _ in 0..5 {
        pg.prepare("", sql).expect("it is right");
        assert_eq!(pg.execute("", &["1"]), Ok(vec![row(&["a", "210"])]));
    }
    assert_eq!(counts(&server).0, made);
    // So are texts of simple queries, over both doors.
    let sql = "SELECT total FROM t WHERE k = 'a'";
    let post = || {
        let answer = ureq::post(format!("{}/v1/sql", server.url)).send(sql);
        let text = answer.expect("an answer").body_mut().read_to_string();
        text.expect("text")
    };
    for _ in 0..2 {
        assert_eq!(pg.ok(sql), [row(&["210"])]);
    }
    let (made, _) = counts(&server);
    for _ in 0..5 {
        assert_eq!(pg.ok(sql), [row(&["210"])]);
        assert!(post().contains("[[210]]"), "{}", post());
    }
    assert_eq!(counts(&server).0, made);
    // Another version with the same columns is read at once; one with others is told of, and works when prepared again.
    server.ok(&[
        "query",
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, max(v) AS total FROM e GROUP BY k",
    ]);
    assert_eq!(pg.execute("get", &["a"]), Ok(vec![row(&["20"])]));
    server.ok(&[
        "query",
        "CREATE OR REPLACE MATERIALIZED VIEW t AS SELECT k, 'x' AS total FROM e GROUP BY k",
    ]);
    assert_eq!(
        pg.execute("get", &["a"]),
        Err("0A000: cached plan must not change result type".to_owned())
    );
    pg.prepare("again", "SELECT total FROM t WHERE k = $1")
        .expect("it is right");
    assert_eq!(pg.execute("again", &["a"]), Ok(vec![row(&["x"])]));
    server.ok(&["query", "ALTER MATERIALIZED VIEW t ROLLBACK"]);
    assert_eq!(pg.execute("get", &["a"]), Ok(vec![row(&["20"])]));
    server.ok(&["query", "DROP MATERIALIZED VIEW t"]);
    let gone = pg.execute("get", &["a"]).expect_err("it is gone");
    assert!(gone.starts_with("42P01"), "{gone}");
    assert!(server.terminate().success());
}
