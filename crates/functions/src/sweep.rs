//! Removes what nothing names any more: code, zips, compiled components.
//!
//! Marked is what functions, their versions and layers name, and what still runs; the rest is swept, at the start and
//! after changes. Deployments wait meanwhile, so nothing is swept that is being written. Components that export SQL
//! functions stay for ever: views that were built with them run them by their digest.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{Error, FunctionInfo, Inner, blocking, code, registry::Registry};

/// Changes that come together are looked at together.
const SOON: Duration = Duration::from_secs(1);
/// Until it is looked again at what still ran.
const LATER: Duration = Duration::from_secs(60);

/// What is kept.
#[derive(Debug, Default)]
pub struct Named {
    codes: BTreeSet<String>,
    zips: BTreeSet<String>,
}

impl Named {
    fn by(&mut self, info: &FunctionInfo) {
        self.codes.insert(info.digest.clone());
        self.codes.extend(info.layer_digests().map(str::to_owned));
        let upload = info.upload.as_ref();
        self.zips.extend(upload.map(|upload| upload.sha256.clone()));
    }
}

/// Sweeps at the start and after each change, until the service stops.
pub async fn run(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    loop {
        // Whoever closes the service holds the lock and waits for this.
        let one = tokio::select! {
            biased;
            _ = stop.wait_for(|&stopped| stopped) => return,
            one = inner.deploying.lock() => one,
        };
        let is_whole = sweep(&inner).await;
        drop(one);
        let again = async {
            match is_whole {
                true => std::future::pending().await,
                false => tokio::time::sleep(LATER).await,
            }
        };
        let next = async {
            tokio::select! {
                () = inner.code_changed.notified() => tokio::time::sleep(SOON).await,
                () = again => {}
            }
        };
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => return,
            () = next => {}
        }
    }
}

/// False if something was left that still runs.
async fn sweep(inner: &Inner) -> bool {
    let mut named = Named::default();
    let mut running = Vec::new();
    {
        let slots = inner.slots.read().expect("held shortly");
        for function in slots.functions() {
            let infos = function.versions.values().chain([&function.info]);
            infos.for_each(|info| named.by(info));
        }
        running.extend(slots.made().map(|entry| entry.info.clone()));
    }
    for layer in inner.layers.read().expect("held shortly").values() {
        for version in layer.versions.values() {
            named.codes.insert(version.digest.clone());
            named.zips.insert(version.sha256.clone());
        }
    }
    let count = named.codes.len();
    running.iter().for_each(|info| named.by(info));
    let is_whole = named.codes.len() == count;
    let registry = inner.registry.clone();
    match blocking(move || registry.sweep(&named)).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "code that nothing names was removed"),
        Err(error) => tracing::warn!(%error, "code that nothing names was not removed"),
    }
    is_whole
}

impl Registry {
    /// Removes what is not named; how many that were.
    fn sweep(&self, named: &Named) -> Result<usize, Error> {
        let mut removed = 0;
        for path in list(&self.codes())? {
            if self.is_to_go(&path, named) {
                remove(&path)?;
                removed += 1;
            }
        }
        for path in list(&self.zips())? {
            let is_named = stem(&path).is_some_and(|stem| named.zips.contains(stem));
            if !is_named {
                remove(&path)?;
                removed += 1;
            }
        }
        for path in list(&self.compiled_dir())? {
            // `<digest>-<engine>.cwasm`; what is being written has another ending.
            let digest = stem(&path).and_then(|stem| stem.split_once('-'));
            let is_gone = digest.is_some_and(|(digest, _)| !self.code_dir(digest).exists());
            if is_gone && path.extension().is_some_and(|end| end != "tmp") {
                remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Of something in the folder of code.
    fn is_to_go(&self, path: &Path, named: &Named) -> bool {
        // Of a deployment that was killed.
        if path.extension() == Some(OsStr::new("tmp")) {
            return true;
        }
        // A folder or its limits.
        let Some(digest) = stem(path).filter(|stem| code::is_digest(stem)) else {
            return false;
        };
        let may_be_called = code::is_component(&self.code_dir(digest))
            && self.limits(digest).scalars != Some(false);
        !named.codes.contains(digest) && !may_be_called
    }
}

fn stem(path: &Path) -> Option<&str> {
    path.file_stem()?.to_str()
}

/// Folders before the files that say something about them.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        paths.push(entry.map_err(Error::io("read", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_stays_and_so_do_components_that_views_may_call() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let digest = |digit: char| String::from(digit).repeat(64);
        let code = |digit: char, file: &str| {
            let folder = registry.code_dir(&digest(digit));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(file), "code").unwrap();
        };
        let limits = |digit: char, limits: &str| {
            let path = registry.codes().join(format!("{}.json", digest(digit)));
            std::fs::write(path, limits).unwrap();
        };
        for (digit, file) in [
            ('a', "handler.py"),
            ('b', "handler.py"),
            ('c', "function.wasm"),
        ] {
            code(digit, file);
            limits(digit, r#"{"timeout_ms": 1, "memory_mb": 1}"#);
        }
        for (digit, scalars) in [('d', "true"), ('e', "false")] {
            code(digit, "function.wasm");
            limits(
                digit,
                &format!(r#"{{"timeout_ms": 1, "memory_mb": 1, "scalars": {scalars}}}"#),
            );
            for ending in ["cwasm", "sha256"] {
                let name = format!("{}-0123.{ending}", digest(digit));
                std::fs::write(registry.compiled_dir().join(name), "").unwrap();
            }
        }
        // What a kill left of a deployment, and what is not ours.
        std::fs::create_dir(registry.codes().join("x.tmp")).unwrap();
        std::fs::write(registry.codes().join("README"), "").unwrap();
        for digit in ['a', 'b'] {
            let path = registry.zips().join(format!("{}.zip", digest(digit)));
            std::fs::write(path, "").unwrap();
        }
        let named = Named {
            codes: [digest('a')].into(),
            zips: [digest('b')].into(),
        };
        assert_eq!(registry.sweep(&named).unwrap(), 8);
        let names = |folder: &Path| -> Vec<String> {
            let paths = list(folder).unwrap().into_iter();
            let names = paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            names
                .map(|name| name.replace(&name[1..64.min(name.len())], ""))
                .collect()
        };
        assert_eq!(
            names(&registry.codes()),
            ["R", "a", "a.json", "c", "c.json", "d", "d.json"]
        );
        assert_eq!(names(&registry.zips()), ["b.zip"]);
        assert_eq!(
            names(&registry.compiled_dir()),
            ["d-0123.cwasm", "d-0123.sha256"]
        );
        assert_eq!(registry.sweep(&named).unwrap(), 0);
    }
}
