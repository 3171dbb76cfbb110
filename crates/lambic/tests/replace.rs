//! A view is replaced, and its former version brought back, while records arrive and clients read: no read fails, and
//! each shows all of one version at one frontier.
//!
//! `LAMBIC_REPLACE_S` (8 unless set) is how long the load goes on, `LAMBIC_REPLACE_READERS` (8) and
//! `LAMBIC_REPLACE_ROWS` (500 in an append) how heavy it is. What was measured is printed.

mod common;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{Server, pg::Pg, setting};

const WRITERS: u64 = 2;
const KEYS: u64 = 1_000;
/// What each version makes of a record: the second is what is read back.
const VERSIONS: [(&str, u64); 3] = [("v", 1), ("v * 2", 2), ("v * 5 - v", 4)];
/// The rows of the view and what the records come to, in one statement.
const READ: &str =
    "SELECT sum(total), min(factor), max(factor), (SELECT v FROM truth), count(*) FROM totals";

/// A read: when it was sent, when it was answered, and the version that it showed.
type Seen = (Instant, Instant, u64);

struct Load {
    url: String,
    pg: String,
    rows: u64,
    stop: AtomicBool,
    written: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn start(folder: &Path) -> Server {
    let config = folder.join("settings.toml");
    let settings = "[server]\npg_connections_max = 1_000\n[dataset]\nseal_records = 50_000\nseal_after_s = 1\n[speed]\ncheckpoint_records = 50_000\n";
    std::fs::write(&config, settings).expect("the folder is ours");
    let config = config.to_str().expect("a temporary path is UTF-8");
    Server::start_with("serve", None, &folder.join("data"), &["--config", config])
}

fn definition((value, factor): (&str, u64)) -> String {
    format!(
        "CREATE OR REPLACE MATERIALIZED VIEW totals AS
             SELECT k, sum({value}) AS total, max({factor}) AS factor FROM s GROUP BY k"
    )
}

fn write(load: &Load, number: u64) {
    let mut n = number;
    while load.goes_on() {
        let mut body = String::new();
        for _ in 0..load.rows {
            n += WRITERS;
            body.push_str(&format!("{{\"k\":{},\"v\":{}}}\n", n % KEYS, n % 97));
        }
        ureq::post(format!("{}/v1/streams/s/records", load.url))
            .header("content-type", "application/x-ndjson")
            .send(&body)
            .expect("the append is taken");
        load.written.fetch_add(load.rows, Ordering::Relaxed);
    }
}

fn read(load: &Load, _number: u64) {
    let mut pg = Pg::connect(&load.pg);
    let mut seen: Vec<Seen> = Vec::new();
    while load.goes_on() {
        seen.extend(read_once(&mut pg));
    }
    let mut all = load.seen.lock().expect("no holder panics");
    all.extend(seen);
}

/// `None` if there are no rows yet, which would show their version.
fn read_once(pg: &mut Pg) -> Option<Seen> {
    let sent = Instant::now();
    let rows = pg.ok(READ);
    let answered = Instant::now();
    let cells: Vec<u64> = rows[0]
        .iter()
        .map(|cell| {
            cell.as_deref()
                .map_or(0, |cell| cell.parse().expect("a number"))
        })
        .collect();
    let [total, least, greatest, records, keys] = cells[..] else {
        panic!("five columns, not {cells:?}");
    };
    assert_eq!(least, greatest, "one version in one read");
    assert_eq!(
        total,
        records * least,
        "the view at the frontier of the records"
    );
    assert!(keys <= KEYS);
    (keys > 0).then_some((sent, answered, least))
}

/// When a version was asked for, when the statement was answered, and which it is.
type Served = (Instant, Instant, u64);

/// Who reads after the answer and before the next statement sees what was asked for, nothing else.
fn check_switches(served: &[Served], seen: &[Seen]) {
    for (index, (_, answered, version)) in served.iter().enumerate() {
        let next = served.get(index + 1).map(|(asked, _, _)| *asked);
        let between = seen
            .iter()
            .filter(|(sent, at, _)| sent >= answered && next.is_none_or(|next| *at <= next));
        for (_, _, shown) in between {
            assert_eq!(shown, version, "after the answer to statement {index}");
        }
    }
}

fn told_latencies(seen: &[Seen]) {
    let mut latencies: Vec<Duration> = seen.iter().map(|(sent, at, _)| *at - *sent).collect();
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{} reads, p50 {:?}, p99 {:?}, at most {:?}",
        seen.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Of the versions that were served, the first of each view included.
fn told_switches(server: &Server) {
    let value = |name: &str| server.metric(&format!("lambic_view_switch_seconds_{name}"));
    let value = |name| value(name).expect("it is counted");
    println!(
        "{} switches, {} of them within 10 ms, {} s together",
        value("count"),
        value("bucket{le=\"0.01\"}"),
        value("sum")
    );
}

#[test]
fn no_read_fails_or_mixes_versions() {
    let seconds = setting("LAMBIC_REPLACE_S").unwrap_or(8);
    let readers = setting("LAMBIC_REPLACE_READERS").unwrap_or(8);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = start(folder.path());
    server.ok(&[
        "query",
        "CREATE STREAM s (k bigint NOT NULL, v bigint NOT NULL) WITH (partitions = '2')",
    ]);
    server.ok(&[
        "query",
        "CREATE MATERIALIZED VIEW truth AS SELECT sum(v) AS v FROM s",
    ]);
    server.ok(&["query", &definition(VERSIONS[0])]);
    let load = Arc::new(Load {
        url: server.url.clone(),
        pg: server.pg.clone(),
        rows: setting("LAMBIC_REPLACE_ROWS").unwrap_or(500),
        stop: AtomicBool::new(false),
        written: AtomicU64::new(0),
        seen: Mutex::default(),
    });
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut spawn = |work: fn(&Load, u64), number: u64| {
        let load = Arc::clone(&load);
        threads.push(thread::spawn(move || work(&load, number)));
    };
    (0..WRITERS).for_each(|number| spawn(write, number));
    (0..readers).for_each(|number| spawn(read, number));
    let began = Instant::now();
    let mut pg = Pg::connect(&server.pg);
    let mut served: Vec<Served> = Vec::new();
    // A thread that ends before it is told to has failed.
    while began.elapsed() < Duration::from_secs(seconds) && threads.iter().all(|t| !t.is_finished())
    {
        thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        let step = served.len();
        let version = match step % 4 {
            3 => {
                pg.ok("ALTER MATERIALIZED VIEW totals ROLLBACK");
                served[step - 2].2
            }
            _ => {
                let version = VERSIONS[(step + 1) % VERSIONS.len()];
                pg.ok(&definition(version));
                version.1
            }
        };
        served.push((asked, Instant::now(), version));
        if let Some((_, _, shown)) = read_once(&mut pg) {
            assert_eq!(shown, version, "after the answer to statement {step}");
        }
    }
    let rate = load.written.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        if let Err(failed) = thread.join() {
            println!("the server said:\n{}", server.said());
            std::panic::resume_unwind(failed);
        }
    }
    println!("{rate:.0} rows/s, {} switches", served.len());
    let seen = std::mem::take(&mut *load.seen.lock().expect("no holder panics"));
    check_switches(&served, &seen);
    told_latencies(&seen);
    told_switches(&server);
    let kept = pg.ok("SELECT count(*) FROM s");
    let kept = kept[0][0].as_deref().map(|count| count.parse::<u64>());
    assert_eq!(kept, Some(Ok(load.written.load(Ordering::Relaxed))));
    server.ok(&["audit", "--all"]);
    assert!(server.terminate().success(), "{}", server.said());
}
