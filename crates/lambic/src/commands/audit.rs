//! `lambic audit`: recomputes views from scratch and compares; code 1 if any disagrees, has rows where it expects none,
//! or cannot be audited.

use anyhow::bail;
use serde_json::{Value, json};

use super::Global;
use crate::{
    cli,
    client::{Client, identifier},
    output::{self, Rows, counted},
};

const COLUMNS: [&str; 6] = [
    "view",
    "agrees",
    "rows",
    "differences",
    "detail",
    "frontier",
];

/// How far views are off that are served approximately.
fn drift(global: &Global, client: &Client, views: &[String]) -> anyhow::Result<()> {
    let mut all = Rows::default();
    for view in views {
        let name = identifier(view);
        let rows = client.rows(&format!("AUDIT MATERIALIZED VIEW {name} WITH (drift)"))?;
        let head = |own: &str, columns: Vec<String>| -> Vec<String> {
            std::iter::once(own.to_owned()).chain(columns).collect()
        };
        all.columns = head("view", rows.columns);
        all.types = head("text", rows.types);
        all.rows.extend(
            rows.rows
                .into_iter()
                .map(|row| std::iter::once(json!(view)).chain(row).collect()),
        );
    }
    output::print_rows(&all, global.json)
}

/// What a view can disagree with.
const AGAINST: &str = "a recompute from scratch, or with what is expected of them";

pub fn run(global: &Global, args: &cli::Audit) -> anyhow::Result<()> {
    let client = global.client()?;
    if args.drift {
        return drift(global, &client, &args.views);
    }
    let views = if args.all {
        client.views()?
    } else {
        args.views.clone()
    };
    let mut all = Rows {
        columns: COLUMNS.map(str::to_owned).to_vec(),
        ..Rows::default()
    };
    let (mut disagree, mut failed) = (0, 0);
    for view in &views {
        match audit(&client, view) {
            Ok(row) => {
                disagree += u64::from(all.get(&row, "agrees").as_bool() != Some(true));
                all.rows.push(row);
            }
            // One view that cannot be audited says nothing of the others.
            Err(error) if views.len() > 1 => {
                failed += 1;
                all.rows.push(
                    COLUMNS
                        .iter()
                        .map(|column| match *column {
                            "view" => json!(view),
                            "detail" => json!(format!("not audited: {error:#}")),
                            _ => Value::Null,
                        })
                        .collect(),
                );
            }
            Err(error) => return Err(error),
        }
    }
    output::print_rows(&all, global.json)?;
    let views = counted(views.len() as u64, "view");
    match (disagree, failed) {
        (0, 0) => Ok(()),
        (0, failed) => bail!("{failed} of {views} could not be audited"),
        (disagree, 0) => bail!("{disagree} of {views} disagree with {AGAINST}"),
        (disagree, failed) => bail!(
            "{disagree} of {views} disagree with {AGAINST}, and {failed} could not be audited"
        ),
    }
}

fn audit(client: &Client, view: &str) -> anyhow::Result<Vec<Value>> {
    let rows = client.rows(&format!("AUDIT MATERIALIZED VIEW {}", identifier(view)))?;
    let Some(row) = rows.rows.first() else {
        bail!("the server gave no result of the audit of {view}");
    };
    Ok(COLUMNS
        .iter()
        .map(|column| rows.get(row, column).clone())
        .collect())
}
