//! Append throughput with fsync, by batch size: one producer in turn, and many at once.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lambic_connectors::{Format, OnError, decode};
use lambic_query::Session;

use super::{Bench, Figure, append_one, latencies};
use crate::demo::source as example;

const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];
const PRODUCERS: usize = 32;
/// For each size and number of producers.
const DURING: Duration = Duration::from_secs(2);

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let engine = &bench.engine;
    let columns =
        "date timestamp NOT NULL, delay bigint, distance bigint, origin text, destination text";
    engine
        .database
        .execute(
            &Session::default(),
            &format!("CREATE STREAM bench_append ({columns})"),
        )
        .await?;
    let target = engine
        .database
        .stream("bench_append")
        .context("it was just created")?;
    let flights = decode(
        &target,
        Format::Parquet,
        Bytes::from_static(example::FLIGHTS),
        OnError::Refuse,
    )?;
    let flights = arrow::compute::concat_batches(&target.schema, &flights.batches)?;
    let mut figures = Vec::new();
    for size in SIZES {
        for producers in [1, PRODUCERS] {
            eprintln!("appending {size} rows at a time, {producers} producers");
            let before = engine.log.bytes();
            let start = Instant::now();
            let times: Vec<Vec<Duration>> = stream::iter(0..producers)
                .map(|producer| {
                    let (target, flights) = (&target, &flights);
                    async move {
                        let mut times = Vec::new();
                        let mut from = producer * 1_000;
                        while start.elapsed() < DURING {
                            from = (from + size) % (flights.num_rows() - size);
                            let begin = Instant::now();
                            append_one(engine, target, flights.slice(from, size)).await?;
                            times.push(begin.elapsed());
                        }
                        anyhow::Ok(times)
                    }
                })
                .buffer_unordered(producers)
                .try_collect()
                .await?;
            let seconds = start.elapsed().as_secs_f64();
            let times = times.concat();
            let what = format!("{size} rows × {producers} producers");
            let rows = (times.len() * size) as f64;
            figures.push(Figure::new(
                "append",
                what.clone(),
                rows / seconds,
                "rows/s",
            ));
            let written = engine.log.bytes().saturating_sub(before) as f64;
            figures.push(Figure::new(
                "append",
                what.clone(),
                written / 1e6 / seconds,
                "MB/s in the log",
            ));
            figures.extend(latencies("append", &what, times));
        }
    }
    engine
        .database
        .execute(&Session::default(), "DROP STREAM bench_append")
        .await?;
    Ok(figures)
}
