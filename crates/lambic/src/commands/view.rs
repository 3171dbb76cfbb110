//! `lambic view`.

use std::{
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, bail};
use lambic_query::AsOf;

use super::{
    Global,
    query::placed,
    replay::{only_statement, placed_within},
    stream::{said, show},
};
use crate::{
    cli,
    client::{Client, identifier, literal},
    output::{self, Rows},
    project::statement,
};

/// What fits a line; `show` and JSON have all columns.
const LIST: &str = "SELECT name, class, key, batch_every, batch_runs, batch_frontier, speed_frontier, lag_records, \
                    state_rows FROM lambic_views ORDER BY name";

pub fn run(global: &Global, command: cli::View) -> anyhow::Result<()> {
    let client = global.client()?;
    match command {
        cli::View::List => output::print_rows(
            &client.rows(if global.json {
                "SELECT * FROM lambic_views ORDER BY name"
            } else {
                LIST
            })?,
            global.json,
        ),
        cli::View::Show { name } => {
            let rows = client.rows(&format!(
                "SELECT * FROM lambic_views WHERE name = {}",
                literal(&name)
            ))?;
            match rows.objects().first() {
                Some(view) => show(view, global.json),
                None => bail!("there is no view {name:?}; `lambic view list` shows what there is"),
            }
        }
        cli::View::Create {
            name,
            sql,
            batch_every,
            replace,
        } => {
            let select = match sql {
                Some(sql) => sql,
                None => {
                    let mut text = String::new();
                    io::stdin()
                        .read_to_string(&mut text)
                        .context("standard input is not UTF-8 text")?;
                    text
                }
            };
            let or_replace = if replace { "OR REPLACE " } else { "" };
            let with = batch_every
                .map(|every| format!(" WITH (batch_every = {})", literal(&every)))
                .unwrap_or_default();
            let select = select.trim().trim_end_matches(';');
            let text = format!(
                "CREATE {or_replace}MATERIALIZED VIEW {}{with} AS\n{select}",
                identifier(&name)
            );
            let Some(statement) = statement::split(Path::new("view"), &text)
                .into_iter()
                .next()
            else {
                bail!("there is no SELECT");
            };
            let answer = client
                .sql(&statement.sql)
                .map_err(|error| placed(error, &statement))?;
            if let Some(notice) = &answer.notice {
                eprintln!("{notice}");
            }
            said(answer.tag, global.json)
        }
        cli::View::Refresh { name } => said(
            client
                .sql(&format!("REFRESH MATERIALIZED VIEW {}", identifier(&name)))?
                .tag,
            global.json,
        ),
        cli::View::Explain { name } => {
            let rows = client.rows(&format!("EXPLAIN MATERIALIZED VIEW {}", identifier(&name)))?;
            output::print_rows(&rows, global.json)
        }
        cli::View::Follow(args) => super::follow::run(&client, &args, global.json),
        cli::View::Diff(args) => output::print_rows(&diff(&client, &args)?, global.json),
        cli::View::Drop { name } => said(
            client
                .sql(&format!("DROP MATERIALIZED VIEW {}", identifier(&name)))?
                .tag,
            global.json,
        ),
    }
}

fn diff(client: &Client, diff: &cli::ViewDiff) -> anyhow::Result<Rows> {
    let mut sql = format!("DIFF MATERIALIZED VIEW {}", identifier(&diff.name));
    if let Some(as_of) = &diff.as_of {
        // It holds for the whole statement, wherever it stands.
        sql.push_str(&format!(" {}", AsOf::of_text(as_of)));
    }
    if let Some(old) = diff.old {
        sql.push_str(&format!(" VERSION {old}"));
    }
    if let Some(new) = diff.new {
        sql.push_str(&format!(" WITH VERSION {new}"));
    }
    let Some(file) = &diff.sql else {
        return client.rows(&sql);
    };
    let select = only_statement(file)?;
    sql.push_str(" WITH\n");
    let before = sql.chars().count();
    client
        .rows(&format!("{sql}{}", select.sql))
        .map_err(|error| placed_within(error, before, &select))
}
