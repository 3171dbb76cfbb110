//! Backups of a running server, and what is restored of them: at one frontier, whatever runs or is killed meanwhile.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Server, eventually, json, lambic, refused, root, shown, text};
use serde_json::Value;

/// A project with all that a backup must have: views of several classes, one that calls a function, and a function
/// that follows a stream.
fn project(folder: &Path) -> PathBuf {
    let project = folder.join("project");
    let write = |path: &str, text: &str| {
        let path = project.join(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder is ours");
        fs::write(path, text).expect("the folder is ours");
    };
    write(
        "lambic.toml",
        "[project]\nname = \"backup\"\n[functions.geohash]\nruntime = \"wasm\"\n\
         [functions.mark]\nruntime = \"python\"\nhandler = \"handler.handler\"\noutput = \"seen\"\n[functions.mark.trigger]\nstream = \"visits\"\nbatch = 20\n",
    );
    write(
        "streams/visits.sql",
        "CREATE STREAM IF NOT EXISTS visits (id text NOT NULL, k text, n bigint) WITH (record_id = 'id', partitions = 2);",
    );
    write(
        "streams/seen.sql",
        "CREATE STREAM IF NOT EXISTS seen (id text);",
    );
    write(
        "views/by_k.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS by_k AS SELECT k, count(*) AS c, sum(n) AS n FROM visits GROUP BY k;",
    );
    write(
        "views/cells.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS cells AS SELECT geohash(cast(n % 90 AS double precision), 1.0::double precision, 3) AS cell, count(*) AS c FROM visits GROUP BY 1;",
    );
    write(
        "views/top.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS top WITH (freshness = 'batch', batch_every = '1s') AS SELECT k, rank() OVER (ORDER BY c DESC, k) AS place FROM by_k;",
    );
    write(
        "functions/mark/handler.py",
        "def handler(event, context):\n    return [{'id': record['data']['id']} for record in event['Records']]\n",
    );
    let component = root().join("examples/flights/functions/geohash/geohash.wasm");
    fs::create_dir_all(project.join("functions/geohash")).expect("the folder is ours");
    fs::copy(component, project.join("functions/geohash/geohash.wasm"))
        .expect("the example has it");
    project
}

/// Small segments and quick seals, so that backups meet them.
fn settings(folder: &Path) -> String {
    let config = folder.join("settings.toml");
    fs::write(
        &config,
        "[log]\nsegment_bytes = 131_072\n[dataset]\nseal_records = 500\nseal_after_s = 1\n",
    )
    .expect("the folder is ours");
    config
        .to_str()
        .expect("a temporary path is UTF-8")
        .to_owned()
}

fn run(args: &[&str]) -> Output {
    lambic()
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary is there")
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "lambic {args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn insert(server: &Server, from: u64, to: u64) {
    let values: Vec<String> = (from..to)
        .map(|n| format!("('id{n}', 'k{}', {n})", n % 5))
        .collect();
    server.ok(&[
        "query",
        &format!("INSERT INTO visits VALUES {}", values.join(", ")),
    ]);
}

/// All rows of a query, in no order.
fn sorted(server: &Server, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> = server.rows(sql).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Writers that do not stop: each insert is one record, noted when it was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(server: &Server, first: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(first));
        let threads = (0..3).map(|_| {
            let (stop, acknowledged, next) = (stop.clone(), acknowledged.clone(), next.clone());
            let url = format!("{}/v1/streams/visits/records", server.url);
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    let body = format!("{{\"id\": \"id{n}\", \"k\": \"k{}\", \"n\": {n}}}", n % 5);
                    let sent = ureq::post(&url)
                        .header("content-type", "application/x-ndjson")
                        .send(body.as_bytes());
                    if sent.is_ok() {
                        acknowledged.lock().expect("no holder panics").push(n);
                    }
                }
            })
        });
        let threads = threads.collect();
        Load {
            stop,
            acknowledged,
            threads,
        }
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.lock().expect("no holder panics").clone()
    }

    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("it does not panic");
        }
        let acknowledged = self.acknowledged.lock().expect("no holder panics");
        acknowledged.clone()
    }
}

/// What a server restored from a backup at `frontier` must have, compared with the server that the backup is of.
fn check_restored(restored: &Server, original: &Server, frontier: &str, before: &[u64]) {
    let as_of = |sql: &str| sql.replace("visits", &format!("visits AS OF OFFSET '{frontier}'"));
    let all = "SELECT id, k, n, _partition, _offset, _appended_at FROM visits";
    let there = sorted(restored, all);
    assert_eq!(there, sorted(original, &as_of(all)));
    let ids = restored.rows("SELECT id, count(*) AS c FROM visits GROUP BY id");
    let counted: BTreeMap<&str, u64> = ids
        .iter()
        .map(|row| {
            let id = row["id"].as_str().expect("a text");
            (id, row["c"].as_u64().expect("a count"))
        })
        .collect();
    for n in before {
        let id = format!("id{n}");
        assert_eq!(
            counted.get(id.as_str()),
            Some(&1),
            "{id} was acknowledged before the backup"
        );
    }
    assert!(counted.values().all(|count| *count == 1), "none is doubled");
    restored.ok(&["audit", "--all"]);
    let view = "SELECT k, c, n FROM by_k";
    let direct = "SELECT k, count(*) AS c, sum(n) AS n FROM visits GROUP BY k";
    assert_eq!(
        sorted(restored, view),
        sorted(original, &as_of(direct)),
        "the view at the backup's frontier"
    );
}

#[test]
fn a_backup_under_load_is_one_frontier_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, config) = (folder.path().join("data"), settings(folder.path()));
    let project = project(folder.path());
    let server = Server::start_with("serve", Some(&project), &data, &["--config", &config]);
    insert(&server, 0, 3_000);
    server.ok(&["batch", "run"]);
    // Erased before the backup: its id stays known, its bytes are nowhere.
    server.ok(&["stream", "erase", "visits", "--where", "n = 7", "--yes"]);
    let target = folder.path().join("backups");
    let load = Load::start(&server, 10_000);

    let mut backups = Vec::new();
    for round in 0..3 {
        eventually("records arrive", || {
            load.acknowledged().len() > round * 50 + 50
        });
        let before = load.acknowledged();
        let told = json(&server.ok(&["backup", shown(&target), "--json"]));
        backups.push((told, before));
    }
    let acknowledged = load.end();
    assert!(acknowledged.len() > 150);

    for (told, before) in &backups {
        let id = told["backup"].as_str().expect("it has an id");
        let frontier = told["frontier"].as_str().expect("it has a frontier");
        let of_visits = frontier.split(' ').find(|part| part.starts_with("visits@"));
        let restored_data = folder.path().join(format!("restored-{id}"));
        ok(&[
            "restore",
            shown(&target),
            "--backup",
            id,
            shown(&restored_data),
        ]);
        ok(&["doctor", "--data", shown(&restored_data)]);
        let mut restored =
            Server::start_with("serve", None, &restored_data, &["--config", &config]);
        check_restored(
            &restored,
            &server,
            of_visits.expect("visits has records"),
            before,
        );
        // The function goes on exactly where it was: each record has its output once.
        eventually("the function has caught up", || {
            sorted(&restored, "SELECT count(*) AS n FROM seen")
                == sorted(&restored, "SELECT count(*) + 1 AS n FROM visits")
        });
        assert!(
            restored
                .rows("SELECT id FROM seen GROUP BY id HAVING count(*) > 1")
                .is_empty()
        );
        // Known ids have no second effect, that of an erased record neither; one that came after the backup does.
        let records =
            |server: &Server| server.rows("SELECT count(*) AS n FROM visits")[0]["n"].clone();
        let had = records(&restored).as_u64().expect("a count");
        let newest = acknowledged.iter().max().expect("there are some");
        let after = newest + 1_000;
        for id in ["id7".to_owned(), "id8".to_owned(), format!("id{after}")] {
            restored.ok(&[
                "query",
                &format!("INSERT INTO visits VALUES ('{id}', 'k', 1)"),
            ]);
        }
        assert_eq!(records(&restored), had + 1);
        restored.ok(&["audit", "--all"]);
        assert!(restored.terminate().success(), "{}", restored.said());
        assert!(!restored.said().contains("ERROR"), "{}", restored.said());
        ok(&["doctor", "--data", shown(&restored_data)]);
    }

    // Of a stopped server the same comes out, and what the target has is not copied again.
    let mut server = server;
    assert!(server.terminate().success(), "{}", server.said());
    let first = json(&ok(&[
        "backup",
        shown(&target),
        "--data",
        shown(&data),
        "--json",
    ]));
    let again = json(&ok(&[
        "backup",
        shown(&target),
        "--data",
        shown(&data),
        "--json",
    ]));
    assert!(first["bytes_copied"].as_u64() < first["bytes"].as_u64());
    assert_eq!(again["bytes_copied"], 0, "{again}");
    let offline = folder.path().join("offline");
    ok(&["restore", shown(&target), shown(&offline)]);
    ok(&["doctor", "--data", shown(&offline)]);
    let original = Server::start_with("serve", None, &data, &["--config", &config]);
    let restored = Server::start_with("serve", None, &offline, &["--config", &config]);
    for sql in [
        "SELECT * FROM visits",
        "SELECT * FROM by_k",
        "SELECT * FROM cells",
    ] {
        assert_eq!(sorted(&restored, sql), sorted(&original, sql), "{sql}");
    }
    restored.ok(&["audit", "--all"]);
    assert_eq!(
        sorted(&restored, "SELECT erasure, sha256 FROM lambic_erasures"),
        sorted(&original, "SELECT erasure, sha256 FROM lambic_erasures")
    );
}

#[test]
fn kills_leave_whole_backups_and_no_half_data_folders() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, config) = (folder.path().join("data"), settings(folder.path()));
    let mut server = Server::start_with("serve", None, &data, &["--config", &config]);
    server.ok(&["query", "CREATE STREAM visits (id text NOT NULL, k text, n bigint) WITH (record_id = 'id', partitions = 2); CREATE MATERIALIZED VIEW by_k AS SELECT k, count(*) AS c, sum(n) AS n FROM visits GROUP BY k"]);
    let target = folder.path().join("backups");
    for round in 0..6 {
        insert(&server, round * 1_000, round * 1_000 + 1_000);
        let mut backup = lambic();
        backup
            .env("LAMBIC_URL", &server.url)
            .args(["backup", shown(&target)])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut backup = backup.spawn().expect("the binary is there");
        thread::sleep(Duration::from_millis(15 * round));
        // Of a backup that is only given up, the server must go on.
        match round % 2 {
            0 => server.kill(),
            _ => backup.kill().expect("it is our child"),
        }
        backup.wait().expect("it is our child");
        if round % 2 == 0 {
            server = Server::start_with("serve", None, &data, &["--config", &config]);
        }
    }
    // One that was given up may still be at it.
    eventually("a backup is made", || {
        let made = server.cli(&["backup", shown(&target)]);
        let said = text(&made.stderr);
        assert!(
            made.status.success() || said.contains("is being made already"),
            "{said}"
        );
        made.status.success()
    });
    assert!(!left_over(&data), "the server's own snapshots are gone");
    ok(&["backup", "verify", shown(&target)]);
    let ids = backups(&target);

    // Killed at later and later moments, the folder is none until a restore has come to its end.
    let restored = folder.path().join("restored");
    let newest = ids.last().expect("there is one");
    let mut cut_short = 0;
    for pause_ms in [1, 5, 10, 20, 40, 80] {
        let mut restore = lambic();
        restore
            .args(["restore", shown(&target), shown(&restored)])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut restore = restore.spawn().expect("the binary is there");
        thread::sleep(Duration::from_millis(pause_ms));
        restore.kill().expect("it is our child");
        restore.wait().expect("it is our child");
        if !restored.join("RESTORING").exists() {
            if restored.join("catalog.json").exists() {
                break;
            }
            continue;
        }
        cut_short += 1;
        let (http, pg) = common::free_ports();
        let said = match Server::start_on("serve", None, &restored, http, pg, &[]) {
            Ok(_) => panic!("half a restore is no data folder"),
            Err(said) => said.join("\n"),
        };
        assert!(said.contains("was cut short"), "{said}");
        assert!(said.contains(newest.as_str()), "{said}");
        let doctor = run(&["doctor", "--data", shown(&restored)]);
        refused(&doctor, 1, &["was cut short", "lambic restore"]);
        let backup = run(&["backup", shown(&target), "--data", shown(&restored)]);
        refused(&backup, 78, &["was cut short"]);
    }
    println!("{cut_short} restores were cut short");
    if !restored.join("catalog.json").exists() || restored.join("RESTORING").exists() {
        ok(&["restore", shown(&target), shown(&restored)]);
    }
    ok(&["doctor", "--data", shown(&restored)]);
    let mine = Server::start_with("serve", None, &restored, &["--config", &config]);
    assert_eq!(
        sorted(&mine, "SELECT * FROM visits"),
        sorted(&server, "SELECT * FROM visits")
    );
    mine.ok(&["audit", "--all"]);
}

fn backups(target: &Path) -> Vec<String> {
    let listed = json(&ok(&["backup", "list", shown(target), "--json"]));
    let rows = listed.as_array().expect("an array").iter();
    rows.map(|row| row["backup"].as_str().expect("an id").to_owned())
        .collect()
}

fn left_over(data: &Path) -> bool {
    let Ok(entries) = fs::read_dir(data.join("tmp")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("backup-"))
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => bytes_below(&path),
            path => fs::metadata(path).map_or(0, |found| found.len()),
        })
        .sum()
}

fn grep(secret: &str, folder: &Path) -> bool {
    let found = Command::new("grep")
        .args(["-rq", "--binary-files=text", secret])
        .arg(folder)
        .status();
    found.expect("grep is there").success()
}

#[test]
fn what_was_erased_leaves_with_the_backups_that_hold_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let target = folder.path().join("backups");
    let server = Server::start(&data);
    server.ok(&["query", "CREATE STREAM people (name text, n bigint)"]);
    server.ok(&[
        "query",
        "INSERT INTO people VALUES ('zx81-unique', 1), ('someone', 2)",
    ]);
    let url = format!("file://{}", shown(&target));
    server.ok(&["backup", &url]);
    server.ok(&["backup", &url]);
    assert!(grep("zx81-unique", &target), "it is in the log's segment");
    let erased = server.cli(&["stream", "erase", "people", "--where", "n = 1", "--yes"]);
    assert!(
        text(&erased.stderr).contains("backups made before still hold the records"),
        "{}",
        text(&erased.stderr)
    );
    let told = server.cli(&["backup", shown(&target)]);
    let said = text(&told.stderr);
    assert!(said.contains("still in 2 backups here"), "{said}");
    let listed = ok(&["backup", "list", shown(&target)]);
    assert_eq!(listed.matches("up to erasure 1").count(), 2, "{listed}");
    let ids = backups(&target);
    assert_eq!(ids.len(), 3);
    for id in &ids[..2] {
        assert!(said.contains(id.as_str()), "{said}");
    }

    // A restore of an older one has what it had then.
    let older = folder.path().join("older");
    ok(&[
        "restore",
        shown(&target),
        "--backup",
        &ids[0],
        shown(&older),
    ]);
    let restored = Server::start(&older);
    assert_eq!(restored.rows("SELECT name FROM people").len(), 2);
    drop(restored);

    let unknown = run(&["backup", "delete", shown(&target), &ids[0], "nosuch"]);
    refused(&unknown, 78, &["there is no backup nosuch", &ids[2]]);
    assert_eq!(backups(&target).len(), 3, "nothing was removed");
    ok(&["backup", "delete", shown(&target), &ids[0]]);
    assert!(grep("zx81-unique", &target));
    let before = bytes_below(&target);
    ok(&["backup", "prune", shown(&target), "--keep", "1"]);
    assert!(!grep("zx81-unique", &target), "nothing of it is left");
    assert!(bytes_below(&target) < before);
    assert_eq!(backups(&target), &ids[2..]);
    ok(&["backup", "verify", shown(&target)]);
    let newest = folder.path().join("newest");
    ok(&["restore", shown(&target), shown(&newest)]);
    let restored = Server::start(&newest);
    assert_eq!(
        restored.rows("SELECT name FROM people"),
        [serde_json::json!({"name": "someone"})]
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&["query", "CREATE STREAM s (n bigint)"]);
    server.ok(&[
        "query",
        "INSERT INTO s SELECT value FROM generate_series(1, 20000)",
    ]);
    let other = folder.path().join("photos");
    fs::create_dir(&other).expect("the folder is ours");
    fs::write(other.join("cat.jpg"), "meow").expect("the folder is ours");
    refused(
        &server.cli(&["backup", shown(&other)]),
        1,
        &[
            "is not empty and holds no backups",
            "cat.jpg",
            "empty folder",
        ],
    );
    assert_eq!(fs::read_dir(&other).expect("it is there").count(), 1);
    refused(
        &server.cli(&["backup", shown(&data.join("backups"))]),
        1,
        &["lie in each other"],
    );
    assert!(!data.join("backups").exists());
    refused(
        &server.cli(&["backup", "gopher://somewhere/x"]),
        1,
        &["cannot write to `gopher://somewhere/x`", "s3://"],
    );
    let relative = server.cli(&["query", "BACKUP TO 'backups'"]);
    refused(&relative, 1, &["neither a path from the root", "22023"]);
    refused(
        &server.cli(&["query", "BACKUP 'x'"]),
        1,
        &["BACKUP TO 'folder or URL' is expected", "42601"],
    );
    let mut pg = common::pg::Pg::connect(&server.pg);
    pg.ok("BEGIN");
    let within = pg.query("BACKUP TO '/nowhere'").expect_err("it is refused");
    assert!(
        within.starts_with("25001: BACKUP cannot run inside a transaction block"),
        "{within}"
    );
    let held = run(&[
        "backup",
        shown(&folder.path().join("b")),
        "--data",
        shown(&data),
    ]);
    refused(&held, 78, &["in use by process", "leave --data out"]);
    refused(
        &run(&["backup", "list", shown(&folder.path().join("nothing"))]),
        78,
        &["there are no backups in"],
    );

    let target = folder.path().join("backups");
    server.ok(&["backup", shown(&target)]);
    let told = server.rows("SELECT state, bytes_copied > 0 AS copied, frontier FROM lambic_backups WHERE backup IS NOT NULL");
    assert_eq!(
        told,
        [serde_json::json!({"state": "finished", "copied": true, "frontier": "s@0:20000"})]
    );
    refused(
        &run(&["restore", shown(&target), shown(&other)]),
        78,
        &[
            "is not empty (there is `cat.jpg`)",
            "new or an empty folder",
        ],
    );
    refused(
        &run(&["restore", shown(&target), shown(&data)]),
        78,
        &["is not empty"],
    );
    refused(
        &run(&[
            "restore",
            shown(&target),
            "--backup",
            "x",
            shown(&folder.path().join("r")),
        ]),
        78,
        &["there is no backup x"],
    );
    assert!(server.terminate().success());

    // One bit, and one file that is gone: named by verify and by restore, and no folder is left that could be served.
    let files = files_below(&target.join("files"));
    let damaged = files
        .iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |found| found.len()))
        .expect("there are files");
    let bytes = fs::read(damaged).expect("it can be read");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(damaged, &flipped).expect("it is ours");
    refused(
        &run(&["backup", "verify", shown(&target)]),
        1,
        &["is damaged: its SHA-256", shown(damaged), "1 fault found"],
    );
    let restored = folder.path().join("restored");
    refused(
        &run(&["restore", shown(&target), shown(&restored)]),
        1,
        &["cannot be restored", shown(damaged)],
    );
    assert!(restored.join("RESTORING").exists());
    fs::remove_file(damaged).expect("it is ours");
    refused(
        &run(&["backup", "verify", shown(&target)]),
        1,
        &["is missing", shown(damaged)],
    );
    // The next backup brings it back, and the restore goes on.
    ok(&["backup", shown(&target), "--data", shown(&data)]);
    ok(&["backup", "verify", shown(&target)]);
    let first = backups(&target).swap_remove(0);
    refused(
        &run(&["restore", shown(&target), shown(&restored)]),
        78,
        &["was cut short", &first],
    );
    ok(&[
        "restore",
        shown(&target),
        "--backup",
        &first,
        shown(&restored),
    ]);
    let manifest = target.join(format!("backups/{first}.json"));
    let list = fs::read_to_string(&manifest).expect("it can be read");
    fs::write(&manifest, list.replace("catalog.json", "catalog.jsom")).expect("it is ours");
    refused(
        &run(&["backup", "verify", shown(&target)]),
        1,
        &["its checksum does not match", &first],
    );
    let kept = run(&["backup", "prune", shown(&target), "--keep", "2"]);
    assert!(kept.status.code() != Some(0), "what it needs is not known");
    ok(&["backup", "delete", shown(&target), &first]);
    ok(&["backup", "verify", shown(&target)]);

    // A file of the data folder that is damaged does not go into a backup.
    let mut server = Server::start(&data);
    server.ok(&["batch", "run"]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW v AS SELECT sum(n) AS n FROM s",
    ]);
    assert!(server.terminate().success());
    let sealed = files_below(&data.join("dataset"))
        .into_iter()
        .find(|path| shown(path).contains("-s/p0/"))
        .expect("it was sealed");
    let mut bytes = fs::read(&sealed).expect("it can be read");
    bytes[20] ^= 1;
    fs::write(&sealed, bytes).expect("it is ours");
    let damaged = run(&["backup", shown(&target), "--data", shown(&data)]);
    refused(&damaged, 1, &["is damaged", "no backup is made of it"]);
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
