//! The index of record ids, a key store (`keys`): which ids a stream already holds.
//!
//! It knows an id by its SHA-256 alone. An id may be a name or an address, and the index outlives the record:
//! when a record is erased its id stays known, so that appending it again has no second effect, and yet no byte
//! of it stays on disk.
//!
//! Never the only copy of what is in the segments: ids go in after the segment was synced, are fed again from
//! the segments on open, and are made durable before a segment is trimmed. A watermark in the index says up
//! to which commit it is durable. Opened on first need: a log without record ids has no such folder.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use lambic_model::StreamId;
use sha2::{Digest, Sha256};

use crate::{
    Error, Options,
    keys::{KeyStore, KeyStoreError, KeyStores, Keys},
};

/// Keys of the first builds held short ids as they are.
const RAW: u8 = 0;
const HASHED: u8 = 1;
/// Shorter than any id's key, as all that is no id.
const WATERMARK: &[u8] = b"w";
/// Says that no key is raw.
pub(crate) const ALL_HASHED: &[u8] = b"h";

/// Of the key of an id.
pub(crate) const KEY_BYTES: usize = 4 + 1 + 32;
/// Keys that are put in one batch.
const PUT_KEYS_MAX: usize = 100_000;

/// Stream, then the id's hash.
pub(crate) type Key = Box<[u8]>;

pub(crate) fn key(stream: StreamId, id: &[u8]) -> Key {
    let mut key = Vec::with_capacity(KEY_BYTES);
    key.extend_from_slice(&stream.0.to_be_bytes());
    key.push(HASHED);
    key.extend_from_slice(&Sha256::digest(id));
    key.into_boxed_slice()
}

/// What a key of the first builds that holds its id as it is has become; `None` for all others.
pub(crate) fn hashed(raw: &[u8]) -> Option<Key> {
    let stream = raw.first_chunk::<4>()?;
    (raw.get(4) == Some(&RAW)).then(|| key(StreamId(u32::from_be_bytes(*stream)), &raw[5..]))
}

pub(crate) struct Ids {
    path: PathBuf,
    stores: Arc<dyn KeyStores>,
    store: Mutex<Store>,
    missing: Mutex<Missing>,
    #[cfg(test)]
    pub(crate) insert_fails: std::sync::atomic::AtomicBool,
}

/// What stands at the path.
enum Store {
    /// Not yet used, or it failed and is opened again on the next use.
    Closed,
    Open(Arc<dyn KeyStore>),
    /// A sync failed: another one proves nothing.
    Unsure(String),
}

/// Ids of durable records that did not go in. No others are taken before they are, so they stay few.
#[derive(Default)]
struct Missing {
    keys: Vec<Key>,
    /// The first commit that they are of: the watermark stays before it.
    since: u64,
}

impl Ids {
    pub(crate) fn new(options: &Options) -> Ids {
        Ids {
            path: options.dir.join("ids"),
            stores: options.keys.clone(),
            store: Mutex::new(Store::Closed),
            missing: Mutex::default(),
            #[cfg(test)]
            insert_fails: Default::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn exists(&self) -> bool {
        self.stores.exists(&self.path)
    }

    /// True if the index is of no use before the log is opened again.
    pub(crate) fn is_unsure(&self) -> bool {
        let store = self.store.lock().expect("no panic while the index opens");
        matches!(&*store, Store::Unsure(_))
    }

    pub(crate) fn contains(&self, key: &Key) -> Result<bool, Error> {
        self.put_missing(&mut self.missing())?;
        let found = self.with(|store| store.get(key))?;
        Ok(found.is_some())
    }

    /// The ids of commits from `first` on; those of earlier ones are in. On an error they go in before the next use.
    pub(crate) fn insert(
        &self,
        first: u64,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<(), Error> {
        let mut missing = self.missing();
        if missing.keys.is_empty() {
            missing.since = first;
        }
        missing.keys.extend(keys);
        self.put_missing(&mut missing)
    }

    fn put_missing(&self, missing: &mut Missing) -> Result<(), Error> {
        if missing.keys.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if self.insert_fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(self.error("simulated failure".to_owned()));
        }
        let mut entries = missing.keys.iter().map(|key| (key.clone(), Vec::new()));
        self.with(|store| store.put(&mut entries))?;
        missing.keys.clear();
        Ok(())
    }

    /// The commit up to which all ids are durable here.
    pub(crate) fn watermark(&self) -> Result<u64, Error> {
        if !self.exists() {
            return Ok(0);
        }
        let value = self.with(|store| store.get(WATERMARK))?;
        Ok(value
            .and_then(|value| value.try_into().ok())
            .map_or(0, u64::from_be_bytes))
    }

    /// The keys of all ids so far; `None` if there is no index.
    pub(crate) fn keys(&self) -> Result<Option<Keys>, Error> {
        self.put_missing(&mut self.missing())?;
        if !self.exists() {
            return Ok(None);
        }
        let keys = self.with(|store| Ok(store.keys()))?;
        Ok(Some(Box::new(keys.filter(|key| {
            key.as_ref().map_or(true, |key| key.len() == KEY_BYTES)
        }))))
    }

    /// Puts keys that another index gave, and says that all ids of commits up to `commit` are here.
    pub(crate) fn put_all(
        &self,
        commit: u64,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<(), Error> {
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let mut entries = keys
                .by_ref()
                .take(PUT_KEYS_MAX)
                .map(|key| (key, Vec::new()));
            self.with(|store| store.put(&mut entries))?;
        }
        let mut watermark = std::iter::once((Box::from(WATERMARK), commit.to_be_bytes().to_vec()));
        self.with(|store| {
            store.sync()?;
            store.put(&mut watermark)?;
            store.sync()
        })
    }

    /// Makes all ids of commits up to `commit` durable, as far as they went in, then says so.
    pub(crate) fn persist(&self, commit: u64) -> Result<(), Error> {
        let mut missing = self.missing();
        // If it fails, those that are in are still worth a watermark.
        let put = self.put_missing(&mut missing);
        if !self.exists() {
            return put;
        }
        let commit = match missing.keys.is_empty() {
            true => commit,
            false => commit.min(missing.since.saturating_sub(1)),
        };
        // Appends go on while it is synced.
        drop(missing);
        let mut watermark = std::iter::once((Box::from(WATERMARK), commit.to_be_bytes().to_vec()));
        self.with(|store| {
            store.sync()?;
            store.put(&mut watermark)?;
            store.sync()
        })?;
        put
    }

    /// Forgets the ids of a stream that was dropped; its identity never comes again.
    pub(crate) fn forget(&self, stream: StreamId) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        self.with(|store| store.remove_prefix(&stream.0.to_be_bytes()))
    }

    fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().expect("no panic while ids go in")
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&dyn KeyStore) -> Result<T, KeyStoreError>,
    ) -> Result<T, Error> {
        let store = self.open()?;
        let done = work(&*store);
        // Before it is opened again.
        drop(store);
        done.map_err(|error| self.failed(error))
    }

    fn open(&self) -> Result<Arc<dyn KeyStore>, Error> {
        let mut slot = self.store.lock().expect("no panic while the index opens");
        match &*slot {
            Store::Open(store) => return Ok(store.clone()),
            Store::Unsure(reason) => return Err(self.error(reason.clone())),
            Store::Closed => {}
        }
        let opened = self.stores.open(&self.path);
        let opened = opened.map_err(|error| match error {
            KeyStoreError::Stopped(reason) | KeyStoreError::Unsure(reason) => self.error(reason),
        })?;
        *slot = Store::Open(opened.clone());
        Ok(opened)
    }

    fn failed(&self, error: KeyStoreError) -> Error {
        let mut slot = self.store.lock().expect("no panic while the index opens");
        let (now, reason) = match error {
            KeyStoreError::Stopped(reason) => (Store::Closed, reason),
            KeyStoreError::Unsure(reason) => (Store::Unsure(reason.clone()), reason),
        };
        if !matches!(&*slot, Store::Unsure(_)) {
            *slot = now;
        }
        self.error(reason)
    }

    fn error(&self, reason: String) -> Error {
        Error::Ids {
            path: self.path.clone(),
            reason,
        }
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").field("path", &self.path).finish()
    }
}
