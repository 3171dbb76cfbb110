//! The example `examples/flights`, embedded, so that the demo runs from anywhere.

use std::{fs, path::Path};

use anyhow::Context;
use arrow::{compute::concat_batches, record_batch::RecordBatch};
use lambic_connectors::{Format, OnError, decode};

use crate::{engine::Engine, project::Project};

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../../examples/flights/", $path)))),*]
    };
}

/// The files of the project by their paths in it.
pub const FILES: &[(&str, &[u8])] = embedded![
    "lambic.toml",
    "functions/flag_long_delays/handler.py",
    "functions/geohash/geohash.wasm",
    "streams/airports.sql",
    "streams/alerts.sql",
    "streams/flights.sql",
    "views/airport_cells.sql",
    "views/busiest_routes.sql",
    "views/delays_per_hour.sql",
    "views/latest_departure.sql",
    "views/origins.sql",
];

pub const FLIGHTS: &[u8] = include_bytes!("../../../../examples/flights/flights-200k.parquet");
pub const AIRPORTS: &[u8] = include_bytes!("../../../../examples/flights/airports.csv");

/// The part of the flights that is appended as history; the rest is replayed.
const HISTORY: f64 = 0.6;

pub struct Input {
    pub airports: RecordBatch,
    pub history: RecordBatch,
    pub live: RecordBatch,
}

impl Input {
    pub fn history_rows(&self) -> u64 {
        self.history.num_rows() as u64
    }
}

/// Writes the project into the data folder and reads it as any project is read.
pub fn project(data: &Path) -> anyhow::Result<Project> {
    let folder = data.join("project");
    for (path, bytes) in FILES {
        let path = folder.join(path);
        let parent = path
            .parent()
            .context("a file of the example has a folder")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Project::read(&folder)?)
}

pub fn read(engine: &Engine) -> anyhow::Result<Input> {
    let airports = batch_of(engine, "airports", Format::Csv, AIRPORTS)?;
    let flights = batch_of(engine, "flights", Format::Parquet, FLIGHTS)?;
    let history = (flights.num_rows() as f64 * HISTORY) as usize;
    Ok(Input {
        airports,
        history: flights.slice(0, history),
        live: flights.slice(history, flights.num_rows() - history),
    })
}

fn batch_of(
    engine: &Engine,
    stream: &str,
    format: Format,
    bytes: &'static [u8],
) -> anyhow::Result<RecordBatch> {
    let stream = engine
        .database
        .stream(stream)
        .with_context(|| format!("the example's stream {stream} is missing"))?;
    let decoded = decode(&stream, format, bytes.into(), OnError::Refuse)?;
    Ok(concat_batches(&stream.schema, &decoded.batches)?)
}
