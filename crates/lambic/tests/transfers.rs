//! Transfers between accounts: a debit in one stream and a credit in another, in one transaction. Whatever loads and
//! whatever runs meanwhile, every read of the total over all accounts, a view over two views, is exactly 0.
//!
//! `LAMBIC_TRANSFERS_S` (8 unless set) is how long the load goes on, `LAMBIC_TRANSFERS_SEED` (printed) chooses it.

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{Server, pg::Pg, setting};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

const ACCOUNTS: i64 = 50;
const PG_WRITERS: u64 = 5;
const HTTP_WRITERS: u64 = 3;
const READERS: u64 = 4;
const VIEWS: [&str; 2] = ["debits_by_account", "credits_by_account"];
const TOTAL: &str = "SELECT total, n FROM totals";
const TOTAL_AND_STREAMS: &str = "SELECT total, n,
    (SELECT count(*) FROM debits) - (SELECT coalesce(sum(n), 0) FROM credits_by_account) FROM totals";

/// What runs, and what was acknowledged.
struct Load {
    url: String,
    pg: String,
    stop: AtomicBool,
    transfers: AtomicU64,
    amount: AtomicI64,
    reads: AtomicU64,
    batches: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn acknowledged(&self, amounts: &[i64]) {
        self.transfers
            .fetch_add(amounts.len() as u64, Ordering::Relaxed);
        self.amount
            .fetch_add(amounts.iter().sum::<i64>(), Ordering::Relaxed);
    }
}

/// Small segments and quick seals, so that the load meets them.
fn start(folder: &Path) -> Server {
    let config = folder.join("settings.toml");
    std::fs::write(
        &config,
        "[log]\nsegment_bytes = 262_144\n[dataset]\nseal_records = 2_000\nseal_after_s = 1\n",
    )
    .expect("the folder is ours");
    let config = config.to_str().expect("a temporary path is UTF-8");
    Server::start_with("serve", None, &folder.join("data"), &["--config", config])
}

fn declare(server: &Server) {
    server.ok(&[
        "query",
        "CREATE STREAM debits (account bigint NOT NULL, amount bigint NOT NULL) WITH (partitions = '2');
         CREATE STREAM credits (account bigint NOT NULL, amount bigint NOT NULL)
             WITH (partitions = '3', partition_by = 'account');
         CREATE MATERIALIZED VIEW debits_by_account AS
             SELECT account, count(*) AS n, sum(amount) AS amount FROM debits GROUP BY account;
         CREATE MATERIALIZED VIEW credits_by_account AS
             SELECT account, count(*) AS n, sum(amount) AS amount FROM credits GROUP BY account;
         CREATE MATERIALIZED VIEW totals AS
             SELECT coalesce(sum(amount), 0) AS total, coalesce(sum(n), 0) AS n FROM (
                 SELECT amount, n FROM credits_by_account UNION ALL SELECT -amount, -n FROM debits_by_account
             ) AS moved",
    ]);
}

fn numbers(pg: &mut Pg, sql: &str) -> Vec<i64> {
    let rows = pg.ok(sql);
    let cells = rows.iter().flatten().flatten();
    cells
        .map(|cell| cell.parse().unwrap_or_else(|_| panic!("{sql}: {cell:?}")))
        .collect()
}

#[test]
fn the_total_is_always_zero() {
    let seconds = setting("LAMBIC_TRANSFERS_S").unwrap_or(8);
    let seed = setting("LAMBIC_TRANSFERS_SEED").unwrap_or_else(rand::random);
    println!("transfers for {seconds} s; repeat them with LAMBIC_TRANSFERS_SEED={seed}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = start(folder.path());
    declare(&server);
    let load = Arc::new(Load {
        url: server.url.clone(),
        pg: server.pg.clone(),
        stop: AtomicBool::new(false),
        transfers: AtomicU64::new(0),
        amount: AtomicI64::new(0),
        reads: AtomicU64::new(0),
        batches: AtomicU64::new(0),
    });
    let mut chance = StdRng::seed_from_u64(seed);
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut spawn = |work: fn(&Load, u64, StdRng), number: u64| {
        let load = Arc::clone(&load);
        let chance = StdRng::seed_from_u64(chance.random());
        threads.push(thread::spawn(move || work(&load, number, chance)));
    };
    (0..PG_WRITERS).for_each(|number| spawn(write_over_postgres, number));
    (0..HTTP_WRITERS).for_each(|number| spawn(write_over_http, number));
    (0..READERS).for_each(|number| spawn(read, number));
    spawn(run_batches, 0);
    let until = Instant::now() + Duration::from_secs(seconds);
    // A thread that ends before it is told to has failed.
    while Instant::now() < until && threads.iter().all(|thread| !thread.is_finished()) {
        thread::sleep(Duration::from_millis(50));
    }
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        if let Err(failed) = thread.join() {
            println!("seed {seed}; the server said:\n{}", server.said());
            std::panic::resume_unwind(failed);
        }
    }
    compare(&server, &load);
    assert!(server.terminate().success(), "{}", server.said());
}

fn compare(server: &Server, load: &Load) {
    let transfers = load.transfers.load(Ordering::Relaxed);
    let reads = load.reads.load(Ordering::Relaxed);
    let batches = load.batches.load(Ordering::Relaxed);
    println!("{transfers} transfers, {reads} reads, {batches} batches");
    assert!(transfers > 0 && reads > 0 && batches > 0);
    let mut pg = Pg::connect(&server.pg);
    let acknowledged = [transfers.cast_signed(), load.amount.load(Ordering::Relaxed)];
    for source in ["debits", "credits"] {
        let kept = format!("SELECT count(*), sum(amount) FROM {source}");
        assert_eq!(numbers(&mut pg, &kept), acknowledged, "{source}");
        let shown = format!("SELECT sum(n), sum(amount) FROM {source}_by_account");
        assert_eq!(numbers(&mut pg, &shown), acknowledged, "{source}");
    }
    assert_eq!(numbers(&mut pg, TOTAL), [0, 0]);
    server.ok(&["audit", "--all"]);
}

struct Transfer {
    from: i64,
    to: i64,
    amount: i64,
}

fn transfers(chance: &mut StdRng) -> Vec<Transfer> {
    let count = chance.random_range(1..=4);
    let transfer = |_| Transfer {
        from: chance.random_range(0..ACCOUNTS),
        to: chance.random_range(0..ACCOUNTS),
        amount: chance.random_range(1..1_000),
    };
    (0..count).map(transfer).collect()
}

fn amounts(transfers: &[Transfer]) -> Vec<i64> {
    transfers.iter().map(|transfer| transfer.amount).collect()
}

/// `BEGIN`, statements and `COMMIT` one by one; in between the own total is off by what was inserted, nobody else's.
fn write_over_postgres(load: &Load, _number: u64, mut chance: StdRng) {
    let mut pg = Pg::connect(&load.pg);
    while load.goes_on() {
        let transfers = transfers(&mut chance);
        let values = |account: fn(&Transfer) -> i64| {
            let rows = transfers
                .iter()
                .map(|transfer| format!("({}, {})", account(transfer), transfer.amount));
            rows.collect::<Vec<_>>().join(", ")
        };
        let debits = format!("INSERT INTO debits VALUES {}", values(|one| one.from));
        let credits = format!("INSERT INTO credits VALUES {}", values(|one| one.to));
        if chance.random_bool(0.2) {
            // Statements of one message are one transaction.
            pg.ok(&format!("{debits}; {credits}"));
            load.acknowledged(&amounts(&transfers));
            continue;
        }
        pg.ok(["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"][chance.random_range(0..2usize)]);
        pg.ok(&debits);
        if chance.random_bool(0.2) {
            let sum: i64 = amounts(&transfers).iter().sum();
            let own = numbers(&mut pg, TOTAL);
            assert_eq!(own, [-sum, -(transfers.len() as i64)]);
        }
        if chance.random_bool(0.2) {
            pg.ok("SAVEPOINT s");
            pg.ok("INSERT INTO credits VALUES (0, 1000000)");
            let refused = pg.query("INSERT INTO credits VALUES (1, NULL)");
            assert!(refused.unwrap_err().starts_with("23502"));
            assert_eq!(pg.status, 'E');
            pg.ok("ROLLBACK TO SAVEPOINT s");
        }
        pg.ok(&credits);
        assert_eq!(pg.status, 'T');
        if chance.random_bool(0.1) {
            pg.ok("ROLLBACK");
        } else {
            pg.ok("COMMIT");
            load.acknowledged(&amounts(&transfers));
        }
        assert_eq!(pg.status, 'I');
    }
}

/// One request for all of them; now and then it is repeated, as after an answer that got lost.
fn write_over_http(load: &Load, number: u64, mut chance: StdRng) {
    let mut sequence = 0;
    while load.goes_on() {
        let transfers = transfers(&mut chance);
        let records = |account: fn(&Transfer) -> i64| {
            let records = transfers.iter().map(|transfer| {
                serde_json::json!({ "account": account(transfer), "amount": transfer.amount })
            });
            Value::Array(records.collect())
        };
        let body = serde_json::json!({ "debits": records(|one| one.from), "credits": records(|one| one.to) });
        let body = body.to_string();
        sequence += 1;
        for attempt in 0..chance.random_range(1..=2) {
            let answer = ureq::post(format!("{}/v1/append", load.url))
                .header("content-type", "application/json")
                .header("lambic-producer", format!("writer-{number}"))
                .header("lambic-sequence", sequence.to_string())
                .send(&body);
            let mut answer = answer.expect("the append is taken");
            let said = answer.body_mut().read_to_string().expect("an answer");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(said["duplicate"], attempt > 0, "{said}");
        }
        load.acknowledged(&amounts(&transfers));
    }
}

fn read(load: &Load, number: u64, mut chance: StdRng) {
    let mut pg = Pg::connect(&load.pg);
    while load.goes_on() {
        match number % 4 {
            0 => assert_eq!(numbers(&mut pg, TOTAL), [0, 0]),
            // Views and streams in one statement.
            1 => assert_eq!(numbers(&mut pg, TOTAL_AND_STREAMS), [0, 0, 0]),
            // All statements of a transaction at one frontier.
            2 => {
                pg.ok("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
                let before = numbers(&mut pg, "SELECT count(*), sum(amount) FROM debits");
                for _ in 0..chance.random_range(1..4) {
                    assert_eq!(numbers(&mut pg, TOTAL), [0, 0]);
                    let after = numbers(
                        &mut pg,
                        "SELECT sum(n), sum(amount) FROM credits_by_account",
                    );
                    assert!(before == after || before == [0]);
                }
                pg.ok("COMMIT");
            }
            _ => {
                let mut answer = ureq::post(format!("{}/v1/sql", load.url))
                    .send(TOTAL)
                    .expect("it can be read");
                let said = answer.body_mut().read_to_string().expect("an answer");
                let said: Value = serde_json::from_str(&said).expect("JSON");
                assert_eq!(said["rows"], serde_json::json!([[0, 0]]), "{said}");
            }
        }
        load.reads.fetch_add(1, Ordering::Relaxed);
    }
}

fn run_batches(load: &Load, _number: u64, mut chance: StdRng) {
    let mut pg = Pg::connect(&load.pg);
    while load.goes_on() {
        let view = VIEWS[chance.random_range(0..VIEWS.len())];
        let full = if chance.random_bool(0.2) { " FULL" } else { "" };
        pg.ok(&format!("REFRESH MATERIALIZED VIEW {view}{full}"));
        load.batches.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(chance.random_range(0..200)));
    }
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = start(folder.path());
    declare(&server);
    let mut pg = Pg::connect(&server.pg);
    pg.ok("BEGIN; INSERT INTO debits VALUES (1, 10); INSERT INTO credits VALUES (2, 10); COMMIT");
    pg.ok("BEGIN");
    pg.ok("INSERT INTO debits VALUES (1, 5)");
    pg.ok("INSERT INTO credits VALUES (2, 5)");
    assert_eq!(numbers(&mut pg, "SELECT count(*) FROM debits"), [2]);
    server.kill();
    let mut server = start(folder.path());
    let mut pg = Pg::connect(&server.pg);
    for source in ["debits", "credits"] {
        let kept = format!("SELECT count(*), sum(amount) FROM {source}");
        assert_eq!(numbers(&mut pg, &kept), [1, 10], "{source}");
    }
    assert_eq!(numbers(&mut pg, TOTAL), [0, 0]);
    assert!(server.terminate().success(), "{}", server.said());
}
