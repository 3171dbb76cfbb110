//! Small files that are either the old or the new content after a crash, never a mixture.
//!
//! Large files (segments, Parquet) have their own rules in their rooms.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Replaces `path` by `bytes` so that after a crash it holds the old or the new content, whole.
///
/// Durable when it returns `Ok`: the content is synced before the rename, the folder after it. On an
/// error `path` still holds a whole content, the old or (if only the folder's sync failed) the new one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static ATTEMPT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` does not name a file", path.display()),
        )
    })?;
    let dir = parent(path);
    // The number keeps two threads that replace the same file out of each other's way.
    let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.{attempt}.tmp", std::process::id()));
    let temporary = dir.join(temporary_name);
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // The leftover is harmless; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir)
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
    fn a_missing_folder_is_an_error() {
        let dir = scratch("missing");
        let error = write_atomically(&dir.join("no").join("a"), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(write_atomically(Path::new("/"), b"x").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
