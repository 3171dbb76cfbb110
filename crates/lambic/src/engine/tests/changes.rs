//! Followers of views of every class, through appends, seals, batches, new versions, erasures and kills: what a
//! follower got adds up to the view's rows at the frontier of every message.

use std::collections::HashMap;

use arrow::record_batch::RecordBatch;
use lambic_query::{Change, Feed, Follow, Followed, Message};

use super::*;

/// Fewer than some views have rows: those must not be read as a whole.
const ROWS_MAX: usize = 40;

const VIEWS: [(&str, bool); 10] = [
    // Name, and whether it shows every record at once.
    ("even", true),
    ("by_k", true),
    ("total", true),
    ("people", true),
    ("last", true),
    ("named", true),
    ("top", true),
    ("over_top", true),
    ("guessed", true),
    ("of_batch", false),
];

const MORE: [&str; 3] = [
    "CREATE MATERIALIZED VIEW last AS SELECT id, k, row_number() OVER (PARTITION BY k ORDER BY id) AS place
         FROM (SELECT max(id) AS id, k FROM visits GROUP BY k) AS newest",
    "CREATE MATERIALIZED VIEW guessed AS SELECT k, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY id) AS middle FROM visits GROUP BY k",
    "CREATE MATERIALIZED VIEW of_batch WITH (freshness = 'batch') AS SELECT k, count(*) AS n FROM visits GROUP BY k",
];

/// Rows as text, and how often each is there.
type Bag = HashMap<String, i64>;

fn add(bag: &mut Bag, batches: &[RecordBatch], diff: i64) {
    for line in lines(batches).expect("rows can be shown") {
        let count = bag.entry(line.clone()).or_default();
        *count += diff;
        assert!(*count >= 0, "{line} is taken back and was not there");
        if *count == 0 {
            bag.remove(&line);
        }
    }
}

fn sorted(bag: &Bag) -> Vec<String> {
    let each = bag.iter();
    let mut lines: Vec<String> = each
        .flat_map(|(line, count)| std::iter::repeat_n(line.clone(), *count as usize))
        .collect();
    lines.sort();
    lines
}

/// Without what tells the definitions.
fn offsets(frontier: &str) -> &str {
    frontier.split(" #").next().unwrap_or_default()
}

struct Follower {
    view: &'static str,
    /// `None` while it is away.
    feed: Option<Feed>,
    has: Bag,
    frontier: Option<String>,
    resets: usize,
}

impl Follower {
    fn of(view: &'static str) -> Follower {
        Follower {
            view,
            feed: None,
            has: Bag::new(),
            frontier: None,
            resets: 0,
        }
    }

    fn follow(&self) -> Follow {
        Follow {
            snapshot: self.frontier.is_none(),
            from: self.frontier.clone(),
            rows_max: ROWS_MAX,
            every: Duration::ZERO,
            progress_every: Duration::ZERO,
            ..Follow::default()
        }
    }

    async fn take(&mut self, message: Message, server: &Server, when: &str) -> bool {
        let before = self.frontier.clone();
        let is_progress = matches!(message.change, Change::Progress);
        match message.change {
            Change::Snapshot(rows) => {
                self.has.clear();
                add(&mut self.has, &rows, 1);
            }
            Change::Rows { added, removed } => {
                add(&mut self.has, &removed, -1);
                add(&mut self.has, &added, 1);
            }
            Change::Progress => {}
            Change::Reset(_) => {
                self.resets += 1;
                return false;
            }
            Change::Dropped => panic!("{when}: {} was not dropped", self.view),
        }
        self.frontier = Some(message.frontier.clone());
        let sql = format!(
            "SELECT * FROM {} AS OF OFFSET '{}'",
            self.view, message.frontier
        );
        let then = server
            .rows(&sql)
            .await
            .unwrap_or_else(|error| panic!("{when}: {sql}: {error}"));
        // Estimates differ from run to run.
        if self.view != "guessed" {
            assert_eq!(sorted(&self.has), then, "{when}: {sql}");
        }
        is_progress && before == self.frontier
    }

    /// Takes messages until nothing is new.
    async fn catch_up(&mut self, server: &Server, when: &str) {
        // The first message of a feed says where it begins.
        let mut is_first = self.feed.is_none();
        if is_first {
            let followed = Followed::Named(self.view.to_owned());
            let feed = server.engine.database.follow(followed, self.follow()).await;
            self.feed = Some(feed.unwrap_or_else(|error| panic!("{when}: {}: {error}", self.view)));
        }
        loop {
            let feed = self.feed.as_mut().expect("it is there");
            let message = feed.next().await;
            let message = message.unwrap_or_else(|error| panic!("{when}: {}: {error}", self.view));
            let message = message.expect("it does not end");
            let is_still = self.take(message, server, when).await;
            if is_still && !std::mem::take(&mut is_first) {
                return;
            }
        }
    }
}

/// Every record of the stream, once, through all disconnections.
struct Reader {
    frontier: Option<String>,
    ids: Vec<String>,
}

impl Reader {
    async fn catch_up(&mut self, server: &Server, when: &str) {
        let head = server
            .rows("SELECT frontier FROM lambic_streams WHERE name = 'visits'")
            .await
            .expect("it can be read");
        let follow = Follow {
            snapshot: self.frontier.is_none(),
            from: self.frontier.clone(),
            every: Duration::ZERO,
            ..Follow::default()
        };
        let followed = Followed::Named("visits".to_owned());
        let mut feed = server
            .engine
            .database
            .follow(followed, follow)
            .await
            .expect(when);
        loop {
            let message = feed.next().await.expect(when).expect("it does not end");
            let added = match message.change {
                Change::Snapshot(rows) => rows,
                Change::Rows { added, removed } => {
                    assert!(removed.is_empty());
                    added
                }
                _ => Vec::new(),
            };
            for line in lines(&added).expect("rows can be shown") {
                self.ids
                    .push(line.split('|').next().unwrap_or_default().to_owned());
            }
            let is_there = offsets(&message.frontier) == format!("visits@{}", head[0]);
            self.frontier = Some(message.frontier);
            if is_there {
                return;
            }
        }
    }
}

/// The length is `LAMBIC_FOLLOW_ROUNDS`, and `LAMBIC_FOLLOW_SEED` (printed) repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_followers_got_adds_up() {
    let (seed, rounds, mut chance) = rounds_of("followers", "FOLLOW", 14);
    let (_folder, data) = new_folder();
    let mut server = Server::declared(&data, DECLARED.iter().chain(&MORE)).await;
    server
        .done("INSERT INTO names VALUES ('a', 'Ann'), ('b', 'Bob')")
        .await
        .expect("inserted");
    let mut followers: Vec<Follower> = VIEWS.iter().map(|(view, _)| Follower::of(view)).collect();
    let mut reader = Reader {
        frontier: None,
        ids: Vec::new(),
    };
    let (mut model, mut next) = (Model::default(), 0);
    for round in 0..rounds {
        let when = format!("seed {seed}, round {round}");
        for _ in 0..chance.random_range(1..6) {
            let told = match chance.random_range(0..10) {
                0..4 => {
                    let count = chance.random_range(1..60);
                    append(&server, &mut model, &mut next, count).await;
                    Ok(String::new())
                }
                4 => {
                    server
                        .done(&format!("INSERT INTO names VALUES ('c', 'Eve {round}')"))
                        .await
                }
                5 => server
                    .engine
                    .seal_all()
                    .await
                    .map(|()| String::new())
                    .map_err(|e| e.to_string()),
                6 => {
                    let (view, _) = VIEWS[chance.random_range(0..VIEWS.len())];
                    server
                        .done(&format!("REFRESH MATERIALIZED VIEW {view}"))
                        .await
                }
                7 => {
                    let replaced = DECLARED[3].replace("CREATE", "CREATE OR REPLACE");
                    let other = format!("count(*) + {round} AS n");
                    server
                        .done(&replaced.replace("count(*) AS n", &other))
                        .await
                }
                8 => match server.done("ALTER MATERIALIZED VIEW by_k ROLLBACK").await {
                    Err(error) if error.contains("no former version") => Ok(String::new()),
                    told => told,
                },
                _ => {
                    reader.catch_up(&server, &when).await;
                    let (condition, left) = condition(&mut chance, &model);
                    model = left;
                    server
                        .done(&format!(
                            "ERASE FROM visits WHERE {condition} WITH (wait = {})",
                            chance.random_bool(0.5)
                        ))
                        .await
                }
            };
            told.unwrap_or_else(|error| panic!("{when}: {error}"));
            if chance.random_bool(0.3) {
                // One of them is behind the others.
                let one = chance.random_range(0..followers.len());
                followers[one].catch_up(&server, &when).await;
            }
        }
        let here = followers.iter_mut().filter(|_| chance.random_bool(0.8));
        let here: Vec<&mut Follower> = here.collect();
        futures::future::join_all(here.into_iter().map(|f| f.catch_up(&server, &when))).await;
        for follower in &mut followers {
            if chance.random_bool(0.4) {
                follower.feed = None;
            }
        }
        reader.catch_up(&server, &when).await;
        if chance.random_bool(0.3) {
            followers
                .iter_mut()
                .for_each(|follower| follower.feed = None);
            server.killed().await;
            server = Server::open(&data, i64::MAX, true).await.expect("it opens");
        }
    }
    let when = format!("seed {seed}, at the end");
    for (follower, (view, is_now)) in followers.iter_mut().zip(VIEWS) {
        follower.catch_up(&server, &when).await;
        let now = server
            .rows(&format!("SELECT * FROM {view}"))
            .await
            .expect("it can be read");
        // A batch may have come since; estimates differ from run to run.
        if is_now && view != "guessed" {
            assert_eq!(sorted(&follower.has), now, "{when}: {view}");
        }
    }
    reader.catch_up(&server, &when).await;
    let mut once = reader.ids.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), reader.ids.len(), "{when}: no record came twice");
    assert_eq!(once.len() as i64, next, "{when}: no record was missed");
    let resets = |view| followers.iter().find(|f| f.view == view).map(|f| f.resets);
    println!("seed {seed}: resets of by_k: {:?}", resets("by_k"));
    followers.clear();
    server.engine.close().await;
}

/// Following a view of many keys reads the keys that change, and those alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_costs_what_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("it is new");
    let server = Server::open(&data, i64::MAX, true)
        .await
        .expect("a new folder");
    server.done(DECLARED[0]).await.expect("declared");
    server.done(
        "INSERT INTO visits SELECT value, 'k' || value, 'who', 1.0 FROM generate_series(1, 50000) AS t(value)",
    )
    .await
    .expect("inserted");
    server.done("CREATE MATERIALIZED VIEW keys AS SELECT k, count(*) AS n, max(id) AS id FROM visits GROUP BY k").await.expect("declared");
    let followed = Followed::Named("keys".to_owned());
    let follow = Follow {
        snapshot: false,
        rows_max: 1,
        every: Duration::ZERO,
        ..Follow::default()
    };
    let mut feed = server
        .engine
        .database
        .follow(followed.clone(), follow.clone())
        .await
        .expect("it is there");
    let begun = feed.next().await.expect("no error").expect("no end");
    server.done("INSERT INTO visits VALUES (60000, 'k7', 'who', 1), (60001, 'new', 'who', 1), (60002, 'k7', 'who', 1)").await.expect("inserted");
    let expected = |message: Message| {
        let Change::Rows { added, removed } = message.change else {
            panic!("{message:?}");
        };
        assert_eq!(lines(&removed).expect("rows"), ["k7|1|7"]);
        assert_eq!(lines(&added).expect("rows"), ["k7|3|60002", "new|1|60001"]);
        message.frontier
    };
    let live = expected(feed.next().await.expect("no error").expect("no end"));
    // From the log, from a run of the batch layer that lies past the frontier, and after a restart.
    let from_begun = |server: &Server| {
        let follow = Follow {
            from: Some(begun.frontier.clone()),
            ..follow.clone()
        };
        let database = server.engine.database.clone();
        let followed = followed.clone();
        async move {
            let mut feed = database
                .follow(followed, follow)
                .await
                .expect("it is there");
            let first = feed.next().await.expect("no error").expect("no end");
            assert!(matches!(first.change, Change::Progress), "{first:?}");
            feed.next().await.expect("no error").expect("no end")
        }
    };
    assert_eq!(expected(from_begun(&server).await), live);
    server
        .done("REFRESH MATERIALIZED VIEW keys")
        .await
        .expect("refreshed");
    assert_eq!(expected(from_begun(&server).await), live);
    drop(feed);
    server.killed().await;
    let server = Server::open(&data, i64::MAX, true).await.expect("it opens");
    assert_eq!(expected(from_begun(&server).await), live);
    server.engine.close().await;
}

/// Frontiers that nobody was given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_frontiers_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("it is new");
    let server = Server::open(&data, i64::MAX, true)
        .await
        .expect("a new folder");
    for sql in &DECLARED[..3] {
        server.done(sql).await.expect("declared");
    }
    server
        .done("INSERT INTO visits VALUES (1, 'a', 'x', 1), (2, 'a', 'x', 1)")
        .await
        .expect("inserted");
    for (view, from, sqlstate, message) in [
        ("even", "visits@0:99,1:0", "22023", "ends at"),
        ("even", "visits@0:0,1:0,2:0", "22023", "has 2 partitions"),
        ("even", "visits@0:0", "22023", "where partition 1 ended"),
        ("even", "names@", "22023", "not read here"),
        ("even", "visits@0:0 names@", "22023", "not read here"),
        ("even", "nothing@0:1", "22023", "not read here"),
        ("even", "5", "22P02", "is not a frontier"),
        ("even", "", "22P02", "is not a frontier"),
        ("evn", "visits@", "42P01", "evn"),
    ] {
        let follow = Follow {
            from: Some(from.to_owned()),
            snapshot: false,
            ..Follow::default()
        };
        let followed = Followed::Named(view.to_owned());
        let refused = server.engine.database.follow(followed, follow).await;
        let error = refused.err().unwrap_or_else(|| panic!("{view} {from}"));
        assert_eq!(error.sqlstate, sqlstate, "{from}: {error}");
        assert!(error.message.contains(message), "{from}: {error}");
    }
    server.engine.close().await;
}
