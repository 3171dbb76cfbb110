//! A disk in memory that can be full, fail, and lose what was not synced when the power is cut.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Barrier, Mutex},
};

use crate::disk::{Disk, File};

const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Debug, Default)]
struct Sim {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Bytes that can be written before the disk is full.
    pub room: Option<usize>,
    pub sync_fails: bool,
    pub write_fails: bool,
    /// The next sync of a file waits here twice: when it arrives, and until it may go on.
    pub gate: Option<Arc<Barrier>>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    synced: Vec<u8>,
    now: Vec<u8>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    content: Arc<Mutex<Content>>,
}

impl SimDisk {
    pub(crate) fn set(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    /// The disk after a power cut: of what was not synced, `chance` decides sector by sector.
    pub(crate) fn power_cut(&self, mut chance: impl FnMut() -> u64) -> SimDisk {
        let sim = self.0.lock().unwrap();
        let mut files = BTreeMap::new();
        for (path, content) in &sim.files {
            let Content { synced, now } = content.lock().unwrap().clone();
            let (short, long) = (synced.len().min(now.len()), synced.len().max(now.len()));
            let length = short + (chance() as usize) % (long - short + 1);
            let mut after = vec![0; length];
            for start in (0..length).step_by(SECTOR) {
                let source = if chance().is_multiple_of(2) {
                    &synced
                } else {
                    &now
                };
                let sector = after.iter_mut().skip(start).take(SECTOR);
                for (byte, from) in sector.zip(source.iter().skip(start)) {
                    *byte = *from;
                }
            }
            let content = Content {
                synced: after.clone(),
                now: after,
            };
            files.insert(path.clone(), Arc::new(Mutex::new(content)));
        }
        SimDisk(Arc::new(Mutex::new(Sim {
            files,
            faults: Faults::default(),
        })))
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        let sim = self.0.lock().unwrap();
        sim.files
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let content = Arc::new(Mutex::new(Content::default()));
        self.0
            .lock()
            .unwrap()
            .files
            .insert(path.to_owned(), content.clone());
        Ok(Box::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SimFile {
            disk: self.clone(),
            content: self.file(path)?,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.file(from)?;
        let mut sim = self.0.lock().unwrap();
        sim.files.remove(from);
        sim.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.0.lock().unwrap().files.remove(path);
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().files.contains_key(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let sim = self.0.lock().unwrap();
        let paths = sim.files.keys();
        Ok(paths
            .filter(|path| path.parent() == Some(dir))
            .cloned()
            .collect())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for SimFile {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut sim = self.disk.0.lock().unwrap();
        if sim.faults.write_fails {
            return Err(io::Error::other("simulated write failure"));
        }
        let mut written = bytes;
        if let Some(room) = &mut sim.faults.room {
            written = &bytes[..bytes.len().min(*room)];
            *room -= written.len();
        }
        let mut content = self.content.lock().unwrap();
        let (start, end) = (position as usize, position as usize + written.len());
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(written);
        match written.len() == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn read_exact_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let start = position as usize;
        let found = content.now.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.content.lock().unwrap().now.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let gate = self.disk.0.lock().unwrap().faults.gate.take();
        if let Some(gate) = gate {
            gate.wait();
            gate.wait();
        }
        if self.disk.0.lock().unwrap().faults.sync_fails {
            return Err(io::Error::other("simulated sync failure"));
        }
        let mut content = self.content.lock().unwrap();
        content.synced = content.now.clone();
        Ok(())
    }
}
