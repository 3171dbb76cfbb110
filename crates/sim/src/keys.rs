//! Key stores that lose what was not synced, as the index of record ids may.
//!
//! The real one is fjall, which does its own I/O; its promises are those of [`KeyStore`].

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lambic_base::disk::{Op, SimDisk};
use lambic_log::{KeyStore, KeyStoreError, KeyStores, Keys};
use rand::{RngExt, rngs::StdRng};

type Key = Box<[u8]>;
/// All or none of them are there after a crash; `None` is a removal.
type Batch = Vec<(Key, Option<Vec<u8>>)>;

/// The key stores of one machine; clones are handles to the same.
#[derive(Clone)]
pub struct SimKeys {
    /// What they share its fate with.
    disk: SimDisk,
    stores: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: BTreeMap<Key, Vec<u8>>,
    durable: BTreeMap<Key, Vec<u8>>,
    pending: Vec<Batch>,
}

impl fmt::Debug for SimKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimKeys").finish_non_exhaustive()
    }
}

fn apply(to: &mut BTreeMap<Key, Vec<u8>>, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => to.insert(key.clone(), value.clone()),
            None => to.remove(key),
        };
    }
}

impl SimKeys {
    pub fn new(disk: SimDisk) -> SimKeys {
        SimKeys {
            disk,
            stores: Arc::default(),
        }
    }

    /// A copy as it is after a crash, beside `disk`: of what was not synced, the first batches are there. A kill can lose
    /// some too, those that were still in the process.
    pub fn after_crash(&self, disk: SimDisk, chance: &mut StdRng) -> SimKeys {
        let mut stores = self.stores().clone();
        for content in stores.values_mut() {
            let kept = chance.random_range(0..=content.pending.len());
            for batch in content.pending.drain(..).take(kept) {
                apply(&mut content.durable, &batch);
            }
            content.now.clone_from(&content.durable);
        }
        SimKeys {
            disk,
            stores: Arc::new(Mutex::new(stores)),
        }
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Content>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, op: Op) -> Result<(), KeyStoreError> {
        let asked = self.disk.ask(op);
        asked.map_err(|error| KeyStoreError::Stopped(error.to_string()))
    }
}

struct Store {
    keys: SimKeys,
    path: PathBuf,
}

impl Store {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        work(self.keys.stores().entry(self.path.clone()).or_default())
    }

    fn change(&self, batch: Batch) -> Result<(), KeyStoreError> {
        self.keys.ask(Op::Write)?;
        self.with(|content| {
            apply(&mut content.now, &batch);
            content.pending.push(batch);
        });
        Ok(())
    }
}

impl KeyStores for SimKeys {
    fn exists(&self, path: &Path) -> bool {
        self.stores().contains_key(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn KeyStore>, KeyStoreError> {
        if !self.exists(path) {
            self.ask(Op::CreateDir)?;
            self.stores().insert(path.to_owned(), Content::default());
        }
        Ok(Arc::new(Store {
            keys: self.clone(),
            path: path.to_owned(),
        }))
    }
}

impl KeyStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyStoreError> {
        Ok(self.with(|content| content.now.get(key).cloned()))
    }

    fn put(&self, entries: &mut dyn Iterator<Item = (Key, Vec<u8>)>) -> Result<(), KeyStoreError> {
        self.change(entries.map(|(key, value)| (key, Some(value))).collect())
    }

    fn remove_prefix(&self, prefix: &[u8]) -> Result<(), KeyStoreError> {
        let keys: Vec<Key> = self.with(|content| {
            let keys = content.now.keys();
            keys.filter(|key| key.starts_with(prefix))
                .cloned()
                .collect()
        });
        self.change(keys.into_iter().map(|key| (key, None)).collect())
    }

    fn keys(&self) -> Keys {
        let keys: Vec<Key> = self.with(|content| content.now.keys().cloned().collect());
        Box::new(keys.into_iter().map(Ok))
    }

    fn sync(&self) -> Result<(), KeyStoreError> {
        let synced = self.keys.disk.ask(Op::Sync);
        self.with(|content| {
            // The first of what a failed sync held for written may be there; the rest never will be.
            let written = match &synced {
                Ok(()) => content.pending.len(),
                Err(_) if self.keys.disk.is_off() => return,
                Err(_) => content.pending.len() / 2,
            };
            for batch in content.pending.drain(..).take(written) {
                apply(&mut content.durable, &batch);
            }
        });
        synced.map_err(|error| KeyStoreError::Unsure(error.to_string()))
    }
}
