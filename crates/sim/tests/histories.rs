//! Histories of chance: crashes, lost and torn writes, failing and full disks.
//!
//! `LAMBIC_SIM_CYCLES` (60 unless set) and `LAMBIC_SIM_SEED` (printed) choose the length and the first history;
//! `scripts/sim` runs the long form.

use std::time::Instant;

use lambic_sim::{Figures, run};

/// Of one history.
const CRASHES: u64 = 10;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("it is a number"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_served_wrongly() {
    let cycles = setting("LAMBIC_SIM_CYCLES").unwrap_or(60);
    let first = setting("LAMBIC_SIM_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("{cycles} simulated crashes, from seed {first}");
    let started = Instant::now();
    let mut all = Figures::default();
    let mut seed = first;
    while all.crashes() < cycles {
        match runtime().block_on(run(seed, CRASHES)) {
            Ok(figures) => all.add(&figures),
            Err(failure) => panic!("seed {seed}: {failure}\nplay it again: scripts/sim 1 {seed}"),
        }
        seed += 1;
        if (seed - first).is_multiple_of(50) {
            println!("  {all:?}, {} s", started.elapsed().as_secs());
        }
    }
    println!(
        "0 lost, 0 doubled, 0 wrong rows: {all:?}, {} s",
        started.elapsed().as_secs()
    );
}

#[test]
fn one_seed_is_one_history() {
    let play = || {
        runtime()
            .block_on(run(7, 4))
            .expect("seed 7 has no failure")
    };
    assert_eq!(play(), play());
}
