//! A disk in memory that can be full, fail, and lose what was not synced when the power is cut.
//!
//! Everything that happens follows from its seed and from what it is asked for. Every operation that changes
//! something has a number, so that a simulation can fail or end at each of them.

mod content;
mod gate;
mod operations;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use content::Content;
pub use gate::Gate;

/// Clones are handles to the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Debug)]
struct Sim {
    now: Entries,
    /// What `sync_dir` made durable.
    durable: Entries,
    faults: Faults,
    /// Where the next sync of a file waits.
    gate: Option<Arc<Gate>>,
    chance: StdRng,
    operations: u64,
    is_off: bool,
    next_id: u64,
}

/// The names in all folders, and what they stand for.
type Entries = BTreeMap<PathBuf, Entry>;

#[derive(Debug, Clone)]
enum Entry {
    Dir { id: u64 },
    File(Arc<Mutex<Content>>),
}

/// What a disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    SetLen,
    Sync,
    Rename,
    Link,
    Remove,
    CreateDir,
    SyncDir,
    /// Not counted among the operations: it changes nothing.
    Read,
}

#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Bytes by which files can grow before the disk is full.
    pub room: Option<u64>,
    /// What fails whenever it is asked for.
    pub failing: Vec<Op>,
    /// The operation with this number fails; a write may have been done in part.
    pub error_at: Option<u64>,
    /// At the operation with this number the power goes off: it may have been done, or in part.
    pub power_off_at: Option<u64>,
}

/// What becomes of an operation.
enum Fate {
    Done,
    Failed(io::Error),
    /// The power went off meanwhile.
    Off,
}

impl Entry {
    fn id(&self) -> u64 {
        match self {
            Entry::Dir { id } => *id,
            Entry::File(content) => locked(content).id,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn off() -> io::Error {
    io::Error::other("simulated: the power is off")
}

fn children<'a>(
    entries: &'a Entries,
    dir: &'a Path,
) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> {
    entries
        .iter()
        .filter(move |(path, _)| path.parent() == Some(dir))
}

impl SimDisk {
    /// Empty. Equal seeds and equal operations give equal disks.
    pub fn new(seed: u64) -> SimDisk {
        let root = Entries::from([(PathBuf::from("/"), Entry::Dir { id: 0 })]);
        SimDisk::with(root.clone(), root, StdRng::seed_from_u64(seed), 0)
    }

    fn with(now: Entries, durable: Entries, chance: StdRng, next_id: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Sim {
            now,
            durable,
            faults: Faults::default(),
            gate: None,
            chance,
            operations: 0,
            is_off: false,
            next_id,
        })))
    }

    pub fn set(&self, faults: Faults) {
        self.sim().faults = faults;
    }

    /// The next sync of a file waits at `gate`; `None`: it does not.
    pub fn hold_next_sync(&self, gate: Option<Arc<Gate>>) {
        self.sim().gate = gate;
    }

    /// The number of the last operation, counted from 1.
    pub fn operations(&self) -> u64 {
        self.sim().operations
    }

    pub fn is_off(&self) -> bool {
        self.sim().is_off
    }

    /// Nothing can be done with it from now on.
    pub fn power_off(&self) {
        self.sim().is_off = true;
    }

    /// A copy of the disk as it is when the power comes back: of what was not synced, chance decides entry by entry and sector by sector.
    pub fn after_power_cut(&self) -> SimDisk {
        let mut sim = self.sim();
        let sim = &mut *sim;
        let names: Vec<&PathBuf> = sim.now.keys().chain(sim.durable.keys()).collect();
        let mut names: Vec<(u64, PathBuf)> = names
            .into_iter()
            .filter_map(|path| Some((sim.now.get(path).or(sim.durable.get(path))?.id(), path)))
            .map(|(id, path)| (id, path.clone()))
            .collect();
        // A folder comes before what is in it, and names that differ from run to run do not matter.
        names.sort_by(|(id, path), (other_id, other)| {
            let depth = |path: &Path| path.components().count();
            (depth(path), id, path).cmp(&(depth(other), other_id, other))
        });
        names.dedup_by(|(_, path), (_, other)| path == other);
        let mut after = Entries::new();
        let mut contents = BTreeMap::new();
        for (_, path) in names {
            let (now, durable) = (sim.now.get(&path).cloned(), sim.durable.get(&path).cloned());
            let is_lost = |dir: &Path| sim.now.contains_key(dir) && !after.contains_key(dir);
            if path.parent().is_some_and(is_lost) {
                continue;
            }
            let is_durable =
                matches!((&now, &durable), (Some(now), Some(durable)) if now.id() == durable.id());
            let kept = match is_durable || sim.chance.random() {
                true => now,
                false => durable,
            };
            let entry = match kept {
                None => continue,
                Some(Entry::File(content)) => {
                    let content = locked(&content);
                    let chance = &mut sim.chance;
                    let after = contents
                        .entry(content.id)
                        .or_insert_with(|| Arc::new(Mutex::new(content.after_power_cut(chance))));
                    Entry::File(Arc::clone(after))
                }
                Some(dir) => dir,
            };
            after.insert(path, entry);
        }
        let chance = StdRng::seed_from_u64(sim.chance.random());
        SimDisk::with(after.clone(), after, chance, sim.next_id)
    }

    /// A copy of the disk as it is after its user was killed: what was not synced can still be lost.
    pub fn after_kill(&self) -> SimDisk {
        let mut sim = self.sim();
        let mut contents = BTreeMap::new();
        let mut copy = |entries: &Entries| -> Entries {
            let each = entries.iter().map(|(path, entry)| {
                let entry = match entry {
                    Entry::Dir { id } => Entry::Dir { id: *id },
                    Entry::File(content) => {
                        let content = locked(content).clone();
                        let copied = contents.entry(content.id);
                        Entry::File(
                            copied
                                .or_insert_with(|| Arc::new(Mutex::new(content)))
                                .clone(),
                        )
                    }
                };
                (path.clone(), entry)
            });
            each.collect()
        };
        let (now, durable) = (copy(&sim.now), copy(&sim.durable));
        let chance = StdRng::seed_from_u64(sim.chance.random());
        SimDisk::with(now, durable, chance, sim.next_id)
    }

    /// For what shares the machine with the disk: an operation that is counted, fails and ends as the disk's own do.
    pub fn ask(&self, op: Op) -> io::Result<()> {
        self.sim().change(op, |_| Ok(()))
    }

    /// All files, sorted by path.
    pub fn files(&self) -> Vec<PathBuf> {
        let sim = self.sim();
        let files = sim.now.iter().filter_map(|(path, entry)| match entry {
            Entry::File(_) => Some(path.clone()),
            Entry::Dir { .. } => None,
        });
        files.collect()
    }

    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.sim().file(path)?;
        Ok(locked(&file).now.clone())
    }

    /// Past the faults, and durable: for damage, and for bytes from elsewhere. Folders come with the file.
    pub fn set_content(&self, path: &Path, bytes: Vec<u8>) {
        let mut sim = self.sim();
        let dirs: Vec<_> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for dir in dirs.into_iter().rev() {
            sim.make_dir(&dir);
        }
        let id = sim.new_id();
        let file = Entry::File(Arc::new(Mutex::new(Content::durable(id, bytes))));
        sim.now.insert(path.to_owned(), file.clone());
        sim.durable.insert(path.to_owned(), file);
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        locked(&self.0)
    }
}

impl Sim {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn make_dir(&mut self, dir: &Path) {
        if !self.now.contains_key(dir) {
            let id = self.new_id();
            self.now.insert(dir.to_owned(), Entry::Dir { id });
            self.durable.insert(dir.to_owned(), Entry::Dir { id });
        }
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        match self.now.get(path) {
            Some(Entry::File(content)) => Ok(content.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn powered(&self) -> io::Result<()> {
        match self.is_off {
            true => Err(off()),
            false => Ok(()),
        }
    }

    fn readable(&self) -> io::Result<()> {
        self.powered()?;
        match self.faults.failing.contains(&Op::Read) {
            true => Err(io::Error::other("simulated failure: Read")),
            false => Ok(()),
        }
    }

    fn fate(&mut self, op: Op) -> Fate {
        self.operations += 1;
        let number = Some(self.operations);
        if self.faults.power_off_at == number {
            self.is_off = true;
            return Fate::Off;
        }
        if self.faults.error_at == number || self.faults.failing.contains(&op) {
            return Fate::Failed(io::Error::other(format!("simulated failure: {op:?}")));
        }
        Fate::Done
    }

    /// Changes names: done, failed, or either when the power goes off.
    fn change(
        &mut self,
        op: Op,
        change: impl FnOnce(&mut Sim) -> io::Result<()>,
    ) -> io::Result<()> {
        self.powered()?;
        match self.fate(op) {
            Fate::Done => change(self),
            Fate::Failed(error) => Err(error),
            Fate::Off => {
                if self.chance.random() {
                    change(self)?;
                }
                Err(off())
            }
        }
    }

    /// Takes what room there is for a file to grow by `bytes`; returns how much that is.
    fn take_room(&mut self, bytes: u64) -> u64 {
        match &mut self.faults.room {
            None => bytes,
            Some(room) => {
                let taken = bytes.min(*room);
                *room -= taken;
                taken
            }
        }
    }

    fn give_room_back(&mut self, bytes: u64) {
        if let Some(room) = &mut self.faults.room {
            *room += bytes;
        }
    }

    fn forget_name(&mut self, path: &Path) -> io::Result<Entry> {
        let entry = self.now.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let id = entry.id();
        if let Entry::File(content) = &entry
            && self.now.values().all(|other| other.id() != id)
        {
            let bytes = locked(content).now.len() as u64;
            self.give_room_back(bytes);
        }
        Ok(entry)
    }
}
