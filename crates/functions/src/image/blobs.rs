//! What images are made of, as it came: manifests, configurations and packed layers, each in a file that is named by its
//! SHA-256. Images share what they have in common.
//!
//! A file gets its name when it is whole, is the size that was said, and has that digest: what stands here was checked
//! once, and is checked again whenever it is read.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    Problem,
    manifest::{DOCUMENT_BYTES_MAX, Descriptor, Digest},
};
use crate::Error;

const TEMPORARY: &str = ".tmp";

#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub fn in_dir(dir: PathBuf) -> Blobs {
        Blobs { dir }
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    pub fn has(&self, blob: &Descriptor) -> bool {
        std::fs::metadata(self.path(&blob.digest)).is_ok_and(|found| found.len() == blob.size)
    }

    /// A manifest or a configuration.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|error| missing(&path, error))?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &path))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(damaged(&path, "its content is not what its name says")),
        }
    }

    pub fn open(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| missing(&path, error))
    }

    /// Whether a file is what its name says.
    pub fn check(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        let mut file = self.open(digest)?;
        let mut hash = Hashing(Sha256::new());
        std::io::copy(&mut file, &mut hash).map_err(Error::io("read", &path))?;
        match Digest::of_hash(hash.0) == *digest {
            true => Ok(()),
            false => Err(damaged(&path, "its content is not what its name says")),
        }
    }

    pub fn keep(&self, bytes: &[u8]) -> Result<Digest, Problem> {
        let mut writer = self.writer(None)?;
        writer.write(bytes)?;
        Ok(writer.finish()?.digest)
    }

    /// Of a blob that was described; without a description, it is taken as it comes.
    pub fn writer(&self, expected: Option<&Descriptor>) -> Result<Writer, Problem> {
        let name = format!("{}{TEMPORARY}", uuid::Uuid::now_v7());
        let path = self.dir.join(name);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(Writer {
            blobs: self.clone(),
            expected: expected.cloned(),
            file,
            hash: Sha256::new(),
            written: 0,
            path,
        })
    }

    pub fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "a part of an image stays");
        }
    }

    /// Removes all others, and what was not finished.
    pub fn keep_only(&self, kept: &BTreeSet<Digest>) -> Result<(), Error> {
        for entry in std::fs::read_dir(&self.dir).map_err(Error::io("read", &self.dir))? {
            let path = entry.map_err(Error::io("read", &self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_kept = name
                .and_then(Digest::from_hex)
                .is_some_and(|digest| kept.contains(&digest));
            if !is_kept {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => Error::io("open", path)(error),
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A blob on its way. One that is dropped leaves nothing.
pub struct Writer {
    blobs: Blobs,
    expected: Option<Descriptor>,
    file: File,
    hash: Sha256,
    written: u64,
    path: PathBuf,
}

/// What was written.
pub struct Written {
    pub digest: Digest,
    pub size: u64,
    /// False if it was there before.
    pub is_new: bool,
}

impl Writer {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.written += bytes.len() as u64;
        if let Some(expected) = &self.expected
            && self.written > expected.size
        {
            return Err(wrong(expected, "is longer than its manifest says"));
        }
        self.hash.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    pub fn finish(self) -> Result<Written, Problem> {
        let digest = Digest::of_hash(self.hash.clone());
        if let Some(expected) = &self.expected {
            if self.written < expected.size {
                return Err(wrong(expected, "is shorter than its manifest says"));
            }
            // What it is instead is not told: it may be a file that is nobody's business.
            if digest != expected.digest {
                return Err(wrong(expected, "has another content than its digest says"));
            }
        }
        self.file
            .sync_all()
            .map_err(Error::io("sync", &self.path))?;
        let path = self.blobs.path(&digest);
        let is_new = !path.exists();
        std::fs::rename(&self.path, &path).map_err(Error::io("create", &path))?;
        lambic_base::file::sync_dir(&self.blobs.dir).map_err(Error::io("sync", &self.blobs.dir))?;
        Ok(Written {
            digest,
            size: self.written,
            is_new,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone if it was finished.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn wrong(blob: &Descriptor, how: &str) -> Problem {
    Problem::Bad(format!("its part {} {how}", blob.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: Default::default(),
        }
    }

    fn put(blobs: &Blobs, expected: &Descriptor, bytes: &[u8]) -> Result<Written, Problem> {
        let mut writer = blobs.writer(Some(expected))?;
        writer.write(bytes)?;
        writer.finish()
    }

    #[test]
    fn only_what_was_described_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_dir(dir.path().to_owned());
        let blob = described(b"content");
        for (bytes, how) in [
            (&b"conten"[..], "shorter"),
            (b"contents", "longer"),
            (b"Content", "another content"),
        ] {
            let Err(Problem::Bad(told)) = put(&blobs, &blob, bytes) else {
                panic!("{how}")
            };
            assert!(told.contains(how) && told.contains(&blob.digest.to_string()));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(put(&blobs, &blob, b"content").unwrap().is_new);
        assert!(!put(&blobs, &blob, b"content").unwrap().is_new);
        assert!(blobs.has(&blob));
        assert_eq!(blobs.document(&blob.digest).unwrap(), b"content");
        blobs.check(&blob.digest).unwrap();
        std::fs::write(blobs.path(&blob.digest), b"Content").unwrap();
        assert!(matches!(
            blobs.document(&blob.digest),
            Err(Error::Damaged { .. })
        ));
        assert!(blobs.check(&blob.digest).is_err());
    }

    #[test]
    fn what_nobody_needs_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::in_dir(dir.path().to_owned());
        let [one, two] = [b"one", b"two"].map(|bytes| blobs.keep(bytes).unwrap());
        let unfinished = blobs.writer(None).unwrap();
        std::mem::forget(unfinished);
        blobs.keep_only(&[one.clone()].into()).unwrap();
        assert!(blobs.open(&one).is_ok());
        assert!(matches!(blobs.open(&two), Err(Error::Damaged { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
