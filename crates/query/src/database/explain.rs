//! `EXPLAIN MATERIALIZED VIEW name`.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::StringArray,
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use lambic_serving::{RecomputedView, RunSet, Served, ServedView};
use lambic_view::{
    Class, Freshness,
    aggregate::FloatSums,
    join::{IndexStanding, Join, Standing},
};

use super::{Database, rows};
use crate::{
    Error, Outcome, ViewInfo,
    pinned::Pinned,
    reading,
    system::{self, INDEX_TOO_LARGE},
};

impl Database {
    pub(super) async fn explain_view(&self, name: &str, sql: &str) -> Result<Outcome, Error> {
        self.existing_view(name, sql)?;
        self.served(name, sql)?;
        let pinned = Arc::new(Pinned::take(&self.0.sources));
        let served = pinned.views.get(name);
        let served = served.ok_or_else(|| self.no_view(name, sql))?.clone();
        let pin = self.0.sources.reader.pin();
        let info = system::info(&served, &pin);
        let definition = served.definition();
        let mut lines = vec![
            ("view", info.name.clone()),
            ("version", info.version.to_string()),
        ];
        match &served {
            Served::Kept(view) => kept(view, &info, &mut lines),
            Served::Recomputed(view) => recomputed(view, &info, &mut lines),
        }
        let wrong = |error| Error::from_datafusion(error, sql, &[]);
        lines.push(("read", reading::of_all(&served, &pinned).map_err(wrong)?));
        if let Some(by_key) = reading::of_key(&served, &pinned).map_err(wrong)? {
            lines.push(("read by key", by_key));
        }
        if definition.float_sums == FloatSums::Fast {
            let fast =
                "fast: the last digits of sums of doubles depend on the order of the records";
            lines.push(("float sums", fast.to_owned()));
        }
        match &definition.speed_as {
            Some(speed) => {
                lines.push(("freshness", approximate(&info)));
                lines.push(("speed as", speed.sql.clone()));
                lines.push(("speed key", speed.key.join(", ")));
            }
            None if definition.freshness == Freshness::Batch => {
                lines.push(("freshness", as_of_batch(&info)));
            }
            None => {}
        }
        lines.push(("batch every", info.batch_every.clone().unwrap_or_default()));
        if definition.expects_no_rows {
            lines.push((
                "expects",
                "no rows; its audit tells of every row".to_owned(),
            ));
        }
        let functions: Vec<String> = definition
            .functions
            .iter()
            .map(|(name, digest)| format!("{name} {}", &digest[..12.min(digest.len())]))
            .collect();
        if !functions.is_empty() {
            lines.push(("functions", functions.join(", ")));
        }
        let former: Vec<String> = self
            .0
            .sources
            .catalog()
            .former_versions(name)
            .iter()
            .map(|version| version.version.to_string())
            .collect();
        if !former.is_empty() {
            lines.push(("former versions", former.join(", ")));
        }
        lines.push(("select", info.sql.clone()));
        let (names, values): (Vec<&str>, Vec<String>) = lines.into_iter().unzip();
        rows(
            schema(),
            vec![
                Arc::new(StringArray::from(names)),
                Arc::new(StringArray::from(values)),
            ],
        )
    }
}

fn approximate(info: &ViewInfo) -> String {
    match info.lag_records {
        0 => "approximate: now exact, because the last batch lacks nothing".to_owned(),
        lag => format!(
            "approximate: {lag} records after the last batch are served by speed_as; AUDIT MATERIALIZED VIEW {} WITH (drift) measures how far off",
            info.name
        ),
    }
}

fn as_of_batch(info: &ViewInfo) -> String {
    let age = info.age_ms.map(|age_ms| {
        let age = humantime::format_duration(Duration::from_millis(age_ms));
        format!("; the oldest has waited {age}")
    });
    match info.lag_records {
        0 => "batch: the rows of the last batch, which lack nothing".to_owned(),
        lag => format!(
            "batch: the rows of the last batch, which lack {lag} records{}",
            age.unwrap_or_default()
        ),
    }
}

type Lines = Vec<(&'static str, String)>;

fn kept(view: &ServedView, info: &ViewInfo, lines: &mut Lines) {
    let plan = view.plan();
    let runs = view.runs();
    let why = match plan.class {
        Class::Rows => "filter and project: every record becomes rows of its own",
        Class::Mergeable => "aggregates whose states merge",
        Class::JoinMergeable => {
            "aggregates whose states merge, over an inner join: new records of a side are joined with what was there"
        }
        Class::Recompute => unreachable!("a kept view has states"),
    };
    let states = plan
        .state_schema
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), field.data_type()));
    let key = match info.key.is_empty() {
        true => "none".to_owned(),
        false => info.key.join(", "),
    };
    lines.extend([
        ("class", format!("{} ({why})", info.class)),
        ("key", key),
        ("batch frontier", info.batch_frontier.clone()),
        ("speed frontier", info.speed_frontier.clone()),
        (
            "lag",
            format!("{} records, read on demand", info.lag_records),
        ),
        ("batch run", batch_run(&runs)),
        ("real-time runs", real_time_runs(&runs)),
        (
            "states",
            format!(
                "{} rows, {} bytes in memory",
                info.state_rows, info.state_bytes
            ),
        ),
        ("state columns", states.collect::<Vec<_>>().join(", ")),
    ]);
    let sides = plan.join().map(Join::standings).unwrap_or_default();
    lines.extend(sides.into_iter().map(|side| ("side", shown(&side))));
}

fn shown(side: &Standing) -> String {
    let index = match side.index {
        IndexStanding::NotAsked => {
            "no index yet: it is built when a record of another side comes".to_owned()
        }
        IndexStanding::Busy => "its index is being built or extended".to_owned(),
        IndexStanding::Kept { rows, bytes } => {
            format!("an index of {rows} rows, {bytes} bytes in memory")
        }
        IndexStanding::TooLarge => format!("no index: it {INDEX_TOO_LARGE}"),
    };
    format!("{}: {index}", side.stream)
}

fn recomputed(view: &RecomputedView, info: &ViewInfo, lines: &mut Lines) {
    let plan = view.plan();
    lines.push((
        "class",
        format!(
            "{} (it has no incremental form: {})",
            info.class, plan.reason
        ),
    ));
    match view.batch_frontier() {
        Some(_) => lines.push(("batch frontier", info.batch_frontier.clone())),
        None => lines.push(("frontier", info.speed_frontier.clone())),
    }
    if !plan.views.is_empty() {
        lines.push(("views", plan.views.join(", ")));
    }
    let (rows, bytes) = view.kept();
    let kept = match (rows, bytes) {
        (0, 0) => "nothing: the next read runs the SELECT".to_owned(),
        (rows, bytes) => {
            format!("{rows} rows of the last run, {bytes} bytes, until an input changes")
        }
    };
    lines.push(("kept", kept));
    for part in view.parts() {
        let runs = part.runs();
        let states: usize = runs.state_rows();
        let streams = part.plan().inputs.iter();
        let streams: Vec<&str> = streams.map(|stream| stream.name.as_str()).collect();
        lines.push((
            "part",
            format!(
                "an aggregation of {} whose states are kept: {states} rows; batch run {}; real-time runs {}",
                streams.join(", "),
                batch_run(&runs),
                real_time_runs(&runs)
            ),
        ));
    }
}

fn batch_run(runs: &RunSet) -> String {
    let rows = runs.batch.as_ref().map_or(0, |run| run.rows());
    format!("number {}, {rows} state rows", runs.batches)
}

fn real_time_runs(runs: &RunSet) -> String {
    let rows: Vec<String> = runs
        .speed
        .iter()
        .map(|run| run.rows().to_string())
        .collect();
    match rows.len() {
        0 => "none".to_owned(),
        runs => format!("{runs} ({} state rows)", rows.join(" + ")),
    }
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("property", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, false),
    ]))
}
