//! What an instance of a component takes, inside of this process: each is made, answers one event, and is dropped.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use lambic_sandbox::wasm::{Limits, Wasm};

use super::{PART, deploy::Program};
use crate::bench::{Figure, latencies};

const COUNT: usize = 5_000;
const WARM_UP: usize = 500;
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(60),
    memory_mb: 256,
    log_bytes_max: 64 << 10,
};

pub fn measure(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    eprintln!("{COUNT} instances of a component");
    let wasm = Wasm::new(folder.join("compiled"))?;
    let module = wasm.load(Program::Wasm.code().as_bytes(), LIMITS)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
    let mut times = Vec::new();
    for number in 0..WARM_UP + COUNT {
        let start = Instant::now();
        let execution = runtime.block_on(module.invoke("id", b"{}", &[], LIMITS));
        let time = start.elapsed();
        ensure!(
            matches!(execution.outcome, lambic_model::Outcome::Success(_)),
            "a component failed: {:?}",
            execution.outcome
        );
        if number >= WARM_UP {
            times.push(time);
        }
    }
    let what = "an instance of a component, made, run and dropped";
    Ok(latencies(PART, what, times).into())
}
