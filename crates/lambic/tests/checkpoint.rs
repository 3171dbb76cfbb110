//! What the speed layer has computed outlives a kill: a start goes on from it, and is right without it.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Server, eventually};
use serde_json::Value;

const DECLARED: &str = "
    CREATE STREAM e (k text, v bigint, x double precision) WITH (partitions = 2);
    CREATE STREAM names (k text, name text);
    INSERT INTO names VALUES ('k0', 'zero'), ('k1', 'one');
    CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(x) AS x, max(v) AS newest FROM e GROUP BY k;
    CREATE MATERIALIZED VIEW large AS SELECT v FROM e WHERE v % 10 = 0;
    CREATE MATERIALIZED VIEW named AS
        SELECT name, n FROM (SELECT k, count(*) AS n FROM e GROUP BY k) AS c LEFT JOIN names ON names.k = c.k;
    CREATE MATERIALIZED VIEW kept WITH (batch_every = 'never') AS SELECT k, count(*) AS n FROM e GROUP BY k";

fn start(folder: &Path) -> Server {
    start_keeping(folder, 100)
}

fn start_keeping(folder: &Path, checkpoint_records: u64) -> Server {
    let config = folder.join("settings.toml");
    let settings = format!(
        "[speed]\ncheckpoint_records = {checkpoint_records}\n[dataset]\nseal_after_s = 100000\n"
    );
    fs::write(&config, settings).expect("the folder is ours");
    let config = config.to_str().expect("a text").to_owned();
    let log = "warn,lambic::engine=info";
    let extra = ["--config", &config, "--log", log];
    Server::start_with("serve", None, &folder.join("data"), &extra)
}

fn insert(server: &Server, numbers: std::ops::Range<u64>) {
    let rows = numbers.map(|n| format!("('k{}', {n}, {n} * 0.1)", n % 3));
    let rows = rows.collect::<Vec<_>>().join(", ");
    server.ok(&["query", &format!("INSERT INTO e VALUES {rows}")]);
}

fn files(data: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("views")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found
}

fn checkpoints(data: &Path) -> Vec<PathBuf> {
    let mut found = files(data, ".parquet");
    found.retain(|path| {
        path.parent()
            .is_some_and(|folder| folder.ends_with("speed"))
    });
    found
}

fn check(server: &Server, records: u64) {
    server.ok(&["audit", "--all"]);
    let counted = "SELECT (SELECT coalesce(sum(n), 0) FROM sums) AS a, (SELECT coalesce(sum(n), 0) FROM kept) AS b, (SELECT coalesce(sum(n), 0) FROM named) AS c";
    let counted = &server.rows(counted)[0];
    for column in ["a", "b", "c"] {
        assert_eq!(counted[column], Value::from(records), "{counted}");
    }
}

fn batch_frontier(server: &Server, view: &str) -> Value {
    let views = server.rows(&format!(
        "SELECT batch_frontier FROM lambic_views WHERE name = '{view}'"
    ));
    views[0]["batch_frontier"].clone()
}

#[test]
fn a_start_goes_on_from_where_the_speed_layer_had_come() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(folder.path());
    server.ok(&["query", DECLARED]);
    insert(&server, 0..150);
    // Of `sums`, `large` and the part of `named`.
    eventually("all states are kept", || checkpoints(&data).len() == 3);
    eventually("a view without batches is kept as well", || {
        batch_frontier(&server, "kept") != "e@0:0,0"
    });
    insert(&server, 150..170);
    check(&server, 170);
    server.kill();

    let mut server = start(folder.path());
    let went_on = |server: &Server| server.said().matches("went on from a checkpoint").count();
    assert_eq!(went_on(&server), 3, "{}", server.said());
    check(&server, 170);
    insert(&server, 170..200);
    check(&server, 200);
    // A batch takes the place of what is kept.
    server.ok(&["batch", "run"]);
    check(&server, 200);
    server.kill();
    let mut server = start(folder.path());
    assert_eq!(went_on(&server), 0, "{}", server.said());
    check(&server, 200);

    // An end that is told keeps what there is, however little is missing.
    insert(&server, 200..320);
    eventually("they are kept again", || {
        let views = server.rows("SELECT name FROM lambic_views WHERE lag_records = 0");
        views.len() == 4
    });
    insert(&server, 320..330);
    eventually("they are taken in", || {
        let views = server.rows("SELECT name FROM lambic_views WHERE lag_records = 0");
        views.len() == 4
    });
    assert!(server.terminate().success());
    let mut server = start(folder.path());
    // All since the batch, not only what was due before.
    let whole = server.said().matches("records=130").count();
    assert_eq!(whole, 3, "{}", server.said());
    check(&server, 330);
    server.kill();

    // Damaged ones are named, and nothing is lost or wrong.
    for path in checkpoints(&data) {
        let mut bytes = fs::read(&path).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("it is ours");
    }
    let server = start(folder.path());
    let said = server.said();
    assert_eq!(said.matches("checkpoint is damaged").count(), 3, "{said}");
    check(&server, 330);
}

#[test]
fn what_is_erased_is_in_no_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(folder.path());
    server.ok(&["query", DECLARED]);
    insert(&server, 0..150);
    eventually("all states are kept", || checkpoints(&data).len() == 3);
    server.ok(&["query", "ERASE FROM e WHERE v % 2 = 0"]);
    eventually("the erasure is finished", || {
        let open = "SELECT count(*) AS n FROM lambic_erasures WHERE finished_at IS NULL";
        server.rows(open)[0]["n"] == 0
    });
    assert_eq!(checkpoints(&data), Vec::<PathBuf>::new());
    check(&server, 75);
    server.kill();
    let server = start(folder.path());
    check(&server, 75);
    insert(&server, 150..300);
    eventually("they are kept again", || checkpoints(&data).len() == 3);
    check(&server, 225);
}

/// Other records stand then where those of the checkpoint stood.
#[test]
fn a_checkpoint_of_records_that_are_gone_is_never_taken_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = start(folder.path());
    server.ok(&["query", DECLARED]);
    server.kill();
    let older = folder.path().join("older");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&data.join("log"), &older])
        .status();
    assert!(copied.expect("cp runs").success());

    let mut server = start(folder.path());
    insert(&server, 0..150);
    eventually("all states are kept", || checkpoints(&data).len() == 3);
    server.kill();
    fs::remove_dir_all(data.join("log")).expect("it is ours");
    fs::rename(&older, data.join("log")).expect("it is ours");

    let mut server = start_keeping(folder.path(), 1_000_000);
    check(&server, 0);
    insert(&server, 1_000..1_160);
    check(&server, 160);
    server.kill();
    let server = start_keeping(folder.path(), 1_000_000);
    check(&server, 160);
}
