//! The merge law over worlds of chance: streams of random columns and records, views of random `SELECT`s of every
//! class, and what can happen to them: appends, seals, batches, compaction, new versions and the way back, erasures,
//! columns that are added, kills. Whatever happened, a view's rows are those of its `SELECT` run as plain SQL.

use std::{collections::BTreeSet, time::Instant};

use futures::{StreamExt, stream};
use world::{FORMS, Form, Selects, Stream};

use super::*;

mod world;

/// Of one world.
const VIEWS: usize = 4;

struct Declared {
    form: Form,
    sql: String,
    /// What was served before.
    former: Option<String>,
}

/// What was met, over all worlds.
#[derive(Debug, Default)]
struct Seen {
    cases: u64,
    comparisons: u64,
    kills: u64,
    erasures: u64,
    versions: u64,
    /// As `lambic_views` names them.
    classes: BTreeSet<String>,
    forms: BTreeSet<Form>,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.cases += other.cases;
        self.comparisons += other.comparisons;
        self.kills += other.kills;
        self.erasures += other.erasures;
        self.versions += other.versions;
        self.classes.extend(other.classes);
        self.forms.extend(other.forms);
    }
}

struct World {
    server: Option<Server>,
    data: PathBuf,
    _folder: tempfile::TempDir,
    streams: [Stream; 2],
    views: Vec<Declared>,
    next: i64,
    chance: StdRng,
    told: Vec<String>,
    seen: Seen,
}

/// In memory where there is such a place: nothing here depends on what a sync costs.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a folder")
}

impl World {
    async fn new(seed: u64) -> World {
        let mut chance = StdRng::seed_from_u64(seed);
        let folder = folder();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("it is new");
        let streams = ["s", "t"].map(|name| Stream::new(name, &mut chance));
        let server = Server::open(&data, i64::MAX, true)
            .await
            .expect("a new folder");
        let mut world = World {
            server: Some(server),
            data,
            _folder: folder,
            views: Vec::new(),
            next: 0,
            told: Vec::new(),
            seen: Seen::default(),
            chance,
            streams,
        };
        for index in 0..2 {
            let create = world.streams[index].create(&mut world.chance);
            world.must(create).await;
        }
        // Some history before there are views.
        for _ in 0..world.chance.random_range(0..3) {
            world.append().await;
        }
        while world.views.len() < VIEWS {
            let form = FORMS[world.chance.random_range(0..FORMS.len())];
            world.declare(form).await;
        }
        world
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is open")
    }

    async fn must(&mut self, sql: String) {
        let told = self.server().done(&sql).await;
        told.unwrap_or_else(|error| panic!("{sql}: {error}, after {:#?}", self.told));
        self.told.push(sql);
    }

    fn select(&mut self, form: Form, over: Option<usize>) -> String {
        let over = over.map(|index| format!("v{index}"));
        let mut selects = Selects {
            streams: &self.streams,
            view: over.as_deref(),
            chance: &mut self.chance,
        };
        selects.select(form)
    }

    async fn declare(&mut self, form: Form) {
        let over = self
            .views
            .iter()
            .position(|view| view.form == Form::Grouped);
        let sql = self.select(form, over);
        let options = match self.chance.random_range(0..4) {
            0 if !matches!(form, Form::OverView) => " WITH (batch_every = 'never')",
            _ => "",
        };
        let name = self.views.len();
        self.must(format!(
            "CREATE MATERIALIZED VIEW v{name}{options} AS {sql}"
        ))
        .await;
        self.seen.forms.insert(form);
        self.views.push(Declared {
            form,
            sql,
            former: None,
        });
    }

    async fn append(&mut self) {
        let index = self.chance.random_range(0..2);
        let sql = self.streams[index].insert(&mut self.next, &mut self.chance);
        self.must(sql).await;
    }

    async fn step(&mut self) {
        let view = self.chance.random_range(0..self.views.len());
        let stream = self.chance.random_range(0..2);
        let full = if self.chance.random_bool(0.3) {
            " FULL"
        } else {
            ""
        };
        match self.chance.random_range(0..20) {
            0..7 => self.append().await,
            7..10 => {
                self.told.push("seal".to_owned());
                self.server().engine.seal_all().await.expect("sealed");
            }
            10..13 => {
                self.must(format!("REFRESH MATERIALIZED VIEW v{view}{full}"))
                    .await
            }
            13 => {
                let sql = format!("COMPACT STREAM {}", self.streams[stream].name);
                let told = self.server().rows(&sql).await;
                told.unwrap_or_else(|error| panic!("{sql}: {error}, after {:#?}", self.told));
                self.told.push(sql);
            }
            14 | 15 => self.replace(view).await,
            16 => self.roll_back(view).await,
            17 => {
                let sql = self.streams[stream].erase(&mut self.chance);
                self.must(sql).await;
                self.seen.erasures += 1;
            }
            18 => {
                let sql = self.streams[stream].add_column(&mut self.chance);
                self.must(sql).await;
            }
            _ => self.kill().await,
        }
    }

    async fn replace(&mut self, view: usize) {
        if self.is_read(view) {
            return;
        }
        let form = FORMS[self.chance.random_range(0..FORMS.len() - 1)];
        let sql = self.select(form, None);
        self.must(format!(
            "CREATE OR REPLACE MATERIALIZED VIEW v{view} AS {sql}"
        ))
        .await;
        self.seen.versions += 1;
        self.seen.forms.insert(form);
        let declared = &mut self.views[view];
        declared.form = form;
        let former = std::mem::replace(&mut declared.sql, sql);
        if former != declared.sql {
            declared.former = Some(former);
        }
    }

    async fn roll_back(&mut self, view: usize) {
        let Some(former) = self.views[view].former.clone() else {
            return;
        };
        if self.is_read(view) {
            return;
        }
        let roll_back = format!("ALTER MATERIALIZED VIEW v{view} ROLLBACK");
        match self.server().done(&roll_back).await {
            Ok(_) => {
                let declared = &mut self.views[view];
                declared.former = Some(std::mem::replace(&mut declared.sql, former));
                self.told.push(roll_back);
            }
            // What it read may have other columns now.
            Err(error) if former.contains("FROM v") && error.contains("does not exist") => {
                self.told.push(format!("{roll_back}: {error}"));
            }
            Err(error) => panic!("{roll_back}: {error}, after {:#?}", self.told),
        }
    }

    /// Those that another selects from keep their columns.
    fn is_read(&self, view: usize) -> bool {
        let from = format!("FROM v{view} ");
        self.views.iter().any(|other| other.sql.contains(&from))
    }

    /// Nothing more is written to the store, and another server starts; it may die as well, in any of its writes.
    async fn kill(&mut self) {
        self.seen.kills += 1;
        let writes_left = self.chance.random_range(0..30);
        let last_happens = self.chance.random_bool(0.5);
        self.told
            .push(format!("killed, and again after {writes_left} writes"));
        for (writes_left, last_happens) in [(writes_left, last_happens), (i64::MAX, true)] {
            if let Some(server) = self.server.take() {
                server.killed().await;
            }
            self.server = Server::open(&self.data, writes_left, last_happens)
                .await
                .ok();
            if let Some(server) = &self.server
                && writes_left < i64::MAX
            {
                let view = self.chance.random_range(0..self.views.len());
                let refresh = format!("REFRESH MATERIALIZED VIEW v{view}");
                let sealed_and_refreshed = async {
                    let sealed = server.engine.seal_all().await;
                    sealed.map_err(|error| error.to_string())?;
                    server.done(&refresh).await
                };
                let told = tokio::select! {
                    told = sealed_and_refreshed => told,
                    () = server.dead() => Err("killed".to_owned()),
                };
                let alive = !server.store.is_dead();
                assert!(told.is_ok() || !alive, "{told:?}, after {:#?}", self.told);
            }
        }
        assert!(self.server.is_some(), "it opens, after {:#?}", self.told);
    }

    /// Every view, and what was acknowledged.
    async fn check(&mut self) {
        for stream in &self.streams {
            let found = self
                .server()
                .rows(&format!("SELECT id FROM {}", stream.name))
                .await;
            let mut ids: Vec<String> = stream.ids.iter().map(i64::to_string).collect();
            ids.sort();
            assert_eq!(found, Ok(ids), "{}, after {:#?}", stream.name, self.told);
        }
        // Both ways alike: a sum can be out of range.
        let mut refused = Vec::new();
        for (index, view) in self.views.iter().enumerate() {
            let found = self.server().rows(&format!("SELECT * FROM v{index}")).await;
            let expected = self.server().rows(&view.sql).await;
            if expected.is_err() {
                refused.push(format!("v{index}|false|0|0|it could not be audited"));
            }
            assert!(
                found == expected,
                "v{index} AS {} gives\n{found:#?}\nand not\n{expected:#?}\nafter {:#?}",
                view.sql,
                self.told
            );
            self.seen.comparisons += 1;
        }
        let audits = self.server().rows("AUDIT ALL").await;
        let audits = audits.unwrap_or_else(|error| panic!("{error}, after {:#?}", self.told));
        assert_eq!(audits.len(), self.views.len(), "every view");
        for audit in audits {
            let is_refused = refused.iter().any(|refused| audit.starts_with(refused));
            let agrees = is_refused || audit.contains("|true|");
            assert!(agrees, "{audit}, after {:#?}", self.told);
        }
    }

    async fn run(mut self) -> Seen {
        for _ in 0..self.chance.random_range(1..4) {
            for _ in 0..self.chance.random_range(1..6) {
                self.step().await;
            }
            self.check().await;
        }
        self.seen.cases += self.views.len() as u64;
        let classes = self.server().rows("SELECT class FROM lambic_views").await;
        self.seen.classes.extend(classes.expect("it is read"));
        self.server.take().expect("it is open").killed().await;
        self.seen
    }
}

/// A case is one view through one history. How many is `LAMBIC_LAW_CASES`, and `LAMBIC_LAW_SEED` (printed) is the
/// first world's; `scripts/merge-law` runs the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_what_their_selects_give_whatever_happened() {
    let (first, cases) = seed_and_length("LAW", "CASES", 60);
    println!("the merge law: {cases} cases; repeat them with LAMBIC_LAW_SEED={first}");
    let started = Instant::now();
    let worlds = cases.div_ceil(VIEWS as u64);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Seen::default();
    let mut each = stream::iter(first..first + worlds)
        .map(|seed| async move {
            let world = tokio::spawn(async move { World::new(seed).await.run().await });
            (seed, world.await)
        })
        .buffer_unordered(threads);
    while let Some((seed, ended)) = each.next().await {
        let seen = ended.unwrap_or_else(|panic| {
            panic!("seed {seed}: {panic}; play it again: scripts/merge-law {VIEWS} {seed}")
        });
        all.add(seen);
        if (all.cases / VIEWS as u64).is_multiple_of(250) {
            println!("  {} cases, {} s", all.cases, started.elapsed().as_secs());
        }
    }
    println!("0 differences: {all:?}, {} s", started.elapsed().as_secs());
    // Enough to have met everything.
    if cases >= 400 {
        assert_eq!(all.forms.len(), FORMS.len());
        assert!(all.classes.len() >= 3, "{:?}", all.classes);
        assert!(
            all.kills > 0 && all.erasures > 0 && all.versions > 0,
            "{all:?}"
        );
    }
}
