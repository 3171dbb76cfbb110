//! `lambic audit`: recomputes views from scratch and compares; code 1 if any disagrees.

use super::Global;
use crate::{
    cli,
    client::identifier,
    exit,
    output::{self, Rows},
};

pub fn run(global: &Global, args: &cli::Audit) -> anyhow::Result<()> {
    let client = global.client()?;
    let mut all = Rows::default();
    let statements: Vec<String> = if args.all {
        vec!["AUDIT ALL".to_owned()]
    } else {
        args.views
            .iter()
            .map(|view| format!("AUDIT MATERIALIZED VIEW {}", identifier(view)))
            .collect()
    };
    for statement in statements {
        let rows = client.rows(&statement)?;
        all.columns = rows.columns;
        all.rows.extend(rows.rows);
    }
    output::print_rows(&all, global.json)?;
    let disagree = all
        .rows
        .iter()
        .filter(|row| all.get(row, "agrees").as_bool() != Some(true))
        .count();
    if disagree > 0 {
        eprintln!(
            "{disagree} of {} views disagree with a recompute from scratch",
            all.rows.len()
        );
        return Err(anyhow::Error::new(exit::Silent));
    }
    Ok(())
}
