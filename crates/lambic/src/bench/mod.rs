//! Measures the engine inside this process, in a temporary folder, on the flights of the example or of a file.
//!
//! Every part prints what it does on stderr and gives figures; nothing here judges them.

mod append;
mod batch;
mod disk;
mod function;
pub mod functions;
mod history;
mod read;
mod sums;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use lambic_connectors::{Chunks, Format, OnError, decode};
use lambic_model::{Append, FunctionName, Write};
use serde::Serialize;

use crate::{
    cli::BenchPart,
    commands::doctor::{fsync_times, millis, percentile},
    demo::source as example,
    engine::Engine,
    exit::refusal,
    project::apply::Applier,
    server,
    settings::Settings,
};

pub struct Options {
    pub file: Option<PathBuf>,
    pub rounds: u32,
    pub only: Vec<BenchPart>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub part: &'static str,
    pub what: String,
    /// `None`: it could not be measured.
    pub value: Option<f64>,
    pub unit: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Figure {
    fn new(part: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure {
            part,
            what: what.into(),
            value: Some(value),
            unit,
            failed: None,
        }
    }

    fn failed(
        part: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        why: &str,
    ) -> Figure {
        Figure {
            part,
            what: what.into(),
            value: None,
            unit,
            failed: Some(why.to_owned()),
        }
    }
}

/// What all parts share.
struct Bench {
    engine: Engine,
    /// The flights as a file, for direct SQL over it.
    file: PathBuf,
    /// Where the engine works.
    data: PathBuf,
    records: u64,
    rounds: u32,
}

/// Of the disk, where the engine will work.
pub fn facts() -> anyhow::Result<Vec<(&'static str, String)>> {
    let folder = tempfile::tempdir()?;
    let mut times = fsync_times(folder.path(), 100)?;
    times.sort();
    let shown = format!(
        "p50 {:.2} ms, p99 {:.2} ms",
        millis(percentile(&times, 0.5)),
        millis(percentile(&times, 0.99))
    );
    Ok(vec![("fsync of 4 KiB", shown)])
}

pub async fn run(options: Options) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::Builder::new().prefix("lambic-bench-").tempdir()?;
    let file = match &options.file {
        Some(file) => {
            let there = file.canonicalize();
            there
                .with_context(|| format!("cannot read {}", file.display()))
                .map_err(refusal)?
        }
        None => {
            let file = folder.path().join("flights-200k.parquet");
            std::fs::write(&file, example::FLIGHTS)?;
            file
        }
    };
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data)?;
    let mut settings = Settings::default();
    // Room for both sides of a join over all of the file.
    settings.memory.join_index_bytes_max = 4 << 30;
    let engine = server::open(data.clone(), settings).await?;
    let project = example::project(&data)?;
    Applier::open(&data)?
        .apply(&engine, &project)
        .await
        .whole()?;
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut figures = Vec::new();
    let mut bench = Bench {
        engine,
        file,
        data,
        records: 0,
        rounds: options.rounds,
    };
    if wanted(BenchPart::Append) {
        figures.extend(append::run(&bench).await?);
    }
    if wanted(BenchPart::Function) {
        // Before the trigger has the whole file to read.
        figures.extend(function::run(&bench).await?);
    }
    let needs_flights = [
        BenchPart::Batch,
        BenchPart::Freshness,
        BenchPart::Lookup,
        BenchPart::Sql,
    ];
    if needs_flights.into_iter().any(wanted) {
        // It would read the whole file beside what is measured.
        let trigger = FunctionName::new("flag_long_delays")?;
        bench.engine.functions.remove(&trigger).await?;
        figures.push(load(&mut bench).await?);
    }
    if wanted(BenchPart::Batch) {
        figures.extend(batch::run(&bench).await?);
    }
    if wanted(BenchPart::Freshness) {
        figures.extend(read::freshness(&bench).await?);
    }
    if wanted(BenchPart::Lookup) {
        figures.extend(read::lookups(&bench).await?);
    }
    if wanted(BenchPart::Sql) {
        figures.extend(read::sql(&bench).await?);
    }
    if wanted(BenchPart::History) {
        figures.extend(history::run(&bench).await?);
    }
    if wanted(BenchPart::Disk) {
        figures.extend(disk::run(&bench).await?);
    }
    if wanted(BenchPart::Sums) {
        figures.extend(sums::run(&bench).await?);
    }
    bench.engine.close().await;
    Ok(figures)
}

/// The whole file into the stream, in the pieces that `lambic append` would send.
async fn load(bench: &mut Bench) -> anyhow::Result<Figure> {
    eprintln!("loading {}", bench.file.display());
    let stream = bench
        .engine
        .database
        .stream("flights")
        .context("the example declares flights")?;
    let start = Instant::now();
    for chunk in Chunks::open(&bench.file, Format::from_path(&bench.file)?, 1 << 20)? {
        let chunk = chunk?;
        for batch in decode(&stream, chunk.format, chunk.body, OnError::Refuse)?.batches {
            bench.records += batch.num_rows() as u64;
            append_one(&bench.engine, &stream, batch).await?;
        }
    }
    let rate = bench.records as f64 / start.elapsed().as_secs_f64();
    Ok(Figure::new(
        "load",
        format!("{} flights appended in order", bench.records),
        rate,
        "rows/s",
    ))
}

async fn append_one(
    engine: &Engine,
    stream: &lambic_model::Stream,
    batch: RecordBatch,
) -> anyhow::Result<()> {
    let write = Write {
        stream: stream.id,
        partition: None,
        batch,
        schema: None,
    };
    engine
        .log
        .append(Append {
            writes: vec![write],
            ..Append::default()
        })
        .await?;
    Ok(())
}

/// p50 and p99 in milliseconds.
fn latencies(part: &'static str, what: &str, mut times: Vec<Duration>) -> [Figure; 2] {
    times.sort();
    let figure = |name: &str, share| {
        Figure::new(
            part,
            format!("{what}, {name}"),
            millis(percentile(&times, share)),
            "ms",
        )
    };
    [figure("p50", 0.5), figure("p99", 0.99)]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    percentile(&times, 0.5)
}
