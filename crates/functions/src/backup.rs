//! What a backup needs of functions while they run, and what makes a data folder of its copy.
//!
//! Code, zips and images stand in files that never change and are copied as they are. What is deployed is in small files
//! that are replaced: [`Functions::hold_deployments`] keeps them as they are. States of windows and values change with
//! every batch: the states that belong to a moment of the log are there as long as none goes ([`Functions::hold_states`]);
//! values are taken a little later ([`Functions::values_now`]), as a kill would leave them, so that no event whose end is
//! kept lacks what it set.

use std::path::Path;

use crate::{Error, Functions, SavedValues, StatesHeld, blocking, registry::Registry, values};

/// Where a backup has the values.
const VALUES_SAVED: &str = "kv-saved";

/// Nothing is deployed, changed or removed as long as it is there.
pub struct DeploymentsHeld<'a> {
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Functions {
    /// Waits for the deployment that is under way.
    pub async fn hold_deployments(&self) -> DeploymentsHeld<'_> {
        DeploymentsHeld {
            _one: self.0.deploying.lock().await,
        }
    }

    pub fn hold_states(&self) -> StatesHeld {
        self.0.forgetting.hold()
    }

    /// What functions keep by now; `None` if none ever kept something.
    pub async fn values_now(&self) -> Result<Option<SavedValues>, Error> {
        let inner = self.0.clone();
        blocking(move || inner.values.saved()).await
    }
}

impl SavedValues {
    /// Writes them into `functions`, the folder of all that a backup has of functions. Blocks.
    pub fn write_below(self, functions: &Path) -> Result<(), Error> {
        self.write(&functions.join(VALUES_SAVED))
    }
}

/// Makes what a server can use of `dir`, the folder of a copy of what a backup has of functions. Can be repeated. Blocks.
pub fn restored(dir: &Path) -> Result<(), Error> {
    let registry = Registry::look(dir);
    registry.open_codes()?;
    values::restore(&dir.join(VALUES_SAVED), &registry.values_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn restored_code_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        restored(dir.path()).unwrap();
        let folder = dir.path().join("code").join("0".repeat(64));
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        let files = [folder.join("bootstrap"), folder.join("bin/tool")];
        for file in &files {
            std::fs::write(file, "#!/bin/sh").unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        restored(dir.path()).unwrap();
        for path in files.iter().chain([&folder]) {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{}", path.display());
        }
    }
}
