//! ERASE against a real server: through kill -9 and restart, from every class of view, from every file.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use common::{Server, eventually, lambic, pg::Pg, text};

/// In no other record, and found in a file by its bytes.
const SECRET: &str = "zx81-unique-secret";

const DECLARED: &str = "
    CREATE STREAM visits (id text NOT NULL, k text, who text, n bigint) WITH (record_id = 'id', partitions = 2);
    CREATE STREAM other (n bigint);
    CREATE MATERIALIZED VIEW rows_of AS SELECT who, n FROM visits WHERE n >= 0;
    CREATE MATERIALIZED VIEW by_k AS
        SELECT k, count(*) AS c, min(who) AS first, max(who) AS last, array_agg(who ORDER BY n) AS all_of FROM visits GROUP BY k;
    CREATE MATERIALIZED VIEW ranked AS SELECT who, rank() OVER (ORDER BY who) AS place FROM visits;
    CREATE MATERIALIZED VIEW top AS SELECT k, c, last FROM by_k ORDER BY c DESC, k LIMIT 2;
    CREATE MATERIALIZED VIEW others AS SELECT sum(n) AS n FROM other;
";
const VIEWS: [&str; 4] = ["rows_of", "by_k", "ranked", "top"];

fn insert(server: &Server, from: u64, to: u64) {
    let values: Vec<String> = (from..to)
        .map(|n| {
            let who = match n % 10 {
                3 => format!("{SECRET}-{n:04}"),
                _ => format!("visitor-{n:04}"),
            };
            format!("('{who}', 'k{}', '{who}', {n})", n % 4)
        })
        .collect();
    server.ok(&[
        "query",
        &format!("INSERT INTO visits VALUES {}", values.join(", ")),
    ]);
    server.ok(&["query", "INSERT INTO other VALUES (1)"]);
}

/// Nothing of the secret is served, and all that is served is right.
fn check_reads(server: &Server, records: u64) {
    let found = server
        .rows("SELECT count(*) AS n, count(*) FILTER (WHERE who LIKE 'zx%') AS secret FROM visits");
    assert_eq!(found[0]["n"], records);
    assert_eq!(found[0]["secret"], 0);
    for view in VIEWS {
        let rows = server.ok(&["query", "--json", &format!("SELECT * FROM {view}")]);
        assert!(!rows.contains(SECRET), "{view}: {rows}");
        assert!(rows.contains("visitor-"), "{view}: {rows}");
    }
    server.ok(&["audit", "--all"]);
    let counted = server.rows("SELECT records FROM lambic_streams WHERE name = 'visits'");
    assert_eq!(counted[0]["records"], records);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The files that hold the secret: as `grep -r` finds it, and in the values of Parquet files.
fn holding(data: &Path) -> Vec<PathBuf> {
    let found = Command::new("grep")
        .args(["-rl", "--binary-files=text", SECRET])
        .arg(data)
        .output()
        .expect("grep is there");
    let mut holding: Vec<PathBuf> = text(&found.stdout).lines().map(PathBuf::from).collect();
    for path in files_below(data) {
        if path
            .extension()
            .is_some_and(|extension| extension == "parquet")
        {
            let bytes = fs::read(&path).expect("it can be read");
            let batches = lambic_dataset::parquet_file::decode(bytes.into()).expect("Parquet");
            let shown =
                arrow::util::pretty::pretty_format_batches(&batches).expect("it can be shown");
            if shown.to_string().contains(SECRET) {
                holding.push(path);
            }
        }
    }
    holding
}

fn unfinished(server: &Server) -> Vec<serde_json::Value> {
    server.rows("SELECT erasure, state FROM lambic_erasures WHERE finished_at IS NULL")
}

#[test]
fn no_byte_is_left_whenever_the_server_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 300);
    // In files, in batch views of two versions, and in the log.
    server.ok(&["batch", "run"]);
    let replaced = "CREATE OR REPLACE MATERIALIZED VIEW rows_of AS SELECT who, n, 1 AS one FROM visits WHERE n >= 0";
    server.ok(&["query", replaced]);
    insert(&server, 300, 400);
    assert!(!holding(&data).is_empty(), "what is there is found");

    let statement = format!("ERASE FROM visits WHERE who LIKE '{SECRET}%' WITH (wait = false)");
    let erased = server.cli(&["query", &statement]);
    assert!(
        text(&erased.stderr).contains("ERASE 40"),
        "{}",
        text(&erased.stderr)
    );
    check_reads(&server, 360);
    // Killed in the middle, at later and later moments.
    for pause_ms in [0, 30, 100, 300, 700] {
        server.kill();
        server = Server::start(&data);
        check_reads(&server, 360);
        thread::sleep(Duration::from_millis(pause_ms));
    }
    eventually("the erasure is finished", || unfinished(&server).is_empty());
    check_reads(&server, 360);
    assert_eq!(holding(&data), Vec::<PathBuf>::new());

    // The id is known still, and nothing about it is kept but its hash.
    let again = format!(
        "INSERT INTO visits VALUES ('{SECRET}-0003', 'k', 'x', 1), ('new', 'k1', 'visitor-new', 1)"
    );
    server.ok(&["query", &again]);
    check_reads(&server, 361);

    // The way back to the former version computes it without them.
    server.ok(&["query", "ALTER MATERIALIZED VIEW rows_of ROLLBACK"]);
    check_reads(&server, 361);
    assert!(server.terminate().success(), "{}", server.said());
    assert_eq!(holding(&data), Vec::<PathBuf>::new());

    let told = doctor(&data);
    assert!(
        told.0 && told.1.contains("2 entries, the newest with hash"),
        "{}",
        told.1
    );
    // Somebody would have it that fewer were erased.
    let begun = data.join("erasures/manifest-00000000000000000001.json");
    let entry = fs::read_to_string(&begun).expect("it is there");
    fs::write(&begun, entry.replace("\"records\":40", "\"records\":39")).expect("it is ours");
    assert!(!doctor(&data).0);
    fs::write(&begun, entry).expect("it is ours");
    assert!(doctor(&data).0);
    fs::remove_file(data.join("erasures/manifest-00000000000000000002.json")).expect("it is there");
    fs::remove_file(&begun).expect("it is there");
    let told = doctor(&data);
    assert!(
        !told.0 && told.1.contains("its end was cut off"),
        "{}",
        told.1
    );
}

/// Whether it found nothing, and what it said.
fn doctor(data: &Path) -> (bool, String) {
    let data = data.to_str().expect("a temporary path is UTF-8");
    let output = lambic()
        .args(["doctor", "--data", data])
        .output()
        .expect("the binary is there");
    (
        output.status.success(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

#[test]
fn the_command_line_counts_asks_and_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 20);
    let condition = "n < 5 and k <> 'k1'";
    let told = server.ok(&[
        "stream",
        "erase",
        "visits",
        "--where",
        condition,
        "--dry-run",
    ]);
    assert!(told.contains("records") && told.contains('4'), "{told}");
    assert!(told.contains("by_k, ranked, rows_of, top"), "{told}");
    let refused = server.cli(&["stream", "erase", "visits", "--where", condition]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("--yes"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(server.rows("SELECT count(*) AS n FROM visits")[0]["n"], 20);
    assert!(server.rows("SELECT * FROM lambic_erasures").is_empty());

    let done = server.cli(&["stream", "erase", "visits", "--where", condition, "--yes"]);
    assert!(
        text(&done.stderr).contains("ERASE 4"),
        "{}",
        text(&done.stderr)
    );
    server.ok(&[
        "stream",
        "erase",
        "visits",
        "--where",
        "who = 'nobody'",
        "--yes",
        "--keep-predicate",
    ]);
    let log = server.rows("SELECT erasure, by, stream, predicate, records, state, length(sha256) AS hash FROM lambic_erasures ORDER BY erasure");
    let expected = serde_json::json!([
        {"erasure": 1, "by": "lambic", "stream": "visits", "predicate": "n < ? and k <> ?", "records": 4, "state": "finished", "hash": 64},
        {"erasure": 2, "by": "lambic", "stream": "visits", "predicate": "who = 'nobody'", "records": 0, "state": "finished", "hash": 64},
    ]);
    assert_eq!(serde_json::Value::Array(log), expected);
}

#[test]
fn a_view_as_of_its_last_batch_stays_there_without_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 20);
    let standing =
        "CREATE MATERIALIZED VIEW standing WITH (freshness = 'batch', batch_every = '1h') AS
        SELECT who, rank() OVER (ORDER BY who) AS place FROM visits";
    server.ok(&["query", standing]);
    insert(&server, 20, 40);
    let rows = |server: &Server| server.rows("SELECT count(*) AS n FROM standing")[0]["n"].clone();
    assert_eq!(rows(&server), 20);
    let statement = format!("ERASE FROM visits WHERE who LIKE '{SECRET}%'");
    server.ok(&["query", &statement]);
    assert_eq!(rows(&server), 18);
    server.kill();
    server = Server::start(&data);
    assert_eq!(rows(&server), 18, "its frontier is kept");
    assert_eq!(holding(&data), Vec::<PathBuf>::new());
}

#[test]
fn it_runs_outside_of_transactions_and_waits_for_repeatable_reads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 20);
    server.ok(&["batch", "run"]);
    let mut pg = Pg::connect(&server.pg);
    for sql in [
        "BEGIN; ERASE FROM visits WHERE true; COMMIT",
        "INSERT INTO other VALUES (1); ERASE FROM visits WHERE true",
    ] {
        let refused = pg
            .query(sql)
            .expect_err("no rollback would bring them back");
        assert!(refused.starts_with("25001"), "{sql}: {refused}");
        pg.ok("ROLLBACK");
    }
    let count = "SELECT count(*) FROM visits";
    let twenty = vec![vec![Some("20".to_owned())]];
    pg.ok("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(pg.ok(count), twenty);
    let statement = "ERASE FROM visits WHERE n < 5 WITH (wait = false)";
    server.ok(&["query", statement]);
    eventually("the erasure waits for the transaction", || {
        let left = unfinished(&server);
        let state = left.first().and_then(|erasure| erasure["state"].as_str());
        state.is_some_and(|state| state.contains("still read"))
    });
    assert_eq!(pg.ok(count), twenty);
    assert_eq!(server.rows("SELECT count(*) AS n FROM visits")[0]["n"], 15);
    pg.ok("COMMIT");
    assert_eq!(pg.ok(count), [[Some("15".to_owned())]]);
    eventually("the erasure is finished", || unfinished(&server).is_empty());
}

#[test]
fn what_cannot_be_erased_is_said_with_the_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&folder.path().join("data"));
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 20);
    for (sql, wanted) in [
        ("ERASE FROM visits", &["42601", "WHERE true"][..]),
        ("ERASE FROM visit WHERE true", &["42P01", "visits", ":1:12"]),
        (
            "ERASE FROM visits WHERE whoo = 'x'",
            &["42703", "\"who\"", ":1:25"],
        ),
        (
            "ERASE FROM visits WHERE k = 'a' AND _appended_at < now()",
            &["42P17", "now()"],
        ),
        (
            "ERASE FROM visits WHERE random() < 0.5",
            &["42P17", "random()"],
        ),
        (
            "ERASE FROM visits WHERE n IN (SELECT n FROM other)",
            &["0A000", "subquery"],
        ),
        (
            "ERASE FROM by_k WHERE true",
            &["42809", "follows its streams"],
        ),
        (
            "ERASE FROM lambic_async WHERE true",
            &["42501", "lambic_dead_letters"],
        ),
        (
            "ERASE FROM lambic_streams WHERE true",
            &["42809", "system table"],
        ),
        ("ERASE FROM visits WHERE n / 0 = 1", &["22012"]),
        (
            "DELETE FROM visits WHERE n = 1",
            &["0A000", "ERASE FROM visits"],
        ),
    ] {
        let output = server.cli(&["query", sql]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "{sql}: no {wanted:?} in\n{told}");
        }
    }
    assert_eq!(server.rows("SELECT count(*) AS n FROM visits")[0]["n"], 20);
    // Postgres's meaning of NULL: it is not known, so it stays.
    server.ok(&[
        "query",
        "INSERT INTO visits VALUES ('null', NULL, NULL, NULL)",
    ]);
    server.ok(&["query", "ERASE FROM visits WHERE NOT (n < 0)"]);
    assert_eq!(server.rows("SELECT count(*) AS n FROM visits")[0]["n"], 1);
    server.ok(&[
        "query",
        "ERASE FROM lambic_logs WHERE true; ERASE FROM visits WHERE true",
    ]);
    assert_eq!(server.rows("SELECT count(*) AS n FROM visits")[0]["n"], 0);
    server.ok(&["audit", "--all"]);
}

#[test]
fn a_start_does_not_wait_for_an_erasure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&["query", DECLARED]);
    insert(&server, 0, 2_000);
    server.ok(&["batch", "run"]);
    assert!(server.terminate().success(), "{}", server.said());
    // To compute a view anew takes minutes.
    let config = folder.path().join("settings.toml");
    fs::write(&config, "[batch]\nio_bytes_per_s = 300\n").expect("the folder is ours");
    let slow = [
        "--config",
        config.to_str().expect("a temporary path is UTF-8"),
    ];
    let mut server = Server::start_with("serve", None, &data, &slow);
    let statement = format!("ERASE FROM visits WHERE who LIKE '{SECRET}%' WITH (wait = false)");
    server.ok(&["query", &statement]);
    eventually("a view is computed anew", || {
        let state = unfinished(&server)[0]["state"].to_string();
        state.contains("recomputing view")
    });
    server.kill();
    let mut server = Server::start_with("serve", None, &data, &slow);
    assert_eq!(unfinished(&server).len(), 1);
    check_reads(&server, 1_800);
    server.kill();
    let server = Server::start(&data);
    check_reads(&server, 1_800);
    eventually("the erasure is finished", || unfinished(&server).is_empty());
    check_reads(&server, 1_800);
    assert_eq!(holding(&data), Vec::<PathBuf>::new());
}
