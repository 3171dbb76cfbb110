//! The engine as a whole, in this process: settings, and erasures from streams that views of every class read.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use lambic_base::DirLock;
use lambic_dataset::{LocalStore, Mortal};
use lambic_query::{Outcome, Session};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

mod alter;
mod changes;
mod drops;
mod evolve;
mod insert;
mod join;
mod law;
mod plans;

#[test]
fn the_log_and_the_settings_have_the_same_defaults() {
    let data = Path::new("data");
    let ours = log_options(data, &Settings::default());
    let of_the_log = lambic_log::Options::new(data.join("log"));
    assert_eq!(ours.segment_bytes, of_the_log.segment_bytes);
    assert_eq!(ours.append_bytes_max, of_the_log.append_bytes_max);
    assert_eq!(ours.queue_bytes_max, of_the_log.queue_bytes_max);
    assert_eq!(ours.producers_max, of_the_log.producers_max);
}

#[test]
fn transactions_and_the_settings_have_the_same_defaults() {
    let ours = transaction_limits(&Settings::default());
    let theirs = TransactionLimits::default();
    assert_eq!(ours.bytes_max, theirs.bytes_max);
    assert_eq!(ours.bytes_together_max, theirs.bytes_together_max);
}

const DECLARED: [&str; 12] = [
    "CREATE STREAM visits (id bigint NOT NULL, k text, who text, x double precision) WITH (partitions = 2)",
    "CREATE STREAM names (k text, name text)",
    // Rows.
    "CREATE MATERIALIZED VIEW even AS SELECT id, who FROM visits WHERE id % 2 = 0",
    // Mergeable, with states that hold values.
    "CREATE MATERIALIZED VIEW by_k AS
         SELECT k, count(*) AS n, sum(x) AS x, min(who) AS first, max(who) AS last, array_agg(who ORDER BY id) AS all_of
         FROM visits GROUP BY k",
    "CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, avg(x) AS x, max(_offset) AS newest FROM visits",
    "CREATE MATERIALIZED VIEW people AS SELECT DISTINCT who FROM visits",
    // Joins, of two streams and of one with itself.
    "CREATE MATERIALIZED VIEW by_name AS
         SELECT name, count(*) AS n, sum(x) AS x, max(who) AS last FROM visits JOIN names USING (k) GROUP BY name",
    "CREATE MATERIALIZED VIEW near AS
         SELECT a.k, count(*) AS n, min(b.who) AS first FROM visits AS a JOIN visits AS b ON a.id = b.id + 1 GROUP BY a.k",
    // Recomputed, one over parts; views over views.
    "CREATE MATERIALIZED VIEW ranked AS SELECT id, k, row_number() OVER (PARTITION BY k ORDER BY id) AS place FROM visits",
    "CREATE MATERIALIZED VIEW named AS
         SELECT name, n FROM (SELECT k, count(*) AS n FROM visits GROUP BY k) AS c LEFT JOIN names ON names.k = c.k",
    "CREATE MATERIALIZED VIEW top AS SELECT k, n, last FROM by_k ORDER BY n DESC, k LIMIT 2",
    "CREATE MATERIALIZED VIEW over_top AS SELECT sum(n) AS n, max(last) AS last FROM top",
];

/// What a test says of one step.
type Told = Result<String, String>;

/// `LAMBIC_{name}_SEED`, or one of chance, and how long a test is: `LAMBIC_{name}_{length}`, or as usual.
fn seed_and_length(name: &str, length: &str, usual: u64) -> (u64, u64) {
    let setting = |key: &str| -> Option<u64> {
        let key = format!("LAMBIC_{name}_{key}");
        let value = std::env::var(&key).ok()?;
        let parsed = value.parse();
        Some(parsed.unwrap_or_else(|_| panic!("{key} is a number, not {value:?}")))
    };
    let seed = setting("SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    (seed, setting(length).unwrap_or(usual))
}

/// The seed, the number of rounds and what is chosen by the seed. `LAMBIC_{name}_SEED` (printed) and
/// `LAMBIC_{name}_ROUNDS` set the first two.
fn rounds_of(what: &str, name: &str, usual: u64) -> (u64, u64, StdRng) {
    let (seed, rounds) = seed_and_length(name, "ROUNDS", usual);
    println!("{what}: {rounds} rounds; repeat them with LAMBIC_{name}_SEED={seed}");
    (seed, rounds, StdRng::seed_from_u64(seed))
}

/// A folder for data, and the one that it lies in.
fn new_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("it is new");
    (folder, data)
}

struct Server {
    engine: Engine,
    store: Arc<Mortal>,
}

impl Server {
    async fn open(data: &Path, writes_left: i64, last_happens: bool) -> anyhow::Result<Server> {
        Server::open_with(Settings::default(), data, writes_left, last_happens).await
    }

    async fn open_with(
        mut settings: Settings,
        data: &Path,
        writes_left: i64,
        last_happens: bool,
    ) -> anyhow::Result<Server> {
        // Small enough that there are several segments.
        settings.log.segment_bytes = 16 << 10;
        // And several slices of a batch.
        settings.batch.slice_records = 20;
        let lock = DirLock::acquire(data)?;
        let store = LocalStore::open(data)?;
        let store = Arc::new(Mortal::new(store, writes_left, last_happens));
        let options = Options::new(data.to_owned(), settings);
        let engine = Engine::open_on(options, lock, store.clone()).await?;
        Ok(Server { engine, store })
    }

    /// A new one.
    async fn declared<'a>(
        data: &Path,
        statements: impl IntoIterator<Item = &'a &'a str>,
    ) -> Server {
        let server = Server::open(data, i64::MAX, true).await;
        let server = server.expect("a new folder");
        for sql in statements {
            server.done(sql).await.expect(sql);
        }
        server
    }

    async fn run(&self, sql: &str) -> Result<Vec<Outcome>, lambic_query::Error> {
        self.engine.database.execute(&Session::default(), sql).await
    }

    /// Returns some time after the store has died: what still waits then waits for ever.
    async fn dead(&self) {
        while !self.store.is_dead() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    async fn done(&self, sql: &str) -> Told {
        match self.run(sql).await {
            Ok(outcomes) => match &outcomes[..] {
                [Outcome::Done { tag, .. }] => Ok(tag.clone()),
                other => Err(format!("{other:?}")),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    /// The rows as text, sorted.
    async fn rows(&self, sql: &str) -> Result<Vec<String>, String> {
        let mut outcomes = self.run(sql).await.map_err(|error| error.to_string())?;
        let Some(Outcome::Rows { rows, .. }) = outcomes.pop() else {
            return Err(format!("{sql} has no rows"));
        };
        let batches = datafusion::physical_plan::common::collect(rows).await;
        // As clients are told, wherever it went wrong.
        let told = |error| lambic_query::Error::from_datafusion(error, sql, &[]).to_string();
        lines(&batches.map_err(told)?)
    }

    /// The visits, and every view against its `SELECT` run over them as plain SQL. A server that dies meanwhile
    /// proves nothing.
    async fn check(&self, model: &Model, when: &str) {
        let found = self.rows("SELECT id, k, who FROM visits").await;
        let count = "SELECT records FROM lambic_streams WHERE name = 'visits'";
        let count = self.rows(count).await;
        let audits = self.rows("AUDIT ALL").await;
        if self.store.is_dead() {
            return;
        }
        assert_eq!(found, Ok(model.lines()), "{when}");
        assert_eq!(count, Ok(vec![model.0.len().to_string()]), "{when}");
        let audits = audits.expect("it can be audited");
        assert_eq!(audits.len(), DECLARED.len() - 2, "every view");
        for audit in audits {
            assert!(audit.contains("|true|"), "{when}: {audit}");
        }
    }

    /// As a kill would: nothing more is written to the store.
    async fn killed(self) {
        self.store.kill();
        self.engine.close().await;
    }
}

/// The rows as text, sorted.
fn lines(batches: &[arrow::record_batch::RecordBatch]) -> Result<Vec<String>, String> {
    let options = arrow::util::display::FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| arrow::util::display::ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, arrow::error::ArrowError>>()
            .map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|column| column.value(row).to_string());
            lines.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    Ok(lines)
}

/// The visits that there are, by id.
#[derive(Clone, Default)]
struct Model(BTreeMap<i64, (&'static str, String)>);

impl Model {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .0
            .iter()
            .map(|(id, (k, who))| format!("{id}|{k}|{who}"))
            .collect();
        lines.sort();
        lines
    }
}

/// No digit follows it in a file, so that no other name contains it.
fn who(id: i64) -> String {
    format!("person-{id:06}-")
}

const KEYS: [&str; 3] = ["a", "b", "c"];

async fn append(server: &Server, model: &mut Model, next: &mut i64, count: i64) {
    let ids = *next..*next + count;
    *next = ids.end;
    let values: Vec<String> = ids
        .clone()
        .map(|id| {
            let k = KEYS[id as usize % KEYS.len()];
            model.0.insert(id, (k, who(id)));
            format!("({id}, '{k}', '{}', {}.1)", who(id), id % 7)
        })
        .collect();
    let sql = format!("INSERT INTO visits VALUES {}", values.join(", "));
    server.done(&sql).await.expect("the log is not the store");
}

/// A condition, and what it leaves.
fn condition(chance: &mut StdRng, model: &Model) -> (String, Model) {
    let newest = model.0.keys().next_back().copied().unwrap_or(0);
    let id = chance.random_range(0..=newest);
    let mut left = model.clone();
    let condition = match chance.random_range(0..5) {
        0 => {
            left.0.remove(&id);
            format!("who = '{}'", who(id))
        }
        1 => {
            left.0.retain(|id, _| id % 3 != 1);
            "id % 3 = 1".to_owned()
        }
        2 => {
            left.0.retain(|_, (k, _)| *k != "b");
            "k = 'b' and _offset >= 0".to_owned()
        }
        3 => {
            left.0.retain(|other, _| *other > id);
            format!("id <= {id}")
        }
        _ => {
            left.0.clear();
            "true".to_owned()
        }
    };
    (condition, left)
}

/// Every file below `folder` as it is, and the text of every value in those that are Parquet.
fn at_rest(folder: &Path) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(at_rest(&path));
            continue;
        }
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.expect("it can be read"),
        };
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if path
            .extension()
            .is_some_and(|extension| extension == "parquet")
        {
            let batches = lambic_dataset::parquet_file::decode(bytes.into()).expect("Parquet");
            text += &arrow::util::pretty::pretty_format_batches(&batches)
                .expect("it can be shown")
                .to_string();
        }
        found.push((path, text));
    }
    found
}

/// After erasures are finished nothing of what they took is in any file.
fn check_at_rest(data: &Path, model: &Model, next: i64, seed: u64) {
    let files = at_rest(data);
    let mut seen = false;
    for id in 0..next {
        let who = who(id);
        let holding: Vec<_> = files
            .iter()
            .filter(|(_, text)| text.contains(&who))
            .collect();
        match model.0.contains_key(&id) {
            true => seen |= !holding.is_empty(),
            false => assert!(
                holding.is_empty(),
                "seed {seed}: {who} is still in {:?}",
                holding.iter().map(|(path, _)| path).collect::<Vec<_>>()
            ),
        }
    }
    assert!(seen || model.0.is_empty(), "what is there would be found");
}

async fn until_finished(server: &Server) -> Told {
    let pending = "SELECT state FROM lambic_erasures WHERE finished_at IS NULL";
    for _ in 0..1_200 {
        let states = server.rows(pending).await?;
        if states.is_empty() {
            return Ok("finished".to_owned());
        }
        if server.store.is_dead() {
            return Err("killed".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("not finished: {:?}", server.rows(pending).await))
}

/// Random appends, seals, batches and erasures; in every round the server dies in another of its writes. The length
/// is `LAMBIC_ERASE_ROUNDS`, and `LAMBIC_ERASE_SEED` (printed) repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_stays_away_from_every_view() {
    let (seed, rounds, mut chance) = rounds_of("erasures", "ERASE", 12);
    let (_folder, data) = new_folder();
    let mut server = Server::declared(&data, &DECLARED).await;
    server
        .done("INSERT INTO names VALUES ('a', 'Ann'), ('b', 'Bob')")
        .await
        .expect("the log is not the store");
    let (mut model, mut next) = (Model::default(), 0);
    for round in 0..rounds {
        let when = format!("seed {seed}, round {round}");
        let count = chance.random_range(1..60);
        append(&server, &mut model, &mut next, count).await;
        for _ in 0..chance.random_range(0..4) {
            // Refused only by a dead store.
            let _ = match chance.random_range(0..3) {
                0 => server
                    .engine
                    .seal_all()
                    .await
                    .map(|()| String::new())
                    .map_err(|e| e.to_string()),
                1 => server.done("REFRESH MATERIALIZED VIEW by_k").await,
                _ => {
                    let replaced = DECLARED[3].replace("CREATE", "CREATE OR REPLACE");
                    let other = replaced.replace(
                        "count(*) AS n",
                        &format!("count(*) + {round} - {round} AS n"),
                    );
                    server.done(&other).await
                }
            };
        }
        let (condition, left) = condition(&mut chance, &model);
        let wait = chance.random_bool(0.5);
        let sql = format!("ERASE FROM visits WHERE {condition} WITH (wait = {wait})");
        let before = model.0.len() - left.0.len();
        let erased = tokio::select! {
            erased = server.done(&sql) => erased,
            () = server.dead() => Err("killed".to_owned()),
        };
        let mut maybe = None;
        match erased {
            Ok(tag) => {
                assert_eq!(tag, format!("ERASE {before}"), "{when}: {condition}");
                model = left;
            }
            Err(_) if server.store.is_dead() => maybe = Some(left),
            Err(error) => panic!("{when}: {condition}: {error}"),
        }
        if !server.store.is_dead() {
            server.check(&model, &when).await;
            let count = chance.random_range(1..9);
            append(&server, &mut model, &mut next, count).await;
            server.check(&model, &when).await;
        }
        if chance.random_bool(0.3) && until_finished(&server).await.is_ok() {
            check_at_rest(&data, &model, next, seed);
        }
        let writes_left = chance.random_range(0..60);
        let last_happens = chance.random_bool(0.5);
        server.killed().await;
        if let Some(left) = maybe {
            // Killed before the answer: it happened or it did not.
            let server = Server::open(&data, i64::MAX, true).await.expect("it opens");
            let found = server.rows("SELECT id, k, who FROM visits").await;
            if found == Ok(left.lines()) {
                model = left;
            }
            assert_eq!(found, Ok(model.lines()), "{when}: {condition}");
            server.killed().await;
        }
        server = match Server::open(&data, writes_left, last_happens).await {
            Ok(server) => server,
            // Killed while it started.
            Err(_) => Server::open(&data, i64::MAX, true).await.expect("it opens"),
        };
    }
    server.killed().await;
    let server = Server::open(&data, i64::MAX, true).await.expect("it opens");
    server
        .check(&model, &format!("seed {seed}, at the end"))
        .await;
    until_finished(&server)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    server
        .check(&model, &format!("seed {seed}, finished"))
        .await;
    server.engine.seal_all().await.expect("sealed");
    check_at_rest(&data, &model, next, seed);
    server.engine.close().await;
}
