//! Writes one backup: what the target does not have yet, and last the manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt as _, TryStreamExt as _};
use lambic_base::{Clock, SystemClock};

use super::{
    Contents, Error, Manifest, Progress, Target,
    contents::Item,
    manifest::{self, File},
    target::hashed,
    work::{AtWork, host},
};

/// Files that are read and copied at a time.
const FILES_AT_A_TIME: usize = 4;

/// Copies the folder `dir`, which does not change, to the target. `origin` is the data folder that it is of.
pub async fn write(
    dir: &Path,
    origin: &Path,
    target: &Target,
    progress: &Progress,
) -> Result<Manifest, Error> {
    let (id, started_at_us) = Manifest::id_now();
    let work = AtWork::begin(target, "backup", &id).await?;
    let written = write_as(id, started_at_us, dir, origin, &work, target, progress).await;
    work.end().await;
    written
}

async fn write_as(
    id: String,
    started_at_us: i64,
    dir: &Path,
    origin: &Path,
    work: &AtWork,
    target: &Target,
    progress: &Progress,
) -> Result<Manifest, Error> {
    progress.change(|info| {
        info.backup.clone_from(&id);
        info.started_at_us = started_at_us;
    });
    progress.state("looking at the files");
    let contents = Contents::of(dir).await?;
    progress.change(|info| info.frontier = manifest::shown(&contents.frontier));
    let origin = format!("{}:{}", host(), origin.display());
    let former = former(target, &origin).await?;
    let there = target.contents().await?;
    progress.begin("copying", contents.items.len() as u64, contents.bytes());
    let copying = Copying {
        dir,
        target,
        former,
        there: Mutex::new(there),
    };
    let items = contents.items.iter();
    let copied = items.map(|item| async {
        let (file, copied) = copying.copy(item).await?;
        progress.file_done(file.bytes, copied);
        Ok::<File, Error>(file)
    });
    let copied = futures::stream::iter(copied.collect::<Vec<_>>());
    let mut files: Vec<File> = copied
        .buffer_unordered(FILES_AT_A_TIME)
        .try_collect()
        .await?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest {
        id,
        started_at_us,
        finished_at_us: SystemClock.now_us(),
        lambic: env!("CARGO_PKG_VERSION").to_owned(),
        origin,
        frontier: contents.frontier,
        erasure: contents.erasure,
        files,
    };
    work.check().await?;
    target.put_manifest(&manifest).await?;
    let notes = notes(target, &manifest, &contents.erasures_pending).await;
    progress.change(|info| {
        info.state = "finished".to_owned();
        info.finished_at_us = Some(manifest.finished_at_us);
        info.notes = notes;
    });
    Ok(manifest)
}

/// Files of the newest backup of the same folder that never change under their name.
async fn former(target: &Target, origin: &str) -> Result<BTreeMap<String, File>, Error> {
    for id in target.ids().await?.iter().rev() {
        // One that is damaged only costs the time to read all files again.
        let Ok(manifest) = target.manifest(id).await else {
            continue;
        };
        if manifest.origin == origin {
            let files = manifest.files.into_iter();
            let lasting = files.filter(|file| file.crc32c.is_some());
            return Ok(lasting.map(|file| (file.path.clone(), file)).collect());
        }
    }
    Ok(BTreeMap::new())
}

struct Copying<'a> {
    dir: &'a Path,
    target: &'a Target,
    former: BTreeMap<String, File>,
    /// Content of the target, with sizes.
    there: Mutex<BTreeMap<String, u64>>,
}

impl Copying<'_> {
    fn has(&self, sha256: &str, bytes: u64) -> bool {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        there.get(sha256) == Some(&bytes)
    }

    /// The file as the manifest lists it, and whether it had to be copied.
    async fn copy(&self, item: &Item) -> Result<(File, bool), Error> {
        if let Some(former) = self.former.get(&item.path)
            && (former.bytes, former.crc32c) == (item.bytes, item.crc32c)
            && self.has(&former.sha256, former.bytes)
        {
            return Ok((former.clone(), false));
        }
        if let Some(sha256) = item.sha256.as_ref()
            && self.has(sha256, item.bytes)
        {
            return Ok((listed(item, sha256.clone()), false));
        }
        let path = self.dir.join(&item.path);
        let reading = path.clone();
        let (sha256, crc32c, bytes) =
            tokio::task::spawn_blocking(move || hashed(&reading)).await??;
        let is_other = item.crc32c.is_some_and(|expected| expected != crc32c)
            || item
                .sha256
                .as_ref()
                .is_some_and(|expected| *expected != sha256);
        if is_other || bytes != item.bytes {
            let by = match item.sha256 {
                Some(_) => "name",
                None => "manifest",
            };
            return Err(Error::Damaged(format!(
                "`{}` is damaged: it is not what its {by} says, and no backup is made of it; `lambic doctor --data` \
                 checks all files, an earlier backup may have it whole",
                item.path
            )));
        }
        let copied = !self.has(&sha256, bytes);
        if copied {
            self.target.put_content(&path, &sha256).await?;
            let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            there.insert(sha256.clone(), bytes);
        }
        Ok((listed(item, sha256), copied))
    }
}

fn listed(item: &Item, sha256: String) -> File {
    File {
        path: item.path.clone(),
        bytes: item.bytes,
        sha256,
        crc32c: item.crc32c,
    }
}

/// What is to be known about erased records. Erasures do not reach into backups.
async fn notes(target: &Target, manifest: &Manifest, pending: &[u64]) -> Vec<String> {
    let mut notes = Vec::new();
    if !pending.is_empty() {
        let numbers: BTreeSet<String> = pending.iter().map(u64::to_string).collect();
        let numbers = numbers.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "erasure {numbers} was not carried out to the end yet: the backup may hold bytes of its records, which a restored server goes on to remove"
        ));
    }
    let mut holding = Vec::new();
    for id in target.ids().await.unwrap_or_default() {
        let Ok(other) = target.manifest(&id).await else {
            continue;
        };
        if other.origin == manifest.origin && other.erasure < manifest.erasure {
            holding.push(id);
        }
    }
    if !holding.is_empty() {
        notes.push(format!(
            "records that were erased since are still in {} here: {}; `lambic backup delete` removes backups",
            match holding.len() {
                1 => "one backup".to_owned(),
                count => format!("{count} backups"),
            },
            holding.join(", ")
        ));
    }
    notes
}
