//! `lambic stream erase`: tells what would go, asks, and erases.

use std::io::{self, IsTerminal, Write};

use anyhow::bail;

use super::{Global, stream::said};
use crate::{
    cli,
    client::{Client, identifier},
    output,
};

pub fn run(global: &Global, client: &Client, args: &cli::Erase) -> anyhow::Result<()> {
    let from = format!("FROM {} WHERE {}", identifier(&args.name), args.condition);
    let told = client.rows(&format!("EXPLAIN ERASE {from}"))?;
    if args.dry_run {
        return output::print_rows(&told, global.json);
    }
    if !args.yes {
        let records = told
            .objects()
            .iter()
            .find(|line| line["property"] == "records")
            .and_then(|line| line["value"].as_str().map(str::to_owned));
        confirm(&args.name, &records.unwrap_or_default())?;
    }
    let mut options = Vec::new();
    if args.keep_predicate {
        options.push("keep_predicate = true");
    }
    if args.no_wait {
        options.push("wait = false");
    }
    let with = match options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let tag = client.sql(&format!("ERASE {from}{with}"))?.tag;
    if tag.as_deref() != Some("ERASE 0") {
        eprintln!(
            "backups made before still hold the records: `lambic backup list TARGET` tells which, `lambic backup delete` removes them"
        );
    }
    said(tag, global.json)
}

/// Nothing brings the records back, so the name is to be typed.
fn confirm(name: &str, records: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        bail!("ERASE cannot be undone: without a terminal to ask on, --yes says that it is meant");
    }
    eprint!(
        "{records} records of stream {name} are erased for ever. Type the stream's name to go on: "
    );
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != name {
        bail!("nothing was erased");
    }
    Ok(())
}
