//! ALTER STREAM against a real server: producers that do not know of it, kill -9 in the middle, files of a project.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Server, eventually, lambic, pg::Pg, text};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

/// `lambic append`, as a producer outside would.
fn append(server: &Server, format: &str, body: &str) -> Result<String, String> {
    let mut command = lambic();
    command
        .env("LAMBIC_URL", &server.url)
        .args(["append", "visits", "-", "--format", format])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary is there");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(body.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn producers_on_the_former_columns_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM visits (url text NOT NULL, ms integer, agent text);
         CREATE MATERIALIZED VIEW pages AS SELECT url, count(*) AS n, sum(ms) AS ms FROM visits GROUP BY url",
    ]);
    let ndjson = "{\"url\": \"/\", \"ms\": 1, \"agent\": \"x\"}\n";
    let csv = "url,ms,agent\n/,2,y\n";
    let mut pg = Pg::connect(&server.pg);
    let produce = |server: &Server| {
        append(server, "ndjson", ndjson).expect("NDJSON is taken");
        append(server, "csv", csv).expect("CSV is taken");
    };
    produce(&server);
    pg.ok("INSERT INTO visits (url, ms) VALUES ('/', 3)");
    // In files, too.
    server.ok(&["batch", "run"]);

    pg.ok("ALTER TABLE visits RENAME COLUMN ms TO took_ms");
    pg.ok("ALTER TABLE visits ADD COLUMN region text NOT NULL DEFAULT 'eu'");
    pg.ok("ALTER TABLE visits DROP COLUMN agent");
    produce(&server);
    pg.ok("INSERT INTO visits (url, ms) VALUES ('/', 3)");
    pg.ok(
        "ALTER TABLE visits ALTER COLUMN took_ms TYPE bigint, ALTER COLUMN region SET DEFAULT 'us'",
    );
    produce(&server);
    pg.ok("INSERT INTO visits (url, ms) VALUES ('/', 5000000000)");
    let misspelled = append(&server, "ndjson", "{\"url\": \"/\", \"agend\": \"x\"}\n");
    let misspelled = misspelled.expect_err("no column was ever called so");
    assert!(misspelled.contains("agend"), "{misspelled}");
    let twice = append(
        &server,
        "ndjson",
        "{\"url\": \"/\", \"ms\": 1, \"took_ms\": 2}\n",
    );
    assert!(twice.is_err(), "one column by two names");

    let check = |server: &Server| {
        let rows = server.rows("SELECT region, count(*) AS n, sum(took_ms) AS ms FROM visits GROUP BY region ORDER BY region");
        assert_eq!(
            rows,
            [
                json!({"region": "eu", "n": 6, "ms": 12_i64}),
                json!({"region": "us", "n": 3, "ms": 5000000003_i64})
            ]
        );
        let pages = server.rows("SELECT url, n, ms FROM pages");
        assert_eq!(pages, [json!({"url": "/", "n": 9, "ms": 5000000015_i64})]);
        server.ok(&["audit", "--all"]);
    };
    check(&server);
    server.kill();
    let mut server = Server::start(&data);
    check(&server);
    server.ok(&["batch", "run"]);
    check(&server);
    assert!(server.terminate().success());
    let doctor = lambic().args(["doctor", "--data"]).arg(&data).output();
    let doctor = doctor.expect("the binary is there");
    assert!(doctor.status.success(), "{}", text(&doctor.stderr));
}

/// What `lambic_streams` says of the stream, and its records.
type State = (String, u64);

fn state(server: &Server) -> State {
    let rows = server.rows("SELECT columns, records FROM lambic_streams WHERE name = 'events'");
    let columns = rows[0]["columns"].as_str().expect("text").to_owned();
    (columns, rows[0]["records"].as_u64().expect("a number"))
}

/// `LAMBIC_SCHEMA_KILLS` (6 unless set) and `LAMBIC_SCHEMA_SEED` (printed) choose length and moments.
#[test]
fn a_kill_in_mid_alter_leaves_the_old_or_the_new() {
    let setting = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    let kills: u64 = setting("LAMBIC_SCHEMA_KILLS").unwrap_or(6);
    let seed: u64 = setting("LAMBIC_SCHEMA_SEED").unwrap_or_else(rand::random);
    println!(
        "kill -9 in mid-ALTER: {kills} times; repeat these moments with LAMBIC_SCHEMA_SEED={seed}"
    );
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let (http, pg) = common::free_ports();
    let start = || {
        Server::start_on("serve", None, &data, http, pg, &[]).unwrap_or_else(|said| {
            panic!("seed {seed}: no start after a kill:\n{}", said.join("\n"))
        })
    };
    let mut server = start();
    server.ok(&[
        "query",
        "CREATE STREAM events (id bigint NOT NULL, n smallint, t text) WITH (record_id = 'id');
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS c, sum(n) AS n FROM events;
         CREATE MATERIALIZED VIEW every AS SELECT * FROM events WHERE id % 3 = 0",
    ]);
    // One writes all the while, in the columns of the first hour; another changes them.
    let acknowledged: Arc<Mutex<BTreeMap<u64, i64>>> = Arc::default();
    let (stop, next) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(1)),
    );
    let writer = {
        let (url, acknowledged, stop, next) = (
            server.url.clone(),
            Arc::clone(&acknowledged),
            Arc::clone(&stop),
            Arc::clone(&next),
        );
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let id = next.fetch_add(1, Ordering::SeqCst);
                let n = (id % 100) as i64;
                let sql = format!("INSERT INTO events (id, n, t) VALUES ({id}, {n}, 't{id}')");
                let done = lambic()
                    .env("LAMBIC_URL", &url)
                    .args(["query", &sql])
                    .output()
                    .expect("the binary is there");
                if done.status.success() {
                    acknowledged.lock().expect("no holder panics").insert(id, n);
                } else {
                    let said = text(&done.stderr);
                    assert!(
                        !said.contains("does not fit") && !said.contains("does not exist"),
                        "{said}"
                    );
                    thread::sleep(Duration::from_millis(50));
                }
            }
        })
    };
    let mut number_type = ["integer", "bigint", "numeric(20,0)"].into_iter();
    let mut name = "n".to_owned();
    for kill in 1..=kills {
        let changes: Vec<String> = (0..3)
            .map(|step| match (kill + step) % 4 {
                0 => format!("ADD COLUMN c{kill}_{step} text DEFAULT 'd{kill}'"),
                1 => format!("RENAME COLUMN {name} TO n{kill}_{step}"),
                2 => match number_type.next() {
                    Some(wider) => format!("ALTER COLUMN {name} TYPE {wider}"),
                    None => format!("ALTER COLUMN {name} SET DEFAULT 1"),
                },
                _ => format!("ALTER COLUMN {name} SET DEFAULT {kill}"),
            })
            .collect();
        let moment = Duration::from_millis(chance.random_range(0..250));
        let url = server.url.clone();
        let alterer = thread::spawn(move || {
            let mut done = Vec::new();
            for change in changes {
                // Each names the column as it is called by then.
                let output = lambic()
                    .env("LAMBIC_URL", &url)
                    .args(["query", &format!("ALTER STREAM events {change}")])
                    .output()
                    .expect("the binary is there");
                done.push((change, output.status.success(), text(&output.stderr)));
            }
            done
        });
        thread::sleep(moment);
        server.kill();
        let done = alterer.join().expect("it reports");
        server = start();
        let (columns, _) = state(&server);
        for (change, acknowledged, _) in &done {
            if let Some(added) = change.strip_prefix("ADD COLUMN ")
                && *acknowledged
            {
                let added = added.split(' ').next().expect("a name");
                assert!(
                    columns.contains(added),
                    "seed {seed}: {change} was acknowledged: {columns}"
                );
            }
        }
        // The second column is the number, however it is called.
        let second = columns.split(", ").nth(1).expect("it has three");
        name = second.split(' ').next().expect("a name").to_owned();
        let held = acknowledged.lock().expect("no holder panics").clone();
        let rows = server.rows(&format!("SELECT id, {name} AS n, t FROM events"));
        let found: BTreeMap<u64, (String, String)> = rows
            .iter()
            .map(|row| {
                let n = row["n"].to_string().trim_matches('"').to_owned();
                let t = row["t"].as_str().expect("text").to_owned();
                (row["id"].as_u64().expect("a number"), (n, t))
            })
            .collect();
        for (id, n) in &held {
            assert_eq!(
                found.get(id),
                Some(&(n.to_string(), format!("t{id}"))),
                "seed {seed}, kill {kill}, record {id}; {done:?}"
            );
        }
        assert_eq!(rows.len(), found.len(), "seed {seed}: no record twice");
        let audited = server.cli(&["audit", "--all"]);
        assert!(
            audited.status.success(),
            "seed {seed}, kill {kill}: {}{}",
            text(&audited.stdout),
            text(&audited.stderr)
        );
    }
    stop.store(true, Ordering::SeqCst);
    writer
        .join()
        .unwrap_or_else(|_| panic!("seed {seed}: the writer met what it must not"));
    assert!(
        acknowledged.lock().expect("no holder panics").len() > 5,
        "records were written meanwhile"
    );
    assert!(server.terminate().success(), "{}", server.said());
}

#[test]
fn a_project_file_that_was_edited_is_carried_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, sql: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it is ours");
        fs::write(path, sql).expect("it is ours");
    };
    write("lambic.toml", "[project]\nname = \"visits\"\n");
    write(
        "streams/visits.sql",
        "CREATE STREAM visits (url text, ms integer);\n",
    );
    write(
        "views/pages.sql",
        "CREATE MATERIALIZED VIEW pages AS SELECT url, sum(ms) AS ms FROM visits GROUP BY url;\n",
    );
    let data = folder.path().join(".lambic");
    let mut server = Server::start_with("dev", Some(folder.path()), &data, &[]);
    server.ok(&["query", "INSERT INTO visits VALUES ('/', 1)"]);
    write(
        "streams/visits.sql",
        "CREATE STREAM visits (\n  url text,\n  ms bigint, -- more of them\n  region text DEFAULT 'eu'\n);\n",
    );
    server
        .hear(|line| line.contains("stream visits: column ms is bigint now"))
        .unwrap_or_else(|| panic!("no change in\n{}", server.said()));
    server
        .hear(|line| line.contains("stream visits: column region added"))
        .unwrap_or_else(|| panic!("no change in\n{}", server.said()));
    server.ok(&["query", "INSERT INTO visits VALUES ('/', 5000000000)"]);
    assert_eq!(
        server.rows("SELECT ms FROM pages"),
        [json!({"ms": 5000000001_i64})]
    );
    // Comments alone change nothing, and block nothing.
    write(
        "streams/visits.sql",
        "CREATE STREAM visits (url text, ms bigint, region text DEFAULT 'eu' /* or us */);\n",
    );
    write(
        "views/regions.sql",
        "CREATE MATERIALIZED VIEW regions AS SELECT region, count(*) AS n FROM visits GROUP BY region;\n",
    );
    server
        .hear(|line| line.contains("view regions created"))
        .unwrap_or_else(|| panic!("no view in\n{}", server.said()));
    assert_eq!(
        server.rows("SELECT * FROM regions"),
        [json!({"region": "eu", "n": 2})]
    );
    // What would lose values says why and how, and what runs goes on.
    write(
        "streams/visits.sql",
        "CREATE STREAM visits (url text, ms bigint, area text DEFAULT 'eu');\n",
    );
    server
        .hear(|line| line.contains("a column region, which is not declared any more"))
        .unwrap_or_else(|| panic!("no refusal in\n{}", server.said()));
    server
        .hear(|line| line.contains("ALTER STREAM visits RENAME COLUMN region TO area"))
        .unwrap_or_else(|| panic!("no way out in\n{}", server.said()));
    server.ok(&["query", "ALTER STREAM visits RENAME COLUMN region TO area"]);
    write(
        "streams/visits.sql",
        "CREATE STREAM visits (url text, ms bigint, area text DEFAULT 'eu', more int);\n",
    );
    server
        .hear(|line| line.contains("stream visits: column more added"))
        .unwrap_or_else(|| panic!("no change in\n{}", server.said()));
    eventually("the view goes on over the renamed column", || {
        server.rows("SELECT * FROM regions") == [json!({"region": "eu", "n": 2})]
    });
}

/// Files of former and of new columns are sorted together.
#[test]
fn sealed_records_of_several_columns_are_ordered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("settings.toml");
    std::fs::write(&config, "[dataset]\nseal_records = 1\n").expect("the folder is ours");
    let config = config.to_str().expect("a temporary path is UTF-8");
    let data = folder.path().join("data");
    let server = Server::start_with("serve", None, &data, &["--config", config]);
    let files = |expected: u64| {
        common::eventually("the records are sealed", || {
            let streams = server.rows("SELECT sealed_files FROM lambic_streams WHERE name = 'z'");
            streams[0]["sealed_files"] == expected
        });
    };
    server.ok(&[
        "query",
        "CREATE STREAM z (n int, t text); INSERT INTO z VALUES (2, 'b'), (1, 'a')",
    ]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW v AS SELECT string_agg(t, ',') AS all_of FROM z",
    ]);
    files(1);
    server.ok(&[
        "query",
        "ALTER STREAM z ADD COLUMN x int; INSERT INTO z VALUES (3, 'c', 3)",
    ]);
    files(2);
    let numbers = |sql: &str| -> Vec<i64> {
        let rows = server.rows(sql);
        rows.iter().filter_map(|row| row["n"].as_i64()).collect()
    };
    assert_eq!(numbers("SELECT n FROM z ORDER BY n"), [1, 2, 3]);
    assert_eq!(numbers("SELECT n FROM z ORDER BY _offset DESC"), [3, 1, 2]);
    assert_eq!(numbers("SELECT n FROM z ORDER BY n DESC LIMIT 2"), [3, 2]);
    server.ok(&["audit", "--all"]);
}
