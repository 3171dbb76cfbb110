//! `lambic backup`: through the server, or of a stopped server's folder; and what is to be done with backups.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lambic_base::DirLock;
use lambic_query::BackupInfo;
use serde_json::{Value, json};

use super::{Global, wait};
use crate::{
    backup::{self, Error, Manifest, Progress, Target},
    cli,
    client::{Client, literal},
    exit::refusal,
    output::{self, Rows, counted},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub fn run(global: &Global, args: cli::Backup) -> anyhow::Result<()> {
    match (args.command, args.target) {
        (Some(command), _) => manage(global, command),
        (None, Some(target)) => {
            let target = from_the_root(&target)?;
            let info = match &args.data {
                Some(data) => offline(&target, data)?,
                None => online(&global.client()?, &target)?,
            };
            tell(&info, global.json)
        }
        (None, None) => bail!("a target is needed: lambic backup TARGET"),
    }
}

/// The server may stand in another folder.
pub fn from_the_root(target: &str) -> anyhow::Result<String> {
    if target.contains("://") {
        return Ok(target.to_owned());
    }
    let path = std::path::absolute(target).with_context(|| format!("{target:?} is no path"))?;
    let path: PathBuf = path.components().collect();
    let text = path.to_str();
    Ok(text.context("the path is not UTF-8")?.to_owned())
}

/// What the user could put right is a refusal.
pub fn failed(error: Error) -> anyhow::Error {
    match error {
        Error::Refused(_) => refusal(error),
        other => other.into(),
    }
}

fn online(client: &Client, target: &str) -> anyhow::Result<BackupInfo> {
    let sql = format!("BACKUP TO {}", literal(target));
    let answer = std::thread::scope(|scope| {
        let running = scope.spawn(|| client.sql(&sql));
        let mut shown = Shown::new();
        while !running.is_finished() {
            std::thread::sleep(LOOK_EVERY);
            if let Some(info) = running_backup(client) {
                shown.update(&info);
            }
        }
        shown.end();
        running
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let rows = answer.rows.unwrap_or_default();
    let lines = rows.objects();
    let text = |name: &str| {
        let line = lines.iter().find(|line| line["property"] == name);
        let value = line.and_then(|line| line["value"].as_str());
        value.unwrap_or_default().to_owned()
    };
    let number = |name: &str| text(name).parse().unwrap_or_default();
    let notes = lines.iter().filter(|line| line["property"] == "note");
    Ok(BackupInfo {
        backup: text("backup"),
        target: text("target"),
        frontier: text("frontier"),
        files_total: number("files"),
        bytes_total: number("bytes"),
        bytes_copied: number("bytes copied"),
        notes: notes
            .filter_map(|line| line["value"].as_str().map(str::to_owned))
            .collect(),
        ..BackupInfo::default()
    })
}

fn running_backup(client: &Client) -> Option<BackupInfo> {
    let sql = "SELECT state, files, files_total, bytes, bytes_total FROM lambic_backups WHERE finished_at IS NULL";
    let rows = client.rows(sql).ok()?.objects();
    let row = rows.first()?;
    let number = |name: &str| row[name].as_u64().unwrap_or_default();
    Some(BackupInfo {
        state: row["state"].as_str()?.to_owned(),
        files: number("files"),
        files_total: number("files_total"),
        bytes: number("bytes"),
        bytes_total: number("bytes_total"),
        ..BackupInfo::default()
    })
}

fn offline(target: &str, data: &Path) -> anyhow::Result<BackupInfo> {
    if !data.is_dir() {
        bail!(refusal(anyhow::anyhow!(
            "there is no data folder {}",
            data.display()
        )));
    }
    let _lock = DirLock::look(data).map_err(|error| {
        let advice = "leave --data out to back up through the running server";
        refusal(anyhow::anyhow!("{error}; {advice}"))
    })?;
    if let Some(unfinished) = backup::unfinished(data) {
        bail!(refusal(anyhow::anyhow!(unfinished)));
    }
    crate::server::described(data).map_err(refusal)?;
    let ours = ["catalog.json", "log"];
    if !ours.iter().any(|name| data.join(name).exists()) {
        bail!(refusal(anyhow::anyhow!(
            "{} is no data folder of Lambic: it has neither a catalog nor a log",
            data.display()
        )));
    }
    let data = std::fs::canonicalize(data)?;
    let progress = Progress::default();
    shown_while(&progress, || async {
        let target = Target::create(target, &data).await?;
        progress.change(|info| target.shown().clone_into(&mut info.target));
        backup::write(&data, &data, &target, &progress).await
    })?;
    Ok(progress.info())
}

/// Runs `work`, and shows how far it is.
pub fn shown_while<T: Send, F: Future<Output = Result<T, Error>>>(
    progress: &Progress,
    work: impl FnOnce() -> F + Send,
) -> anyhow::Result<T> {
    let done = AtomicBool::new(false);
    let mut result = None;
    let waited = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut shown = Shown::new();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
                shown.update(&progress.info());
            }
            shown.end();
        });
        let waited = wait(|| async {
            result = Some(work().await);
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        waited
    });
    waited?;
    result.expect("it ran to its end").map_err(failed)
}

/// A bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Shown {
    fn new() -> Shown {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Shown {
            bar,
            said: Instant::now(),
        }
    }

    fn update(&mut self, info: &BackupInfo) {
        if let Some(bar) = &self.bar {
            bar.set_message(info.state.clone());
            bar.set_length(info.bytes_total);
            bar.set_position(info.bytes);
        } else if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            eprintln!(
                "{}: {} of {}, {} of {} bytes",
                info.state,
                info.files,
                counted(info.files_total, "file"),
                info.bytes,
                info.bytes_total
            );
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn tell(info: &BackupInfo, json: bool) -> anyhow::Result<()> {
    for note in &info.notes {
        eprintln!("note: {note}");
    }
    if json {
        return output::print_json(&json!({
            "backup": info.backup,
            "target": info.target,
            "frontier": info.frontier,
            "files": info.files_total,
            "bytes": info.bytes_total,
            "bytes_copied": info.bytes_copied,
            "notes": info.notes,
        }));
    }
    output::print(&format!(
        "backup {} in {}: {}, {} bytes, {} of them copied\n",
        info.backup,
        info.target,
        counted(info.files_total, "file"),
        info.bytes_total,
        info.bytes_copied
    ))
}

fn manage(global: &Global, command: cli::BackupCommand) -> anyhow::Result<()> {
    match command {
        cli::BackupCommand::List { target } => list(global, &target),
        cli::BackupCommand::Verify { target, backups } => verify(global, &target, &backups),
        cli::BackupCommand::Delete { target, backups } => remove(global, &target, |_| backups),
        cli::BackupCommand::Prune { target, keep } => remove(global, &target, |mut ids| {
            ids.truncate(ids.len().saturating_sub(keep as usize));
            ids
        }),
    }
}

/// Each with its manifest, or why that cannot be read.
type Listed = Vec<(String, Result<Manifest, Error>)>;

fn list(global: &Global, target: &str) -> anyhow::Result<()> {
    let target = from_the_root(target)?;
    let backups: Listed = shown_while(&Progress::default(), || async {
        let target = Target::open(&target).await?;
        let mut backups = Vec::new();
        for id in target.ids().await? {
            let manifest = target.manifest(&id).await;
            backups.push((id, manifest));
        }
        Ok(backups)
    })?;
    let newest = backups.iter().filter_map(|(_, found)| found.as_ref().ok());
    let erasure = newest.map(|manifest| manifest.erasure).max().unwrap_or(0);
    let columns = ["backup", "files", "bytes", "frontier", "origin", "note"];
    let rows = backups.iter().map(|(id, found)| match found {
        Ok(manifest) => vec![
            json!(id),
            json!(manifest.files.len()),
            json!(manifest.bytes()),
            json!(manifest.frontier_shown()),
            json!(manifest.origin),
            json!(match manifest.erasure < erasure {
                true => format!("holds records that were erased since (up to erasure {erasure})"),
                false => String::new(),
            }),
        ],
        Err(error) => vec![
            json!(id),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            json!(error.to_string()),
        ],
    });
    let rows = Rows {
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.collect(),
        ..Rows::default()
    };
    output::print_rows(&rows, global.json)
}

fn verify(global: &Global, target: &str, backups: &[String]) -> anyhow::Result<()> {
    let target = from_the_root(target)?;
    let progress = Progress::default();
    let (ids, manifests, faults) = shown_while(&progress, || async {
        let target = Target::open(&target).await?;
        let ids = match backups {
            [] => target.ids().await?,
            named => named.to_vec(),
        };
        let (manifests, faults) = backup::verify(&target, &ids, &progress).await?;
        Ok((ids, manifests, faults))
    })?;
    let faulty = |id: &str| faults.iter().filter(|fault| fault.backup == id).count();
    let rows = ids.iter().map(|id| {
        let manifest = manifests.iter().find(|manifest| manifest.id == *id);
        let files = manifest.map_or(Value::Null, |manifest| json!(manifest.files.len()));
        vec![json!(id), files, json!(faulty(id))]
    });
    let rows = Rows {
        columns: ["backup", "files", "faults"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
        ..Rows::default()
    };
    output::print_rows(&rows, global.json)?;
    for fault in &faults {
        match &fault.path {
            Some(path) => eprintln!("backup {}: `{path}`: {}", fault.backup, fault.what),
            None => eprintln!("backup {}: {}", fault.backup, fault.what),
        }
    }
    match faults.len() {
        0 => Ok(()),
        count => bail!(
            "{} found; remove the damaged files that are named and take another backup: what the data folder still has is copied again",
            counted(count as u64, "fault")
        ),
    }
}

fn remove(
    global: &Global,
    target: &str,
    which: impl FnOnce(Vec<String>) -> Vec<String> + Send,
) -> anyhow::Result<()> {
    let target = from_the_root(target)?;
    let removed = shown_while(&Progress::default(), || async {
        let target = Target::open(&target).await?;
        let ids = which(target.ids().await?);
        backup::remove(&target, &ids).await
    })?;
    if global.json {
        return output::print_json(&json!({
            "backups": removed.backups,
            "files": removed.files,
            "bytes": removed.bytes,
        }));
    }
    output::print(&format!(
        "deleted {} with {}, {} bytes\n",
        counted(removed.backups.len() as u64, "backup"),
        counted(removed.files, "file"),
        removed.bytes
    ))
}
