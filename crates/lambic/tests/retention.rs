//! Streams that keep their records for a time, and small files that become large ones, against a real server.

mod common;

use std::{fs, path::Path, thread, time::Duration};

use common::{Server, eventually, lambic, pg::Pg, text};
use serde_json::{Value, json};

fn settings(folder: &Path, text: &str) -> String {
    let config = folder.join("settings.toml");
    fs::write(&config, text).expect("the folder is ours");
    config
        .to_str()
        .expect("a temporary path is UTF-8")
        .to_owned()
}

const DECLARED: &str = "
    CREATE STREAM visits (id text NOT NULL, k text, n bigint) WITH (record_id = 'id', partitions = 2);
    CREATE MATERIALIZED VIEW by_k AS SELECT k, count(*) AS c, sum(n) AS n, max(n) AS last FROM visits GROUP BY k;
    CREATE MATERIALIZED VIEW ranked AS SELECT id, rank() OVER (ORDER BY n) AS place FROM visits;
    CREATE MATERIALIZED VIEW held WITH (freshness = 'batch', batch_every = '1h') AS SELECT k, rank() OVER (ORDER BY c, k) AS place FROM by_k;
";

fn insert(server: &Server, from: u64, to: u64) {
    let values: Vec<String> = (from..to)
        .map(|n| format!("('id{n}', 'k{}', {n})", n % 5))
        .collect();
    server.ok(&[
        "query",
        &format!("INSERT INTO visits VALUES {}", values.join(", ")),
    ]);
}

fn count(server: &Server) -> u64 {
    let rows = server.rows("SELECT count(*) AS n FROM visits");
    rows[0]["n"].as_u64().expect("a count")
}

fn sorted(server: &Server, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> = server.rows(sql).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// A column of `lambic_streams`.
fn told(server: &Server, column: &str) -> Value {
    let rows = server.rows(&format!(
        "SELECT {column} AS v FROM lambic_streams WHERE name = 'visits'"
    ));
    rows[0]["v"].clone()
}

fn batch_runs(server: &Server) -> Value {
    server.rows("SELECT batch_runs AS v FROM lambic_views WHERE name = 'by_k'")[0]["v"].clone()
}

fn doctor(data: &Path) {
    let data = data.to_str().expect("a temporary path is UTF-8");
    let output = lambic()
        .args(["doctor", "--data", data])
        .output()
        .expect("the binary is there");
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn records_expire_in_whole_files_and_views_follow_through_kills() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let config = settings(
        folder.path(),
        "[dataset]\nseal_after_s = 1\nexpire_every_s = 1\ncompact_files = 0\n",
    );
    let start = || Server::start_with("serve", None, &data, &["--config", &config]);
    let mut server = start();
    server.ok(&["query", DECLARED]);
    for round in 0..5 {
        insert(&server, round * 100, round * 100 + 100);
        // Each round a file for each partition.
        server.ok(&["batch", "run"]);
    }
    assert_eq!(told(&server, "start"), "0:0,1:0");

    // Nothing is too old for this, and all is for that.
    let plan = server.ok(&[
        "stream",
        "alter",
        "visits",
        "--set",
        "retention=1 hour",
        "--dry-run",
    ]);
    assert!(plan.contains("retention = '1h'"), "{plan}");
    let plan = server.rows("EXPLAIN ALTER STREAM visits SET (retention = '1s')");
    thread::sleep(Duration::from_millis(1_100));
    let line = |plan: &[Value], name: &str| {
        let line = plan.iter().find(|line| line["property"] == name);
        line.expect("it is told")["value"].clone()
    };
    assert_eq!(line(&plan, "views to recompute"), "by_k, held, ranked");
    let plan = server.rows("EXPLAIN ALTER STREAM visits SET (retention = '1s')");
    assert_eq!(line(&plan, "would expire now"), "500");
    assert_eq!(count(&server), 500, "EXPLAIN changes nothing");

    // By bytes: the oldest files, until the rest is small enough.
    let bytes = told(&server, "sealed_bytes").as_u64().expect("a number");
    let limit = format!("retention_bytes={}", bytes / 2);
    server.ok(&["stream", "alter", "visits", "--set", &limit]);
    assert_eq!(told(&server, "retention_bytes"), bytes / 2);
    eventually("the oldest are gone", || count(&server) < 500);
    let left = count(&server);
    assert!((100..=400).contains(&left), "{left}");
    let lowest = server.rows("SELECT min(n) AS n FROM visits")[0]["n"].clone();
    assert!(
        lowest.as_u64() >= Some(100),
        "whole files, the oldest first: {lowest}"
    );
    server.ok(&["audit", "--all"]);
    server.ok(&["query", "ALTER STREAM visits RESET (retention_bytes)"]);
    assert_eq!(told(&server, "retention_bytes"), Value::Null);
    eventually("nothing is carried out any more", || {
        server
            .rows("SELECT erasure FROM lambic_erasures WHERE finished_at IS NULL")
            .is_empty()
    });
    let left = count(&server);

    // What stood before is not known any more, which is said instead of answered.
    for followed in ["by_k", "visits"] {
        let sql =
            format!("SUBSCRIBE {followed} WITH (snapshot = false) AS OF OFFSET 'visits@0:0,1:0'");
        let refused = Pg::connect(&server.pg).query(&sql).unwrap_err();
        assert!(refused.starts_with("72000"), "{followed}: {refused}");
    }
    let as_of = server.cli(&[
        "query",
        "SELECT count(*) FROM by_k AS OF TIMESTAMP '2020-01-01'",
    ]);
    let said = text(&as_of.stderr);
    assert!(
        said.contains("have expired") && said.contains("72000"),
        "{said}"
    );
    assert!(
        said.contains("the earliest moment is AS OF OFFSET 'visits@"),
        "{said}"
    );
    let as_of = server.cli(&[
        "query",
        "SELECT * FROM visits AS OF OFFSET 'visits@0:0,1:0'",
    ]);
    assert!(text(&as_of.stderr).contains("does not go back to 0:0,1:0"));
    let earliest = said.split("AS OF OFFSET '").nth(1).expect("it is named");
    let earliest = earliest.split('\'').next().expect("it ends");
    let none = server.rows(&format!(
        "SELECT count(*) AS n FROM visits AS OF OFFSET '{earliest}'"
    ));
    assert_eq!(none, [json!({"n": 0})]);

    // By age, while the server is killed at several moments.
    let created =
        "CREATE STREAM other (n bigint) WITH (retention = '90 days', retention_bytes = '2 GB')";
    server.ok(&["query", created]);
    server.ok(&["query", "ALTER STREAM visits SET (retention = '2s')"]);
    for pause_ms in [200, 1_000, 1_500, 2_000, 2_500] {
        thread::sleep(Duration::from_millis(pause_ms));
        server.kill();
        server = start();
        server.ok(&["audit", "--all"]);
    }
    eventually("all has expired", || count(&server) == 0);
    server.ok(&["audit", "--all"]);
    assert!(server.rows("SELECT * FROM ranked").is_empty());
    server.ok(&["query", "ALTER STREAM visits RESET (retention)"]);
    insert(&server, 1_000, 1_050);
    // Their ids stay known.
    insert(&server, 0, 1);
    assert_eq!(count(&server), 50, "{left} were left before");
    server.ok(&["audit", "--all"]);
    let other =
        server.rows("SELECT retention, retention_bytes FROM lambic_streams WHERE name = 'other'");
    assert_eq!(
        other,
        [json!({"retention": "90 days", "retention_bytes": 2_147_483_648_u64})]
    );
    let log = server.rows("SELECT by, records FROM lambic_erasures");
    assert!(log.len() > 1 && log.iter().all(|entry| entry["by"] == "retention"));
    let expired = log
        .iter()
        .map(|entry| entry["records"].as_u64().unwrap_or(0));
    assert_eq!(expired.sum::<u64>(), 500);
    assert!(server.terminate().success(), "{}", server.said());
    doctor(&data);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&["query", DECLARED]);
    let mut pg = Pg::connect(&server.pg);
    let mut check = |sql: &str, expected: &str| {
        let error = pg.query(sql).expect_err(sql);
        assert!(error.starts_with(expected), "{sql}: {error}");
    };
    check(
        "ALTER STREAM visits SET (retention = 'soon')",
        "22023: retention must be a duration",
    );
    check(
        "ALTER STREAM visits SET (retention_bytes = 'lots')",
        "22023: retention_bytes must be a size",
    );
    check(
        "ALTER STREAM visits SET (partitions = 3)",
        "22023: there is no option",
    );
    check("ALTER STREAM visist SET (retention = '1d')", "42P01");
    check("ALTER STREAM by_k SET (retention = '1d')", "42809");
    check("ALTER STREAM lambic_async SET (retention = '1d')", "42501");
    check(
        "CREATE STREAM s (n bigint) WITH (retention = '-1')",
        "22023",
    );
    check("COMPACT STREAM nosuch", "42P01");
    check(
        "COMPACT STREAM by_k",
        "42809: \"by_k\" is a view, not a stream",
    );
    check("COMPACT visits", "42601");
    pg.ok("ALTER STREAM lambic_logs SET (retention = '7 days')");
    let logs = server.rows("SELECT retention FROM lambic_streams WHERE name = 'lambic_logs'");
    assert_eq!(logs, [json!({"retention": "7 days"})]);
}

#[test]
fn small_files_become_large_ones_and_batches_stay_incremental() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let config = settings(
        folder.path(),
        "[dataset]\nseal_after_s = 1\nseal_records = 10\ncompact_files = 0\n",
    );
    let mut server = Server::start_with("serve", None, &data, &["--config", &config]);
    server.ok(&["query", DECLARED]);
    let files = |server: &Server| told(server, "sealed_files").as_u64().expect("a number");
    let mut expected = 0;
    let mut seal = |server: &Server| {
        let had = files(server);
        insert(server, expected, expected + 40);
        expected += 40;
        eventually("it is sealed", || files(server) > had);
    };
    for _ in 0..6 {
        seal(&server);
    }
    server.ok(&["batch", "run"]);
    for _ in 0..3 {
        seal(&server);
    }
    let (rows, had) = (
        sorted(
            &server,
            "SELECT *, _partition, _offset, _appended_at FROM visits",
        ),
        files(&server),
    );
    let small = told(&server, "small_files");
    assert_eq!(small, had);
    let runs = batch_runs(&server);
    let frontier = server.rows("SELECT batch_frontier AS f FROM lambic_views WHERE name = 'by_k'")
        [0]["f"]
        .clone();
    let compacted = server.ok(&["stream", "compact", "visits", "--json"]);
    assert!(compacted.contains("files after"), "{compacted}");
    // One for each partition on each side of the batch.
    assert_eq!(files(&server), 4, "{compacted}");
    assert_eq!(
        sorted(
            &server,
            "SELECT *, _partition, _offset, _appended_at FROM visits"
        ),
        rows
    );
    server.ok(&["audit", "--all"]);
    eventually("the replaced files are gone", || parquet(&data) == 4);

    // The next batch reads what is new, and no more: files part where the last one stood.
    server.kill();
    let log = ["--config", &config, "--log", "lambic_batch=debug"];
    server = Server::start_with("serve", None, &data, &log);
    assert_eq!(
        server.rows("SELECT batch_frontier AS f FROM lambic_views WHERE name = 'by_k'")[0]["f"],
        frontier
    );
    assert_eq!(
        sorted(
            &server,
            "SELECT *, _partition, _offset, _appended_at FROM visits"
        ),
        rows
    );
    server.ok(&["query", "REFRESH MATERIALIZED VIEW by_k"]);
    assert_ne!(batch_runs(&server), runs);
    assert!(
        server.said().contains("from_records=240"),
        "{}",
        server.said()
    );
    server.ok(&["audit", "--all"]);
    server.ok(&["stream", "compact", "visits"]);
    assert_eq!(
        files(&server),
        2,
        "the batch does not stand between them any more"
    );
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success(), "{}", server.said());
    doctor(&data);
}

#[test]
fn compaction_in_the_background_loses_nothing_through_kills() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let config = settings(
        folder.path(),
        "[dataset]\nseal_after_s = 1\nseal_records = 5\ncompact_files = 3\n",
    );
    let start = || Server::start_with("serve", None, &data, &["--config", &config]);
    let mut server = start();
    server.ok(&["query", DECLARED]);
    let mut appended = 0;
    for round in 0..12_u64 {
        insert(&server, appended, appended + 20);
        appended += 20;
        thread::sleep(Duration::from_millis(400 + 150 * (round % 4)));
        if round == 5 {
            server.ok(&[
                "stream",
                "erase",
                "visits",
                "--where",
                "n % 10 = 3",
                "--yes",
            ]);
        }
        if round % 3 == 2 {
            server.kill();
            server = start();
        }
        let erased = if round >= 5 { 12 } else { 0 };
        assert_eq!(count(&server), appended - erased);
        server.ok(&["audit", "--all"]);
    }
    eventually("few files are left", || {
        told(&server, "sealed_files").as_u64() <= Some(12)
    });
    assert!(
        server
            .rows("SELECT n FROM visits WHERE n % 10 = 3 AND n < 120")
            .is_empty()
    );
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success(), "{}", server.said());
    assert!(!server.said().contains("ERROR"), "{}", server.said());
    doctor(&data);
}

/// Files of the stream.
fn parquet(data: &Path) -> usize {
    let folder = fs::read_dir(data.join("dataset"))
        .expect("it is there")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with("-visits"))
        .expect("it was sealed");
    let partitions = fs::read_dir(folder.path()).expect("it is there").flatten();
    partitions
        .filter(|entry| entry.path().is_dir())
        .map(|entry| fs::read_dir(entry.path()).expect("it is there").count())
        .sum()
}
