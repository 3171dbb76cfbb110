//! Small files that are either the old or the new content after a crash, never a mixture.
//!
//! Large files (segments, Parquet) have their own rules in their rooms.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Disk, RealDisk};

/// Replaces `path` by `bytes` so that after a crash it holds the old or the new content, whole.
///
/// Durable when it returns `Ok`: the content is synced before the rename, the folder after it. On an
/// error `path` still holds a whole content, the old or (if only the folder's sync failed) the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomically_on(&RealDisk, path, bytes)
}

/// [`write_atomically`] on any disk.
pub fn write_atomically_on(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    static ATTEMPT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` does not name a file", path.display()),
        )
    })?;
    // The number keeps two threads that replace the same file out of each other's way.
    let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.{attempt}.tmp", std::process::id()));
    let temporary = parent(path).join(temporary_name);
    let written = disk.create(&temporary).and_then(|file| {
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        disk.rename(&temporary, path)
    });
    if let Err(error) = written {
        // The leftover is harmless; the first error is the one to tell.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_dir(parent(path))
}

/// The whole content of a file on any disk.
pub fn read_on(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Creates `dir` and its missing parents, and makes their entries in the folders above durable.
///
/// The entry of a folder that exists is made durable too: a killed process may have made it and not come to
/// this.
pub fn create_dirs(dir: &Path) -> io::Result<()> {
    let above = parent(dir);
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(above),
        Err(error) if error.kind() == io::ErrorKind::NotFound && above != dir => {
            create_dirs(above)?;
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => sync_dir(above),
            }
        }
        Err(_) if dir.is_dir() => match sync_dir(above) {
            // What we may not even read, we did not make.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        },
        Err(error) => Err(error),
    }
}

/// Makes creations, renames and removals in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("lambic-base-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the temporary folder is writable");
        dir
    }

    #[test]
    fn the_new_content_replaces_the_old_and_leaves_nothing_behind() {
        let dir = scratch("file");
        let path = dir.join("a.json");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn folders_are_made_with_their_parents() {
        let dir = scratch("folders");
        for _ in 0..2 {
            create_dirs(&dir.join("a").join("b").join("c")).unwrap();
        }
        assert!(dir.join("a/b/c").is_dir());
        fs::write(dir.join("file"), "x").unwrap();
        assert!(create_dirs(&dir.join("file")).is_err());
        assert!(create_dirs(&dir.join("file").join("a")).is_err());
        create_dirs(Path::new("/")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let dir = scratch("missing");
        let error = write_atomically(&dir.join("no").join("a"), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(write_atomically(Path::new("/"), b"x").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
