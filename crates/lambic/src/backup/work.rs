//! Who is at work in a target of backups: as long as a mark stands there, nobody else removes, or nobody else writes.
//!
//! A mark is put anew every minute as long as its work goes on. Where its process can be looked for, it is; elsewhere one
//! that was not put anew for a while is of a process that is gone.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _, path::Path};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{Error, Target};

const IN_PROGRESS: &str = "in-progress";
const RENEWED_EVERY: Duration = Duration::from_secs(60);
/// Not put anew for so long.
const GONE_AFTER_MIN: i64 = 15;

/// The works of this process, by their ids.
static WORKING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn working() -> MutexGuard<'static, BTreeSet<String>> {
    WORKING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Worker {
    /// `backup` or `delete`.
    what: String,
    id: String,
    host: String,
    pid: u32,
    /// Of the process, so that another one of the same number is not taken for it.
    started: String,
    /// In which run of which machine, and in which of its spaces of processes: names of hosts repeat.
    place: String,
}

impl Worker {
    fn this(what: &str, id: &str) -> Worker {
        let pid = std::process::id();
        Worker {
            what: what.to_owned(),
            id: id.to_owned(),
            host: host(),
            pid,
            started: started(pid).unwrap_or_default(),
            place: place(),
        }
    }

    /// `None` if that cannot be told from here.
    fn lives(&self) -> Option<bool> {
        if self.place.is_empty() || self.place != place() {
            return None;
        }
        let is_there = started(self.pid).as_ref() == Some(&self.started);
        match self.pid == std::process::id() && is_there {
            true => Some(working().contains(&self.id)),
            false => Some(is_there),
        }
    }
}

pub fn host() -> String {
    read("/proc/sys/kernel/hostname")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// Empty where it cannot be told.
fn place() -> String {
    let boot = read("/proc/sys/kernel/random/boot_id");
    match fs::read_link("/proc/self/ns/pid") {
        Ok(space) if !boot.is_empty() => format!("{boot} {}", space.display()),
        _ => String::new(),
    }
}

/// When a process was started, as the system counts.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.rsplit_once(')')?.1;
    behind_name.split_whitespace().nth(19).map(str::to_owned)
}

/// As long as it is there, nobody else removes, or nobody else writes.
pub struct AtWork {
    target: Target,
    path: Path,
    id: String,
    renewing: Option<JoinHandle<()>>,
    /// The mark may be there.
    is_marked: bool,
}

impl AtWork {
    /// Says that this process writes (`backup`) or removes (`delete`) in `target`; refused while another one is in the
    /// way.
    pub async fn begin(target: &Target, what: &str, id: &str) -> Result<AtWork, Error> {
        let worker = Worker::this(what, id);
        let bytes = serde_json::to_vec(&worker).expect("plain data serialises");
        working().insert(id.to_owned());
        let mut work = AtWork {
            target: target.clone(),
            path: target.at(&[IN_PROGRESS, &format!("{id}.json")]),
            id: id.to_owned(),
            renewing: None,
            is_marked: true,
        };
        target.put_new(&work.path, bytes.clone()).await?;
        let (store, path) = (target.store().clone(), work.path.clone());
        work.renewing = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWED_EVERY).await;
                if let Err(error) = store.put(&path, bytes.clone().into()).await {
                    tracing::warn!(%path, %error, "the mark of a backup could not be put anew");
                }
            }
        }));
        // Both put first and look then: of two that are in each other's way at least one sees the other.
        match work.in_the_way(what).await {
            Ok(None) => Ok(work),
            Ok(Some(refused)) => {
                work.end().await;
                Err(Error::Refused(refused))
            }
            Err(error) => {
                work.end().await;
                Err(error)
            }
        }
    }

    async fn in_the_way(&self, what: &str) -> Result<Option<String>, Error> {
        let store = self.target.store();
        let folder = self.target.at(&[IN_PROGRESS]);
        let all: Vec<ObjectMeta> = store.list(Some(&folder)).try_collect().await?;
        // By the clock of the store, whatever those of the machines say.
        let now = all.iter().find(|mark| mark.location == self.path);
        let now = now.map(|mark| mark.last_modified);
        for mark in all.iter().filter(|mark| mark.location != self.path) {
            let Some(bytes) = self.target.get(&mark.location).await? else {
                continue;
            };
            let worker = serde_json::from_slice::<Worker>(&bytes).ok();
            if what == "backup" && worker.as_ref().is_some_and(|other| other.what == "backup") {
                continue;
            }
            let age = now.map_or(0, |now| (now - mark.last_modified).num_minutes());
            let lives = worker.as_ref().and_then(Worker::lives);
            if lives.unwrap_or(age < GONE_AFTER_MIN) {
                let who = worker.map_or_else(
                    || "somebody".to_owned(),
                    |worker| {
                        format!(
                            "a {} by process {} on {}",
                            worker.what, worker.pid, worker.host
                        )
                    },
                );
                return Ok(Some(format!(
                    "{who} is at work in `{}`; wait for its end (one that was cut off on another machine counts as ended \
                     {} minutes after it was last heard of)",
                    self.target.shown(),
                    GONE_AFTER_MIN,
                )));
            }
            self.target.delete(&mark.location).await?;
        }
        Ok(None)
    }

    /// An error if others took this work for one that had ended.
    pub async fn check(&self) -> Result<(), Error> {
        match self.target.get(&self.path).await? {
            Some(_) => Ok(()),
            None => Err(Error::Refused(format!(
                "the mark `{}` of this work was removed in `{}`: what was copied may be gone again; run it once more",
                self.path,
                self.target.shown()
            ))),
        }
    }

    /// Waits for it, so that the program may end then. What was done stands, whether the mark can be removed or not.
    pub async fn end(mut self) {
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
            // Put anew after it was removed, it would stay.
            let _ = renewing.await;
        }
        if let Err(error) = self.target.delete(&self.path).await {
            tracing::warn!(path = %self.path, %error, "the mark of a work that has ended cannot be removed");
        }
        self.is_marked = false;
    }
}

impl Drop for AtWork {
    /// Here, so that it also happens when whoever asked for the work goes away. A killed process does not come to it;
    /// it is found to be gone.
    fn drop(&mut self) {
        working().remove(&self.id);
        if let Some(renewing) = &self.renewing {
            renewing.abort();
        }
        if !self.is_marked {
            return;
        }
        if let Some(folder) = self.target.folder() {
            let _ = fs::remove_file(folder.join(self.path.as_ref()));
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (target, path) = (self.target.clone(), self.path.clone());
            runtime.spawn(async move { target.delete(&path).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        target: Target,
    }

    impl Folder {
        async fn new() -> Folder {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let data = folder.path().join("data");
            fs::create_dir(&data).expect("the folder is ours");
            let backups = folder.path().join("backups");
            let backups = backups.to_str().expect("a temporary path is UTF-8");
            let target = Target::create(backups, &data).await;
            let target = target.expect("a new folder");
            Folder { folder, target }
        }

        /// A mark that was put so many minutes ago.
        fn mark(&self, worker: &Worker, minutes: u64) {
            let marks = self.folder.path().join("backups").join(IN_PROGRESS);
            fs::create_dir_all(&marks).expect("the folder is ours");
            let path = marks.join(format!("{}.json", worker.id));
            let bytes = serde_json::to_vec(worker).expect("plain data serialises");
            fs::write(&path, bytes).expect("the folder is ours");
            let then = SystemTime::now() - Duration::from_secs(60 * minutes);
            let file = fs::File::options().write(true).open(&path);
            let set = file.and_then(|file| file.set_modified(then));
            set.expect("the file is ours");
        }

        async fn refused(&self, what: &str) -> Option<String> {
            match AtWork::begin(&self.target, what, "mine").await {
                Ok(work) => {
                    work.end().await;
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        }
    }

    fn elsewhere(what: &str) -> Worker {
        Worker {
            place: "another run of a machine of the same name".to_owned(),
            ..Worker::this(what, "theirs")
        }
    }

    #[tokio::test]
    async fn who_cannot_be_looked_for_counts_as_gone_after_a_while() {
        let folder = Folder::new().await;
        folder.mark(&elsewhere("backup"), 14);
        let refused = folder.refused("delete").await.expect("it may live");
        assert!(refused.contains("a backup by process"), "{refused}");
        assert_eq!(
            folder.refused("backup").await,
            None,
            "backups do not mind each other"
        );
        folder.mark(&elsewhere("backup"), 16);
        assert_eq!(folder.refused("delete").await, None);
        folder.mark(&elsewhere("delete"), 0);
        let refused = folder.refused("backup").await.expect("it may live");
        assert!(refused.contains("a delete by process"), "{refused}");
    }

    #[tokio::test]
    async fn who_can_be_looked_for_is() {
        let folder = Folder::new().await;
        // This process is at no such work.
        folder.mark(&Worker::this("backup", "left over"), 0);
        assert_eq!(folder.refused("delete").await, None);
        let gone = Worker {
            started: "before this one".to_owned(),
            ..Worker::this("backup", "gone")
        };
        folder.mark(&gone, 0);
        assert_eq!(folder.refused("delete").await, None);

        let work = AtWork::begin(&folder.target, "backup", "theirs").await;
        let work = work.expect("nobody is in the way");
        assert!(folder.refused("delete").await.is_some());
        work.check().await.expect("its mark is there");
        drop(work);
        assert_eq!(folder.refused("delete").await, None);
    }

    #[tokio::test]
    async fn work_that_was_taken_for_gone_finds_out() {
        let folder = Folder::new().await;
        let work = AtWork::begin(&folder.target, "backup", "theirs").await;
        let work = work.expect("nobody is in the way");
        folder.target.delete(&work.path).await.expect("it is there");
        let error = work.check().await.expect_err("its mark is gone");
        assert!(error.to_string().contains("run it once more"), "{error}");
        work.end().await;
    }
}
