//! `lambic stream`.

use std::io::{self, IsTerminal};

use anyhow::bail;
use serde_json::Value;

use super::{Global, erase};
use crate::{
    cli,
    client::{identifier, literal, segment},
    output,
};

/// What fits a line; `show` and JSON have all columns.
const LIST: &str = "SELECT name, records, partitions, frontier, sealed_frontier, sealed_files, sealed_bytes, \
                    event_time, record_id FROM lambic_streams ORDER BY name";

pub fn run(global: &Global, command: cli::Stream) -> anyhow::Result<()> {
    let client = global.client()?;
    match command {
        cli::Stream::List => output::print_rows(
            &client.rows(if global.json {
                "SELECT * FROM lambic_streams ORDER BY name"
            } else {
                LIST
            })?,
            global.json,
        ),
        cli::Stream::Show { name } => {
            let stream = client.get(&format!("/v1/streams/{}", segment(&name)))?;
            show(&stream, global.json)
        }
        cli::Stream::Create {
            name,
            columns,
            options,
        } => {
            let with = settings(&options, "--with")?;
            let with = if with.is_empty() {
                String::new()
            } else {
                format!(" WITH ({})", with.join(", "))
            };
            said(
                client
                    .sql(&format!(
                        "CREATE STREAM {} ({columns}){with}",
                        identifier(&name)
                    ))?
                    .tag,
                global.json,
            )
        }
        cli::Stream::Alter(args) => {
            let change = match args.reset.as_slice() {
                [] => format!("SET ({})", settings(&args.set, "--set")?.join(", ")),
                names => {
                    let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
                    format!("RESET ({})", names.join(", "))
                }
            };
            let sql = format!("ALTER STREAM {} {change}", identifier(&args.name));
            match args.dry_run {
                true => output::print_rows(&client.rows(&format!("EXPLAIN {sql}"))?, global.json),
                false => said(client.sql(&sql)?.tag, global.json),
            }
        }
        cli::Stream::Compact { name } => {
            let sql = format!("COMPACT STREAM {}", identifier(&name));
            output::print_rows(&client.rows(&sql)?, global.json)
        }
        cli::Stream::Erase(args) => erase::run(global, &client, &args),
        cli::Stream::Drop { name } => said(
            client
                .sql(&format!("DROP STREAM {}", identifier(&name)))?
                .tag,
            global.json,
        ),
    }
}

/// `KEY=VALUE` as SQL has it.
fn settings(options: &[String], flag: &str) -> anyhow::Result<Vec<String>> {
    let each = options.iter().map(|option| {
        let Some((key, value)) = option.split_once('=') else {
            bail!("{flag} takes KEY=VALUE, as in {flag} retention='30 days', not {option:?}");
        };
        let (key, value) = (key.trim(), value.trim());
        Ok(format!("{} = {}", identifier(key), literal(value)))
    });
    each.collect()
}

/// A command tag: for people on stderr, because it is no data.
pub fn said(tag: Option<String>, json: bool) -> anyhow::Result<()> {
    let tag = tag.unwrap_or_default();
    if json {
        return output::print_json(&serde_json::json!({ "done": tag }));
    }
    eprintln!("{tag}");
    Ok(())
}

/// An object: a line for every member, a table for lists of objects.
pub fn show(value: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return output::print_json(value);
    }
    let Value::Object(members) = value else {
        return output::print(&format!("{value}\n"));
    };
    let width = members
        .keys()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let mut tables = String::new();
    for (name, value) in members {
        match value {
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                tables += &format!("\n{name}\n{}", table(items));
            }
            Value::String(value) if value.contains('\n') => {
                tables += &format!("\n{name}\n{}\n", value.trim_end());
            }
            Value::String(value) => text += &format!("{name:width$}  {value}\n"),
            Value::Null => {}
            other => text += &format!("{name:width$}  {other}\n"),
        }
    }
    let shown = text + &tables;
    output::print(&output::foreign(&shown, io::stdout().is_terminal()))
}

fn table(items: &[Value]) -> String {
    let mut columns: Vec<String> = Vec::new();
    for item in items.iter().filter_map(Value::as_object) {
        for name in item.keys() {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    let rows = items
        .iter()
        .map(|item| {
            columns
                .iter()
                .map(|name| item.get(name).cloned().unwrap_or_default())
                .collect()
        })
        .collect();
    output::Rows {
        columns,
        rows,
        ..output::Rows::default()
    }
    .table()
}
