//! Full recompute of all views over the file's flights, beside DataFusion running the same `SELECT`s
//! directly on the Parquet file, in turns.

use std::time::{Duration, Instant};

use anyhow::Context;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

use super::{Bench, Figure, median};

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let views: Vec<(String, String)> = bench
        .engine
        .database
        .views()
        .into_iter()
        .filter(|view| view.sql.contains("flights"))
        .map(|view| (view.name, select(&view.sql)))
        .collect();
    anyhow::ensure!(!views.is_empty(), "the example has views of flights");
    eprintln!("sealing the log into the dataset");
    bench.engine.seal_all().await?;
    let file = bench
        .file
        .to_str()
        .context("the file's path is not UTF-8")?;
    let mut ours = vec![Vec::new(); views.len()];
    let mut direct = vec![Vec::new(); views.len()];
    // One round that does not count fills the page cache for both.
    for round in 0..=bench.rounds {
        eprintln!(
            "recompute and direct SQL, round {round} of {}",
            bench.rounds
        );
        for (index, (name, sql)) in views.iter().enumerate() {
            // Who begins changes from round to round.
            let (a, b) = if round % 2 == 0 {
                let a = recompute(bench, name).await?;
                (a, direct_sql(file, sql).await?)
            } else {
                let b = direct_sql(file, sql).await?;
                (recompute(bench, name).await?, b)
            };
            if round > 0 {
                ours[index].push(a);
                direct[index].push(b);
            }
        }
    }
    let mut figures = Vec::new();
    let (mut ours_total, mut direct_total) = (Duration::ZERO, Duration::ZERO);
    for (index, (name, _)) in views.iter().enumerate() {
        let (a, b) = (median(ours[index].clone()), median(direct[index].clone()));
        ours_total += a;
        direct_total += b;
        figures.push(Figure::new(
            "batch",
            format!("{name}, recompute"),
            a.as_secs_f64(),
            "s",
        ));
        figures.push(Figure::new(
            "batch",
            format!("{name}, direct SQL"),
            b.as_secs_f64(),
            "s",
        ));
    }
    let rows = (bench.records * views.len() as u64) as f64;
    let mut total = |what: &str, time: Duration| {
        figures.push(Figure::new(
            "batch",
            format!("all views, {what}"),
            time.as_secs_f64(),
            "s",
        ));
        figures.push(Figure::new(
            "batch",
            format!("all views, {what}"),
            rows / time.as_secs_f64(),
            "rows/s",
        ));
    };
    total("recompute", ours_total);
    total("direct SQL", direct_total);
    let ratio = ours_total.as_secs_f64() / direct_total.as_secs_f64();
    figures.push(Figure::new("batch", "recompute ÷ direct SQL", ratio, "×"));
    Ok(figures)
}

/// From the first record, whatever an earlier batch has covered, to the published batch view.
async fn recompute(bench: &Bench, view: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    bench.engine.recompute(view).await?;
    Ok(start.elapsed())
}

/// A session of its own, so that nothing is kept from one run to the next.
async fn direct_sql(file: &str, sql: &str) -> anyhow::Result<Duration> {
    let context = SessionContext::new_with_config(SessionConfig::new());
    let start = Instant::now();
    context
        .register_parquet("flights", file, ParquetReadOptions::default())
        .await?;
    let batches = context.sql(sql).await?.collect().await?;
    anyhow::ensure!(!batches.is_empty(), "direct SQL gave nothing");
    Ok(start.elapsed())
}

/// A view's definition may be kept with its CREATE before the SELECT.
fn select(sql: &str) -> String {
    let upper = sql.to_ascii_uppercase();
    match upper.find("SELECT") {
        Some(start) => sql[start..].trim_end_matches(';').to_owned(),
        None => sql.to_owned(),
    }
}
