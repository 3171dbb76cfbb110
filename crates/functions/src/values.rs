//! Values that functions keep, in an index of their own (`kv/`) that is opened when the first one needs it.
//!
//! A key is `function NUL store NUL key`; names of functions and stores have no NUL. Beside them, under `function NUL`,
//! stands how many bytes the function keeps, changed together with what it counts. What is set or deleted is durable
//! when that returns.

mod saved;

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
pub use saved::{Saved, inspect, restore};

/// The default of half a GiB is more than most functions keep.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// In one batch when a function's values are dropped.
const DROPPED_AT_ONCE: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the values of function `{function}` would have {bytes} bytes, over the limit of {limit}; delete some"
    )]
    Full {
        function: String,
        bytes: u64,
        limit: u64,
    },
    #[error("the values of functions cannot be read or written: {0}")]
    Store(#[from] fjall::Error),
    #[error("a key of function `{function}` is no text: the values of functions are damaged")]
    Damaged { function: String },
}

pub struct Values {
    dir: PathBuf,
    /// Of one function.
    bytes_max: u64,
    opened: Mutex<Option<Arc<Opened>>>,
}

struct Opened {
    database: Database,
    values: Keyspace,
    /// Counts are read and written by one at a time.
    counting: Mutex<()>,
}

impl Values {
    pub fn new(dir: PathBuf, bytes_max: u64) -> Values {
        Values {
            dir,
            bytes_max,
            opened: Mutex::default(),
        }
    }

    fn opened(&self) -> Result<Arc<Opened>, Error> {
        let mut opened = self.opened.lock().expect("no panic while it is held");
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let made = Arc::new(Opened::open(&self.dir)?);
        *opened = Some(made.clone());
        Ok(made)
    }

    pub fn get(&self, function: &str, store: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let value = self.opened()?.values.get(place(function, store, key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub fn set(&self, function: &str, store: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        let opened = self.opened()?;
        let place = place(function, store, key);
        {
            let _counting = opened.counting.lock().expect("no panic while it is held");
            let former = opened.bytes_of(&place)?;
            let bytes =
                opened.bytes(function)?.saturating_sub(former) + weight(&place, value.len());
            if bytes > self.bytes_max {
                return Err(Error::Full {
                    function: function.to_owned(),
                    bytes,
                    limit: self.bytes_max,
                });
            }
            let mut batch = opened.database.batch();
            batch.insert(&opened.values, place, value);
            batch.insert(&opened.values, count_of(function), bytes.to_be_bytes());
            batch.commit()?;
        }
        Ok(opened.database.persist(PersistMode::SyncAll)?)
    }

    pub fn delete(&self, function: &str, store: &str, key: &str) -> Result<(), Error> {
        let opened = self.opened()?;
        let place = place(function, store, key);
        {
            let _counting = opened.counting.lock().expect("no panic while it is held");
            let former = opened.bytes_of(&place)?;
            if former == 0 {
                return Ok(());
            }
            let bytes = opened.bytes(function)?.saturating_sub(former);
            let mut batch = opened.database.batch();
            batch.remove(&opened.values, place);
            batch.insert(&opened.values, count_of(function), bytes.to_be_bytes());
            batch.commit()?;
        }
        Ok(opened.database.persist(PersistMode::SyncAll)?)
    }

    /// Up to `count` keys behind `after`, in the order of their bytes.
    pub fn keys(
        &self,
        function: &str,
        store: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, Error> {
        let start = place(function, store, after.unwrap_or_default());
        let prefix = place(function, store, "");
        let behind = (Bound::Excluded(start), Bound::Unbounded);
        let mut keys = Vec::new();
        for found in self.opened()?.values.range(behind).take(count) {
            let found = found.key()?;
            let Some(key) = found.strip_prefix(&*prefix) else {
                break;
            };
            let key = std::str::from_utf8(key).map_err(|_| Error::Damaged {
                function: function.to_owned(),
            })?;
            keys.push(key.to_owned());
        }
        Ok(keys)
    }

    /// Drops everything of one function.
    pub fn forget(&self, function: &str) -> Result<(), Error> {
        if !self.dir.exists() {
            return Ok(());
        }
        let opened = self.opened()?;
        let _counting = opened.counting.lock().expect("no panic while it is held");
        loop {
            let found = opened.values.prefix(count_of(function));
            let mut batch = opened.database.batch();
            let mut dropped = 0;
            for found in found.take(DROPPED_AT_ONCE) {
                batch.remove(&opened.values, found.key()?);
                dropped += 1;
            }
            batch.commit()?;
            if dropped < DROPPED_AT_ONCE {
                break;
            }
        }
        Ok(opened.database.persist(PersistMode::SyncAll)?)
    }

    /// Drops what functions that are gone had left: the server was killed before it came to that.
    pub fn forget_all_but(&self, is_there: impl Fn(&str) -> bool) -> Result<(), Error> {
        if !self.dir.exists() {
            return Ok(());
        }
        let opened = self.opened()?;
        let mut from = Bound::Unbounded;
        loop {
            let Some(found) = opened.values.range((from, Bound::Unbounded)).next() else {
                return Ok(());
            };
            let found = found.key()?;
            let name = found.split(|&byte| byte == 0).next().unwrap_or_default();
            let function = String::from_utf8_lossy(name).into_owned();
            if !is_there(&function) {
                self.forget(&function)?;
            }
            // Behind all that begins with the name and NUL.
            from = Bound::Included([name, &[1]].concat());
        }
    }
}

impl Opened {
    fn open(dir: &Path) -> Result<Opened, fjall::Error> {
        let database = Database::builder(dir)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()?;
        let values = database.keyspace("values", KeyspaceCreateOptions::default)?;
        // The folder's own entry: what is set is durable only with it.
        dir.parent().map_or(Ok(()), lambic_base::file::sync_dir)?;
        Ok(Opened {
            database,
            values,
            counting: Mutex::new(()),
        })
    }

    /// What a key counts; 0 if it is not there.
    fn bytes_of(&self, place: &[u8]) -> Result<u64, Error> {
        let value = self.values.size_of(place)?;
        Ok(value.map_or(0, |value| weight(place, value as usize)))
    }

    fn bytes(&self, function: &str) -> Result<u64, Error> {
        let count = self.values.get(count_of(function))?;
        let Some(count) = count else {
            return Ok(0);
        };
        let count = <[u8; 8]>::try_from(&*count).map_err(|_| Error::Damaged {
            function: function.to_owned(),
        })?;
        Ok(u64::from_be_bytes(count))
    }
}

fn weight(place: &[u8], value_bytes: usize) -> u64 {
    (place.len() + value_bytes) as u64
}

fn count_of(function: &str) -> Vec<u8> {
    [function.as_bytes(), &[0]].concat()
}

fn place(function: &str, store: &str, key: &str) -> Vec<u8> {
    [
        function.as_bytes(),
        &[0],
        store.as_bytes(),
        &[0],
        key.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(dir: &Path) -> Values {
        Values::new(dir.join("kv"), 1_000)
    }

    #[test]
    fn values_are_apart_by_function_and_store_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let kept = values(dir.path());
        assert!(!dir.path().join("kv").exists());
        for (function, store, key) in [("f", "s", "k"), ("f", "t", "k"), ("f-g", "s", "k")] {
            assert_eq!(kept.get(function, store, key).unwrap(), None);
            let value = format!("{function}/{store}");
            kept.set(function, store, key, value.as_bytes()).unwrap();
        }
        drop(kept);
        let kept = values(dir.path());
        assert_eq!(kept.get("f", "s", "k").unwrap(), Some(b"f/s".to_vec()));
        assert_eq!(kept.get("f", "t", "k").unwrap(), Some(b"f/t".to_vec()));
        kept.delete("f", "s", "k").unwrap();
        kept.delete("f", "s", "k").unwrap();
        assert_eq!(kept.get("f", "s", "k").unwrap(), None);
        kept.forget("f").unwrap();
        assert_eq!(kept.get("f", "t", "k").unwrap(), None);
        assert_eq!(kept.get("f-g", "s", "k").unwrap(), Some(b"f-g/s".to_vec()));
    }

    #[test]
    fn keys_come_in_order_and_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let kept = values(dir.path());
        for key in ["b", "a", "ä", "a\0b", "c"] {
            kept.set("f", "s", key, b"").unwrap();
        }
        kept.set("f", "s2", "x", b"").unwrap();
        let all = ["a", "a\0b", "b", "c", "ä"];
        assert_eq!(kept.keys("f", "s", None, 10).unwrap(), all);
        assert_eq!(kept.keys("f", "s", None, 2).unwrap(), all[..2]);
        assert_eq!(kept.keys("f", "s", Some("a\0b"), 2).unwrap(), all[2..4]);
        assert_eq!(kept.keys("f", "s", Some("ä"), 2).unwrap(), [""; 0]);
        assert_eq!(kept.keys("f", "other", None, 2).unwrap(), [""; 0]);
        assert_eq!(kept.keys("g", "s", None, 0).unwrap(), [""; 0]);
    }

    #[test]
    fn a_function_keeps_so_many_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = values(dir.path());
        let large = [0; 900];
        for _ in 0..3 {
            kept.set("f", "s", "large", &large).unwrap();
        }
        let full = kept.set("f", "s", "more", &large).unwrap_err();
        assert_eq!(
            full.to_string(),
            "the values of function `f` would have 1817 bytes, over the limit of 1000; delete some"
        );
        kept.set("g", "s", "large", &large).unwrap();
        drop(kept);
        let kept = values(dir.path());
        assert!(kept.set("f", "s", "more", &large).is_err());
        kept.set("f", "s", "large", b"small now").unwrap();
        kept.set("f", "s", "more", &large).unwrap();
        kept.delete("f", "s", "more").unwrap();
        kept.set("f", "s", "other", &large).unwrap();
    }

    #[test]
    fn what_nobody_owns_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let kept = values(dir.path());
        kept.forget_all_but(|_| false).unwrap();
        assert!(!dir.path().join("kv").exists());
        for function in ["a", "ab", "b", "c"] {
            for index in 0..20 {
                kept.set(function, "s", &index.to_string(), b"v").unwrap();
            }
        }
        kept.forget_all_but(|name| name == "ab" || name == "c")
            .unwrap();
        for (function, keys) in [("a", 0), ("ab", 20), ("b", 0), ("c", 20)] {
            assert_eq!(kept.keys(function, "s", None, 100).unwrap().len(), keys);
        }
        kept.set("a", "s", "k", &[0; 900]).unwrap();
    }
}
