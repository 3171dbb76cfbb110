//! All values as of one moment, written as plain files, because the index's own files change at any time; and an index
//! made of such files.
//!
//! `<function>-<number>.values`: entries in the order of their keys, each the lengths of key and value (four bytes each,
//! big-endian), then both. What a function keeps stands in files of its own, so that those of one that has not changed
//! are as before.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use fjall::{PersistMode, Readable, Snapshot};
use lambic_base::file;
use lambic_model::FunctionName;

use super::{Opened, Values};
use crate::Error;

/// A file ends with the entry that comes to it.
const FILE_BYTES_MAX: usize = 16 << 20;
/// In one batch when an index is made.
const BATCH_BYTES_MAX: usize = 4 << 20;
const ENDING: &str = "values";

/// Holds what it needs: values are changed meanwhile.
pub struct Saved {
    opened: Arc<Opened>,
    snapshot: Snapshot,
    dir: PathBuf,
}

impl Values {
    /// All of now; `None` if no function has ever kept one.
    pub fn saved(&self) -> Result<Option<Saved>, Error> {
        if !self.dir.exists() {
            return Ok(None);
        }
        let opened = self
            .opened()
            .map_err(|error| unreadable(&self.dir, &error))?;
        Ok(Some(Saved {
            snapshot: opened.database.snapshot(),
            opened,
            dir: self.dir.clone(),
        }))
    }
}

struct Writing {
    function: FunctionName,
    number: u32,
    bytes: usize,
    path: PathBuf,
    file: BufWriter<fs::File>,
}

impl Writing {
    fn create(dir: &Path, function: FunctionName, number: u32) -> Result<Writing, Error> {
        let path = dir.join(format!("{function}-{number:06}.{ENDING}"));
        let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
        Ok(Writing {
            function,
            number,
            bytes: 0,
            path,
            file: BufWriter::new(file),
        })
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
        let mut write = || -> io::Result<()> {
            self.file.write_all(&length(key)?.to_be_bytes())?;
            self.file.write_all(&length(value)?.to_be_bytes())?;
            self.file.write_all(key)?;
            self.file.write_all(value)
        };
        write().map_err(Error::io("write", &self.path))?;
        self.bytes += 8 + key.len() + value.len();
        Ok(())
    }

    fn end(mut self) -> Result<(), Error> {
        self.file.flush().map_err(Error::io("write", &self.path))
    }
}

impl Saved {
    /// Writes them into `dir`, a new folder. Nothing is synced: it is there to be copied. Blocks.
    pub fn write(self, dir: &Path) -> Result<(), Error> {
        file::create_dirs(dir).map_err(Error::io("create", dir))?;
        let mut open: Option<Writing> = None;
        for entry in self.snapshot.iter(&self.opened.values) {
            let entry = entry.into_inner();
            let (key, value) = entry.map_err(|error| unreadable(&self.dir, &error))?;
            let function = owner(&key).ok_or_else(|| Error::Damaged {
                path: self.dir.clone(),
                reason: "a key does not begin with the name of a function".to_owned(),
            })?;
            let number = match &open {
                Some(file) if file.function != function => Some(0),
                Some(file) if file.bytes >= FILE_BYTES_MAX => Some(file.number + 1),
                Some(_) => None,
                None => Some(0),
            };
            if let Some(number) = number {
                let next = Writing::create(dir, function, number)?;
                if let Some(former) = open.replace(next) {
                    former.end()?;
                }
            }
            if let Some(file) = &mut open {
                file.add(&key, &value)?;
            }
        }
        open.map_or(Ok(()), Writing::end)
    }
}

fn owner(key: &[u8]) -> Option<FunctionName> {
    let name = key.split(|&byte| byte == 0).next()?;
    FunctionName::new(std::str::from_utf8(name).ok()?).ok()
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Makes the index `to` of the files that [`Saved::write`] wrote, which go then; without such files nothing is done.
/// Can be repeated with the same files after a kill. Blocks.
pub fn restore(from: &Path, to: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("read", from))?,
    };
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", to)(error));
        }
        _ => {}
    }
    let opened = Opened::open(to).map_err(|error| unreadable(to, &error))?;
    for entry in entries {
        let path = entry.map_err(Error::io("read", from))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == ENDING)
        {
            put_all(&opened, &path, to)?;
        }
    }
    let persisted = opened.database.persist(PersistMode::SyncAll);
    persisted.map_err(|error| unreadable(to, &error))?;
    drop(opened);
    fs::remove_dir_all(from).map_err(Error::io("remove", from))
}

fn put_all(opened: &Opened, path: &Path, to: &Path) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        let mut batch = opened.database.batch();
        let mut batch_bytes = 0;
        while !left.is_empty() && batch_bytes < BATCH_BYTES_MAX {
            let (key, value, rest) = first_entry(left).ok_or_else(|| Error::Damaged {
                path: path.to_owned(),
                reason: "it is cut".to_owned(),
            })?;
            batch.insert(&opened.values, key, value);
            batch_bytes += key.len() + value.len();
            left = rest;
        }
        batch.commit().map_err(|error| unreadable(to, &error))?;
    }
    Ok(())
}

/// Its key, its value, and what follows.
fn first_entry(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_bytes, rest) = bytes.split_first_chunk::<4>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*key_bytes) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_bytes) as usize)?;
    Some((key, value, rest))
}

/// How many values are kept in `dir`; every one is read. The index may be changed by it: look at a copy.
pub fn inspect(dir: &Path) -> Result<u64, Error> {
    let opened = Opened::open(dir).map_err(|error| unreadable(dir, &error))?;
    let mut values = 0;
    for entry in opened.values.iter() {
        let (key, _) = entry
            .into_inner()
            .map_err(|error| unreadable(dir, &error))?;
        // The others count what a function keeps.
        let parts = key.iter().filter(|&&byte| byte == 0).count();
        values += u64::from(parts > 1);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_of_one_moment_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Values::new(dir.path().join("kv"), 100 << 20);
        assert!(kept.saved().unwrap().is_none());
        let large = vec![7; 6 << 20];
        for key in ["a", "b", "c", "d"] {
            kept.set("large", "s", key, &large).unwrap();
        }
        kept.set("f", "s", "", b"").unwrap();
        kept.set("f", "s", "k", b"then").unwrap();
        let saved = kept.saved().unwrap().unwrap();
        kept.set("f", "s", "k", b"later").unwrap();
        kept.set("f", "s", "new", b"later").unwrap();
        kept.forget("large").unwrap();
        let files = dir.path().join("saved");
        saved.write(&files).unwrap();
        let mut names: Vec<_> = fs::read_dir(&files)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "f-000000.values",
                "large-000000.values",
                "large-000001.values"
            ]
        );

        let to = dir.path().join("restored");
        // What a killed restore had made is made anew.
        fs::create_dir(&to).unwrap();
        fs::write(to.join("half"), "").unwrap();
        restore(&files, &to).unwrap();
        assert!(!files.exists());
        restore(&files, &to).unwrap();
        let restored = Values::new(to.clone(), 100 << 20);
        assert_eq!(restored.get("f", "s", "k").unwrap(), Some(b"then".to_vec()));
        assert_eq!(restored.get("f", "s", "").unwrap(), Some(Vec::new()));
        assert_eq!(restored.get("f", "s", "new").unwrap(), None);
        let keys = restored.keys("large", "s", None, 10).unwrap();
        assert_eq!(keys, ["a", "b", "c", "d"]);
        // What a function may keep is counted as before.
        assert!(restored.set("large", "s", "e", &vec![0; 90 << 20]).is_err());
        drop(restored);
        assert_eq!(inspect(&to).unwrap(), 6);
    }

    #[test]
    fn a_file_that_is_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Values::new(dir.path().join("kv"), 1_000);
        kept.set("f", "s", "k", b"value").unwrap();
        let files = dir.path().join("saved");
        kept.saved().unwrap().unwrap().write(&files).unwrap();
        let path = files.join("f-000000.values");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = restore(&files, &dir.path().join("to")).unwrap_err();
        assert!(matches!(error, Error::Damaged { path: named, .. } if named == path));
        assert!(path.exists());
    }
}
