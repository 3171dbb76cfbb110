//! Tells when a project's files have changed and come to rest.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors save in several steps; a change counts when nothing moved for this long.
const REST: Duration = Duration::from_millis(150);

pub struct Watch {
    changed: mpsc::Receiver<()>,
    // Dropping the watcher would end the events.
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches the folder, except for the data folder and hidden folders inside, and for the file of traces, which changes all
    /// the time; empty if there is none.
    pub fn start(folder: &Path, data: &Path, traces: &Path) -> anyhow::Result<Watch> {
        // One place is enough: a full channel means that a change is already known.
        let (changes, changed) = mpsc::channel(1);
        let root = folder
            .canonicalize()
            .with_context(|| format!("cannot watch {}", folder.display()))?;
        let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        let traces = whole(traces);
        let inside = root.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let matters = match &event {
                    Ok(event) => {
                        !matches!(event.kind, EventKind::Access(_))
                            && event.paths.iter().any(|path| {
                                is_source(path, &inside, &data) && !is_of(path, traces.as_deref())
                            })
                    }
                    // Events were lost: look again.
                    Err(_) => true,
                };
                if matters {
                    let _ = changes.try_send(());
                }
            })
            .context("cannot watch files on this machine")?;
        watcher
            .watch(&root, RecursiveMode::Recursive)
            .with_context(|| format!("cannot watch {}", root.display()))?;
        Ok(Watch {
            changed,
            _watcher: watcher,
        })
    }

    /// Resolves when files changed and came to rest.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watcher lives as long as `self`, so this does not happen; never spin if it does.
            std::future::pending::<()>().await;
        }
        while let Ok(Some(())) = tokio::time::timeout(REST, self.changed.recv()).await {}
    }
}

/// The path of a file that may not be there yet, as events name it.
fn whole(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let folder = file.parent()?.canonicalize().ok()?;
    Some(folder.join(file.file_name()?))
}

/// Whether it is the file of traces, or the former one.
fn is_of(path: &Path, traces: Option<&Path>) -> bool {
    traces.is_some_and(|traces| {
        path.parent() == traces.parent() && path.file_stem() == traces.file_name() || path == traces
    })
}

fn is_source(path: &Path, root: &Path, data: &Path) -> bool {
    if path.starts_with(data) {
        return false;
    }
    let Ok(inside) = path.strip_prefix(root) else {
        return false;
    };
    !inside.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name.starts_with('.') || name.ends_with('~') || name == "__pycache__"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_no_sources() {
        let dir = tempfile::tempdir().unwrap();
        let traces = whole(&dir.path().join("traces.jsonl"));
        let folder = dir.path().canonicalize().unwrap();
        for (name, is_it) in [
            ("traces.jsonl", true),
            ("traces.jsonl.1", true),
            ("traces", false),
            ("other/traces.jsonl", false),
        ] {
            assert_eq!(
                is_of(&folder.join(name), traces.as_deref()),
                is_it,
                "{name}"
            );
        }
        assert_eq!(whole(Path::new("")), None);
    }

    #[test]
    fn only_sources_count() {
        let check = |path: &str| is_source(Path::new(path), Path::new("/p"), Path::new("/p/data"));
        assert!(
            check("/p/views/a.sql")
                && check("/p/lambic.toml")
                && check("/p/functions/f/handler.py")
        );
        assert!(
            !check("/p/.lambic/log/1") && !check("/p/data/log/1") && !check("/p/views/.a.sql.swp")
        );
        assert!(!check("/p/functions/f/__pycache__/handler.pyc") && !check("/q/a.sql"));
    }
}
