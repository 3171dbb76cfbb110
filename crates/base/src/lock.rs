//! One process per data folder: an advisory lock on `LOCK`, which the system gives up when the process ends.
//!
//! It holds against other Lambic processes, not against other programs.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::file;

const LOCK_FILE: &str = "LOCK";
/// Behind its number: the owner has begun its work, and has come to its end.
const RUNS: &str = "runs";
const ENDED: &str = "ended";
/// What a killed owner was about to start has its files, and with them the lock, until the system has ended that too.
const DYING_TIME_MAX: Duration = Duration::from_secs(5);
const DYING_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the data folder `{}` is in use by process {}; stop it or choose another folder",
        dir.display(), pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
    )]
    Held { dir: PathBuf, pid: Option<u32> },
    #[error("cannot lock the data folder `{}`: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
}

/// Held for as long as it lives.
#[derive(Debug)]
pub struct DirLock {
    // Closing the file releases the lock; the file itself stays, since removing it would let two
    // processes lock two different files of the same name.
    file: File,
    was_left: bool,
}

impl DirLock {
    /// Creates `dir` if it is missing.
    pub fn acquire(dir: &Path) -> Result<DirLock, Error> {
        let failed = |source| Error::Io {
            dir: dir.to_owned(),
            source,
        };
        // What is acknowledged below it must not vanish with its own entry when the power is cut.
        file::create_dirs(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        let locked = lock(&mut file, File::try_lock);
        locked.map_err(|error| refused(dir, &mut file, error))?;
        let was_left = is_left(&text(&mut file).unwrap_or_default());
        // An owner that does not get to its work leaves what was known of the one before.
        let left = if was_left { RUNS } else { "" };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}\n{left}", std::process::id()))
            .and_then(|()| file.flush())
            .map_err(failed)?;
        Ok(DirLock { file, was_left })
    }

    /// True if the last owner that [began](Self::begin) ended without a word, as by a kill.
    pub fn was_left(&self) -> bool {
        self.was_left
    }

    /// From here on there is something that can be cut short.
    pub fn begin(&self) -> io::Result<()> {
        writeln!(&self.file, "{RUNS}")?;
        self.file.sync_data()
    }

    /// The owner's work is done: the next one need not think that it was cut short. The lock is still held.
    pub fn end(&self) {
        // Nothing but that word depends on it.
        let _ = writeln!(&self.file, "{ENDED}");
    }

    /// As [`Self::end`], of an owner that came to nothing: what is known of the one before stays.
    pub fn end_unless_left(&self) {
        if !self.was_left {
            self.end();
        }
    }

    /// Keeps owners away while the folder is looked at, and changes nothing in it. `None`: it never had an owner.
    pub fn look(dir: &Path) -> Result<Option<DirLock>, Error> {
        let mut file = match File::open(dir.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    dir: dir.to_owned(),
                    source,
                });
            }
        };
        let locked = lock(&mut file, File::try_lock_shared);
        locked.map_err(|error| refused(dir, &mut file, error))?;
        Ok(Some(DirLock {
            file,
            was_left: false,
        }))
    }
}

/// Waits only for what an owner leaves that has ended.
fn lock(
    file: &mut File,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match try_lock(file) {
            Err(TryLockError::WouldBlock)
                if start.elapsed() < DYING_TIME_MAX && owner(file).is_some_and(has_ended) =>
            {
                thread::sleep(DYING_PAUSE);
            }
            result => return result,
        }
    }
}

/// Whose lock it is, by its own word.
fn owner(file: &mut File) -> Option<u32> {
    let text = text(file).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn is_left(text: &str) -> bool {
    let has = |wanted| text.split_whitespace().skip(1).any(|word| word == wanted);
    has(RUNS) && !has(ENDED)
}

/// False where that cannot be found out.
fn has_ended(pid: u32) -> bool {
    if !Path::new("/proc/self/stat").exists() {
        return false;
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // Behind the name, which may be anything: the state. A zombie holds nothing.
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.starts_with(['Z', 'X'])
}

fn refused(dir: &Path, file: &mut File, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => Error::Held {
            dir: dir.to_owned(),
            // It helps the reader of the message; without it the refusal still stands.
            pid: owner(file),
        },
        TryLockError::Error(source) => Error::Io {
            dir: dir.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_killed_owner_leaves_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("lambic-base-dying-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        // Larger than any process number.
        fs::write(dir.join(LOCK_FILE), "4294967295\n").unwrap();
        let left = File::open(dir.join(LOCK_FILE)).unwrap();
        left.try_lock().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(200));
                drop(left);
            });
            drop(DirLock::acquire(&dir).unwrap());
        });
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn an_owner_that_was_cut_short_is_known() {
        let dir = std::env::temp_dir().join(format!("lambic-base-left-{}", std::process::id()));
        let next = || DirLock::acquire(&dir).unwrap();
        assert!(!next().was_left(), "there was none before");
        // It did not get to its work.
        let first = next();
        assert!(!first.was_left());
        first.begin().unwrap();
        drop(first);
        assert!(next().was_left());
        // Neither did this one, and nothing was told in order since.
        let second = next();
        assert!(second.was_left());
        second.begin().unwrap();
        second.end();
        // It is its lock until it is dropped.
        match DirLock::acquire(&dir) {
            Err(Error::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("expected a refusal, got {other:?}"),
        }
        drop(second);
        assert!(!next().was_left());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_second_owner_is_refused_by_name_until_the_first_is_gone() {
        let dir = std::env::temp_dir().join(format!("lambic-base-lock-{}", std::process::id()));
        let first = DirLock::acquire(&dir).unwrap();
        match DirLock::acquire(&dir) {
            Err(Error::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("expected a refusal, got {other:?}"),
        }
        assert!(matches!(DirLock::look(&dir), Err(Error::Held { .. })));
        drop(first);
        let looking = DirLock::look(&dir).unwrap();
        assert!(looking.is_some());
        assert!(DirLock::look(&dir).is_ok());
        assert!(matches!(DirLock::acquire(&dir), Err(Error::Held { .. })));
        drop(looking);
        drop(DirLock::acquire(&dir).unwrap());
        fs::remove_dir_all(&dir).unwrap();
        assert!(DirLock::look(&dir).unwrap().is_none());
        assert!(!dir.exists());
    }
}
