//! Where the parts of an environment are: for the program, and on the host.
//!
//! With a root of its own a program finds everything where AWS has it. Without one, the parts are copies in the
//! folder of the environment.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Spec, isolation};
use crate::{Error, files::set_mode};

pub const PYTHON_CLIENT: &str = include_str!("python.py");
pub const PYTHON_ZYGOTE: &str = include_str!("zygote.py");
pub const PYTHON_HOOKS: &str = include_str!("snapshot_restore.py");
pub const NODE_CLIENT: &str = include_str!("node.mjs");

/// How the names of folders and control groups of environments begin.
pub const ENVIRONMENTS: &str = "lambic-environment-";

/// Where the program finds things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The code.
    pub task: PathBuf,
    /// The layers.
    pub opt: PathBuf,
    /// What it may write.
    pub tmp: PathBuf,
    /// Our clients.
    pub runtime: PathBuf,
}

impl Layout {
    pub fn own_root() -> Layout {
        Layout {
            task: "/var/task".into(),
            opt: "/opt".into(),
            tmp: "/tmp".into(),
            runtime: "/var/runtime".into(),
        }
    }

    pub fn within(dir: &Path) -> Layout {
        Layout {
            task: dir.join("task"),
            opt: dir.join("opt"),
            tmp: dir.join("tmp"),
            runtime: dir.join("runtime"),
        }
    }

    pub fn python_client(&self) -> PathBuf {
        self.runtime.join("client.py")
    }

    pub fn python_zygote(&self) -> PathBuf {
        self.runtime.join("zygote.py")
    }

    /// AWS's name of the module.
    pub fn python_hooks(&self) -> PathBuf {
        self.runtime.join("snapshot_restore_py.py")
    }

    pub fn node_client(&self) -> PathBuf {
        self.runtime.join("client.mjs")
    }
}

/// The names of the environments of those who keep their code in `codes`, in the folder for what is temporary: their
/// users may not be let through to the code itself.
fn prefix(codes: &Path) -> String {
    let codes = codes.canonicalize().unwrap_or_else(|_| codes.to_owned());
    let mut hasher = DefaultHasher::new();
    codes.hash(&mut hasher);
    format!("{ENVIRONMENTS}{:016x}-", hasher.finish())
}

/// Removes the environments of a server that was killed. Whoever calls it is the only one who keeps code in `codes`.
pub fn remove_left_behind(codes: &Path) {
    let prefix = prefix(codes);
    isolation::remove_groups_left_behind(&prefix);
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "the folder of an environment that was killed stays");
        }
    }
}

/// The folder of one environment.
pub fn make_dir(spec: &Spec) -> Result<TempDir, Error> {
    let codes = spec.code_dir.parent().unwrap_or(&spec.code_dir);
    tempfile::Builder::new()
        .prefix(&prefix(codes))
        .tempdir()
        .map_err(Error::io("create a folder in", std::env::temp_dir()))
}

/// Copies everything into `dir`, for the environment's user to read.
pub fn copy_parts(spec: &Spec, dir: &Path) -> Result<(), Error> {
    let layout = Layout::within(dir);
    copy(&spec.code_dir, &layout.task)?;
    copy_layers(&spec.layers, &layout.opt)?;
    let Layout { tmp, runtime, .. } = &layout;
    for folder in [tmp, runtime] {
        std::fs::create_dir(folder).map_err(Error::io("create", folder))?;
    }
    for (path, client) in [
        (layout.python_client(), PYTHON_CLIENT),
        (layout.python_hooks(), PYTHON_HOOKS),
        (layout.node_client(), NODE_CLIENT),
    ] {
        std::fs::write(&path, client).map_err(Error::io("write", &path))?;
        set_mode(&path, 0o444)?;
    }
    set_mode(runtime, 0o755)?;
    if let Some(user) = spec.isolation.user {
        std::os::unix::fs::chown(tmp, Some(user), Some(user))
            .map_err(Error::io("hand over", tmp))?;
        // The folder stays ours: its user may pass through, not list or change it.
        set_mode(dir, 0o711)?;
    }
    set_mode(tmp, 0o700)
}

/// Makes `dir` readable for the user that environments have, once: the folder's own mode is set last and stands for all
/// that is in it.
pub fn let_read(dir: &Path) -> Result<(), Error> {
    const READABLE: u32 = 0o005;
    let mode = |path: &Path| {
        let metadata = std::fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
        Ok::<_, Error>(metadata.permissions().mode())
    };
    let own = mode(dir)?;
    if own & READABLE == READABLE {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_dir() {
            let_read(&path)?;
        } else if kind.is_file() {
            let mode = mode(&path)?;
            // As the owner may execute it, so may others.
            let readable = (mode & 0o7777) | 0o444 | (mode >> 6 & 1) | (mode >> 3 & 0o10);
            set_mode_durably(&path, readable)?;
        }
    }
    set_mode_durably(dir, (own & 0o7777) | 0o555)
}

/// After a power cut the folder's mode must not stand for files that lost theirs.
fn set_mode_durably(path: &Path, mode: u32) -> Result<(), Error> {
    set_mode(path, mode)?;
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(Error::io("sync", path))
}

/// All layers in one folder; later ones replace what earlier ones have.
pub fn copy_layers(layers: &[PathBuf], to: &Path) -> Result<(), Error> {
    std::fs::create_dir(to).map_err(Error::io("create", to))?;
    for layer in layers {
        copy(layer, to)?;
    }
    set_mode(to, 0o755)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    match std::fs::create_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && to.is_dir() => {}
        result => result.map_err(Error::io("create", to))?,
    }
    for entry in std::fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::io("read", &source))?;
        if kind.is_dir() {
            copy(&source, &target)?;
            continue;
        }
        if target.symlink_metadata().is_ok() {
            std::fs::remove_file(&target).map_err(Error::io("replace", &target))?;
        }
        if kind.is_symlink() {
            let points_to = std::fs::read_link(&source).map_err(Error::io("read", &source))?;
            std::os::unix::fs::symlink(points_to, &target).map_err(Error::io("link", &target))?;
        } else {
            std::fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
            set_mode(&target, 0o555)?;
        }
    }
    set_mode(to, 0o755)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_is_removed_and_nothing_else() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let left = |codes: &Path| {
            let dir = tempfile::Builder::new().prefix(&prefix(codes)).tempdir();
            let dir = dir.unwrap().keep();
            std::fs::write(dir.join("handler.py"), "code").unwrap();
            dir
        };
        let (one, two, other) = (left(ours.path()), left(ours.path()), left(theirs.path()));
        remove_left_behind(ours.path());
        assert!(!one.exists() && !two.exists() && other.exists());
        remove_left_behind(theirs.path());
        assert!(!other.exists());
    }

    #[test]
    fn later_layers_hide_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, files: &[(&str, &str)]| {
            let layer = dir.path().join(name);
            for (path, content) in files {
                let path = layer.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            layer
        };
        let layers = [
            layer("one", &[("bin/a", "1"), ("bin/b", "1")]),
            layer("two", &[("bin/b", "2"), ("lib/c", "2")]),
        ];
        let opt = dir.path().join("opt");
        copy_layers(&layers, &opt).unwrap();
        for (path, content) in [("bin/a", "1"), ("bin/b", "2"), ("lib/c", "2")] {
            assert_eq!(std::fs::read_to_string(opt.join(path)).unwrap(), content);
        }
    }
}
