//! What of a data folder belongs into a backup. The folder is that of a stopped server, or a snapshot.
//!
//! Left out is what can be made again (compiled code, unpacked images, spilled rows) and what no manifest lists. Files
//! whose checksum is known are compared with it before they are copied: damage is not carried into backups.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use lambic_batch::{BatchManifest, SLICES_FOLDER};
use lambic_dataset::{
    ErasureLog, LocalStore, Manifest as StreamManifest, ManifestStore, ObjectStore,
};
use lambic_functions::system_streams;
use lambic_log::RECORD_IDS;
use lambic_model::{Frontier, StreamId};
use lambic_query::Catalog;
use lambic_view::Definition;

use super::Error;
use crate::{engine::SYSTEM_STREAM_FIRST, server::FIRST_STREAM_ID};

pub const CATALOG: &str = "catalog.json";
const PROJECT: &str = "project.json";
/// Which functions are deployed, and which layers there are: a small file for each.
pub const DEPLOYED: [&str; 2] = ["functions/functions", "functions/layers"];
/// The names of all functions.
pub const DEPLOYED_NAMES: &str = "functions/deployed.json";
/// What the open windows of triggers hold, by the offsets at which it holds.
pub const WINDOWS: &str = "functions/windows";
const FUNCTIONS: &str = "functions";
const CODE: &str = "functions/code";
/// The zips that were uploaded, each named by its SHA-256.
const ZIPS: &str = "functions/zips";
/// What container images are made of, each part named by its SHA-256; their files are unpacked from it when they are
/// used.
const IMAGES: &str = "functions/images/blobs";
/// What functions keep: the index of a server that was stopped, or what a running one wrote of it.
const VALUES: [&str; 2] = ["functions/kv", "functions/kv-saved"];

/// A file of a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// From the data folder, with `/`.
    pub path: String,
    pub bytes: u64,
    /// What its manifest says; such a file never changes under its name.
    pub crc32c: Option<u32>,
    /// What its name says, in the same way.
    pub sha256: Option<String>,
}

/// All that a backup of a folder has.
#[derive(Debug)]
pub struct Contents {
    pub items: Vec<Item>,
    /// Where each stream ends, by name.
    pub frontier: BTreeMap<String, Frontier>,
    /// The records of erasures up to this one are not in it.
    pub erasure: u64,
    /// Erasures that happened and are not carried out to the end.
    pub erasures_pending: Vec<u64>,
}

impl Contents {
    /// Reads every frame of the log: a damaged one is an error.
    pub async fn of(dir: &Path) -> Result<Contents, Error> {
        let mut items = beside_log(dir).await?;
        let log = dir.join("log");
        let heads = tokio::task::spawn_blocking(move || lambic_log::inspect(&log))
            .await??
            .heads;
        items.extend(files_below(dir, "log", &|path| {
            let is_segment = path.ends_with(".segment");
            is_segment
                || path == "log/acknowledged"
                || path.starts_with("log/ids/")
                || path.starts_with(&format!("log/{RECORD_IDS}/"))
        })?);
        items.extend(files_below(dir, WINDOWS, &|path| path.ends_with(".json"))?);
        for folder in VALUES {
            items.extend(files_below(dir, folder, &|_| true)?);
        }
        let functions = dir.join(FUNCTIONS);
        tokio::task::spawn_blocking(move || check_functions(&functions)).await??;
        let catalog = catalog(dir)?;
        let streams = catalog.streams();
        let frontier = streams.map(|stream| {
            let zero = Frontier::zero(stream.partitions);
            (stream.name.to_string(), heads.of(stream.id).max(&zero))
        });
        let erasures = ErasureLog::open(store(dir)?).await?;
        let pending = erasures.pending().into_iter();
        let pending = pending.filter(|erasure| erasure.begun.expires.is_none());
        Ok(Contents {
            items,
            frontier: frontier.collect(),
            erasure: erasures.finished_upto(),
            erasures_pending: pending.map(|erasure| erasure.number).collect(),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

fn store(dir: &Path) -> Result<Arc<dyn ObjectStore>, Error> {
    Ok(Arc::new(LocalStore::to_read(dir)?))
}

fn catalog(dir: &Path) -> Result<Catalog, Error> {
    let system = system_streams(SYSTEM_STREAM_FIRST);
    Ok(Catalog::open(dir.join(CATALOG), &system.all())?)
}

/// What is deployed must be there and be what was deployed.
fn check_functions(dir: &Path) -> Result<(), Error> {
    if !dir.join("functions").is_dir() {
        return Ok(());
    }
    let all = lambic_functions::inspect_kept(dir)?;
    match all
        .into_iter()
        .find_map(|found| Some((found.path, found.trouble?)))
    {
        None => Ok(()),
        Some((path, trouble)) => Err(Error::Damaged(format!(
            "`{}` is not whole, and no backup is made of it: {trouble}",
            path.display()
        ))),
    }
}

/// Everything but the log, and what changes with it: windows and values.
pub async fn beside_log(dir: &Path) -> Result<Vec<Item>, Error> {
    let store = store(dir)?;
    let mut items = Vec::new();
    for name in [CATALOG, PROJECT] {
        if let Some(bytes) = size_of(&dir.join(name))? {
            items.push(plain(name.to_owned(), bytes));
        }
    }
    let catalog = catalog(dir)?;
    dataset(dir, &store, &catalog, &mut items).await?;
    views(dir, &store, &catalog, &mut items).await?;
    items.extend(files_below(dir, "erasures", &|path| !path.contains('#'))?);
    if let Some(bytes) = size_of(&dir.join(DEPLOYED_NAMES))? {
        items.push(plain(DEPLOYED_NAMES.to_owned(), bytes));
    }
    for folder in DEPLOYED {
        items.extend(files_below(dir, folder, &|path| path.ends_with(".json"))?);
    }
    items.extend(files_below(dir, CODE, &|path| {
        let within = path.strip_prefix(CODE).unwrap_or_default();
        let first = within.trim_start_matches('/').split('/').next();
        !first.unwrap_or_default().ends_with(".tmp")
    })?);
    for folder in [ZIPS, IMAGES] {
        let named = files_below(dir, folder, &|path| named_sha256(path).is_some())?;
        items.extend(named.into_iter().map(|item| Item {
            sha256: named_sha256(&item.path),
            ..item
        }));
    }
    Ok(items)
}

/// The content that the name of a zip or of a part of an image says; what is being written has another name.
fn named_sha256(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let stem = name.strip_suffix(".zip").unwrap_or(name);
    let is_hex = stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    (stem.len() == 64 && is_hex).then(|| stem.to_owned())
}

fn plain(path: String, bytes: u64) -> Item {
    Item {
        path,
        bytes,
        crc32c: None,
        sha256: None,
    }
}

fn size_of(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}

/// The streams' newest manifests and the files that these list; folders of dropped streams are left out.
async fn dataset(
    dir: &Path,
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    let known: BTreeSet<StreamId> = catalog.streams().map(|stream| stream.id).collect();
    for folder in names_in(&dir.join("dataset"))? {
        let id = folder.split('-').next().and_then(|id| id.parse().ok());
        let is_there = |id: &StreamId| id.0 < FIRST_STREAM_ID || known.contains(id);
        if id.map(StreamId).filter(is_there).is_none() {
            continue;
        }
        let prefix = format!("dataset/{folder}");
        let manifests = ManifestStore::<StreamManifest>::new(Arc::clone(store), prefix, 1);
        let Some((number, manifest)) = manifests.load().await? else {
            continue;
        };
        items.push(listed(dir, manifests.path(number).to_string())?);
        items.extend(manifest.files.into_iter().map(|file| Item {
            path: file.path,
            bytes: file.bytes,
            crc32c: Some(file.crc32c),
            sha256: None,
        }));
    }
    Ok(())
}

/// Batch views are derived: one that cannot be read is left out, and computed again after a restore.
async fn views(
    dir: &Path,
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    let served = catalog.views();
    let former = served.flat_map(|view| {
        let former = catalog.former_versions(view.name.as_str());
        former.iter().chain([view])
    });
    let directories: Vec<String> = former.map(Definition::directory).collect();
    let mut folders = BTreeSet::new();
    for directory in directories {
        for item in files_below(dir, &directory, &|_| true)? {
            // What a batch that runs has finished is no batch view yet.
            if let Some((folder, _)) = item.path.rsplit_once('/')
                && !folder.ends_with(&format!("/{SLICES_FOLDER}"))
            {
                folders.insert(folder.to_owned());
            }
        }
    }
    for folder in folders {
        let numbers = ManifestStore::<BatchManifest>::new(Arc::clone(store), folder.clone(), 1);
        let Some(&newest) = numbers.numbers().await?.last() else {
            continue;
        };
        let path = numbers.path(newest).to_string();
        // The other kind of folder holds a frontier alone.
        match numbers.get(newest).await {
            Ok(manifest) => {
                let file = Item {
                    path: manifest.file.path,
                    bytes: manifest.file.bytes,
                    crc32c: Some(manifest.file.crc32c),
                    sha256: None,
                };
                if size_of(&dir.join(&file.path))? == Some(file.bytes) {
                    items.extend([listed(dir, path)?, file]);
                }
            }
            Err(_) if folder.ends_with("/frontier") => items.push(listed(dir, path)?),
            Err(error) => {
                tracing::warn!(folder, %error, "a batch view cannot be read and is not part of the backup");
            }
        }
    }
    Ok(())
}

fn listed(dir: &Path, path: String) -> Result<Item, Error> {
    let file = dir.join(&path);
    let metadata = fs::metadata(&file).map_err(Error::io("look at", &file))?;
    Ok(plain(path, metadata.len()))
}

fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The files below a folder that are wanted, by their paths from `dir`.
pub fn files_below(
    dir: &Path,
    folder: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    for name in names_in(&dir.join(folder))? {
        let path = format!("{folder}/{name}");
        let file = dir.join(&path);
        let found = match fs::metadata(&file) {
            // It went between being listed and looked at: what is needed of it is missed by who opens it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("look at", &file))?,
        };
        if found.is_dir() {
            items.extend(files_below(dir, &path, wanted)?);
        } else if wanted(&path) {
            items.push(plain(path, found.len()));
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_in_zips_and_parts_of_images_when_they_are_whole() {
        let digest = "0123456789abcdef".repeat(4);
        let found = |name: &str| named_sha256(&name.replace('#', &digest));
        assert_eq!(found("functions/zips/#.zip"), Some(digest.clone()));
        assert_eq!(found("functions/images/blobs/#"), Some(digest.clone()));
        for name in [
            "functions/zips/#.zip.17.3.tmp",
            "functions/images/blobs/019a.tmp",
            "functions/zips/README",
            "functions/zips/#0.zip",
        ] {
            assert_eq!(found(name), None, "{name}");
        }
    }
}
