//! `lambic bench`: figures of this machine, on real flights.

use serde_json::json;

use super::{Global, doctor};
use crate::{
    bench::{self, Figure},
    cli,
    output::{self, Rows},
};

pub async fn run(global: Global, args: cli::Bench) -> anyhow::Result<()> {
    if let Some(cli::BenchCommand::Bare) = args.command {
        return bench::functions::serve_bare().await;
    }
    let mut facts = doctor::facts();
    facts.extend(bench::facts()?);
    if !global.json {
        for (name, found) in &facts {
            output::print(&format!("{name:<18} {found}\n"))?;
        }
        output::print("\n")?;
    }
    let figures = match args.command {
        Some(cli::BenchCommand::Functions { rounds, peers }) => {
            let options = bench::functions::Options { rounds, peers };
            // It waits for servers, and starts its own threads.
            tokio::task::block_in_place(|| bench::functions::run(&options))?
        }
        _ => {
            bench::run(bench::Options {
                file: args.file,
                rounds: args.rounds,
                only: args.only,
            })
            .await?
        }
    };
    if global.json {
        let machine: serde_json::Map<_, _> = facts
            .into_iter()
            .map(|(name, found)| (name.to_owned(), json!(found)))
            .collect();
        return output::print_json(&json!({ "machine": machine, "figures": figures }));
    }
    let rows = Rows {
        columns: ["part", "what", "value", "unit"]
            .map(str::to_owned)
            .to_vec(),
        rows: figures.iter().map(row).collect(),
        ..Rows::default()
    };
    output::print(&rows.table())
}

fn row(figure: &Figure) -> Vec<serde_json::Value> {
    let digits = if figure.value >= 100.0 { 0 } else { 3 };
    vec![
        json!(figure.part),
        json!(figure.what),
        json!(format!("{:.digits$}", figure.value)),
        json!(figure.unit),
    ]
}
