//! Layers, laid over each other into the folder that is an image's root.
//!
//! A later layer hides what earlier ones have: by an entry of the same name, by `.wh.NAME` for what is gone, and by
//! `.wh..wh..opq` for all that a folder had (the OCI's image specification, `layer.md`). What a layer says of itself is
//! not believed: its paths stay inside, and bytes, files and depth have bounds.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io::{Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;

use super::{
    Bounds, Problem, Recipe,
    blobs::Blobs,
    layer::{self, Entry, Kind},
    manifest::Descriptor,
    tree::{self, Tree, names},
};
use crate::Error;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of the file system that had this first; none of them means anything now.
const WHITEOUT_OTHER: &[u8] = b".wh..wh.";
const STEP_BYTES: usize = 256 << 10;
/// What engines write into every container.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Unpacks all layers into the empty folder `root`, as long as `stop` does not say otherwise.
pub fn unpack(
    recipe: &Recipe,
    blobs: &Blobs,
    root: &Path,
    bounds: Bounds,
    stop: &dyn Fn() -> bool,
) -> Result<(), Problem> {
    let tree = Tree::new(root, bounds.files)?;
    let mut left = bounds.bytes;
    let layers = recipe.manifest.layers.iter();
    for (layer, unpacked) in layers.zip(recipe.config.diff_ids()) {
        let mut unpacking = Unpacking {
            tree: &tree,
            touched: HashSet::new(),
            stop,
        };
        let before = left;
        let file = blobs.open(&layer.digest)?;
        let sums = layer::read(file, &mut left, &mut |entry, content| {
            if entry.bytes > before {
                return Err(Problem::Bad(layer::too_large(before)));
            }
            unpacking.take(&entry, content)
        })?;
        if sums.packed != layer.digest || sums.packed_bytes != layer.size {
            return Err(damaged(blobs, layer));
        }
        if sums.unpacked != *unpacked {
            return Err(Problem::Bad(format!(
                "its layer {} is not the one that its configuration describes",
                layer.digest
            )));
        }
    }
    surroundings(recipe, &tree)?;
    tree.sync()
}

/// Without it, the next one who wants the image gets it again.
fn damaged(blobs: &Blobs, layer: &Descriptor) -> Problem {
    let path = blobs.path(&layer.digest);
    blobs.remove(&layer.digest);
    Problem::Ours(Error::Damaged {
        path,
        reason: "its content is not what its name says".to_owned(),
    })
}

struct Unpacking<'a> {
    tree: &'a Tree,
    /// What this layer has: it does not hide that itself.
    touched: HashSet<PathBuf>,
    stop: &'a dyn Fn() -> bool,
}

impl Unpacking<'_> {
    fn take(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Problem> {
        if (self.stop)() {
            return Err(Problem::Ours(Error::Closed));
        }
        let path = names(&entry.path)?;
        let Some((name, folders)) = path.split_last() else {
            return Ok(());
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.hide(name, folders);
        }
        let Some(parent) = self.tree.folder(folders, true)? else {
            return Ok(());
        };
        let tree = self.tree;
        match &entry.kind {
            Kind::Folder => tree.put_folder(&parent, name)?,
            Kind::File => {
                let mut file = tree.put_file(&parent, name)?;
                let at = parent.at.join(name);
                self.copy(entry, content, &mut file, &at)?;
                tree::finish(&file, &at, entry.mode, entry.modified)?;
            }
            Kind::Symlink(to) => tree.put_symlink(&parent, name, to)?,
            Kind::Hardlink(to) => tree.put_hardlink(&parent, name, &names(to)?)?,
            // Programs have the kernel's own, and no others.
            Kind::Special => return tree.remove(&parent, name, &HashSet::new()),
        }
        self.touched.insert(parent.at.join(name));
        Ok(())
    }

    fn hide(&self, name: &OsStr, folders: &[&OsStr]) -> Result<(), Problem> {
        let Some(parent) = self.tree.folder(folders, false)? else {
            return Ok(());
        };
        let name = name.as_bytes();
        if name == OPAQUE {
            return self.tree.remove_all(&parent, &self.touched);
        }
        if name.starts_with(WHITEOUT_OTHER) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        // Whatever else it is, it is no name.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Problem::Bad(format!(
                "`{}` in it hides nothing that there can be",
                String::from_utf8_lossy(name)
            )));
        }
        self.tree
            .remove(&parent, OsStr::from_bytes(hidden), &self.touched)
    }

    fn copy(
        &self,
        entry: &Entry,
        content: &mut dyn Read,
        file: &mut std::fs::File,
        at: &Path,
    ) -> Result<(), Problem> {
        let mut step = vec![0; STEP_BYTES.min(entry.bytes as usize)];
        let mut left = entry.bytes;
        while left > 0 {
            if (self.stop)() {
                return Err(Problem::Ours(Error::Closed));
            }
            let broken = |why: &str| {
                Problem::Bad(format!(
                    "`/{}` in it cannot be unpacked: {why}",
                    at.display()
                ))
            };
            let read = content
                .read(&mut step)
                .map_err(|error| broken(&error.to_string()))?;
            if read == 0 {
                return Err(broken("the layer ends within it"));
            }
            file.write_all(&step[..read])
                .map_err(Error::io("write", at))?;
            left = left.saturating_sub(read as u64);
        }
        Ok(())
    }
}

/// What an engine would add when it starts a container, which is too late here: its root is read only then.
fn surroundings(recipe: &Recipe, tree: &Tree) -> Result<(), Problem> {
    let working_dir = recipe.working_dir();
    tree.folder(&names(working_dir.as_bytes())?, true)?;
    let Some(etc) = tree.folder(&[OsStr::new("etc")], true)? else {
        return Ok(());
    };
    for (name, content) in [("hosts", HOSTS), ("resolv.conf", "")] {
        let name = OsStr::new(name);
        let is_there = match etc.kind(name)? {
            Some(FileType::RegularFile) => content.is_empty() || etc.bytes(name)? > 0,
            // It would lead to what is not there: names are looked up by the server.
            _ => false,
        };
        if !is_there {
            let at = etc.at.join(name);
            let mut file = tree.put_file(&etc, name)?;
            file.write_all(content.as_bytes())
                .map_err(Error::io("write", &at))?;
            tree::finish(&file, &at, 0, 0)?;
        }
    }
    Ok(())
}
