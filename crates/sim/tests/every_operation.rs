//! A fixed script that ends at each of its operations on the disk: every create, write, sync, rename, link and removal.
//!
//! All of them with `LAMBIC_SIM_ALL`, otherwise one in some, from a place of chance.

use lambic_sim::run_script;

const SEED: u64 = 11;
const ONE_IN: u64 = 61;

#[test]
fn a_crash_at_any_operation_loses_and_doubles_nothing() {
    let all = std::env::var_os("LAMBIC_SIM_ALL").is_some();
    let one_in = if all { 1 } else { ONE_IN };
    let first = 1 + rand::random::<u64>() % one_in;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut tried = 0;
    for operation in (first..).step_by(one_in as usize) {
        let mut reached = false;
        for is_power_cut in [true, false] {
            let ran = runtime.block_on(run_script(SEED, operation, is_power_cut));
            reached |= ran.unwrap_or_else(|failure| {
                panic!("operation {operation}, power cut {is_power_cut}: {failure}")
            });
        }
        if !reached {
            break;
        }
        tried += 1;
    }
    println!("ended at {tried} operations, each by a power cut and by a kill");
    assert!(tried > 0);
}
