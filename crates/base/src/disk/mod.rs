//! The disk as a component: the few operations that the rooms' files need.
//!
//! Rooms that promise durability take a [`Disk`], so that tests and simulations can hand in [`SimDisk`], which is
//! full, fails, and loses what was not synced.

mod sim;

use std::{
    fmt::Debug,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub use sim::{Faults, Gate, Op, SimDisk};

use crate::file;

pub trait Disk: Debug + Send + Sync {
    /// A new, empty file, open for reading and writing; one that exists is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// What was at `to` is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name for a file; an error if `to` is there.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    fn is_dir(&self, path: &Path) -> bool;
    /// With its missing parents, durably; nothing else happens if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// What is in `dir`.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Returns when creations, renames and removals in `dir` are durable; of files, only their entries.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

pub trait DiskFile: Debug + Send + Sync {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Returns when content and length are durable.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(
            fs::OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        file::create_dirs(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        file::sync_dir(dir)
    }
}

impl DiskFile for fs::File {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn read_exact_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        fs::File::set_len(self, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
