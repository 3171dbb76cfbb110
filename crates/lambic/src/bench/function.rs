//! Invocations of functions, cold and warm, and the rows of a SQL function.

use std::time::{Duration, Instant};

use lambic_functions::{Code, Deployment, Runtime};
use lambic_model::FunctionName;

use super::{Bench, Figure, latencies};
use crate::{engine::Engine, server::rows};

const COLD: usize = 10;
const WARM: usize = 300;
/// Rows of one statement that calls a SQL function.
const SQL_ROWS: usize = 100_000;
const EVENT: &[u8] = br#"{"Records":[]}"#;
/// The least handlers that there are: what is measured with them is Lambic's own share and the runtime's.
const PYTHON: &str = "def handler(event, context):\n    return event\n";
const WASM: &str = include_str!("echo.wat");

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let engine = &bench.engine;
    let mut figures = Vec::new();
    // A comment makes it other code, which was neither compiled nor started before.
    let python = |round| format!("{PYTHON}# {round}\n");
    figures.extend(invocations(engine, Runtime::Python, python).await?);
    let wasm = |round| format!("{WASM};; {round}\n");
    figures.extend(invocations(engine, Runtime::Wasm, wasm).await?);
    figures.extend(sql_function(engine).await?);
    Ok(figures)
}

async fn invocations(
    engine: &Engine,
    runtime: Runtime,
    code: impl Fn(usize) -> String,
) -> anyhow::Result<[Figure; 4]> {
    eprintln!("invoking a {runtime} function, cold and warm");
    let name = FunctionName::new(format!("bench_{runtime}"))?;
    let mut cold = Vec::new();
    for round in 0..COLD {
        let code = Code::Bytes(code(round).into_bytes());
        let mut deployment = Deployment::new(name.clone(), runtime, code);
        // Else the deployment would leave a warm environment behind.
        deployment.trial = false;
        engine.functions.deploy(deployment).await?;
        cold.push(invoke(engine, &name).await?);
    }
    let mut warm = Vec::with_capacity(WARM);
    for _ in 0..WARM {
        warm.push(invoke(engine, &name).await?);
    }
    engine.functions.remove(&name).await?;
    let [cold_p50, cold_p99] = latencies("function", &format!("{runtime}, cold"), cold);
    let [warm_p50, warm_p99] = latencies("function", &format!("{runtime}, warm"), warm);
    Ok([cold_p50, cold_p99, warm_p50, warm_p99])
}

/// Each row runs in an instance of its own.
async fn sql_function(engine: &Engine) -> anyhow::Result<[Figure; 1]> {
    eprintln!("calling a Wasm function from SQL");
    let of =
        |what: &str| format!("SELECT count({what}) FROM generate_series(1, {SQL_ROWS}) AS g(n)");
    let database = &engine.database;
    let mut times = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        rows(database, &of("geohash(n * 0.0001, n * 0.0002, 7)")).await?;
        let with = start.elapsed();
        let start = Instant::now();
        rows(database, &of("n * 0.0001 + n * 0.0002")).await?;
        times.push(with.saturating_sub(start.elapsed()));
    }
    let row = super::median(times).as_secs_f64() * 1e6 / SQL_ROWS as f64;
    Ok([Figure::new(
        "function",
        "wasm, a row of a SQL function",
        row,
        "µs",
    )])
}

async fn invoke(engine: &Engine, name: &FunctionName) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let result = engine.functions.invoke(name, EVENT.to_vec()).await?;
    let took = start.elapsed();
    anyhow::ensure!(
        result.is_success(),
        "{}",
        String::from_utf8_lossy(result.payload())
    );
    Ok(took)
}
