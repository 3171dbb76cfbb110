//! Where the index of record ids keeps its keys: fjall, or what a simulation hands in.

use std::{fmt::Debug, path::Path, sync::Arc};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use lambic_base::file;

use crate::ids::{self, ALL_HASHED};

/// The index's own journal; the default of half a GiB is more than the log itself usually holds.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// Why a key store failed, for the user to read.
#[derive(Debug, Clone)]
pub enum KeyStoreError {
    /// It takes nothing more, and what it had taken is there: open it again when what hindered it, such as a full disk,
    /// is gone.
    Stopped(String),
    /// What was put since the last sync may never become durable, whatever a later sync says.
    Unsure(String),
}

/// Keys in their order.
pub type Keys = Box<dyn Iterator<Item = Result<Box<[u8]>, KeyStoreError>> + Send>;

/// Keys with values.
pub trait KeyStore: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyStoreError>;
    /// After a crash all of them are there or none, and none without those put before.
    fn put(
        &self,
        entries: &mut dyn Iterator<Item = (Box<[u8]>, Vec<u8>)>,
    ) -> Result<(), KeyStoreError>;
    fn remove_prefix(&self, prefix: &[u8]) -> Result<(), KeyStoreError>;
    /// All keys as of now, whatever is put while they are read.
    fn keys(&self) -> Keys;
    /// Returns when everything put before is durable.
    fn sync(&self) -> Result<(), KeyStoreError>;
}

/// Opens key stores, each in a folder of its own.
pub trait KeyStores: Debug + Send + Sync {
    fn exists(&self, path: &Path) -> bool;
    /// Made if it is missing; its folder's own entry is durable then.
    fn open(&self, path: &Path) -> Result<Arc<dyn KeyStore>, KeyStoreError>;
}

#[derive(Debug)]
pub(crate) struct Fjall;

struct FjallStore {
    database: Database,
    keys: Keyspace,
}

fn stopped(error: impl std::fmt::Display) -> KeyStoreError {
    KeyStoreError::Stopped(error.to_string())
}

impl KeyStores for Fjall {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn KeyStore>, KeyStoreError> {
        let database = Database::builder(path)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .map_err(stopped)?;
        let keys = database
            .keyspace("ids", KeyspaceCreateOptions::default)
            .map_err(stopped)?;
        // A trimmed log cannot do without what is in it.
        path.parent()
            .map_or(Ok(()), file::sync_dir)
            .map_err(stopped)?;
        hash_all(&database, &keys).map_err(stopped)?;
        Ok(Arc::new(FjallStore { database, keys }))
    }
}

/// Brings an index of the first builds to hashes.
fn hash_all(database: &Database, keys: &Keyspace) -> Result<(), fjall::Error> {
    if keys.contains_key(ALL_HASHED)? {
        return Ok(());
    }
    for guard in keys.iter() {
        let raw = guard.key()?;
        if let Some(hashed) = ids::hashed(&raw) {
            let mut batch = database.batch();
            batch.insert(keys, &*hashed, b"".as_slice());
            batch.remove(keys, raw);
            batch.commit()?;
        }
    }
    keys.insert(ALL_HASHED, b"".as_slice())
}

impl KeyStore for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KeyStoreError> {
        let value = self.keys.get(key).map_err(stopped)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn put(
        &self,
        entries: &mut dyn Iterator<Item = (Box<[u8]>, Vec<u8>)>,
    ) -> Result<(), KeyStoreError> {
        let mut batch = self.database.batch();
        for (key, value) in entries {
            batch.insert(&self.keys, &*key, value);
        }
        batch.commit().map_err(stopped)
    }

    fn remove_prefix(&self, prefix: &[u8]) -> Result<(), KeyStoreError> {
        for guard in self.keys.prefix(prefix) {
            let key = guard.key().map_err(stopped)?;
            self.keys.remove(key).map_err(stopped)?;
        }
        Ok(())
    }

    fn keys(&self) -> Keys {
        let keys = self.database.snapshot().iter(&self.keys);
        Box::new(keys.map(|guard| {
            let key = guard.key().map_err(stopped)?;
            Ok(Box::from(&*key))
        }))
    }

    fn sync(&self) -> Result<(), KeyStoreError> {
        let synced = self.database.persist(PersistMode::SyncAll);
        synced.map_err(|error| match error {
            // An earlier write failed, and the sync was not tried.
            fjall::Error::Poisoned => stopped(error),
            error => KeyStoreError::Unsure(error.to_string()),
        })
    }
}
