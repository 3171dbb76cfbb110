//! `EXPLAIN MATERIALIZED VIEW name`.

use std::sync::Arc;

use arrow::{
    array::StringArray,
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::{Database, rows};
use crate::{Error, Outcome, system};

impl Database {
    pub(super) async fn explain_view(&self, name: &str, sql: &str) -> Result<Outcome, Error> {
        self.existing_view(name, sql)?;
        let served = self
            .0
            .sources
            .serving
            .view(name)
            .ok_or_else(|| self.no_view(name, sql))?;
        let heads = self.0.sources.reader.pin().heads();
        let info = system::info(&served, &heads);
        let plan = served.plan();
        let runs = served.runs();
        let why = match plan.class {
            lambic_view::Class::Rows => "filter and project: every record becomes rows of its own",
            lambic_view::Class::Mergeable => "aggregates whose states merge",
        };
        let states = plan
            .state_schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()));
        let functions = served
            .definition()
            .functions
            .iter()
            .map(|(name, digest)| format!("{name} {}", &digest[..12.min(digest.len())]));
        let functions: Vec<String> = functions.collect();
        let speed: Vec<String> = runs
            .speed
            .iter()
            .map(|run| run.rows().to_string())
            .collect();
        let mut lines = vec![
            ("view", info.name.clone()),
            ("version", info.version.to_string()),
            ("class", format!("{} ({why})", info.class)),
            (
                "key",
                if info.key.is_empty() {
                    "none".to_owned()
                } else {
                    info.key.join(", ")
                },
            ),
            ("batch frontier", info.batch_frontier.clone()),
            ("speed frontier", info.speed_frontier.clone()),
            (
                "lag",
                format!("{} records, read on demand", info.lag_records),
            ),
            (
                "batch run",
                format!(
                    "number {}, {} state rows",
                    runs.batches,
                    runs.batch.as_ref().map_or(0, |run| run.rows())
                ),
            ),
            (
                "real-time runs",
                format!("{} ({} state rows)", speed.len(), speed.join(" + ")),
            ),
            (
                "states",
                format!(
                    "{} rows, {} bytes in memory",
                    info.state_rows, info.state_bytes
                ),
            ),
            ("state columns", states.collect::<Vec<_>>().join(", ")),
            ("batch every", info.batch_every.clone().unwrap_or_default()),
        ];
        if !functions.is_empty() {
            lines.push(("functions", functions.join(", ")));
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

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("property", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, false),
    ]))
}
