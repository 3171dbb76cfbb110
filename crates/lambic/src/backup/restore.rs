//! Makes a data folder of a backup.
//!
//! From before the first file until all are there and durable, the file `RESTORING` says that the folder is no data
//! folder yet; nothing opens it then but a restore of the same backup, which goes on.

use std::{
    fs, io,
    io::Write as _,
    path::{Component, Path},
};

use lambic_base::{DirLock, file};
use serde::{Deserialize, Serialize};

use super::{Error, Manifest, Progress, Target, manifest::File, target::hashed};

const MARK: &str = "RESTORING";
const LOCK: &str = "LOCK";
/// A disk of its own may have it.
const LOST: &str = "lost+found";

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    target: String,
    backup: String,
}

/// Why the folder cannot be used, if a restore into it was cut short.
pub fn unfinished(data: &Path) -> Option<String> {
    let path = data.join(MARK);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        other => other.unwrap_or_default(),
    };
    let command = match serde_json::from_slice::<Mark>(&bytes) {
        Ok(Mark { target, backup }) => format!(
            "`lambic restore {target} --backup {backup} {}`",
            data.display()
        ),
        Err(_) => "the same `lambic restore`".to_owned(),
    };
    Some(format!(
        "a restore into `{}` was cut short: run {command} again to finish it, or remove the folder",
        data.display()
    ))
}

/// `data` must be empty or not there, or what a restore of the same backup left.
pub async fn restore(
    target: &Target,
    manifest: &Manifest,
    data: &Path,
    progress: &Progress,
) -> Result<(), Error> {
    check_paths(manifest)?;
    let lock = empty(data, manifest)?;
    let mark = Mark {
        target: target.shown().to_owned(),
        backup: manifest.id.clone(),
    };
    let mark_path = data.join(MARK);
    let bytes = serde_json::to_vec(&mark).expect("plain data serialises");
    file::write_atomically(&mark_path, &bytes).map_err(Error::io("write", &mark_path))?;
    progress.begin("restoring", manifest.files.len() as u64, manifest.bytes());
    for file in &manifest.files {
        let copied = restore_file(target, manifest, file, data).await?;
        progress.file_done(file.bytes, copied);
    }
    progress.state("restoring the index of record ids");
    let log = data.join("log");
    let ids = move || match log.exists() {
        true => lambic_log::restore_record_ids(&log),
        false => Ok(()),
    };
    tokio::task::spawn_blocking(ids).await??;
    progress.state("restoring what functions keep");
    let functions = data.join("functions");
    tokio::task::spawn_blocking(move || lambic_functions::restored(&functions)).await??;
    sync_folders(data).map_err(Error::io("sync", data))?;
    fs::remove_file(&mark_path).map_err(Error::io("remove", &mark_path))?;
    file::sync_dir(data).map_err(Error::io("sync", data))?;
    progress.state("finished");
    drop(lock);
    Ok(())
}

/// Paths of a manifest stay in the folder, whoever wrote it.
fn check_paths(manifest: &Manifest) -> Result<(), Error> {
    let is_within = |file: &&File| {
        let mut parts = Path::new(&file.path).components();
        let first = parts.next();
        let is_plain = |part: &Component| matches!(part, Component::Normal(_));
        let is_own = |part: &Component| part.as_os_str() == MARK || part.as_os_str() == LOCK;
        first
            .as_ref()
            .is_some_and(|part| is_plain(part) && !is_own(part))
            && parts.all(|part| is_plain(&part))
    };
    match manifest.files.iter().find(|file| !is_within(file)) {
        None => Ok(()),
        Some(file) => Err(Error::Damaged(format!(
            "backup {} lists `{}`, which is no file of a data folder",
            manifest.id, file.path
        ))),
    }
}

fn empty(data: &Path, manifest: &Manifest) -> Result<DirLock, Error> {
    let entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(Error::io("list", data))?),
    };
    let mut other = None;
    for entry in entries.into_iter().flatten() {
        let name = entry.map_err(Error::io("list", data))?.file_name();
        let name = name.to_string_lossy();
        // A killed restore may have come no further than writing what becomes the mark.
        if !name.starts_with(MARK) && ![LOCK, LOST].contains(&&*name) {
            other = Some(name.into_owned());
        }
    }
    match (unfinished(data), other) {
        (None, Some(other)) => {
            return Err(Error::Refused(format!(
                "`{}` is not empty (there is `{other}`): a backup is restored into a new or an empty folder",
                data.display()
            )));
        }
        (Some(cut_short), _) => {
            let bytes = fs::read(data.join(MARK)).unwrap_or_default();
            let of = serde_json::from_slice::<Mark>(&bytes);
            if of.is_ok_and(|mark| mark.backup != manifest.id) {
                return Err(Error::Refused(cut_short));
            }
        }
        (None, None) => {}
    }
    DirLock::acquire(data).map_err(|error| Error::Refused(error.to_string()))
}

/// False if it was there.
async fn restore_file(
    target: &Target,
    manifest: &Manifest,
    file: &File,
    data: &Path,
) -> Result<bool, Error> {
    let path = data.join(&file.path);
    if fs::metadata(&path).is_ok_and(|found| found.len() == file.bytes) {
        let reading = path.clone();
        let (sha256, _, _) = tokio::task::spawn_blocking(move || hashed(&reading)).await??;
        if sha256 == file.sha256 {
            // A killed restore may not have come to the sync.
            let synced = fs::File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(Error::io("sync", &path))?;
            return Ok(false);
        }
    }
    let folder = path.parent().expect("it lies below the data folder");
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut writing = fs::File::create(&path).map_err(Error::io("create", &path))?;
    let write = |piece: &[u8]| writing.write_all(piece).map_err(Error::io("write", &path));
    let found = target.read_content(&file.sha256, write).await?;
    let fault = match found {
        Some(true) => None,
        Some(false) => Some("is damaged: its SHA-256 is another"),
        None => Some("is missing"),
    };
    if let Some(fault) = fault {
        return Err(Error::Damaged(format!(
            "`{}` of backup {} cannot be restored: `{}` {fault}; `lambic backup verify` tells which backups are whole",
            file.path,
            manifest.id,
            target.content_shown(&file.sha256)
        )));
    }
    writing.sync_all().map_err(Error::io("sync", &path))?;
    Ok(true)
}

fn sync_folders(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    file::sync_dir(dir)
}
