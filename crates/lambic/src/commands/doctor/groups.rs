//! Control groups of environments that killed servers left behind.
//!
//! A start with the same data folder removes its own. Those of a folder that is never started again stay as long as the
//! machine runs, and take a little of the kernel's memory each: no trouble, but nobody else tells of them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use lambic_sandbox::process::ENVIRONMENTS;

use super::Check;
use crate::output::counted;

/// Other groups that are looked through, and how deep.
const GROUPS_MAX: usize = 20_000;
const DEPTH_MAX: usize = 12;
/// Where all of them are mounted nearly everywhere.
const USUAL: &str = "/sys/fs/cgroup";

pub fn check() -> Check {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let roots = roots(&mounts);
    let (found, is_whole) = look(&roots);
    let (mut told, note) = told(&roots, &found);
    if !is_whole {
        let _ = write!(told, " (the first {GROUPS_MAX} groups were looked through)");
    }
    Check::noted("groups left", told, note)
}

/// Where control groups are mounted.
fn roots(mounts: &str) -> Vec<PathBuf> {
    let roots = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        ["cgroup", "cgroup2"]
            .contains(&kind)
            .then(|| PathBuf::from(at))
    });
    roots.collect()
}

/// The environments that have groups, and whether a process is in one of them: version 1 has several for each. False: there
/// are more groups than are looked through.
fn look(roots: &[PathBuf]) -> (BTreeMap<String, bool>, bool) {
    let mut found = BTreeMap::new();
    let mut left: Vec<(PathBuf, usize)> = roots.iter().map(|root| (root.clone(), 0)).collect();
    let mut looked = 0;
    while let Some((folder, depth)) = left.pop() {
        looked += 1;
        if looked > GROUPS_MAX {
            return (found, false);
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(ENVIRONMENTS) {
                *found.entry(name).or_insert(false) |= has_process(&entry.path());
            } else if depth < DEPTH_MAX {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    (found, true)
}

/// One of which nothing is known is taken to have some.
fn has_process(group: &Path) -> bool {
    let members = fs::read_to_string(group.join("cgroup.procs"));
    members.map_or(true, |members| !members.trim().is_empty())
}

/// What was found, and how it is removed if that can be.
fn told(roots: &[PathBuf], found: &BTreeMap<String, bool>) -> (String, Option<String>) {
    let used = found.values().filter(|has_process| **has_process).count() as u64;
    let left = found.len() as u64 - used;
    let of_others = match used {
        0 => String::new(),
        _ => format!("; {} more with processes", counted(used, "environment")),
    };
    if left == 0 {
        return (format!("none{of_others}"), None);
    }
    let places = match roots.iter().all(|root| root.starts_with(USUAL)) {
        true => USUAL.to_owned(),
        false => {
            let roots = roots.iter().map(|root| root.display().to_string());
            roots.collect::<Vec<_>>().join(" ")
        }
    };
    let note = format!(
        "killed servers left them; a start with the same data folder removes its own, and, while no server runs, this removes all (as root; the kernel keeps those with processes):\n  find {places} -depth -type d -name '{ENVIRONMENTS}*' -exec rmdir {{}} +"
    );
    let left = counted(left, "environment");
    (format!("{left} without a process{of_others}"), Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_mounted_where_the_kernel_says() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"];
        assert_eq!(roots(mounts), expected.map(PathBuf::from));
    }

    #[test]
    fn only_groups_without_processes_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let group = |path: &str, members: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), members).unwrap();
        };
        let roots = ["memory", "pids"].map(|name| folder.path().join(name));
        let none = ("none".to_owned(), None);
        assert_eq!(told(&roots, &look(&roots).0), none);
        group("memory/other", "");
        group("memory/lambic/lambic-environment-1-a", "12\n");
        let used = "none; 1 environment more with processes".to_owned();
        assert_eq!(told(&roots, &look(&roots).0), (used, None));
        // Of one environment, in two hierarchies; a process that is in one of them only.
        group("pids/lambic/lambic-environment-1-a", "");
        group("memory/lambic/lambic-environment-1-b", "");
        group("pids/lambic/lambic-environment-1-b", "");
        group("pids/service/lambic/lambic-environment-2-c", "");
        let (found, is_whole) = look(&roots);
        assert!(is_whole);
        let left: Vec<&str> = found
            .iter()
            .filter(|(_, has_process)| !**has_process)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(left, ["lambic-environment-1-b", "lambic-environment-2-c"]);
        let (told, note) = told(&roots, &found);
        assert_eq!(
            told,
            "2 environments without a process; 1 environment more with processes"
        );
        let note = note.unwrap();
        let command = "-name 'lambic-environment-*' -exec rmdir {} +";
        assert!(note.ends_with(command), "{note}");
        fs::create_dir_all(folder.path().join("pids/lambic-environment-3-d")).unwrap();
        assert!(look(&roots).0["lambic-environment-3-d"], "nobody knows");
    }
}
