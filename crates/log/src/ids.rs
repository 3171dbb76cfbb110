//! The index of record ids, in fjall: which ids a stream already holds.
//!
//! Never the only copy of what is in the segments: ids go in after the segment was synced, are fed again from
//! the segments on open, and are made durable before a segment is trimmed. A watermark in the index says up
//! to which commit it is durable. Opened on first need: a log without record ids has no such folder.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use lambic_base::file;
use lambic_model::StreamId;
use sha2::{Digest, Sha256};

use crate::Error;

/// Longer ids are known by their SHA-256.
const RAW_BYTES_MAX: usize = 40;
const RAW: u8 = 0;
const HASHED: u8 = 1;
/// Shorter than any id's key.
const WATERMARK: &[u8] = b"w";
/// The index's own journal; the default of half a GiB is more than the log itself usually holds.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

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
    open: Mutex<Option<Open>>,
    /// The last commit before the first one whose ids did not go in. The watermark never passes it, so the
    /// next open feeds them again.
    complete_to: AtomicU64,
    #[cfg(test)]
    pub(crate) insert_fails: std::sync::atomic::AtomicBool,
}

#[derive(Clone)]
struct Open {
    database: Database,
    keys: Keyspace,
}

impl Ids {
    pub(crate) fn new(dir: &Path) -> Ids {
        Ids {
            path: dir.join("ids"),
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
        self.path.exists()
    }

    pub(crate) fn contains(&self, key: &Key) -> Result<bool, Error> {
        self.open()?
            .keys
            .contains_key(key)
            .map_err(|e| self.failed(&e))
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
            return Err(Error::Ids {
                path: self.path.clone(),
                reason: "simulated failure".to_owned(),
            });
        }
        let mut keys = keys.into_iter().peekable();
        if keys.peek().is_none() {
            return Ok(());
        }
        let open = self.open()?;
        let mut batch = open.database.batch();
        for key in keys {
            batch.insert(&open.keys, &*key, b"".as_slice());
        }
        batch.commit().map_err(|e| self.failed(&e))
    }

    /// The commit up to which all ids are durable here.
    pub(crate) fn watermark(&self) -> Result<u64, Error> {
        if !self.exists() {
            return Ok(0);
        }
        let value = self.open()?.keys.get(WATERMARK);
        let value = value.map_err(|e| self.failed(&e))?;
        Ok(value
            .and_then(|value| value.as_ref().try_into().ok())
            .map_or(0, u64::from_be_bytes))
    }

    /// Makes all ids of commits up to `commit` durable, as far as they went in, then says so.
    pub(crate) fn persist(&self, commit: u64) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        let commit = commit.min(self.complete_to.load(Ordering::SeqCst));
        let open = self.open()?;
        let persist = || open.database.persist(PersistMode::SyncAll);
        persist()
            .and_then(|()| open.keys.insert(WATERMARK, commit.to_be_bytes()))
            .and_then(|()| persist())
            .map_err(|e| self.failed(&e))
    }

    /// Forgets the ids of a stream that was dropped; its identity never comes again.
    pub(crate) fn forget(&self, stream: StreamId) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        let open = self.open()?;
        for guard in open.keys.prefix(stream.0.to_be_bytes()) {
            let key = guard.key().map_err(|e| self.failed(&e))?;
            open.keys.remove(key).map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Open, Error> {
        let mut slot = self.open.lock().expect("no panic while the index opens");
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let opened = Database::builder(&self.path)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .and_then(|database| {
                let keys = database.keyspace("ids", KeyspaceCreateOptions::default)?;
                // The folder's own entry: a trimmed log cannot do without what is in it.
                self.path.parent().map_or(Ok(()), file::sync_dir)?;
                Ok(Open { database, keys })
            })
            .map_err(|e| self.failed(&e))?;
        Ok(slot.insert(opened).clone())
    }

    fn failed(&self, error: &fjall::Error) -> Error {
        Error::Ids {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").field("path", &self.path).finish()
    }
}
