//! Two servers that write where only one may: each number of a manifest has one winner, and the other is told.

use std::{path::PathBuf, sync::Arc};

use lambic_base::{
    Disk as _,
    disk::{Faults, SimDisk},
};
use lambic_dataset::{Error, LocalStore, ManifestStore};
use lambic_sim::{DATA, Reads};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const PREFIX: &str = "dataset/100-s";
/// More than are ever put, so that every one can be looked at in the end.
const KEPT: usize = 1000;

type Manifests = ManifestStore<String>;

fn store(disk: &SimDisk) -> Manifests {
    let root = PathBuf::from(DATA);
    let reads = Arc::new(Reads::new(disk.clone(), root.clone()));
    let store = LocalStore::open_on(Arc::new(disk.clone()), reads, root).unwrap();
    Manifests::new(Arc::new(store), PREFIX, KEPT)
}

/// One of two writers, with what it believes to be the newest number.
struct Writer {
    name: &'static str,
    manifests: Manifests,
    newest: u64,
}

/// Two writers put manifests in turns of chance, each after the newest that it knows, on a disk that fails now and then.
async fn race(seed: u64) -> Vec<(u64, String)> {
    let mut chance = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new(seed);
    disk.create_dir(&PathBuf::from(DATA)).unwrap();
    let mut writers = ["one", "other"].map(|name| Writer {
        name,
        manifests: store(&disk),
        newest: 0,
    });
    let mut acknowledged = Vec::new();
    for turn in 0..40 {
        if chance.random_bool(0.2) {
            disk.set(Faults {
                error_at: Some(disk.operations() + chance.random_range(1..10)),
                ..Faults::default()
            });
        }
        let writer = &mut writers[chance.random_range(0..2)];
        let body = format!("{} {turn}", writer.name);
        let number = writer.newest + 1;
        match writer.manifests.commit(number, &body).await {
            Ok(()) => {
                acknowledged.push((number, body));
                writer.newest = number;
            }
            Err(Error::Conflict { path }) => {
                assert!(path.starts_with(PREFIX), "seed {seed}: {path}");
                // It starts again from what is there.
                if let Ok(Some((newest, _))) = writer.manifests.load().await {
                    writer.newest = newest;
                }
            }
            // The disk failed: whether it is there is seen at the next turn.
            Err(Error::Store(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    let after = disk.after_power_cut();
    let manifests = store(&after);
    for (number, body) in &acknowledged {
        let found = manifests.get(*number).await;
        let found = found.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(
            found, *body,
            "seed {seed}: manifest {number} after a power cut"
        );
    }
    let numbers = manifests.numbers().await.unwrap();
    let dense: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, dense, "seed {seed}");
    acknowledged
}

#[test]
fn of_two_writers_one_wins_each_number_for_good() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be made");
    let first: u64 = rand::random::<u32>().into();
    println!("from seed {first}");
    let mut winners = std::collections::BTreeSet::new();
    for seed in first..first + 200 {
        let acknowledged = runtime.block_on(race(seed));
        winners.extend(acknowledged.iter().map(|(_, body)| body[..3].to_owned()));
        let mut numbers: Vec<u64> = acknowledged.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(
            numbers.len(),
            acknowledged.len(),
            "seed {seed}: a number has two winners"
        );
    }
    assert_eq!(winners.len(), 2, "both win now and then");
}
