//! `lambic batch`: runs batches now, and lists what they have covered.

use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::Global;
use crate::{
    cli,
    client::identifier,
    output::{self, Rows},
};

pub fn run(global: &Global, command: cli::Batch) -> anyhow::Result<()> {
    let client = global.client()?;
    match command {
        cli::Batch::Run { views } => {
            let views = if views.is_empty() {
                client.views()?
            } else {
                views
            };
            let mut rows = Rows {
                columns: vec!["view".into(), "seconds".into()],
                ..Rows::default()
            };
            for view in views {
                let start = Instant::now();
                client
                    .sql(&format!("REFRESH MATERIALIZED VIEW {}", identifier(&view)))
                    .with_context(|| format!("the batch of {view} failed"))?;
                let seconds = (start.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                rows.rows.push(vec![json!(view), json!(seconds)]);
            }
            output::print_rows(&rows, global.json)
        }
        cli::Batch::List => {
            let views = client.rows("SELECT * FROM lambic_views ORDER BY name")?;
            let wanted = [
                "name",
                "batch_every",
                "batch_runs",
                "batch_frontier",
                "speed_frontier",
                "lag_records",
            ];
            let columns: Vec<String> = wanted
                .iter()
                .filter(|name| views.columns.iter().any(|c| c == *name))
                .map(|n| (*n).to_owned())
                .collect();
            let rows = views
                .rows
                .iter()
                .map(|row| {
                    columns
                        .iter()
                        .map(|column| views.get(row, column).clone())
                        .collect()
                })
                .collect();
            let rows = Rows {
                columns,
                rows,
                ..Rows::default()
            };
            output::print_rows(&rows, global.json)
        }
    }
}
