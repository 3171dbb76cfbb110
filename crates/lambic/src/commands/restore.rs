//! `lambic restore`: a data folder of a backup.

use serde_json::json;

use super::{
    Global,
    backup::{from_the_root, shown_while},
};
use crate::{
    backup::{self, Error, Progress, Target},
    cli,
    output::{self, counted},
};

pub fn run(global: &Global, args: &cli::Restore) -> anyhow::Result<()> {
    let from = from_the_root(&args.target)?;
    let progress = Progress::default();
    let manifest = shown_while(&progress, || async {
        let target = Target::open(&from).await?;
        let id = match &args.backup {
            Some(id) => id.clone(),
            None => target.ids().await?.pop().ok_or_else(|| {
                Error::Refused(format!("there is no backup in `{}` yet", target.shown()))
            })?,
        };
        let manifest = target.manifest(&id).await?;
        backup::restore(&target, &manifest, &args.data, &progress).await?;
        Ok(manifest)
    })?;
    if global.json {
        return output::print_json(&json!({
            "backup": manifest.id,
            "data": args.data.display().to_string(),
            "frontier": manifest.frontier_shown(),
            "files": manifest.files.len(),
            "bytes": manifest.bytes(),
        }));
    }
    output::print(&format!(
        "restored backup {} into {}: {}, {} bytes; `lambic serve --data {}` serves it\n",
        manifest.id,
        args.data.display(),
        counted(manifest.files.len() as u64, "file"),
        manifest.bytes(),
        args.data.display()
    ))
}
