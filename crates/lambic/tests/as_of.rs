//! `AS OF` against a real server: what was served at a moment is served for it again, bit for bit, after
//! batches, trims of the log, new versions of other views, kill -9 and restart.

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use common::{Server, eventually, text};
use serde_json::{Value, json};

const VIEWS: [(&str, &str); 8] = [
    (
        "spelled",
        "SELECT k, v * 2 AS double, upper(k) AS big FROM e WHERE v % 3 <> 0",
    ),
    (
        "counts",
        "SELECT k, count(*) AS n, sum(x) AS total, stddev(x) AS spread, max(v) AS last FROM e GROUP BY k",
    ),
    ("overall", "SELECT count(*) AS n, avg(x) AS mean FROM e"),
    ("top", "SELECT k, n FROM counts ORDER BY n DESC, k LIMIT 2"),
    (
        "over_top",
        "SELECT count(*) AS how_many, sum(n) AS n FROM top",
    ),
    (
        "unnamed",
        "SELECT c.k, c.total FROM counts AS c LEFT JOIN names ON names.k = c.k WHERE names.k IS NULL",
    ),
    (
        "ranked",
        "SELECT k, v, rank() OVER (PARTITION BY k ORDER BY x DESC, v) AS place FROM e",
    ),
    (
        "pairs",
        "SELECT e.k, count(*) AS n, sum(e.x) AS total FROM e JOIN names ON names.k = e.k GROUP BY e.k",
    ),
];

/// What a statement reads: views of every class, and the streams themselves.
fn questions() -> Vec<String> {
    let mut all: Vec<String> = VIEWS
        .iter()
        .map(|(name, _)| format!("FROM {name}"))
        .collect();
    all.push("FROM e".to_owned());
    all.push("FROM names".to_owned());
    all
}

/// What was served at one moment.
struct Moment {
    frontier: String,
    time: String,
    answers: BTreeMap<String, Vec<String>>,
}

impl Moment {
    fn now(server: &Server) -> Moment {
        let ask = |from: String| {
            let rows = server.sorted(&format!("SELECT * {from}"));
            (from, rows)
        };
        Moment {
            answers: questions().into_iter().map(ask).collect(),
            frontier: server.one("SELECT string_agg(name || '@' || frontier, ' ') FROM lambic_streams WHERE NOT is_system",
            ),
            time: server.one("SELECT now()::text"),
        }
    }

    fn check(&self, server: &Server) {
        for (from, rows) in &self.answers {
            for clause in [
                format!("AS OF OFFSET '{}'", self.frontier),
                format!("AS OF TIMESTAMP '{}'", self.time),
            ] {
                let sql = format!("SELECT * {from} {clause}");
                assert_eq!(&server.sorted(&sql), rows, "{sql}");
            }
        }
    }
}

fn append(server: &Server, round: u64) {
    // Floats whose sum depends on the order unless it is made not to.
    server.ok(&[
        "query",
        &format!(
            "INSERT INTO e SELECT CASE value % 7 WHEN {} THEN 'new{round}' ELSE 'k' || value % 3 END, value, \
             power(10, value % 31 - 15) * CASE value % 2 WHEN 0 THEN 1 ELSE -1 END \
             FROM generate_series({}, {}) AS t(value)",
            round % 7,
            round * 100,
            round * 100 + 60
        ),
    ]);
    if round % 3 == 1 {
        server.ok(&[
            "query",
            &format!(
                "INSERT INTO names VALUES ('k{}', 'name {round}')",
                round % 4
            ),
        ]);
    }
}

fn segments(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data.join("log")).expect("the log is there");
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".segment"))
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_served_is_served_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let config = folder.path().join("settings.toml");
    // Small segments that are soon sealed, so that the log is trimmed during the test.
    fs::write(
        &config,
        "[log]\nsegment_bytes = 4096\n[dataset]\nseal_after_s = 1\n",
    )
    .expect("our folder");
    let config = config.to_str().expect("UTF-8").to_owned();
    let start = || Server::start_with("serve", None, &data, &["--config", &config]);
    let mut server = start();
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint, x double precision) WITH (partitions = 2); CREATE STREAM names (k text, name text)",
    ]);
    let before = server.one("SELECT now()::text");
    for (name, select) in VIEWS {
        server.ok(&[
            "query",
            &format!("CREATE MATERIALIZED VIEW {name} AS {select}"),
        ]);
    }
    let first = segments(&data)[0].clone();
    let mut moments = Vec::new();
    for round in 0..9 {
        append(&server, round);
        moments.push(Moment::now(&server));
        match round {
            1 => drop(server.ok(&["batch", "run"])),
            2 => {
                server.kill();
                server = start();
            }
            4 => drop(server.ok(&["batch", "run", "counts"])),
            5 => drop(server.ok(&["query", "REFRESH MATERIALIZED VIEW pairs FULL"])),
            _ => {}
        }
    }
    let last = moments.last().expect("there are moments");
    assert!(
        moments.iter().all(
            |moment| moment.answers["FROM counts"] != last.answers["FROM counts"]
                || moment.time == last.time
        ),
        "the moments differ"
    );
    moments.iter().for_each(|moment| moment.check(&server));
    // With all batches run, the log lets go of what the early moments would read from it.
    server.ok(&["batch", "run"]);
    eventually("the log is trimmed", || segments(&data)[0] != first);
    moments.iter().for_each(|moment| moment.check(&server));
    lookups(&server, &moments);
    server.kill();
    server = start();
    moments.iter().for_each(|moment| moment.check(&server));
    // Now is as it was, whatever was read of the past.
    for (from, rows) in &last.answers {
        assert_eq!(&server.sorted(&format!("SELECT * {from}")), rows, "{from}");
    }
    nothing_before(&server, &before);
    mistakes(&server, last);
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success());
}

/// By key, over HTTP: from the view's index, and by SQL.
fn lookups(server: &Server, moments: &[Moment]) {
    for moment in moments {
        for as_of in [&moment.frontier, &moment.time] {
            let answer = get(server, "counts", &[("k", "k1"), ("as_of", as_of)]);
            let wanted: Vec<&String> = moment.answers["FROM counts"]
                .iter()
                .filter(|row| row.contains(r#""k":"k1""#))
                .collect();
            let rows = answer["rows"].as_array().expect("rows");
            assert_eq!(rows.len(), wanted.len(), "{as_of}: {answer}");
            let wanted: Value = serde_json::from_str(wanted[0]).expect("JSON");
            let columns = ["k", "n", "total", "spread", "last"];
            let wanted: Value = columns
                .iter()
                .map(|column| wanted[*column].clone())
                .collect();
            assert_eq!(rows[0], wanted, "{as_of}");
            assert!(answer["frontier"].is_string(), "{answer}");
        }
        let answer = get(server, "top", &[("as_of", &moment.frontier)]);
        let rows = answer["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), moment.answers["FROM top"].len());
    }
}

fn get(server: &Server, view: &str, parameters: &[(&str, &str)]) -> Value {
    let request = ureq::get(format!("{}/v1/views/{view}", server.url));
    let request = parameters
        .iter()
        .fold(request, |request, (name, value)| request.query(name, value));
    let mut answer = request.call().expect("an answer");
    let text = answer.body_mut().read_to_string().expect("text");
    serde_json::from_str(&text).expect("JSON")
}

/// Before the first record views are what their SELECT makes of nothing.
fn nothing_before(server: &Server, time: &str) {
    let at = format!("AS OF TIMESTAMP '{time}'");
    assert!(
        server
            .rows(&format!("SELECT * FROM counts {at}"))
            .is_empty()
    );
    assert!(server.rows(&format!("SELECT * FROM e {at}")).is_empty());
    let overall = server.rows(&format!("SELECT n, mean FROM overall {at}"));
    assert_eq!(overall[0], json!({"n": 0, "mean": null}));
    let overall = server.rows("SELECT n FROM overall AS OF OFFSET 'e@0:0,1:0'");
    assert_eq!(overall[0], json!({"n": 0}));
    assert!(
        server
            .rows("SELECT * FROM top AS OF TIMESTAMP '2001-01-01'")
            .is_empty()
    );
}

fn mistakes(server: &Server, last: &Moment) {
    let refused = |sql: &str, wanted: &[&str]| {
        let output = server.cli(&["query", sql]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
        }
    };
    let frontier = &last.frontier;
    refused(
        "SELECT * FROM counts AS OF TIMESTAMP '2199-01-01'",
        &["2199-01-01 00:00:00 has not come yet", "22023"],
    );
    refused(
        "SELECT * FROM counts AS OF TIMESTAMP 'yesterdayish'",
        &["yesterdayish", "22007"],
    );
    refused("SELECT * FROM counts AS OF TIMESTAMP (NULL)", &["NULL"]);
    refused(
        "SELECT * FROM counts AS OF OFFSET 'e@0:99999,1:0'",
        &["stream \"e\" ends at", "22023"],
    );
    refused(
        "SELECT * FROM counts AS OF OFFSET 'e@0:1,1:1,2:1'",
        &["has 2 partitions"],
    );
    refused(
        "SELECT * FROM counts AS OF OFFSET 'e@0:1'",
        &[
            "does not say where partition 1 ended",
            "name every partition: 'e@0:1,1:",
            "22023",
        ],
    );
    refused(
        "SELECT * FROM counts AS OF OFFSET 'f@0:1'",
        &["no stream or view \"f\""],
    );
    refused(
        "SELECT * FROM counts AS OF OFFSET 'soon'",
        &["`soon` is not a frontier", "22P02"],
    );
    refused(
        "SELECT * FROM unnamed AS OF OFFSET 'e@0:1,1:1'",
        &["where stream \"names\" ended"],
    );
    refused(
        "SELECT * FROM counts AS OF OFFSET 'e@0:1,1:1' AS a JOIN counts AS OF OFFSET 'e@0:2,1:1' AS b ON a.k = b.k",
        &["two moments"],
    );
    refused(
        &format!("SELECT * FROM lambic_views AS OF OFFSET '{frontier}'"),
        &["how things stand now", "cannot be read AS OF"],
    );
    refused(
        &format!("CREATE MATERIALIZED VIEW z AS SELECT * FROM e AS OF OFFSET '{frontier}'"),
        &["a view follows its streams"],
    );
    let output = server.cli(&["query", "SELECT * FROM counts AS OF OFFSET 5"]);
    assert!(text(&output.stderr).contains("AS OF OFFSET 'stream@0:1200'"));
}

#[test]
fn joins_parameters_and_inserts_read_at_one_moment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    server.ok(&[
        "query",
        "CREATE STREAM e (k text, v bigint); CREATE STREAM copy (k text, n bigint);
         CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM e GROUP BY k;
         INSERT INTO e VALUES ('a', 1), ('b', 2)",
    ]);
    let time = server.one("SELECT now()::text");
    server.ok(&[
        "query",
        "INSERT INTO e VALUES ('a', 3); INSERT INTO copy VALUES ('z', 0)",
    ]);
    let both = format!(
        "SELECT c.n, e.v FROM counts AS OF TIMESTAMP '{time}' AS c JOIN e USING (k) ORDER BY e.v"
    );
    assert_eq!(
        server.rows(&both),
        [json!({"n": 1, "v": 1}), json!({"n": 1, "v": 2})]
    );
    // The target of an INSERT is written now, what it selects is read then.
    server.ok(&[
        "query",
        "INSERT INTO copy SELECT k, n FROM counts AS OF OFFSET 'e@0:2'",
    ]);
    assert_eq!(server.sorted("SELECT * FROM copy").len(), 3);
    let system = server.rows(
        "SELECT max(_offset) AS last FROM e FOR SYSTEM_TIME AS OF (now() - interval '1 day')",
    );
    assert_eq!(system[0], json!({"last": null}));
    let system = server.rows("SELECT max(_offset) AS last FROM e AS OF OFFSET 'e@0:2'");
    assert_eq!(system[0], json!({"last": 1}));
    let explained = server.ok(&["query", "EXPLAIN SELECT * FROM counts AS OF OFFSET 'e@0:2'"]);
    assert!(explained.contains("plan"), "{explained}");
    assert!(server.terminate().success());
}
