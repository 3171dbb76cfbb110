//! Batches that are too large for their memory, killed in the middle, or over a bound; and statements without end.

mod common;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{PATIENCE, Server, pg::Pg, text};
use serde_json::Value;

const VIEW: &str = "SELECT k, count(*) AS n, sum(x) AS x, avg(y) AS y FROM r GROUP BY k";

fn settings(folder: &Path, batch: &str) -> String {
    let path: PathBuf = folder.join("settings.toml");
    std::fs::write(&path, format!("[batch]\n{batch}")).expect("the folder is ours");
    path.to_str().expect("a temporary path is UTF-8").to_owned()
}

fn start(data: &Path, config: &str) -> Server {
    Server::start_with("serve", None, data, &["--config", config])
}

/// So many records with about as many keys, sealed.
fn fill(server: &Server, records: u64) {
    server.ok(&[
        "query",
        "CREATE STREAM r (k bigint NOT NULL, x bigint NOT NULL, y double precision NOT NULL)",
    ]);
    let part = 20_000;
    for first in (0..records).step_by(part) {
        let lines = (first..records.min(first + part as u64)).map(|n| {
            let k = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            format!("{k},{n},{}\n", n as f64 / 7.0)
        });
        let body = String::from("k,x,y\n") + &lines.collect::<String>();
        ureq::post(format!("{}/v1/streams/r/records", server.url))
            .header("content-type", "text/csv")
            .send(&body)
            .expect("records are taken");
    }
}

fn batches(server: &Server) -> Vec<Value> {
    server.rows("SELECT * FROM lambic_batches ORDER BY batch")
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn number(row: &Value, name: &str) -> u64 {
    row[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is a number in {row}"))
}

/// Files of batches that have not been published.
fn slices(data: &Path, view: &str) -> Vec<String> {
    let folder = data.join(format!("views/{view}/v1/slices"));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn rows(server: &Server, view: &str) -> Vec<Value> {
    server.rows(&format!("SELECT * FROM {view} ORDER BY k"))
}

#[test]
fn a_batch_that_was_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let usual = settings(folder.path(), "slice_records = 2_000\n");
    let mut server = start(&data, &usual);
    fill(&server, 20_000);
    server.ok(&[
        "query",
        &format!("CREATE MATERIALIZED VIEW v WITH (batch_every = '1day') AS {VIEW}"),
    ]);
    let undisturbed = rows(&server, "v");
    let first = batches(&server).pop().expect("it was built by a batch");
    assert_eq!(first["state"], "finished");
    assert_eq!(first["kind"], "full");
    assert_eq!(
        (number(&first, "slices"), number(&first, "slices_resumed")),
        (10, 0)
    );
    assert_eq!(
        (number(&first, "records"), number(&first, "records_total")),
        (20_000, 20_000)
    );
    assert!(slices(&data, "v").is_empty());
    assert!(server.terminate().success(), "{}", server.said());

    // So slow that there is time to kill it in the middle.
    let slow = settings(
        folder.path(),
        "slice_records = 2_000\nio_bytes_per_s = 300_000\n",
    );
    let mut server = start(&data, &slow);
    let is_told = |server: &Server| server.said().contains("did not end in order");
    assert!(!is_told(&server), "{}", server.said());
    let url = server.url.clone();
    let refreshing = std::thread::spawn(move || {
        let sql = r#"{"sql": "REFRESH MATERIALIZED VIEW v FULL"}"#;
        ureq::post(format!("{url}/v1/sql"))
            .header("content-type", "application/json")
            .send(sql)
            .is_ok()
    });
    let seen = eventually("some slices are finished", || {
        let running = batches(&server)
            .pop()
            .filter(|batch| batch["state"] == "computing")?;
        (number(&running, "slices") >= 3).then_some(running)
    });
    assert!(
        !seen["eta"].is_null() && seen["finished_at"].is_null(),
        "{seen}"
    );
    assert_eq!(number(&seen, "slices_total"), 10);
    server.kill();
    assert!(
        !refreshing.join().expect("it does not panic"),
        "it was killed before it was done"
    );
    assert!(
        slices(&data, "v")
            .iter()
            .any(|name| name.ends_with(".states"))
    );

    // It goes on by itself, with another memory and other slices.
    let config = settings(folder.path(), "slice_records = 2_000\nmemory = \"2MiB\"\n");
    let server = start(&data, &config);
    assert!(is_told(&server), "{}", server.said());
    let resumed = eventually("the batch goes on", || {
        batches(&server)
            .into_iter()
            .find(|batch| batch["state"] == "finished")
    });
    assert!(number(&resumed, "slices_resumed") >= 3, "{resumed}");
    assert!(number(&resumed, "slices_resumed") < 10, "{resumed}");
    assert_eq!(resumed["kind"], "full");
    assert_eq!(
        (number(&resumed, "slices"), number(&resumed, "records")),
        (10, 20_000)
    );
    assert_eq!(rows(&server, "v"), undisturbed);
    assert!(slices(&data, "v").is_empty(), "{:?}", slices(&data, "v"));
    server.ok(&["audit", "--all"]);
    let status = server.ok(&["batch", "status"]);
    assert!(status.contains("finished"), "{status}");
}

#[test]
fn a_view_larger_than_its_memory_is_the_same_view() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let config = settings(folder.path(), "threads = 1\n");
    let server = start(&data, &config);
    fill(&server, 30_000);
    let create = |name: &str, memory: &str| {
        let with = format!("batch_every = '1day'{memory}");
        server.ok(&[
            "query",
            &format!("CREATE MATERIALIZED VIEW {name} WITH ({with}) AS {VIEW}"),
        ]);
    };
    create("large", "");
    create("small", ", batch_memory = '1MiB'");
    let spilled = |view: &str| {
        let all = batches(&server);
        let of = all.iter().rfind(|batch| batch["view"] == view);
        number(of.expect("there was a batch"), "bytes_spilled")
    };
    assert_eq!(spilled("large"), 0);
    assert!(spilled("small") > 500_000, "{}", spilled("small"));
    assert_eq!(rows(&server, "small"), rows(&server, "large"));
    // What is new is merged into it, by the same way.
    server.ok(&["query", "INSERT INTO r VALUES (1, 2, 3.5), (-5, 6, 7.25)"]);
    server.ok(&["batch", "run", "small"]);
    server.ok(&["batch", "run", "large"]);
    assert_eq!(rows(&server, "small"), rows(&server, "large"));
    server.ok(&["audit", "--all"]);
    let refused = server.cli(&[
        "query",
        &format!("CREATE MATERIALIZED VIEW w WITH (batch_memory = 'much') AS {VIEW}"),
    ]);
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("batch_memory must be a size"),
        "{said}"
    );
}

/// Both sides of the join are larger than the memory; so is what is new of it, which is joined with what was before.
#[test]
fn a_join_larger_than_its_memory_is_the_same_view() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(&data, &settings(folder.path(), "memory = \"1GiB\"\n"));
    server.ok(&[
        "query",
        "CREATE STREAM a (k bigint NOT NULL, x bigint, t text NOT NULL); CREATE STREAM b (k bigint NOT NULL, y bigint, t text NOT NULL)",
    ]);
    let fill = |server: &Server, from: u64, to: u64| {
        for (stream, factor) in [("a", 7), ("b", 11)] {
            server.ok(&[
                "query",
                &format!("INSERT INTO {stream} SELECT n % 50000, n * {factor}, md5(n::text) || md5((n + 1)::text) FROM generate_series({from}, {to}) AS s (n)"),
            ]);
        }
    };
    fill(&server, 1, 60_000);
    let view = "WITH (batch_every = '1day') AS SELECT a.k % 1000 AS k, count(*) AS n, sum(x + y) AS s, max(a.t || b.t) AS t \
                FROM a JOIN b ON a.k = b.k GROUP BY a.k % 1000";
    server.ok(&["query", &format!("CREATE MATERIALIZED VIEW v {view}")]);
    let all = rows(&server, "v");
    assert_eq!(all.len(), 1000);
    assert!(server.terminate().success(), "{}", server.said());

    // DataFusion joins otherwise on one thread; on many, each has little memory.
    for threads in [1, 32] {
        let config = settings(
            folder.path(),
            &format!("memory = \"8MiB\"\nthreads = {threads}\n"),
        );
        let mut server = start(&data, &config);
        server.ok(&["query", "REFRESH MATERIALIZED VIEW v FULL"]);
        assert_eq!(rows(&server, "v"), all);
        assert!(server.terminate().success(), "{}", server.said());
    }
    let config = settings(folder.path(), "memory = \"8MiB\"\nthreads = 2\n");
    let (http, pg) = common::free_ports();
    let mut serve = common::lambic();
    serve.env("LAMBIC_LOG", "info").arg("serve");
    let server = Server::start_by(serve, None, &data, http, pg, &["--config", &config]);
    let mut server = server.unwrap_or_else(|said| panic!("{}", said.join("\n")));
    server.ok(&["query", "REFRESH MATERIALIZED VIEW v FULL"]);
    assert!(
        server.said().contains("goes on by way of the disk"),
        "{}",
        server.said()
    );
    assert_eq!(rows(&server, "v"), all);
    server.ok(&["query", &format!("CREATE MATERIALIZED VIEW w {view}")]);
    assert_eq!(rows(&server, "w"), all);
    fill(&server, 60_001, 120_000);
    server.ok(&["batch", "run", "v"]);
    assert!(
        server.said().contains("what is new of the join"),
        "{}",
        server.said()
    );
    server.ok(&["query", "REFRESH MATERIALIZED VIEW w FULL"]);
    assert_eq!(rows(&server, "v"), rows(&server, "w"));
    assert_ne!(rows(&server, "v"), all);
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success(), "{}", server.said());
}

#[test]
fn a_batch_over_a_bound_fails_with_the_way_out_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(&data, &settings(folder.path(), ""));
    fill(&server, 30_000);
    server.ok(&[
        "query",
        &format!("CREATE MATERIALIZED VIEW v WITH (batch_every = '1day') AS {VIEW}"),
    ]);
    let before = rows(&server, "v");
    for (batch, sqlstate, way_out) in [
        (
            "memory = \"1MiB\"\ndisk_bytes_max = 300_000\n",
            "53100",
            "batch.disk_bytes_max",
        ),
        ("view_memory = \"1MiB\"\n", "53200", "batch.view_memory"),
    ] {
        assert!(server.terminate().success(), "{}", server.said());
        server = start(&data, &settings(folder.path(), batch));
        let refused = server.cli(&["query", "REFRESH MATERIALIZED VIEW v FULL"]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success(), "{said}");
        assert!(said.contains(sqlstate) && said.contains(way_out), "{said}");
        let failed = batches(&server).pop().expect("it is told of");
        assert!(
            failed["state"]
                .as_str()
                .is_some_and(|state| state.starts_with("failed: ")),
            "{failed}"
        );
        assert!(slices(&data, "v").is_empty(), "{:?}", slices(&data, "v"));
        assert_eq!(rows(&server, "v"), before);
        // A new view is not made by halves.
        let refused = server.cli(&["query", &format!("CREATE MATERIALIZED VIEW w AS {VIEW}")]);
        assert!(!refused.status.success());
        assert!(
            server
                .rows("SELECT name FROM lambic_views WHERE name = 'w'")
                .is_empty()
        );
        assert!(slices(&data, "w").is_empty());
    }
}

#[test]
fn settings_that_cannot_be_are_refused_with_their_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (wrong, said) in [
        ("memory = \"a lot\"\n", "expected a size"),
        ("memory = \"10kB\"\n", "at least 1048576"),
        ("nice = 20\n", "at most 19"),
        ("threads = 5000\n", "at most 1024"),
        ("slices = 3\n", "unknown field"),
    ] {
        let config = settings(folder.path(), wrong);
        let run = common::lambic()
            .args(["serve", "--config", &config, "--data"])
            .arg(folder.path().join("data"))
            .output()
            .expect("it runs");
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(78), "{stderr}");
        assert!(
            stderr.contains(said) && stderr.contains("settings.toml:2"),
            "{stderr}"
        );
    }
}

const ENDLESS: &str =
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT max(n) AS n FROM t";

#[test]
fn a_statement_without_end_is_ended_by_its_time_limit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start(&folder.path().join("data"), &settings(folder.path(), ""));
    let mut pg = Pg::connect(&server.pg);
    pg.ok("CREATE STREAM r (k bigint)");
    let view =
        format!("CREATE MATERIALIZED VIEW endless AS {ENDLESS} WHERE n > (SELECT count(*) FROM r)");
    pg.ok(&view);
    pg.ok("SET statement_timeout = '300ms'");
    let said = pg.query(ENDLESS).expect_err("it has no end");
    let why = "57014: canceling statement due to statement timeout";
    assert!(said.starts_with(why), "{said}");
    let said = pg
        .query("SELECT * FROM endless")
        .expect_err("it has no end");
    assert!(said.starts_with("57014"), "{said}");
    // The server goes on.
    pg.ok("SET statement_timeout = 0");
    assert_eq!(pg.ok("SELECT count(*) FROM r"), [[Some("0".to_owned())]]);
}

#[test]
fn a_batch_without_end_is_given_up_and_keeps_nothing_else_waiting() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = settings(
        folder.path(),
        "renewal_s_max = 1\n[dataset]\nseal_after_s = 1\n",
    );
    let mut server = start(&folder.path().join("data"), &config);
    let mut pg = Pg::connect(&server.pg);
    pg.ok("CREATE STREAM r (k bigint)");
    pg.ok(&format!(
        "CREATE MATERIALIZED VIEW endless WITH (batch_every = '1s', freshness = 'batch') AS \
         {ENDLESS} WHERE n > (SELECT count(*) FROM r)"
    ));
    pg.ok("INSERT INTO r VALUES (1)");
    let line = server.hear(|line| line.contains("given up"));
    let line = line.expect("it is told");
    assert!(line.contains("batch.renewal_s_max"), "{line}");
    pg.ok("INSERT INTO r VALUES (2)");
    common::eventually("records are sealed", || {
        let sealed = pg.ok("SELECT sealed_frontier FROM lambic_streams WHERE name = 'r'");
        sealed[0][0].as_deref() == Some("0:2")
    });
}

#[test]
fn a_statement_that_needs_too_much_memory_is_told_which_bound_it_met() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = settings(folder.path(), "[memory]\nquery_bytes_max = 16_777_216\n");
    let server = start(&folder.path().join("data"), &config);
    let refused = server.cli(&[
        "query",
        "SELECT array_length(array_agg(n), 1) FROM generate_series(1, 4000000) AS t(n)",
    ]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(
        said.contains("53200") && said.contains("memory.query_bytes_max"),
        "{said}"
    );
    // One that can go by way of the disk does.
    let sorted = "SELECT max(place) AS place FROM
        (SELECT row_number() OVER (ORDER BY -n) AS place FROM generate_series(1, 2000000) AS t(n))";
    assert_eq!(server.rows(sorted)[0]["place"], 2_000_000);
}

#[test]
fn a_statement_that_needs_too_much_disk_is_told_which_bound_it_met() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = settings(
        folder.path(),
        "[memory]\nquery_bytes_max = 16_777_216\nquery_disk_bytes_max = 1_000_000\n",
    );
    let server = start(&folder.path().join("data"), &config);
    let refused = server.cli(&[
        "query",
        "SELECT max(place) AS place FROM
        (SELECT row_number() OVER (ORDER BY -n) AS place FROM generate_series(1, 4000000) AS t(n))",
    ]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(
        said.contains("53100") && said.contains("memory.query_disk_bytes_max"),
        "{said}"
    );
}
