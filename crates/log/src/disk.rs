//! The few file operations that the journal needs, as traits, so that tests can hand in a disk that fails.

use std::{
    fmt::Debug,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub(crate) trait Disk: Debug + Send + Sync {
    /// A new, empty file, open for reading and writing; one that exists is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// With its missing parents; nothing happens if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// What is in `dir`.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Returns when creations, renames and removals in `dir` are durable; of files, only their entries.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

pub(crate) trait File: Debug + Send + Sync {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Returns when content and length are durable.
    fn sync(&self) -> io::Result<()>;
}

#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(
            fs::OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        lambic_base::file::create_dirs(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        lambic_base::file::sync_dir(dir)
    }
}

impl File for fs::File {
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
