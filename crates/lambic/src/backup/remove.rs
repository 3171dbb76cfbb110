//! Removes backups, and what no other backup needs.

use std::collections::BTreeSet;

use super::{Error, Manifest, Target, work::AtWork};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub backups: Vec<String>,
    /// Content that no backup needs any more, also of backups that were never finished.
    pub files: u64,
    pub bytes: u64,
}

/// Their lists go first: a kill leaves content that nobody needs, which the next removal takes along.
pub async fn remove(target: &Target, ids: &[String]) -> Result<Removed, Error> {
    let (worker, _) = Manifest::id_now();
    let work = AtWork::begin(target, "delete", &format!("delete-{worker}")).await?;
    let removed = remove_all(target, ids).await;
    work.end().await;
    removed
}

async fn remove_all(target: &Target, ids: &[String]) -> Result<Removed, Error> {
    let there = target.ids().await?;
    if let Some(unknown) = ids.iter().find(|id| !there.contains(id)) {
        // Says which there are.
        target.manifest(unknown).await?;
    }
    // Before anything goes: of a backup whose list cannot be read it is not known what it needs.
    let mut needed = BTreeSet::new();
    for id in there.iter().filter(|id| !ids.contains(id)) {
        let manifest = target.manifest(id).await.map_err(|error| match error {
            Error::Damaged(what) => Error::Damaged(format!(
                "nothing was removed, because it is not known what backup {id} needs: {what}; remove that one as well"
            )),
            other => other,
        })?;
        needed.extend(manifest.files.into_iter().map(|file| file.sha256));
    }
    for id in ids {
        target.delete_manifest(id).await?;
    }
    let mut removed = Removed {
        backups: ids.to_vec(),
        ..Removed::default()
    };
    target.remove_litter()?;
    for (sha256, bytes) in target.contents().await? {
        if !needed.contains(&sha256) {
            target.delete_content(&sha256).await?;
            removed.files += 1;
            removed.bytes += bytes;
        }
    }
    Ok(removed)
}
