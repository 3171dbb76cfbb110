//! The index of record ids, a key store (`keys`): which ids a stream already holds.
//!
//! Never the only copy of what is in the segments: ids go in after the segment was synced, are fed again from
//! the segments on open, and are made durable before a segment is trimmed. A watermark in the index says up
//! to which commit it is durable. Opened on first need: a log without record ids has no such folder.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use lambic_model::StreamId;
use sha2::{Digest, Sha256};

use crate::{
    Error, Options,
    keys::{KeyStore, KeyStores},
};

/// Longer ids are known by their SHA-256.
const RAW_BYTES_MAX: usize = 40;
const RAW: u8 = 0;
const HASHED: u8 = 1;
/// Shorter than any id's key.
const WATERMARK: &[u8] = b"w";

/// Stream, then the id's bytes or their hash.
pub(crate) type Key = Box<[u8]>;

pub(crate) fn key(stream: StreamId, id: &[u8]) -> Key {
    let mut key = Vec::with_capacity(5 + id.len().min(RAW_BYTES_MAX));
    key.extend_from_slice(&stream.0.to_be_bytes());
    if id.len() <= RAW_BYTES_MAX {
        key.push(RAW);
        key.extend_from_slice(id);
    } else {
        key.push(HASHED);
        key.extend_from_slice(&Sha256::digest(id));
    }
    key.into_boxed_slice()
}

pub(crate) struct Ids {
    path: PathBuf,
    stores: Arc<dyn KeyStores>,
    open: Mutex<Option<Arc<dyn KeyStore>>>,
    /// The last commit before the first one whose ids did not go in. The watermark never passes it, so the
    /// next open feeds them again.
    complete_to: AtomicU64,
    #[cfg(test)]
    pub(crate) insert_fails: std::sync::atomic::AtomicBool,
}

impl Ids {
    pub(crate) fn new(options: &Options) -> Ids {
        Ids {
            path: options.dir.join("ids"),
            stores: options.keys.clone(),
            open: Mutex::new(None),
            complete_to: AtomicU64::new(u64::MAX),
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

    pub(crate) fn contains(&self, key: &Key) -> Result<bool, Error> {
        let found = self.open()?.get(key).map_err(|e| self.failed(e))?;
        Ok(found.is_some())
    }

    /// The ids of commits from `first` on; those of earlier ones are in.
    pub(crate) fn insert(
        &self,
        first: u64,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<(), Error> {
        let inserted = self.insert_all(keys);
        if inserted.is_err() {
            self.complete_to
                .fetch_min(first.saturating_sub(1), Ordering::SeqCst);
        }
        inserted
    }

    fn insert_all(&self, keys: impl IntoIterator<Item = Key>) -> Result<(), Error> {
        #[cfg(test)]
        if self.insert_fails.load(Ordering::SeqCst) {
            return Err(self.failed("simulated failure".to_owned()));
        }
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return Ok(());
        }
        let mut entries = keys.map(|key| (key, Vec::new()));
        let put = self.open()?.put(&mut entries);
        put.map_err(|e| self.failed(e))
    }

    /// The commit up to which all ids are durable here.
    pub(crate) fn watermark(&self) -> Result<u64, Error> {
        if !self.exists() {
            return Ok(0);
        }
        let value = self.open()?.get(WATERMARK).map_err(|e| self.failed(e))?;
        Ok(value
            .and_then(|value| value.try_into().ok())
            .map_or(0, u64::from_be_bytes))
    }

    /// Makes all ids of commits up to `commit` durable, as far as they went in, then says so.
    pub(crate) fn persist(&self, commit: u64) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        let commit = commit.min(self.complete_to.load(Ordering::SeqCst));
        let open = self.open()?;
        let watermark = (Box::from(WATERMARK), commit.to_be_bytes().to_vec());
        open.sync()
            .and_then(|()| open.put(&mut std::iter::once(watermark)))
            .and_then(|()| open.sync())
            .map_err(|e| self.failed(e))
    }

    /// Forgets the ids of a stream that was dropped; its identity never comes again.
    pub(crate) fn forget(&self, stream: StreamId) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        let removed = self.open()?.remove_prefix(&stream.0.to_be_bytes());
        removed.map_err(|e| self.failed(e))
    }

    fn open(&self) -> Result<Arc<dyn KeyStore>, Error> {
        let mut slot = self.open.lock().expect("no panic while the index opens");
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let opened = self.stores.open(&self.path);
        let opened = opened.map_err(|reason| self.failed(reason))?;
        Ok(slot.insert(opened).clone())
    }

    fn failed(&self, reason: String) -> Error {
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
