//! What was unpacked, as two digests: of how it all looks, which is checked whenever an image is used, and of all that is
//! in it, which is checked when somebody asks (`lambic doctor`).

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::manifest::Digest;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Of names, kinds, rights, sizes and times.
    pub looks: Digest,
    /// Of the files' contents too.
    pub content: Digest,
    pub files: u64,
    /// Of all files.
    pub bytes: u64,
}

struct Walk {
    looks: Sha256,
    content: Option<Sha256>,
    files: u64,
    bytes: u64,
}

/// Of all that is below `root`.
pub fn of(root: &Path) -> io::Result<Listing> {
    let mut walk = Walk::new(Some(Sha256::new()));
    walk.folder(root)?;
    Ok(Listing {
        looks: Digest::of_hash(walk.looks),
        content: Digest::of_hash(walk.content.unwrap_or_default()),
        files: walk.files,
        bytes: walk.bytes,
    })
}

/// How it looks, without reading the files.
pub fn looks(root: &Path) -> io::Result<Digest> {
    let mut walk = Walk::new(None);
    walk.folder(root)?;
    Ok(Digest::of_hash(walk.looks))
}

impl Walk {
    fn new(content: Option<Sha256>) -> Walk {
        Walk {
            looks: Sha256::new(),
            content,
            files: 0,
            bytes: 0,
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        for hash in [Some(&mut self.looks), self.content.as_mut()]
            .into_iter()
            .flatten()
        {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }

    /// In the order of names, so that it is the same wherever it was unpacked.
    fn folder(&mut self, dir: &Path) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.entry(&entry)?;
        }
        // Where a folder ends.
        self.note(b"");
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry) -> io::Result<()> {
        let path = entry.path();
        let found = fs::symlink_metadata(&path)?;
        self.files += 1;
        self.note(entry.file_name().as_bytes());
        self.note(&found.mode().to_le_bytes());
        if found.is_dir() {
            return self.folder(&path);
        }
        if found.is_symlink() {
            self.note(fs::read_link(&path)?.as_os_str().as_bytes());
            return Ok(());
        }
        self.note(&found.len().to_le_bytes());
        self.note(&found.mtime().to_le_bytes());
        self.bytes += found.len();
        if let Some(content) = self.content.as_mut()
            && found.is_file()
        {
            let mut file = File::open(&path)?;
            io::copy(&mut file, &mut Hashing(content))?;
        }
        Ok(())
    }
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let at = |path: &str| root.join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), "content").unwrap();
        symlink("a/file", at("link")).unwrap();
        let time = fs::metadata(at("a/file")).unwrap().modified().unwrap();
        let before = of(root).unwrap();
        assert_eq!((before.files, before.bytes), (4, 7));
        assert_eq!(looks(root).unwrap(), before.looks);
        // The same length and time: what only reading finds.
        fs::write(at("a/file"), "Content").unwrap();
        let set_time = |time| {
            let file = File::options().write(true).open(at("a/file")).unwrap();
            file.set_modified(time).unwrap();
        };
        set_time(time);
        assert_eq!(looks(root).unwrap(), before.looks);
        assert_ne!(of(root).unwrap().content, before.content);
        fs::write(at("a/file"), "content").unwrap();
        set_time(time);
        assert_eq!(of(root).unwrap(), before);
        let changes: [&dyn Fn(); 7] = [
            &|| set_time(time - std::time::Duration::from_secs(5)),
            &|| fs::set_permissions(at("a/file"), fs::Permissions::from_mode(0o755)).unwrap(),
            &|| fs::write(at("a/file"), "longer content").unwrap(),
            &|| fs::write(at("a/b/new"), "").unwrap(),
            &|| fs::rename(at("a/b/new"), at("a/new")).unwrap(),
            &|| fs::remove_file(at("link")).unwrap(),
            &|| symlink("a", at("link")).unwrap(),
        ];
        let mut seen = vec![before.looks];
        for change in changes {
            change();
            let now = looks(root).unwrap();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }
}
