//! kill -9 while thousands of events are queued and run, and while functions are deployed; ledgers outside of the server
//! tell what must be there.
//!
//! Every event that was accepted ends once: as done, with one record at its destination, or as a dead letter. What was
//! acknowledged of functions, versions, aliases, layers and mappings is there. A mapping with an output delivers every
//! record exactly once.
//!
//! `LAMBIC_KILL_CYCLES` (3 unless set) and `LAMBIC_KILL_SEED` (printed) choose the length and the moments;
//! `scripts/kill-loop-functions 200` runs the long form.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod events;
mod mapping;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Server, aws::Api, setting};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

const EVENTS_PER_CYCLE: u64 = 1_000;
const CHANGES_PER_CYCLE: u64 = 40;
const APPENDS_PER_CYCLE: u64 = 100;
const WRITERS: u64 = 6;

/// What all threads share.
struct Load {
    api: Api,
    url: String,
    events: Budget,
    changes: Budget,
    appends: Budget,
    /// Answers that no request should have had.
    refused: Mutex<Vec<String>>,
}

/// So many of a kind may there be by now: each cycle allows some more.
#[derive(Default)]
struct Budget {
    most: AtomicU64,
    used: AtomicU64,
    is_last: AtomicBool,
}

impl Budget {
    /// Waits for one to be due, and gives its number; `None`: it is over.
    fn next(&self) -> Option<u64> {
        loop {
            let used = self.used.load(Ordering::SeqCst);
            if used < self.most.load(Ordering::SeqCst) {
                let next =
                    self.used
                        .compare_exchange(used, used + 1, Ordering::SeqCst, Ordering::SeqCst);
                if next.is_ok() {
                    return Some(used);
                }
            } else if self.is_last.load(Ordering::SeqCst) {
                return None;
            } else {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Load {
    fn refuse(&self, said: String) {
        self.refused.lock().expect("no holder panics").push(said);
    }
}

/// Without an answer, the next server is on its way.
fn pause() {
    thread::sleep(Duration::from_millis(20));
}

#[test]
fn what_was_accepted_ends_once_and_what_was_deployed_is_there() {
    let cycles: u64 = setting("LAMBIC_KILL_CYCLES").unwrap_or(3);
    let seed: u64 = setting("LAMBIC_KILL_SEED").unwrap_or_else(rand::random);
    println!("kill -9: {cycles} cycles; repeat these moments with LAMBIC_KILL_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ports = common::free_ports();
    let mut server = start(folder.path(), ports);
    let load = Arc::new(Load {
        api: Api::new(&server.url),
        url: server.url.clone(),
        events: Budget::default(),
        changes: Budget::default(),
        appends: Budget::default(),
        refused: Mutex::default(),
    });
    events::declare(&server, &load.api);
    mapping::declare(&server, &load.api);
    changes::declare(&load.api);

    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (load, chance) = (load.clone(), StdRng::seed_from_u64(chance.random()));
            thread::spawn(move || events::write(&load, chance))
        })
        .collect();
    let changing = {
        let load = load.clone();
        thread::spawn(move || changes::make(&load))
    };
    let appending = {
        let (load, chance) = (load.clone(), StdRng::seed_from_u64(chance.random()));
        thread::spawn(move || mapping::append(&load, chance))
    };
    for cycle in 1..=cycles {
        for (budget, more) in [
            (&load.events, EVENTS_PER_CYCLE),
            (&load.changes, CHANGES_PER_CYCLE),
            (&load.appends, APPENDS_PER_CYCLE),
        ] {
            budget.most.fetch_add(more, Ordering::SeqCst);
            budget.is_last.store(cycle == cycles, Ordering::SeqCst);
        }
        // A random moment is the point here.
        thread::sleep(Duration::from_millis(chance.random_range(200..2_500)));
        server.kill();
        server = start(folder.path(), ports);
        if cycle % 20 == 0 {
            let sent = load.events.used.load(Ordering::SeqCst);
            println!("  {cycle} kills, {sent} events sent");
        }
    }
    let accepted = writers
        .into_iter()
        .flat_map(|writer| writer.join().expect("no writer panics"))
        .collect();
    let model = changing.join().expect("it does not panic");
    let appended = appending.join().expect("it does not panic");
    // Once more while most of it is still queued, and no writer is there to say it again.
    server.kill();
    server = start(folder.path(), ports);
    let refused = load.refused.lock().expect("no holder panics");
    assert!(
        refused.is_empty(),
        "seed {seed}: {:?}",
        &refused[..refused.len().min(3)]
    );
    drop(refused);
    let told = [
        events::check(&server, &accepted),
        mapping::check(&server, &appended),
        changes::check(&load.api, &model),
    ];
    println!("{} kills: {}", cycles + 1, told.join("; "));
    assert!(server.terminate().success(), "{}", server.said());
    let left = left_of(folder.path());
    assert!(left.is_empty(), "seed {seed}: left behind: {left:?}");
}

fn start(folder: &Path, (http, pg): (u16, u16)) -> Server {
    let (config, tmp) = (folder.join("settings.toml"), folder.join("tmp"));
    // Small segments and quick seals, so that kills meet them, and retries that nobody waits minutes for.
    let settings = "[log]\nsegment_bytes = 1_048_576\n[dataset]\nseal_records = 2_000\nseal_after_s = 1\n\
        [functions]\nretry_s = [1, 2]\n";
    std::fs::write(&config, settings).expect("the folder is ours");
    std::fs::create_dir_all(&tmp).expect("the folder is ours");
    let mut run = common::lambic();
    run.arg("serve").env("TMPDIR", tmp);
    let config = ["--config", common::shown(&config)];
    Server::start_by(run, None, &folder.join("data"), http, pg, &config)
        .unwrap_or_else(|said| panic!("no start after a kill:\n{}", said.join("\n")))
}

/// Files of environments, and processes that have something of the folder mounted.
fn left_of(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("tmp")).expect("it is there");
    let files = files.flatten().map(|entry| entry.path());
    let mut left: Vec<_> = files.map(|path| path.display().to_string()).collect();
    let name = folder.file_name().expect("it has one").to_string_lossy();
    for entry in std::fs::read_dir("/proc").expect("it is mounted").flatten() {
        let mounts = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if mounts.contains(&*name) {
            left.push(entry.path().display().to_string());
        }
    }
    left
}

/// The rows of a statement.
fn rows(server: &Server, sql: &str) -> Vec<Value> {
    let rows = server.sorted(sql);
    rows.iter().map(|row| common::json(row)).collect()
}
