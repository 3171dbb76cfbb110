//! Freshness, lookups by full key, and SQL, all inside the process.

use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use serde_json::Value;

use super::{Bench, Figure, append_one, latencies, millis};
use crate::{demo::source as example, server::rows};

const LOOKUPS: usize = 10_000;
const STATEMENTS: usize = 1_000;
const APPENDS: usize = 300;
const PRODUCERS: usize = 32;

/// From handing a record over until a read of the view has it: the append's fsync is in it.
pub async fn freshness(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    eprintln!("freshness");
    let engine = &bench.engine;
    let input = example::read(engine)?;
    let stream = engine
        .database
        .stream("flights")
        .context("the example declares flights")?;
    let record = input.live.slice(0, 1);
    let key = route(&rows(&engine.database, &busiest(1)).await?.rows)?;
    let record = with_route(&record, &key)?;
    let mut times = Vec::with_capacity(APPENDS);
    let mut count = flights(engine, &key).await?;
    for _ in 0..APPENDS {
        let start = Instant::now();
        append_one(engine, &stream, record.clone()).await?;
        let now = flights(engine, &key).await?;
        times.push(start.elapsed());
        anyhow::ensure!(
            now == count + 1,
            "the view has {now} flights after {count} and one more"
        );
        count = now;
    }
    let mut figures = latencies("freshness", "from append to the view's answer", times).to_vec();
    figures.extend(freshness_beside_others(bench, &record, &key).await?);
    Ok(figures)
}

/// The same while other producers append as fast as they are answered.
async fn freshness_beside_others(
    bench: &Bench,
    record: &RecordBatch,
    key: &Key,
) -> anyhow::Result<Vec<Figure>> {
    let engine = &bench.engine;
    let stream = engine.database.stream("flights");
    let stream = stream.context("the example declares flights")?;
    let others = async {
        let each = (1..PRODUCERS).map(|_| async {
            loop {
                append_one(engine, &stream, record.clone()).await?;
            }
        });
        let ended: anyhow::Result<Vec<()>> = futures::future::try_join_all(each).await;
        ended
    };
    let measured = async {
        let mut times = Vec::with_capacity(APPENDS);
        for _ in 0..APPENDS {
            let start = Instant::now();
            let before = flights(engine, key).await?;
            let asked = start.elapsed();
            append_one(engine, &stream, record.clone()).await?;
            let now = flights(engine, key).await?;
            times.push(start.elapsed() - asked);
            anyhow::ensure!(
                now > before,
                "the view has {now} flights after {before} and more"
            );
        }
        Ok(times)
    };
    let times = tokio::select! {
        ended = others => {
            ended?;
            anyhow::bail!("producers go on for ever")
        }
        times = measured => times?,
    };
    let what = format!("from append to the view's answer, {PRODUCERS} producers");
    Ok(latencies("freshness", &what, times).into())
}

pub async fn lookups(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    eprintln!("lookups");
    let routes = rows(&bench.engine.database, &busiest(1_000)).await?.rows;
    let keys: Vec<Key> = routes
        .iter()
        .map(|row| route(std::slice::from_ref(row)))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(!keys.is_empty(), "there are no routes to look up");
    let mut times = Vec::with_capacity(LOOKUPS);
    for index in 0..LOOKUPS {
        // A step that shares no factor with the number of keys visits all of them.
        let key = &keys[(index * 7_919) % keys.len()];
        let start = Instant::now();
        let found = bench
            .engine
            .database
            .lookup("busiest_routes", key, None)
            .await?;
        times.push(start.elapsed());
        anyhow::ensure!(
            found
                .batches
                .iter()
                .map(|batch| batch.num_rows())
                .sum::<usize>()
                == 1,
            "{key:?} is there once"
        );
    }
    Ok(latencies("lookup", "full key, in the process", times).into())
}

pub async fn sql(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (what, sql) in [
        ("select 1", "SELECT 1"),
        (
            "one route by SQL",
            "SELECT * FROM busiest_routes WHERE origin = 'ATL' AND destination = 'DFW'",
        ),
        (
            "top 10 of a view",
            "SELECT * FROM busiest_routes ORDER BY flights DESC LIMIT 10",
        ),
        (
            "aggregate over a view",
            "SELECT hour, sum(flights) FROM delays_per_hour GROUP BY hour",
        ),
    ] {
        eprintln!("sql: {what}");
        for (how, is_kept) in [("planned anew", false), ("kept plan", true)] {
            let what = format!("{what}, {how}");
            let mut times = Vec::with_capacity(STATEMENTS);
            let before = cpu_time()?;
            for number in 0..STATEMENTS {
                let text = match is_kept {
                    true => sql.to_owned(),
                    // Another text each time.
                    false => format!("{sql} /* {number} */"),
                };
                let start = Instant::now();
                rows(&bench.engine.database, &text).await?;
                times.push(start.elapsed());
                // A few slow statements tell enough.
                if times.iter().sum::<Duration>() > Duration::from_secs(20) {
                    break;
                }
            }
            let cpu = (cpu_time()? - before) / times.len() as u32;
            figures.extend(latencies("sql", &what, times));
            figures.push(Figure::new(
                "sql",
                format!("{what}, CPU"),
                millis(cpu),
                "ms",
            ));
        }
    }
    Ok(figures)
}

/// What all threads of this process have computed so far.
fn cpu_time() -> anyhow::Result<Duration> {
    /// Of Linux, whatever the machine.
    const TICKS_PER_S: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("the name ends")?;
    // Fields 14 and 15 of proc(5): user and system time.
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(
        ticks.iter().sum::<u64>() * 1000 / TICKS_PER_S,
    ))
}

type Key = Vec<(String, String)>;

fn busiest(limit: usize) -> String {
    format!(
        "SELECT origin, destination FROM busiest_routes ORDER BY flights DESC, origin, destination LIMIT {limit}"
    )
}

pub fn route(rows: &[Vec<Value>]) -> anyhow::Result<Key> {
    let row = rows.first().context("there is no route")?;
    let text = |index: usize| row.get(index).and_then(Value::as_str).map(str::to_owned);
    let origin = text(0).context("a route has an origin")?;
    let destination = text(1).context("a route has a destination")?;
    Ok(vec![
        ("origin".to_owned(), origin),
        ("destination".to_owned(), destination),
    ])
}

fn with_route(record: &RecordBatch, key: &Key) -> anyhow::Result<RecordBatch> {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    let schema = record.schema();
    let mut columns = record.columns().to_vec();
    for (name, value) in key {
        let (index, field) = schema
            .column_with_name(name)
            .context("flights has the key's columns")?;
        let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
        columns[index] = arrow::compute::cast(&text, field.data_type())?;
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}

async fn flights(engine: &crate::engine::Engine, key: &Key) -> anyhow::Result<i64> {
    use arrow::{array::AsArray, datatypes::Int64Type};

    let found = engine.database.lookup("busiest_routes", key, None).await?;
    let batch = found
        .batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .context("the route is there")?;
    let column = batch
        .column_by_name("flights")
        .context("the view has a column flights")?;
    let column = column
        .as_primitive_opt::<Int64Type>()
        .context("a count is a bigint")?;
    Ok(column.value(0))
}
