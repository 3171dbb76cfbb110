//! Attacks, round after round: each as the table says, a neighbour that does not notice, and nothing left at the end.
//!
//! `LAMBIC_HOSTILE_ROUNDS` has the long form: so many of them, one after the other, each with less time. There the clock
//! counts, too: how late an attack is gone, and the neighbour's times with and without one beside it. In the short form
//! several run at once, and it asks that each ends as the table says, and not how fast.
//!
//! `LAMBIC_HOSTILE_ATTACKS` has a part of the names of those that run, for who looks for the cause of something.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    figures::{RATIO_MAX, Window, figure, slowest, window_of},
    house::{House, Neighbour, WORD, differs, timeout_of},
    left::Counts,
    table::{ATTACKS, Ends},
};

/// In the environment of the program that has this test alone.
const ALONE: &str = "LAMBIC_TEST_ALONE";
const TEST: &str = "rounds::every_attack_ends_and_leaves_nothing";
const AT_ONCE: usize = 4;
/// What a bomb has, in the short and in the long form.
const BOMB: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(500)];
/// Beyond its timeout: where attacks are alone, and beside three others on a busy machine, where only that counts that
/// nothing waits for an attack to let go.
const LATE_MAX: Duration = Duration::from_secs(1);
const LATE_BESIDE_MAX: Duration = Duration::from_secs(15);
/// Events of the neighbour with nobody beside it, before each attack.
const QUIET: usize = 20;
/// Its events beside loops that give way, in each window.
const BESIDE_LOOPS: usize = 300;
/// Rounds between two words on how far the long form is.
const TOLD_EVERY: usize = 50;

#[test]
fn every_attack_ends_and_leaves_nothing() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(rounds());
    }
    // Other tests open files and start processes meanwhile.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ALONE, WORD)
        .status()
        .unwrap();
    assert!(status.success());
}

/// They would find what they look for.
#[tokio::test]
async fn attacks_that_look_around_see() {
    let house = House::open().await;
    for runtime in ["python", "node", "bash", "c", "image"] {
        for attack in ["snoop", "network"] {
            let found = house.finds(runtime, attack).await;
            let found = found.as_array().expect("it is a list");
            assert!(!found.is_empty(), "{runtime}/{attack} is blind");
        }
    }
}

async fn rounds() {
    let long: Option<usize> = std::env::var("LAMBIC_HOSTILE_ROUNDS")
        .ok()
        .map(|rounds| rounds.parse().expect("LAMBIC_HOSTILE_ROUNDS is a number"));
    let attacks: Vec<_> = match std::env::var("LAMBIC_HOSTILE_ATTACKS") {
        Ok(part) => ATTACKS
            .iter()
            .filter(|(file, _)| file.contains(&part))
            .collect(),
        Err(_) => ATTACKS.iter().collect(),
    };
    assert!(
        !attacks.is_empty(),
        "LAMBIC_HOSTILE_ATTACKS is in no attack's name"
    );
    let (rounds, at_once, bomb) = match long {
        None => (attacks.len(), AT_ONCE, BOMB[0]),
        Some(rounds) => (rounds, 1, BOMB[1]),
    };
    let windows = (rounds / attacks.len()).max(1);
    let house = Arc::new(House::open().await);
    let mut neighbours = Vec::new();
    for _ in 0..at_once {
        neighbours.push(house.neighbour().await);
    }
    let prefix = house.prefix(&neighbours[0]);
    // What is opened once and stays.
    for first in [
        "python/orphan.py",
        "node/orphan.mjs",
        "bash/orphan.sh",
        "image/bombs.c#orphan",
        "wasm/trap.wat",
        "wasi_http/not_text.wat",
    ] {
        house
            .attack(first, Duration::from_secs(30), &mut neighbours[0])
            .await;
    }
    neighbours[0].times.clear();
    let before = Counts::take(&prefix);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for mut neighbour in neighbours {
        let (house, next, attacks) = (house.clone(), next.clone(), attacks.clone());
        workers.spawn(async move {
            let mut seen = Seen {
                windows: vec![Window::default(); windows],
                ..Seen::default()
            };
            while let Some(round) =
                Some(next.fetch_add(1, Ordering::SeqCst)).filter(|&at| at < rounds)
            {
                let is_alone = long.is_some();
                let attack = attacks[round % attacks.len()];
                let window = window_of(round, attacks.len(), windows);
                if is_alone && seen.windows[window].limit.is_empty() {
                    let loops = Loops::start();
                    neighbour.asked_alone(BESIDE_LOOPS).await;
                    drop(loops);
                    seen.windows[window].limit = std::mem::take(&mut neighbour.times);
                }
                if is_alone {
                    neighbour.asked_alone(QUIET).await;
                    let times = std::mem::take(&mut neighbour.times);
                    seen.windows[window].alone.extend(times);
                }
                one(&house, attack, bomb, is_alone, &mut neighbour, &mut seen).await;
                let times = std::mem::take(&mut neighbour.times);
                seen.windows[window].beside.extend(&times);
                seen.beside.entry(attack.0).or_default().extend(times);
                if is_alone && (round + 1) % TOLD_EVERY == 0 {
                    println!("{} of {rounds} rounds", round + 1);
                }
            }
            (neighbour, seen)
        });
    }
    let mut all = Seen::default();
    let mut kept = Vec::new();
    while let Some(done) = workers.join_next().await {
        let (neighbour, seen) = done.expect("no attack was let through");
        all.wrong.extend(seen.wrong);
        all.late = all.late.max(seen.late);
        // In the long form there is one worker.
        all.windows = seen.windows;
        all.beside = seen.beside;
        kept.push(neighbour);
    }
    assert!(all.wrong.is_empty(), "{}", all.wrong.join("\n"));
    let after = Counts::assert_no_more_than(&prefix, &before).await;
    if long.is_some() {
        all.tell(rounds);
    }
    println!("before: {before:?}, after: {after:?}");
    drop(kept);
    let nothing = Counts {
        files: 0,
        groups: 0,
        children: 0,
        ..before
    };
    Counts::assert_no_more_than(&prefix, &nothing).await;
}

/// One for each processor, of the kernel's idle class; they end with this.
struct Loops(Vec<std::process::Child>);

impl Loops {
    fn start() -> Loops {
        let one = |_| {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]);
            command.spawn().expect("util-linux is installed")
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Loops((0..processors).map(one).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Default)]
struct Seen {
    wrong: Vec<String>,
    late: (Duration, &'static str),
    windows: Vec<Window>,
    /// The neighbour's times beside each kind of attack.
    beside: BTreeMap<&'static str, Vec<Duration>>,
}

async fn one(
    house: &House,
    (file, ends): &'static (&'static str, Ends),
    bomb: Duration,
    is_alone: bool,
    neighbour: &mut Neighbour,
    seen: &mut Seen,
) {
    let attacked = house.attack(file, timeout_of(ends, bomb), neighbour).await;
    if let Some(did) = differs(ends, &attacked.outcome) {
        seen.wrong.push(format!("{file}: {did}"));
    }
    let late_max = match is_alone {
        true => LATE_MAX,
        false => LATE_BESIDE_MAX,
    };
    if attacked.late_reported > late_max {
        let late = attacked.late_reported;
        seen.wrong.push(format!("{file}: {late:?} late"));
    }
    seen.late = seen.late.max((attacked.late, file));
}

impl Seen {
    /// One line that says it all, which must hold.
    fn tell(&self, rounds: usize) {
        let of = |part| figure(&self.windows, part, |window| &window.beside);
        let (p50, p99) = (of(50), of(99));
        let limit = figure(&self.windows, 99, |window| &window.limit);
        println!(
            "{rounds} attacks of {} kinds ended as they must, at most {} ms behind their timeout ({}); a neighbour's p50 \
             went from {:.2} to {:.2} ms ({:.2} ×), its p99 from {:.2} to {:.2} ms ({:.2} ×; medians of {} windows); no \
             process, mount, control group, descriptor or file was left",
            self.beside.len(),
            self.late.0.as_millis(),
            self.late.1,
            p50.alone_ms,
            p50.beside_ms,
            p50.ratio,
            p99.alone_ms,
            p99.beside_ms,
            p99.ratio,
            self.windows.len(),
        );
        println!(
            "beside loops of the kernel's idle class, one for each processor, that p99 is {:.2} ms ({:.2} ×)",
            limit.beside_ms, limit.ratio,
        );
        for (file, slow, of) in slowest(&self.beside, RATIO_MAX * p99.alone_ms) {
            println!("beside {file} {slow} of {of} events took longer than the bound of that p99");
        }
        assert!(self.late.0 <= LATE_MAX, "{:?}", self.late);
        assert!(p99.ratio <= RATIO_MAX, "the neighbour notices: {p99:?}");
    }
}
