//! kill -9 at random moments under load; an outside ledger of acknowledged record ids tells what must be there.
//!
//! `LAMBIC_KILL_CYCLES` (5 unless set) and `LAMBIC_KILL_SEED` (printed) choose the length and the
//! moments; `scripts/kill-loop 200` runs the long form.

mod common;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{PATIENCE, Server, setting};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How a writer protects itself against doubling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// Producer and sequence; an unanswered append is repeated as it was.
    Sequence,
    /// The stream knows its record ids; an unanswered append is repeated, or given up now and then.
    RecordId,
    /// Nothing; an unanswered append is not repeated.
    Once,
}

impl Manner {
    fn stream(self) -> &'static str {
        match self {
            Manner::Sequence => "by_sequence",
            Manner::RecordId => "by_record_id",
            Manner::Once => "by_luck",
        }
    }
}

const MANNERS: [Manner; 3] = [Manner::Sequence, Manner::RecordId, Manner::Once];
const WRITERS_PER_MANNER: u64 = 2;

/// What was sent, and whether the server acknowledged it.
#[derive(Default)]
struct Ledger(Mutex<HashMap<&'static str, HashMap<u64, bool>>>);

impl Ledger {
    fn note(&self, stream: &'static str, ids: &[u64], acknowledged: bool) {
        let mut ledger = self.0.lock().expect("no holder panics");
        let stream = ledger.entry(stream).or_default();
        for id in ids {
            *stream.entry(*id).or_default() |= acknowledged;
        }
    }
}

struct Load {
    url: String,
    ledger: Ledger,
    stop: AtomicBool,
    next_id: AtomicU64,
    refused: Mutex<Vec<String>>,
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled() {
    let cycles: u64 = setting("LAMBIC_KILL_CYCLES").unwrap_or(5);
    let seed: u64 = setting("LAMBIC_KILL_SEED").unwrap_or_else(rand::random);
    println!("kill -9: {cycles} cycles; repeat these moments with LAMBIC_KILL_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    // Small segments and quick seals, so that kills meet them.
    let config: PathBuf = folder.path().join("settings.toml");
    std::fs::write(
        &config,
        "[log]\nsegment_bytes = 262_144\n[dataset]\nseal_records = 2_000\nseal_after_s = 1\n",
    )
    .expect("the folder is ours");
    let config = config
        .to_str()
        .expect("a temporary path is UTF-8")
        .to_owned();
    let (http, pg) = common::free_ports();
    let start = || {
        Server::start_on("serve", None, &data, http, pg, &["--config", &config]).unwrap_or_else(
            |said| panic!("seed {seed}: no start after a kill:\n{}", said.join("\n")),
        )
    };
    let mut server = start();
    declare(&server);

    let load = Arc::new(Load {
        url: server.url.clone(),
        ledger: Ledger::default(),
        stop: AtomicBool::new(false),
        next_id: AtomicU64::new(1),
        refused: Mutex::default(),
    });
    let mut threads = Vec::new();
    for manner in MANNERS {
        for writer in 0..WRITERS_PER_MANNER {
            let load = Arc::clone(&load);
            let chance = StdRng::seed_from_u64(chance.random());
            threads.push(thread::spawn(move || write(&load, manner, writer, chance)));
        }
    }
    threads.push({
        let load = Arc::clone(&load);
        thread::spawn(move || run_batches(&load))
    });

    for cycle in 1..=cycles {
        // A random moment is the point here.
        thread::sleep(Duration::from_millis(chance.random_range(20..600)));
        server.kill();
        server = start();
        if cycle % 50 == 0 {
            println!(
                "  {cycle} kills, {} ids sent",
                load.next_id.load(Ordering::Relaxed) - 1
            );
        }
    }
    // Let every writer be answered once more by a living server.
    thread::sleep(Duration::from_millis(200));
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no writer panics");
    }
    let refused = load.refused.lock().expect("no holder panics");
    assert!(
        refused.is_empty(),
        "seed {seed}: refused: {:?}",
        &refused[..refused.len().min(3)]
    );
    drop(refused);
    compare(&server, &load.ledger, cycles, seed);
    let audit = server.cli(&["audit", "--all"]);
    assert!(
        audit.status.success(),
        "seed {seed}: {}{}",
        common::text(&audit.stdout),
        common::text(&audit.stderr)
    );
    assert!(
        server.terminate().success(),
        "seed {seed}: {}",
        server.said()
    );
}

fn declare(server: &Server) {
    for manner in MANNERS {
        let stream = manner.stream();
        let options = match manner {
            Manner::RecordId => "WITH (record_id = 'id', partitions = '2')",
            Manner::Sequence | Manner::Once => "WITH (partitions = '2')",
        };
        server.ok(&[
            "query",
            &format!(
                "CREATE STREAM {stream} (id bigint NOT NULL, writer bigint NOT NULL, value double precision) {options};
                 CREATE MATERIALIZED VIEW {stream}_sums AS
                 SELECT writer, count(*) AS records, sum(id) AS ids, sum(value) AS value, max(id) AS newest
                 FROM {stream} GROUP BY writer"
            ),
        ]);
    }
}

fn write(load: &Load, manner: Manner, writer: u64, mut chance: StdRng) {
    let stream = manner.stream();
    let url = format!("{}/v1/streams/{stream}/records", load.url);
    let producer = format!("writer-{writer}");
    let mut sequence = 0;
    while !load.stop.load(Ordering::Relaxed) {
        let count = chance.random_range(1..=40u64);
        let first = load.next_id.fetch_add(count, Ordering::Relaxed);
        let ids: Vec<u64> = (first..first + count).collect();
        let body: String = ids
            .iter()
            .map(|id| {
                format!(
                    "{{\"id\":{id},\"writer\":{writer},\"value\":{}}}\n",
                    *id as f64 / 3.0
                )
            })
            .collect();
        sequence += 1;
        load.ledger.note(stream, &ids, false);
        let give_up = Instant::now() + PATIENCE;
        loop {
            let mut request = ureq::post(&url)
                .config()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(20)))
                .build()
                .header("content-type", "application/x-ndjson");
            if manner == Manner::Sequence {
                request = request
                    .header("lambic-producer", producer.as_str())
                    .header("lambic-sequence", sequence.to_string());
            }
            match request.send(&body) {
                Ok(answer) if answer.status().is_success() => {
                    load.ledger.note(stream, &ids, true);
                    break;
                }
                Ok(mut answer) if answer.status().is_client_error() && answer.status() != 429 => {
                    let said = answer.body_mut().read_to_string().unwrap_or_default();
                    load.refused
                        .lock()
                        .expect("no holder panics")
                        .push(format!("{} {said}", answer.status()));
                    return;
                }
                // Killed before the answer, or not up again: whether it was kept is not known.
                Ok(_) | Err(_) => {}
            }
            let repeat = match manner {
                Manner::Sequence => true,
                Manner::RecordId => chance.random_bool(0.8),
                Manner::Once => false,
            };
            if !repeat || Instant::now() > give_up {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if manner != Manner::Sequence && !connects(&load.url) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn connects(url: &str) -> bool {
    std::net::TcpStream::connect(url.trim_start_matches("http://")).is_ok()
}

/// Batches go on meanwhile; one that a kill interrupts must leave no trace.
fn run_batches(load: &Load) {
    let mut turn = 0;
    while !load.stop.load(Ordering::Relaxed) {
        let view = format!("{}_sums", MANNERS[turn % MANNERS.len()].stream());
        turn += 1;
        let sql = format!("{{\"sql\": \"REFRESH MATERIALIZED VIEW {view}\"}}");
        let sent = ureq::post(format!("{}/v1/sql", load.url))
            .config()
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .header("content-type", "application/json")
            .send(&sql);
        if sent.is_err() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn compare(server: &Server, ledger: &Ledger, cycles: u64, seed: u64) {
    let ledger = ledger.0.lock().expect("no holder panics");
    let (mut acknowledged_total, mut lost, mut doubled, mut unknown) = (0, 0, 0, 0);
    for manner in MANNERS {
        let stream = manner.stream();
        let mut kept: HashMap<u64, u64> = HashMap::new();
        for row in server.rows(&format!(
            "SELECT id, count(*) AS n FROM {stream} GROUP BY id"
        )) {
            let id = row["id"].as_u64().expect("ids are numbers");
            kept.insert(id, row["n"].as_u64().expect("counts are numbers"));
        }
        let sent = ledger.get(stream).expect("every manner has sent something");
        for (id, acknowledged) in sent {
            let copies = kept.remove(id).unwrap_or(0);
            acknowledged_total += u64::from(*acknowledged);
            lost += u64::from(*acknowledged && copies == 0);
            doubled += u64::from(copies > 1);
        }
        // Ids that nobody sent.
        unknown += kept.len();
    }
    println!(
        "{cycles} kills: {acknowledged_total} acknowledged, {lost} lost, {doubled} doubled, {unknown} never sent"
    );
    assert_eq!((lost, doubled, unknown), (0, 0, 0), "seed {seed}");
    assert!(
        acknowledged_total > 0,
        "seed {seed}: nothing was acknowledged, so nothing was shown"
    );
}
