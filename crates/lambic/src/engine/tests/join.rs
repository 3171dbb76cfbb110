//! Views that join streams, while records come to all sides: every read is the `SELECT` over all records, by indexes
//! or without, through batches, deaths of the store, restarts, erasures, versions and transactions.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const DECLARED: [&str; 6] = [
    "CREATE STREAM orders (id bigint NOT NULL, customer integer, amount double precision) WITH (partitions = 3)",
    "CREATE STREAM customers (id bigint NOT NULL, region text)",
    "CREATE STREAM rates (region text, rate numeric(6,2)) WITH (partitions = 2)",
    "CREATE MATERIALIZED VIEW regions AS
         SELECT region, count(*) AS n, sum(amount) AS amount FROM orders JOIN customers ON customers.id = orders.customer
         GROUP BY region",
    "CREATE MATERIALIZED VIEW rated AS
         SELECT r.rate, count(*) AS n, sum(o.amount * r.rate) AS due FROM orders AS o, customers AS c, rates AS r
         WHERE o.customer = c.id AND c.region = r.region AND o.amount > 1 GROUP BY r.rate",
    "CREATE MATERIALIZED VIEW known WITH (batch_every = 'never') AS
         SELECT DISTINCT o.customer, c.region FROM orders AS o JOIN customers AS c ON c.id = o.customer",
];
const VIEWS: [&str; 3] = ["regions", "rated", "known"];

fn bounded(join_index_bytes_max: usize) -> Settings {
    let mut settings = Settings::default();
    settings.memory.join_index_bytes_max = join_index_bytes_max;
    settings
}

async fn opened(settings: &Settings, data: &Path) -> Server {
    let opened = Server::open_with(settings.clone(), data, i64::MAX, true).await;
    opened.expect("it opens")
}

fn insert(chance: &mut StdRng) -> String {
    let count = chance.random_range(1..30);
    let mut row = || match chance.random_range(0..3) {
        0 => (
            0,
            format!(
                "({}, '{}')",
                chance.random_range(0..12),
                KEYS[chance.random_range(0..3)]
            ),
        ),
        1 => (
            1,
            format!(
                "('{}', {}.25)",
                KEYS[chance.random_range(0..3)],
                chance.random_range(1..4)
            ),
        ),
        _ => {
            let customer = match chance.random_bool(0.1) {
                true => "NULL".to_owned(),
                false => chance.random_range(0..15).to_string(),
            };
            let amount = chance.random_range(0..1_000);
            (
                2,
                format!(
                    "({}, {customer}, {amount}.1)",
                    chance.random_range(0..1_000)
                ),
            )
        }
    };
    let mut rows = [const { Vec::new() }; 3];
    for _ in 0..count {
        let (stream, row) = row();
        rows[stream].push(row);
    }
    let streams = ["customers", "rates", "orders"].into_iter().zip(rows);
    let inserts = streams.filter(|(_, rows)| !rows.is_empty());
    let inserts =
        inserts.map(|(stream, rows)| format!("INSERT INTO {stream} VALUES {}", rows.join(", ")));
    inserts.collect::<Vec<_>>().join("; ")
}

async fn check_audits(server: &Server, when: &str) {
    let audits = server.rows("AUDIT ALL").await;
    if server.store.is_dead() {
        return;
    }
    let audits = audits.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(audits.len(), VIEWS.len(), "{when}: every view");
    for audit in audits {
        assert!(audit.contains("|true|"), "{when}: {audit}");
    }
}

/// Two writers and two readers at once, batches between them; then the store dies in one of its writes. The length is
/// `LAMBIC_JOIN_ROUNDS`, and `LAMBIC_JOIN_SEED` (printed) repeats what is inserted.
#[test]
fn what_is_served_of_a_join_is_its_select() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(lambic_query::STACK_BYTES)
        .enable_all()
        .build()
        .expect("a runtime");
    // As servers have it.
    let thread = std::thread::Builder::new().stack_size(lambic_query::STACK_BYTES);
    let thread = thread.spawn(move || runtime.block_on(joins_under_way()));
    let ended = thread.expect("a thread").join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

async fn joins_under_way() {
    let (seed, rounds, mut chance) = rounds_of("joins", "JOIN", 3);
    for settings in [Settings::default(), bounded(0), bounded(4_000)] {
        let (_folder, data) = new_folder();
        let mut server = opened(&settings, &data).await;
        for sql in DECLARED {
            server.done(sql).await.expect(sql);
        }
        let classes = "SELECT DISTINCT class FROM lambic_views";
        assert_eq!(
            server.rows(classes).await,
            Ok(vec!["join-mergeable".to_owned()])
        );
        for round in 0..rounds {
            let when = format!("seed {seed}, round {round}, {:?}", settings.memory);
            let inserts: Vec<String> = (0..12).map(|_| insert(&mut chance)).collect();
            let is_over = AtomicBool::new(false);
            let write = async |own: &[String]| {
                for sql in own {
                    server.run(sql).await.expect("the log is not the store");
                }
            };
            let (first, second) = inserts.split_at(6);
            let writers = async {
                tokio::join!(write(first), write(second));
                is_over.store(true, Ordering::SeqCst);
            };
            let full = ["", " FULL"][chance.random_range(0..2)];
            let batches = async {
                let _ = server.engine.seal_all().await;
                let _ = server
                    .done(&format!("REFRESH MATERIALIZED VIEW regions{full}"))
                    .await;
                let _ = server.done("REFRESH MATERIALIZED VIEW rated").await;
            };
            let readers = async {
                while !is_over.load(Ordering::SeqCst) && !server.store.is_dead() {
                    // A dead store refuses at once, and the others are to come to their turn.
                    tokio::task::yield_now().await;
                    check_audits(&server, &when).await;
                    let twice = "SELECT (SELECT sum(n) FROM regions) - (SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer)";
                    let found = server.rows(twice).await;
                    if !server.store.is_dead() {
                        let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
                        assert!(
                            ["0", "NULL"].contains(&found[0].as_str()),
                            "{when}: {found:?}"
                        );
                    }
                }
            };
            let dead = async {
                tokio::select! {
                    _ = async { tokio::join!(writers, readers, batches) } => {}
                    () = server.dead() => {}
                }
            };
            dead.await;
            check_audits(&server, &when).await;
            if chance.random_bool(0.4) && !server.store.is_dead() {
                let condition =
                    ["customer = 3", "id % 4 = 1", "amount > 700"][chance.random_range(0..3)];
                let (stream, condition) = match chance.random_bool(0.5) {
                    true => ("orders", condition),
                    false => ("customers", "id > 8"),
                };
                let erase = format!(
                    "ERASE FROM {stream} WHERE {condition} WITH (wait = {})",
                    chance.random_bool(0.5)
                );
                tokio::select! {
                    erased = server.done(&erase) => { assert!(erased.is_ok() || server.store.is_dead(), "{when}: {erased:?}"); }
                    () = server.dead() => {}
                }
                check_audits(&server, &format!("{when}, after {erase}")).await;
                let insert = insert(&mut chance);
                server.run(&insert).await.expect("the log is not the store");
                check_audits(&server, &format!("{when}, after {erase} and an insert")).await;
            }
            let (writes_left, last_happens) = (chance.random_range(5..60), chance.random_bool(0.5));
            server.killed().await;
            let again = Server::open_with(settings.clone(), &data, writes_left, last_happens).await;
            server = match again {
                Ok(server) => server,
                // Killed while it started.
                Err(_) => opened(&settings, &data).await,
            };
        }
        server.killed().await;
        let server = opened(&settings, &data).await;
        check_audits(
            &server,
            &format!("seed {seed}, at the end, {:?}", settings.memory),
        )
        .await;
        server.engine.close().await;
    }
}

/// A new server with some records on all sides.
async fn filled(settings: &Settings) -> (tempfile::TempDir, Server) {
    let (folder, data) = new_folder();
    let server = opened(settings, &data).await;
    for sql in DECLARED {
        server.done(sql).await.expect(sql);
    }
    for sql in [
        "INSERT INTO customers VALUES (1, 'a'), (2, 'b'), (2, 'a')",
        "INSERT INTO orders VALUES (1, 1, 10), (2, 2, 20), (3, 3, 30), (4, NULL, 40)",
        "INSERT INTO rates VALUES ('a', 0.5), ('b', 2)",
    ] {
        server.run(sql).await.expect(sql);
    }
    (folder, server)
}

const REGIONS: &str = "SELECT region, n, amount FROM regions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_reads_its_own_records_joined() {
    let (_folder, server) = filled(&Settings::default()).await;
    let before = server.rows(REGIONS).await.expect("it is read");
    assert_eq!(before, ["a|2|30.0", "b|1|20.0"]);
    let session = Session {
        transaction: Some(server.engine.database.begin(lambic_query::Modes::default())),
        ..Session::default()
    };
    let run = async |sql: &str| server.engine.database.execute(&session, sql).await;
    run("INSERT INTO customers VALUES (3, 'c'); INSERT INTO orders VALUES (5, 1, 1)")
        .await
        .expect("a transaction");
    let mut outcomes = run(REGIONS).await.expect("its own");
    let Some(Outcome::Rows { rows, .. }) = outcomes.pop() else {
        panic!("it selects")
    };
    let own = datafusion::physical_plan::common::collect(rows)
        .await
        .expect("rows");
    assert_eq!(lines(&own).unwrap(), ["a|3|31.0", "b|1|20.0", "c|1|30.0"]);
    assert_eq!(server.rows(REGIONS).await, Ok(before.clone()));
    drop(session);
    assert_eq!(server.rows(REGIONS).await, Ok(before));
    check_audits(&server, "after the transaction").await;
    server.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_frontiers_and_versions_of_a_join_are_exact() {
    for settings in [Settings::default(), bounded(0)] {
        let (_folder, server) = filled(&settings).await;
        let frontier = server
            .rows("SELECT name, frontier FROM lambic_streams WHERE name IN ('orders', 'customers')")
            .await;
        let frontier = frontier.expect("frontiers");
        let frontier: Vec<String> = frontier
            .iter()
            .map(|line| line.replacen('|', "@", 1))
            .collect();
        let before = server.rows(REGIONS).await.expect("it is read");
        for sql in [
            "INSERT INTO customers VALUES (3, 'a')",
            "REFRESH MATERIALIZED VIEW regions",
            "INSERT INTO orders VALUES (6, 3, 100), (7, 1, 1000)",
        ] {
            server.run(sql).await.expect(sql);
        }
        let now = server.rows(REGIONS).await.expect("it is read");
        assert_eq!(now, ["a|5|1160.0", "b|1|20.0"]);
        let past = format!(
            "SELECT region, n, amount FROM regions AS OF OFFSET '{}'",
            frontier.join(" ")
        );
        assert_eq!(server.rows(&past).await, Ok(before));
        let replaced = DECLARED[3]
            .replace("CREATE", "CREATE OR REPLACE")
            .replace("sum(amount) AS amount", "sum(amount + 1) AS amount");
        server.run(&replaced).await.expect("it is replaced");
        assert_eq!(
            server.rows(REGIONS).await.expect("it is read"),
            ["a|5|1165.0", "b|1|21.0"]
        );
        server
            .run("INSERT INTO customers VALUES (1, 'b')")
            .await
            .expect("an insert");
        check_audits(&server, "replaced").await;
        server
            .run("ALTER MATERIALIZED VIEW regions ROLLBACK")
            .await
            .expect("it is rolled back");
        assert_eq!(
            server.rows(REGIONS).await.expect("it is read"),
            ["a|5|1160.0", "b|3|1030.0"]
        );
        check_audits(&server, "rolled back").await;
        server.engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_says_how_its_sides_stand() {
    for (settings, side, reason) in [
        (Settings::default(), "orders: an index of ", "NULL"),
        (
            bounded(0),
            "orders: no index: it would not fit into memory.join_index_bytes_max",
            "the index of orders",
        ),
    ] {
        let (_folder, server) = filled(&settings).await;
        server
            .run("INSERT INTO customers VALUES (3, 'a')")
            .await
            .expect("an insert");
        assert_eq!(
            server.rows(REGIONS).await.expect("it is read")[0],
            "a|3|60.0"
        );
        let explained = server
            .rows("EXPLAIN MATERIALIZED VIEW regions")
            .await
            .expect("it is explained");
        let has = |wanted: &str| explained.iter().any(|line| line.contains(wanted));
        assert!(has("class|join-mergeable (") && has(side), "{explained:#?}");
        let is_scanned = has("read|") && has("computed by reading ") && has("4 records of orders");
        assert_eq!(is_scanned, reason != "NULL", "{explained:#?}");
        let reasons = server
            .rows("SELECT reason FROM lambic_views WHERE name = 'regions'")
            .await;
        assert!(
            reasons
                .as_ref()
                .is_ok_and(|reasons| reasons[0].starts_with(reason)),
            "{reasons:?}"
        );
        server.engine.close().await;
    }
}
