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
    let value = match figure.value {
        Some(value) => {
            let digits = if value >= 100.0 { 0 } else { 3 };
            format!("{value:.digits$}")
        }
        None => "failed".to_owned(),
    };
    vec![
        json!(figure.part),
        json!(figure.what),
        json!(value),
        json!(figure.unit),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_measured_is_a_cell_that_says_so() {
        let figure = |value| Figure {
            part: "p",
            what: "w".to_owned(),
            value,
            unit: "ms",
            failed: None,
        };
        let cell = |value| row(&figure(value))[2].clone();
        assert_eq!(cell(Some(1.23456)), json!("1.235"));
        assert_eq!(cell(Some(123.456)), json!("123"));
        assert_eq!(cell(None), json!("failed"));
    }
}
