//! What history costs: the same views over two streams of which one has 100 times as many records, in turns.

use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use lambic_connectors::{Chunks, Format, OnError, decode};
use lambic_model::Stream;
use lambic_query::Session;

use super::{Bench, Figure, append_one, median, read};
use crate::server::rows;

const TIMES: usize = 100;
/// Records that come in before each batch.
const NEW: usize = 20_000;
const LOOKUPS: usize = 2_000;
/// Reads of all rows, each after one more record.
const READS: usize = 200;
const NAMES: [&str; 2] = ["short", "long"];

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let records = records(bench)?;
    let short = records.num_rows() / TIMES;
    anyhow::ensure!(short > 0, "the file has at least {TIMES} flights");
    for (name, length) in NAMES.into_iter().zip([short, records.num_rows()]) {
        eprintln!("history: {length} records");
        declare(bench, name).await?;
        append(bench, name, &records.slice(0, length)).await?;
        refresh(bench, name, " FULL").await?;
    }
    let mut figures = vec![
        figure("records of the short history", short as f64, "records"),
        figure(
            "records of the long one",
            records.num_rows() as f64,
            "records",
        ),
    ];
    let new = records.slice(0, NEW.min(records.num_rows()));
    let [short, long] = in_turns(bench.rounds, async |name| {
        append(bench, name, &new).await?;
        refresh(bench, name, "").await
    })
    .await?;
    let what = format!("batch of {} new records", new.num_rows());
    figures.extend(compared(&what, short, long));
    let [_, full] = in_turns(1, async |name| refresh(bench, name, " FULL").await).await?;
    figures.push(figure("batch of all, long", seconds(full), "s"));

    let [short, long] = in_turns(bench.rounds, async |name| lookups(bench, name).await).await?;
    figures.extend(compared("lookup after a batch", short, long));
    let batch_only = long;
    for name in NAMES {
        append(bench, name, &new.slice(0, new.num_rows() / 20)).await?;
        // So that the records are taken in.
        rows(
            &bench.engine.database,
            &format!("SELECT count(*) FROM routes_{name}"),
        )
        .await?;
    }
    let [short, long] = in_turns(bench.rounds, async |name| lookups(bench, name).await).await?;
    figures.extend(compared("lookup in batch and speed", short, long));
    let merged = long.as_secs_f64() / batch_only.as_secs_f64();
    figures.push(figure("lookup, batch and speed ÷ batch only", merged, "×"));
    let totals = |name| format!("SELECT sum(flights), sum(distance_avg) FROM routes_{name}");
    let [short, long] = in_turns(bench.rounds, async |name| {
        reads(bench, name, &totals(name), &new).await
    })
    .await?;
    figures.extend(compared("all rows after one more record", short, long));
    let met = |name| format!("SELECT sum(pairs), sum(delay) FROM met_{name}");
    for name in NAMES {
        eprintln!("history: a join");
        execute(bench, &joined(name)).await?;
        // So that it is indexed.
        reads(bench, name, &met(name), &new.slice(0, 1)).await?;
    }
    let [short, long] = in_turns(bench.rounds, async |name| {
        reads(bench, name, &met(name), &new).await
    })
    .await?;
    figures.extend(compared(
        "all rows of a join after one more record",
        short,
        long,
    ));
    Ok(figures)
}

fn figure(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure::new("history", what, value, unit)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn compared(what: &str, short: Duration, long: Duration) -> [Figure; 3] {
    let ratio = seconds(long) / seconds(short);
    [
        figure(format!("{what}, short"), seconds(short) * 1e3, "ms"),
        figure(format!("{what}, long"), seconds(long) * 1e3, "ms"),
        figure(format!("{what}, long ÷ short"), ratio, "×"),
    ]
}

/// The medians of what `work` on each history took; who begins changes from round to round.
async fn in_turns(
    rounds: u32,
    work: impl AsyncFn(&'static str) -> anyhow::Result<Duration>,
) -> anyhow::Result<[Duration; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..rounds as usize {
        for turn in 0..NAMES.len() {
            let which = (round + turn) % NAMES.len();
            times[which].push(work(NAMES[which]).await?);
        }
    }
    Ok(times.map(median))
}

fn records(bench: &Bench) -> anyhow::Result<RecordBatch> {
    let stream = bench.engine.database.stream("flights");
    let stream = stream.context("the example declares flights")?;
    let mut batches = Vec::new();
    for chunk in Chunks::open(&bench.file, Format::from_path(&bench.file)?, 1 << 20)? {
        let chunk = chunk?;
        batches.extend(decode(&stream, chunk.format, chunk.body, OnError::Refuse)?.batches);
    }
    Ok(arrow::compute::concat_batches(&stream.schema, &batches)?)
}

async fn execute(bench: &Bench, sql: &str) -> anyhow::Result<()> {
    let database = &bench.engine.database;
    database.execute(&Session::default(), sql).await?;
    Ok(())
}

async fn declare(bench: &Bench, name: &str) -> anyhow::Result<()> {
    let stream = format!(
        "CREATE STREAM flights_{name} (date timestamp NOT NULL, delay bigint NOT NULL, distance bigint,
             origin text NOT NULL, destination text NOT NULL) WITH (event_time = 'date', partitions = '2')"
    );
    execute(bench, &stream).await?;
    let view = format!(
        "CREATE MATERIALIZED VIEW routes_{name} WITH (batch_every = '1day') AS
             SELECT origin, destination, count(*) AS flights, avg(distance) AS distance_avg
             FROM flights_{name} GROUP BY origin, destination"
    );
    execute(bench, &view).await
}

/// Flights of one route at one time, each with each: few, whatever the history.
fn joined(name: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW met_{name} WITH (batch_every = '1day') AS
             SELECT a.origin, count(*) AS pairs, sum(b.delay) AS delay FROM flights_{name} AS a JOIN flights_{name} AS b
             ON a.date = b.date AND a.origin = b.origin AND a.destination = b.destination GROUP BY a.origin"
    )
}

async fn append(bench: &Bench, name: &str, records: &RecordBatch) -> anyhow::Result<()> {
    const ROWS: usize = 100_000;
    let stream = bench.engine.database.stream(&format!("flights_{name}"));
    let stream: std::sync::Arc<Stream> = stream.context("it was just created")?;
    for from in (0..records.num_rows()).step_by(ROWS) {
        let some = records.slice(from, ROWS.min(records.num_rows() - from));
        append_one(&bench.engine, &stream, some).await?;
    }
    Ok(())
}

async fn refresh(bench: &Bench, name: &str, full: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    execute(
        bench,
        &format!("REFRESH MATERIALIZED VIEW routes_{name}{full}"),
    )
    .await?;
    Ok(start.elapsed())
}

/// The median of one.
async fn lookups(bench: &Bench, name: &str) -> anyhow::Result<Duration> {
    let view = format!("routes_{name}");
    // Both have the routes of the short history.
    let routes = format!(
        "SELECT origin, destination FROM {} ORDER BY origin, destination LIMIT 500",
        "routes_short"
    );
    let keys = rows(&bench.engine.database, &routes).await?.rows;
    let keys: Vec<_> = keys
        .iter()
        .map(|row| read::route(std::slice::from_ref(row)))
        .collect::<anyhow::Result<_>>()?;
    let mut times = Vec::with_capacity(LOOKUPS);
    for index in 0..LOOKUPS {
        let key = &keys[(index * 7_919) % keys.len()];
        let start = Instant::now();
        let found = bench.engine.database.lookup(&view, key, None).await?;
        times.push(start.elapsed());
        let found: usize = found.batches.iter().map(RecordBatch::num_rows).sum();
        anyhow::ensure!(found == 1, "{key:?} is there once");
    }
    Ok(median(times))
}

/// The median of one.
async fn reads(
    bench: &Bench,
    name: &str,
    sql: &str,
    records: &RecordBatch,
) -> anyhow::Result<Duration> {
    let mut times = Vec::with_capacity(READS);
    for index in 0..READS {
        append(bench, name, &records.slice(index % records.num_rows(), 1)).await?;
        let start = Instant::now();
        rows(&bench.engine.database, sql).await?;
        times.push(start.elapsed());
    }
    Ok(median(times))
}
