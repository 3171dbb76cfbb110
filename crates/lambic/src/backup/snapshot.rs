//! A running server's data folder at one moment, as a folder of its own beside it.
//!
//! Files that never change are linked, so it costs no time and no room, and whatever is replaced, trimmed, erased or
//! dropped while it is copied stays in it. The moment is a cut of the log: one frontier over all streams, with what
//! producers, triggers and queued events had come to. What the rest of the folder says must fit it:
//!
//! - files and batch views are linked before the cut, so that none reaches past it, and the log keeps what they lack;
//! - no batch is published and no erasure begins or ends in between;
//! - states of windows are linked after the cut, and none goes in between; what functions keep is read after it, as a
//!   kill would leave it;
//! - if the catalog or what is deployed changed in between, all is done again; and if that goes on, deployments wait.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use lambic_base::{Clock, SystemClock};
use lambic_model::Frontiers;
use lambic_query::{BackupInfo, sqlstate};

use super::{
    Error, Progress, Target,
    contents::{self, CATALOG, DEPLOYED, DEPLOYED_NAMES, WINDOWS},
    write,
};
use crate::engine::layers::Layers;

/// Changes of the catalog and replaced files between two looks at them.
const TRIES: usize = 20;
/// So many of them without a bar to deployments, which may take long: a component is compiled in one.
const TRIES_BESIDE_DEPLOYMENTS: usize = 5;
/// Finished backups that are still told of.
const TOLD_MAX: usize = 20;

/// The backups of a running server.
pub struct Snapshots {
    data: PathBuf,
    told: std::sync::Mutex<Vec<Progress>>,
    turn: tokio::sync::Mutex<()>,
}

impl Snapshots {
    pub fn new(data: PathBuf) -> Snapshots {
        Snapshots {
            data,
            told: std::sync::Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Vec<Progress>> {
        self.told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn infos(&self) -> Vec<BackupInfo> {
        self.told().iter().map(Progress::info).collect()
    }

    /// Waits for the end of a backup that is being made: its links keep the bytes of files that are replaced.
    pub async fn ended(&self) {
        drop(self.turn.lock().await);
    }

    pub async fn backup(
        &self,
        layers: &Layers,
        text: &str,
    ) -> Result<BackupInfo, lambic_query::Error> {
        let Ok(_turn) = self.turn.try_lock() else {
            let message = "a backup is being made already";
            return Err(lambic_query::Error::new(sqlstate::OBJECT_IN_USE, message)
                .with_hint("SELECT * FROM lambic_backups tells how far it is"));
        };
        let progress = Progress::new(BackupInfo {
            target: text.to_owned(),
            started_at_us: SystemClock.now_us(),
            state: "taking a snapshot".to_owned(),
            ..BackupInfo::default()
        });
        {
            let mut told = self.told();
            told.push(progress.clone());
            let excess = told.len().saturating_sub(TOLD_MAX);
            told.drain(..excess);
        }
        let mut given_up = GivenUp(Some(progress.clone()));
        let made = self.backup_to(layers, text, &progress).await;
        given_up.0 = None;
        if let Err(error) = &made {
            progress.change(|info| {
                info.state = format!("failed: {error}");
                info.finished_at_us = Some(SystemClock.now_us());
            });
        }
        made.map_err(told_in_sql)?;
        Ok(progress.info())
    }

    async fn backup_to(
        &self,
        layers: &Layers,
        text: &str,
        progress: &Progress,
    ) -> Result<(), Error> {
        let data = fs::canonicalize(&self.data).map_err(Error::io("look at", &self.data))?;
        let target = Target::create(text, &data).await?;
        progress.change(|info| target.shown().clone_into(&mut info.target));
        // Below the folder that a start clears: a killed backup leaves nothing.
        let temporary = data.join("tmp");
        fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
        let folder = tempfile::Builder::new()
            .prefix("backup-")
            .tempdir_in(&temporary)
            .map_err(Error::io("create a folder in", &temporary))?;
        let snapshot = folder.path().join("data");
        take(layers, &data, &snapshot).await?;
        write(&snapshot, &data, &target, progress).await?;
        Ok(())
    }
}

/// A backup that nobody waits for any more, unless it has come to its end.
struct GivenUp(Option<Progress>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.change(|info| {
                info.state = "failed: whoever asked for it went away".to_owned();
                info.finished_at_us = Some(SystemClock.now_us());
            });
        }
    }
}

fn told_in_sql(error: Error) -> lambic_query::Error {
    let state = match &error {
        Error::Refused(_) => sqlstate::INVALID_PARAMETER,
        Error::Damaged(_)
        | Error::Dataset(_)
        | Error::Log(_)
        | Error::Functions(lambic_functions::Error::Damaged { .. })
        | Error::Catalog(_) => sqlstate::DATA_CORRUPTED,
        Error::Functions(_) => sqlstate::IO_ERROR,
        Error::Io { .. } | Error::Store { .. } => sqlstate::IO_ERROR,
        Error::Task(_) => sqlstate::INTERNAL,
    };
    lambic_query::Error::new(state, format!("no backup was made: {error}"))
}

async fn take(layers: &Layers, data: &Path, into: &Path) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let _held = match tries > TRIES_BESIDE_DEPLOYMENTS {
            true => Some(layers.functions().hold_deployments().await),
            false => None,
        };
        match try_to_take(layers, data, into).await {
            Ok(true) => return Ok(()),
            Ok(false) if tries < TRIES => {}
            Err(error) if error.is_gone() && tries < TRIES => {}
            Ok(false) => {
                return Err(Error::Refused(
                    "streams, views or functions change all the time; try again when none is created or deployed".to_owned(),
                ));
            }
            Err(error) => return Err(error),
        }
        clear(into)?;
    }
}

fn clear(into: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(into) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("clear", into)(error))
        }
        _ => Ok(()),
    }
}

/// False if the catalog changed meanwhile.
async fn try_to_take(layers: &Layers, data: &Path, into: &Path) -> Result<bool, Error> {
    let turn = layers.batch_turn().await;
    let still = layers.erasures().standstill().await;
    let before = replaced_files(data)?;
    // What is sealed later may be trimmed before the cut, but these files lack it.
    let mut sealed = Frontiers::default();
    for stream in layers.log().snapshot().heads().0.into_keys() {
        sealed.set(stream, layers.dataset().manifest(stream).frontier.clone());
    }
    let _hold = layers.holds().take(sealed);
    let items = contents::beside_log(data).await?;
    let (from, to, taken) = (data.to_owned(), into.to_owned(), before.clone());
    let link = move || -> Result<(), Error> {
        for item in items.iter().filter(|item| !taken.contains_key(&item.path)) {
            let (from, to) = (from.join(&item.path), to.join(&item.path));
            make_folder_of(&to)?;
            fs::hard_link(&from, &to).map_err(Error::io("link", &from))?;
        }
        for (path, bytes) in &*taken {
            let to = to.join(path);
            make_folder_of(&to)?;
            fs::write(&to, bytes).map_err(Error::io("write", &to))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(link).await??;
    let states = layers.functions().hold_states();
    let cut = layers.log().cut().await?;
    let values = layers.functions().values_now().await?;
    link_windows(data, into)?;
    drop(states);
    if replaced_files(data)? != before {
        return Ok(false);
    }
    drop((turn, still));
    let into = into.to_owned();
    let save = move || -> Result<(), Error> {
        cut.save(&into.join("log"))?;
        if let Some(values) = values {
            values.write_below(&into.join("functions"))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(save).await??;
    Ok(true)
}

/// Those of triggers that are removed meanwhile may go: then what is deployed has changed too.
fn link_windows(data: &Path, into: &Path) -> Result<(), Error> {
    for item in contents::files_below(data, WINDOWS, &|path| path.ends_with(".json"))? {
        let (from, to) = (data.join(&item.path), into.join(&item.path));
        make_folder_of(&to)?;
        fs::hard_link(&from, &to).map_err(Error::io("link", &from))?;
    }
    Ok(())
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().expect("it lies below the snapshot");
    fs::create_dir_all(folder).map_err(Error::io("create", folder))
}

/// The small files that say what there is, and are replaced when it changes.
fn replaced_files(data: &Path) -> Result<Arc<BTreeMap<String, Vec<u8>>>, Error> {
    let mut files = BTreeMap::new();
    let mut paths = vec![CATALOG.to_owned(), DEPLOYED_NAMES.to_owned()];
    for folder in DEPLOYED {
        let deployed = contents::files_below(data, folder, &|path| path.ends_with(".json"))?;
        paths.extend(deployed.into_iter().map(|item| item.path));
    }
    for path in paths {
        let file = data.join(&path);
        match fs::read(&file) {
            Ok(bytes) => {
                files.insert(path, bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &file)(error)),
        }
    }
    Ok(Arc::new(files))
}
