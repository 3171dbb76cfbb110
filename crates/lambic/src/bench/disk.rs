//! Durable appends beside what the disk can do: writes of as many bytes to one file, each made durable, in turns.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::Context;
use arrow::{array::StringArray, record_batch::RecordBatch};
use futures::{StreamExt, TryStreamExt, stream};
use lambic_query::Session;

use super::{Bench, Figure, append_one};

const ROW_BYTES: usize = 1 << 10;
const ROWS: usize = 1 << 10;
const PRODUCERS: usize = 8;
const DURING: Duration = Duration::from_secs(2);

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let database = &bench.engine.database;
    let create = "CREATE STREAM bench_disk (body text NOT NULL)";
    database.execute(&Session::default(), create).await?;
    let target = database.stream("bench_disk");
    let target = target.context("it was just created")?;
    // Letters and digits that repeat nowhere: what is not compressed is not flattered.
    let mut number = 1u64;
    let mut letter = || {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'0' + (number >> 58) as u8)
    };
    let bodies = (0..ROWS).map(|_| (0..ROW_BYTES).map(|_| letter()).collect::<String>());
    let bodies = StringArray::from_iter_values(bodies);
    let batch = RecordBatch::try_new(target.schema.clone(), vec![std::sync::Arc::new(bodies)])?;
    let (mut ours, mut disk) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        eprintln!(
            "appends beside the disk, round {} of {}",
            round + 1,
            bench.rounds
        );
        let start = Instant::now();
        let appended: Vec<usize> = stream::iter(0..PRODUCERS)
            .map(|_| async {
                let mut appended = 0;
                while start.elapsed() < DURING {
                    append_one(&bench.engine, &target, batch.clone()).await?;
                    appended += 1;
                }
                anyhow::Ok(appended)
            })
            .buffer_unordered(PRODUCERS)
            .try_collect()
            .await?;
        let bytes = appended.iter().sum::<usize>() * ROWS * ROW_BYTES;
        ours.push(bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
        let folder = bench.data.clone();
        disk.push(tokio::task::spawn_blocking(move || raw(&folder)).await??);
    }
    let drop = "DROP STREAM bench_disk";
    database.execute(&Session::default(), drop).await?;
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (ours, disk) = (median(ours), median(disk));
    let figure = |what: &str, value, unit| Figure::new("disk", what, value, unit);
    Ok(vec![
        figure("durable appends of 1 KiB rows", ours, "MB/s"),
        figure("write and fsync of as much, on the same disk", disk, "MB/s"),
        figure("appends ÷ disk", ours / disk, "×"),
    ])
}

/// In MB/s: as many bytes at once as all producers hand over together.
fn raw(folder: &std::path::Path) -> anyhow::Result<f64> {
    let path = folder.join("bench-disk");
    let block = vec![7u8; PRODUCERS * ROWS * ROW_BYTES];
    let mut file = File::create(&path)?;
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < DURING {
        file.write_all(&block)?;
        file.sync_data()?;
        bytes += block.len();
    }
    let rate = bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}
