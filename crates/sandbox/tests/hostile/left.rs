//! What environments leave behind on the host: nothing.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::common::LONG;

/// What is left on the host of environments whose folder was this one.
pub fn left_of(dir: &Path) -> Vec<String> {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let mut left = Vec::new();
    if dir.exists() {
        left.push(dir.display().to_string());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&name))
            .map(str::to_owned),
    );
    left.extend(groups(&name));
    left
}

pub async fn assert_nothing_left(dir: &Path) {
    let start = Instant::now();
    loop {
        let left = left_of(dir);
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < LONG, "{left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Control groups whose names begin so.
pub fn groups(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    found.push(entry.path().display().to_string());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

/// How much there is of everything that environments take, of those whose folders' names begin with one prefix.
#[derive(Debug, PartialEq, Eq, PartialOrd, Clone)]
pub struct Counts {
    pub children: usize,
    pub mounts: usize,
    pub groups: usize,
    pub descriptors: usize,
    pub files: usize,
    /// Segments of shared memory of the host.
    pub shared: usize,
}

impl Counts {
    pub fn take(prefix: &str) -> Counts {
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        let this = std::process::id();
        let is_child = |entry: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // Behind the name, which may be anything: state, parent.
            let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1);
            parent.is_some_and(|parent| parent == this.to_string())
        };
        let entries = |path: &Path| std::fs::read_dir(path).unwrap().flatten();
        Counts {
            children: entries(Path::new("/proc")).filter(is_child).count(),
            mounts: read("/proc/self/mountinfo").lines().count(),
            groups: groups(prefix).len(),
            descriptors: entries(Path::new("/proc/self/fd")).count(),
            files: entries(&std::env::temp_dir())
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .count(),
            shared: read("/proc/sysvipc/shm").lines().count(),
        }
    }

    /// Whether none of them is more than in the other.
    fn is_within(&self, other: &Counts) -> bool {
        self.children <= other.children
            && self.mounts <= other.mounts
            && self.groups <= other.groups
            && self.descriptors <= other.descriptors
            && self.files <= other.files
            && self.shared <= other.shared
    }

    /// What ends does so in a moment.
    pub async fn assert_no_more_than(prefix: &str, before: &Counts) -> Counts {
        let start = Instant::now();
        loop {
            let now = Counts::take(prefix);
            if now.is_within(before) {
                return now;
            }
            assert!(start.elapsed() < LONG, "{now:?}, which was {before:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
