//! Where the index of record ids keeps its keys: fjall, or what a simulation hands in.

use std::{fmt::Debug, path::Path, sync::Arc};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use lambic_base::file;

/// The index's own journal; the default of half a GiB is more than the log itself usually holds.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// Keys with values. Errors are for the user to read.
pub trait KeyStore: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// After a crash all of them are there or none, and none without those put before.
    fn put(&self, entries: &mut dyn Iterator<Item = (Box<[u8]>, Vec<u8>)>) -> Result<(), String>;
    fn remove_prefix(&self, prefix: &[u8]) -> Result<(), String>;
    /// Returns when everything put before is durable.
    fn sync(&self) -> Result<(), String>;
}

/// Opens key stores, each in a folder of its own.
pub trait KeyStores: Debug + Send + Sync {
    fn exists(&self, path: &Path) -> bool;
    /// Made if it is missing; its folder's own entry is durable then.
    fn open(&self, path: &Path) -> Result<Arc<dyn KeyStore>, String>;
}

#[derive(Debug)]
pub(crate) struct Fjall;

struct FjallStore {
    database: Database,
    keys: Keyspace,
}

fn text(error: fjall::Error) -> String {
    error.to_string()
}

impl KeyStores for Fjall {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn KeyStore>, String> {
        let database = Database::builder(path)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .map_err(text)?;
        let keys = database
            .keyspace("ids", KeyspaceCreateOptions::default)
            .map_err(text)?;
        // A trimmed log cannot do without what is in it.
        let synced = path.parent().map_or(Ok(()), file::sync_dir);
        synced.map_err(|error| error.to_string())?;
        Ok(Arc::new(FjallStore { database, keys }))
    }
}

impl KeyStore for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let value = self.keys.get(key).map_err(text)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn put(&self, entries: &mut dyn Iterator<Item = (Box<[u8]>, Vec<u8>)>) -> Result<(), String> {
        let mut batch = self.database.batch();
        for (key, value) in entries {
            batch.insert(&self.keys, &*key, value);
        }
        batch.commit().map_err(text)
    }

    fn remove_prefix(&self, prefix: &[u8]) -> Result<(), String> {
        for guard in self.keys.prefix(prefix) {
            let key = guard.key().map_err(text)?;
            self.keys.remove(key).map_err(text)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), String> {
        self.database.persist(PersistMode::SyncAll).map_err(text)
    }
}
