//! A disk in memory that can be full, fail, and lose what was not synced when the power is cut.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    now: Entries,
    /// What `sync_dir` made durable.
    synced: Entries,
    faults: Faults,
}

/// The names in all folders, and what they stand for.
#[derive(Debug, Clone, Default)]
struct Entries(BTreeMap<PathBuf, Entry>);

#[derive(Debug, Clone)]
enum Entry {
    Dir,
    File(Arc<Mutex<Content>>),
}

impl Entry {
    fn is_same(&self, other: &Entry) -> bool {
        match (self, other) {
            (Entry::Dir, Entry::Dir) => true,
            (Entry::File(one), Entry::File(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Entries {
    fn of<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> {
        self.0
            .iter()
            .filter(move |(path, _)| path.parent() == Some(dir))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Bytes that can be written before the disk is full.
    pub room: Option<usize>,
    /// Of files.
    pub sync_fails: bool,
    pub dir_sync_fails: bool,
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

    /// The disk after a power cut: of what was not synced, `chance` decides entry by entry and sector by sector.
    pub(crate) fn power_cut(&self, mut chance: impl FnMut() -> u64) -> SimDisk {
        let sim = self.0.lock().unwrap();
        let mut after = Entries::default();
        let names: BTreeSet<&PathBuf> = sim.now.0.keys().chain(sim.synced.0.keys()).collect();
        // A folder comes before what is in it.
        for path in names {
            let (now, synced) = (sim.now.0.get(path), sim.synced.0.get(path));
            let is_lost = |dir: &Path| sim.now.0.contains_key(dir) && !after.0.contains_key(dir);
            if path.parent().is_some_and(is_lost) {
                continue;
            }
            let is_durable =
                matches!((now, synced), (Some(now), Some(synced)) if now.is_same(synced));
            let entry = match is_durable || chance().is_multiple_of(2) {
                true => now,
                false => synced,
            };
            match entry {
                None => {}
                Some(Entry::Dir) => {
                    after.0.insert(path.clone(), Entry::Dir);
                }
                Some(Entry::File(content)) => {
                    let content = content.lock().unwrap().after_power_cut(&mut chance);
                    let content = Entry::File(Arc::new(Mutex::new(content)));
                    after.0.insert(path.clone(), content);
                }
            }
        }
        SimDisk(Arc::new(Mutex::new(Sim {
            now: after.clone(),
            synced: after,
            faults: Faults::default(),
        })))
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        match self.0.lock().unwrap().now.0.get(path) {
            Some(Entry::File(content)) => Ok(content.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Content {
    fn after_power_cut(&self, chance: &mut impl FnMut() -> u64) -> Content {
        let Content { synced, now } = self;
        let (short, long) = (synced.len().min(now.len()), synced.len().max(now.len()));
        let length = short + (chance() as usize) % (long - short + 1);
        let mut after = vec![0; length];
        for start in (0..length).step_by(SECTOR) {
            let source = if chance().is_multiple_of(2) {
                synced
            } else {
                now
            };
            let sector = after.iter_mut().skip(start).take(SECTOR);
            for (byte, from) in sector.zip(source.iter().skip(start)) {
                *byte = *from;
            }
        }
        Content {
            synced: after.clone(),
            now: after,
        }
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut sim = self.0.lock().unwrap();
        if !sim.now.0.contains_key(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        let entry = Entry::File(content.clone());
        sim.now.0.insert(path.to_owned(), entry);
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
        let mut sim = self.0.lock().unwrap();
        let entry = sim.now.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        sim.now.0.insert(to.to_owned(), entry);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().unwrap().now.0.remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().now.0.contains_key(path))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        // The folders above were there before, and durable.
        let mut sim = self.0.lock().unwrap();
        sim.now.0.entry(dir.to_owned()).or_insert(Entry::Dir);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let sim = self.0.lock().unwrap();
        Ok(sim.now.of(dir).map(|(path, _)| path.clone()).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.0.lock().unwrap();
        if sim.faults.dir_sync_fails {
            return Err(io::Error::other("simulated sync failure"));
        }
        let Sim { now, synced, .. } = &mut *sim;
        synced.0.retain(|path, _| path.parent() != Some(dir));
        synced.0.extend(
            now.of(dir)
                .map(|(path, entry)| (path.clone(), entry.clone())),
        );
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
