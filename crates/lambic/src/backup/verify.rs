//! Reads everything that backups list, and tells what is missing or damaged.

use std::collections::BTreeMap;

use super::{Error, Manifest, Progress, Target};

/// Something of a backup that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub backup: String,
    /// From the data folder; the backup's own list has none.
    pub path: Option<String>,
    pub what: String,
}

/// Looks at these backups, content that they share once. Returns those whose lists could be read, and what is wrong.
pub async fn verify(
    target: &Target,
    ids: &[String],
    progress: &Progress,
) -> Result<(Vec<Manifest>, Vec<Fault>), Error> {
    let (mut manifests, mut faults) = (Vec::new(), Vec::new());
    for id in ids {
        match target.manifest(id).await {
            Ok(manifest) => manifests.push(manifest),
            Err(Error::Damaged(what)) => faults.push(Fault {
                backup: id.clone(),
                path: None,
                what,
            }),
            Err(error) => return Err(error),
        }
    }
    // By content, with the first file of it.
    let mut contents = BTreeMap::new();
    for file in manifests.iter().flat_map(|manifest| &manifest.files) {
        contents.entry(file.sha256.clone()).or_insert(file.bytes);
    }
    progress.begin("verifying", contents.len() as u64, contents.values().sum());
    let mut wrong: BTreeMap<String, String> = BTreeMap::new();
    for (sha256, bytes) in contents {
        let trouble = match target.read_content(&sha256, |_| Ok(())).await? {
            None => Some("is missing"),
            Some(false) => Some("is damaged: its SHA-256 is another"),
            Some(true) => None,
        };
        if let Some(trouble) = trouble {
            let place = target.content_shown(&sha256);
            wrong.insert(sha256, format!("`{place}` {trouble}"));
        }
        progress.file_done(bytes, false);
    }
    for manifest in &manifests {
        for file in &manifest.files {
            if let Some(what) = wrong.get(&file.sha256) {
                faults.push(Fault {
                    backup: manifest.id.clone(),
                    path: Some(file.path.clone()),
                    what: what.clone(),
                });
            }
        }
    }
    Ok((manifests, faults))
}
