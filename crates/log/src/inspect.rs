//! Looks at a log's folder without changing a byte of it: for a doctor, beside a copy, on a read-only disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use lambic_base::{Disk, DiskFile};
use lambic_model::Frontiers;

use crate::{
    Error, Options,
    cut::unreadable,
    keys::{Fjall, KeyStores},
    recover,
};

/// What a log's folder holds, every frame of which was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    pub segments: usize,
    pub bytes: u64,
    /// The remains of an append that was never acknowledged; opening the log cuts them off.
    pub torn_bytes: u64,
    /// False if the file is missing or unreadable that says how far appends were acknowledged.
    pub mark_known: bool,
    /// The first records still here.
    pub starts: Frontiers,
    /// Where the next records go.
    pub heads: Frontiers,
}

/// Reads and checks all segments as opening does, and tells the first damage; the index of record ids is left
/// alone. A folder that is missing or empty is a log without segments.
pub fn inspect(dir: &Path) -> Result<Inspected, Error> {
    let options = Options {
        disk: Arc::new(LookingDisk),
        ..Options::new(dir)
    };
    let Some(read) = recover::read(&options, None)? else {
        return Ok(Inspected::default());
    };
    let bytes = read.segments.iter();
    Ok(Inspected {
        segments: read.segments.len(),
        bytes: bytes.map(|s| s.bytes.load(Ordering::Relaxed)).sum(),
        torn_bytes: read.torn_bytes,
        mark_known: read.mark_known,
        starts: read
            .segments
            .first()
            .map(|segment| segment.start.clone())
            .unwrap_or_default(),
        heads: read.state.heads,
    })
}

/// How many record ids the index in `dir` knows; every one is read. The index may be changed by it: look at a copy.
pub fn inspect_ids(dir: &Path) -> Result<u64, Error> {
    let unreadable = |error| unreadable(dir, error);
    let store = Fjall.open(dir).map_err(unreadable)?;
    let mut ids = 0;
    for key in store.keys() {
        key.map_err(unreadable)?;
        ids += 1;
    }
    Ok(ids)
}

/// Changes nothing: what would is an error.
#[derive(Debug)]
struct LookingDisk;

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
}

impl Disk for LookingDisk {
    fn create(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        entries.map(|entry| entry.map(|e| e.path())).collect()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }
}
