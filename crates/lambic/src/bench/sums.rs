//! GROUP BY with sums of doubles that do not depend on the order, beside DataFusion's own that do, in turns.
//!
//! Both run the same `SELECT` over the same rows in memory, with the settings of every session.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array},
    record_batch::RecordBatch,
};
use datafusion::{catalog::MemTable, prelude::SessionContext};
use lambic_view::{aggregate::FloatSums, session};

use super::{Bench, Figure, median};

const ROWS: usize = 4_000_000;
const BATCH_ROWS: usize = 8_192;
const FEW: u64 = 1_000;
const MANY: u64 = 200_000;

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let exact = context(FloatSums::Exact)?;
    let fast = context(FloatSums::Fast)?;
    let mut figures = Vec::new();
    for (what, sql) in [
        ("sum, no groups", "SELECT sum(f) FROM t".to_owned()),
        ("sum, 1,000 groups", grouped("few", "sum(f)")),
        (
            "sum and avg, 1,000 groups",
            grouped("few", "sum(f), avg(f)"),
        ),
        ("stddev, 1,000 groups", grouped("few", "stddev(f)")),
        ("sum, 200,000 groups", grouped("many", "sum(f)")),
    ] {
        eprintln!("sums: {what}");
        let (mut of_exact, mut of_fast) = (Vec::new(), Vec::new());
        // One round that does not count fills the caches for both.
        for round in 0..=bench.rounds {
            let (a, b) = if round % 2 == 0 {
                let a = time(&exact, &sql).await?;
                (a, time(&fast, &sql).await?)
            } else {
                let b = time(&fast, &sql).await?;
                (time(&exact, &sql).await?, b)
            };
            if round > 0 {
                of_exact.push(a);
                of_fast.push(b);
            }
        }
        let (a, b) = (median(of_exact), median(of_fast));
        let rate = |time: Duration| ROWS as f64 / time.as_secs_f64();
        let ratio = a.as_secs_f64() / b.as_secs_f64();
        figures.push(Figure::new(
            "sums",
            format!("{what}, exact"),
            rate(a),
            "rows/s",
        ));
        figures.push(Figure::new(
            "sums",
            format!("{what}, fast"),
            rate(b),
            "rows/s",
        ));
        figures.push(Figure::new(
            "sums",
            format!("{what}, exact ÷ fast"),
            ratio,
            "×",
        ));
    }
    Ok(figures)
}

fn grouped(key: &str, aggregates: &str) -> String {
    format!("SELECT {key}, {aggregates} FROM t GROUP BY {key}")
}

fn context(float_sums: FloatSums) -> anyhow::Result<SessionContext> {
    let partitions = std::thread::available_parallelism().map_or(1, usize::from);
    let config = session::config(partitions).with_create_default_catalog_and_schema(true);
    let mut state = session::state(config, Arc::default());
    session::set_float_sums(&mut state, float_sums);
    let context = SessionContext::new_with_state(state);
    let mut of_partition = vec![Vec::new(); partitions];
    let mut numbers = Numbers(1);
    for (index, start) in (0..ROWS).step_by(BATCH_ROWS).enumerate() {
        let batch = batch(BATCH_ROWS.min(ROWS - start), &mut numbers)?;
        of_partition[index % partitions].push(batch);
    }
    let schema = of_partition[0][0].schema();
    let table = MemTable::try_new(schema, of_partition)?;
    context.register_table("t", Arc::new(table))?;
    Ok(context)
}

fn batch(rows: usize, numbers: &mut Numbers) -> anyhow::Result<RecordBatch> {
    let mut keys = |groups: u64| -> ArrayRef {
        let keys = (0..rows).map(|_| Some((numbers.next() % groups) as i64));
        Arc::new(keys.collect::<Int64Array>())
    };
    let (few, many) = (keys(FEW), keys(MANY));
    // Amounts of money: most are small, some are large.
    let values: Float64Array = (0..rows)
        .map(|_| {
            let (size, cents) = (numbers.next() % 5, numbers.next() % 100_000);
            Some(10f64.powi(size as i32) * cents as f64 / 100.0)
        })
        .collect();
    let values: ArrayRef = Arc::new(values);
    Ok(RecordBatch::try_from_iter([
        ("few", few),
        ("many", many),
        ("f", values),
    ])?)
}

/// The same numbers every time (D. Knuth's MMIX generator; its high bits are good enough).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

async fn time(context: &SessionContext, sql: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let answer = context.sql(sql).await?.collect().await?;
    anyhow::ensure!(!answer.is_empty(), "{sql} gave nothing");
    Ok(start.elapsed())
}
