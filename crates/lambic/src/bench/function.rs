//! Invocations of a function, cold and warm.

use std::time::{Duration, Instant};

use lambic_model::FunctionName;

use super::{Bench, Figure, latencies};
use crate::{demo::source as example, engine::Engine, project::apply::Applier};

const COLD: usize = 10;
const WARM: usize = 300;
const PYTHON: &str = "flag_long_delays";

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    eprintln!("invoking a Python function, cold and warm");
    let engine = &bench.engine;
    let name = FunctionName::new(PYTHON)?;
    let mut cold = Vec::new();
    for _ in 0..COLD {
        deploy_again(engine).await?;
        cold.push(invoke(engine, &name).await?);
    }
    let mut warm = Vec::new();
    for _ in 0..WARM {
        warm.push(invoke(engine, &name).await?);
    }
    let mut figures: Vec<Figure> =
        latencies("function", "Python, first after a deployment", cold).into();
    figures.extend(latencies("function", "Python, warm", warm));
    Ok(figures)
}

/// A new deployment has no warm environment.
async fn deploy_again(engine: &Engine) -> anyhow::Result<()> {
    let project = example::project(engine.data())?;
    Applier::open(engine.data())?
        .apply(engine, &project)
        .await
        .whole()?;
    Ok(())
}

async fn invoke(engine: &Engine, name: &FunctionName) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let result = engine
        .functions
        .invoke(name, br#"{"Records":[]}"#.to_vec())
        .await?;
    let took = start.elapsed();
    anyhow::ensure!(
        result.is_success(),
        "{}",
        String::from_utf8_lossy(result.payload())
    );
    Ok(took)
}
