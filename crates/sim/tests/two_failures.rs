//! One failure while records are sealed, another after the log was trimmed: what was seen in between must be there.

use lambic_base::disk::{Faults, SimDisk};
use lambic_sim::{Machine, Node};

const ROWS: i64 = 16;

/// How the first failure strikes.
#[derive(Debug, Clone, Copy)]
enum First {
    /// The operation fails, and the server goes on.
    Error,
    /// The server is killed at it, and started again.
    Kill,
}

async fn records(node: &Node) -> Vec<Vec<String>> {
    node.sql("SELECT id FROM s ORDER BY id").await.unwrap()
}

/// False if sealing has fewer operations.
async fn strike(first: First, at: u64, seed: u64) -> bool {
    let mut machine = Machine::on(SimDisk::new(seed));
    let mut node = Node::open(&machine).await.unwrap();
    node.sql("CREATE STREAM s (id bigint)").await.unwrap();
    for id in 0..ROWS {
        let insert = format!("INSERT INTO s VALUES ({id})");
        node.sql(&insert).await.unwrap();
    }
    let expected = records(&node).await;
    let stream = node.stream("s").unwrap();
    let at = machine.disk.operations() + at;
    machine.disk.set(match first {
        First::Error => Faults {
            error_at: Some(at),
            ..Faults::default()
        },
        First::Kill => Faults {
            power_off_at: Some(at),
            ..Faults::default()
        },
    });
    // It may fail or not.
    let _ = node.seal(stream).await;
    let is_reached = machine.disk.operations() >= at;
    machine.disk.set(Faults::default());
    if let First::Kill = first {
        machine.disk.power_off();
        node.close().await;
        machine = Machine::on(machine.disk.after_kill());
        node = Node::open(&machine).await.unwrap();
    }
    // What is sealed, as far as it is known, leaves the log.
    node.trim().unwrap();
    machine.disk.power_off();
    node.close().await;
    let after = Machine::on(machine.disk.after_power_cut());
    let node = Node::open(&after)
        .await
        .unwrap_or_else(|error| panic!("{first:?} at {at}, seed {seed}: {error}"));
    assert_eq!(
        records(&node).await,
        expected,
        "{first:?} at {at}, seed {seed}"
    );
    node.close().await;
    is_reached
}

#[test]
fn what_was_seen_as_sealed_is_there_after_a_power_cut() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let seeds = if std::env::var_os("LAMBIC_SIM_ALL").is_some() {
        8
    } else {
        1
    };
    for first in [First::Error, First::Kill] {
        let mut at = 1;
        let mut is_reached = true;
        while is_reached {
            // Chance decides what a power cut takes.
            for seed in 0..seeds {
                is_reached = runtime.block_on(strike(first, at, seed + at));
            }
            at += 1;
        }
        println!("{first:?} at each of {} operations", at - 2);
        assert!(at > 2);
    }
}
