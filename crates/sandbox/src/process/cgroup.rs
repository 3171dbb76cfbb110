//! Control groups: what all processes of one environment together may use, counted by the kernel.
//!
//! Version 2 where the controllers are there, else version 1, one folder of each hierarchy. The groups of
//! environments lie below the one that the server is in (version 2: beside it, since a group with members cannot
//! hand on its controllers). `/tmp` lies in memory, so that the kernel's bound is the sum of both; the function's own
//! share of it is watched besides.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, mpsc},
    time::Duration,
};

use super::{
    members::Members,
    tree::{Tasks, read},
};

/// AWS's: this much memory comes with one processor.
const MEMORY_MB_OF_A_CPU: u64 = 1_769;
/// Processes and threads of one environment together, as in AWS.
pub const TASKS_MAX: u32 = 1_024;
const PERIOD_US: u64 = 100_000;
/// How many times its share what has just begun has: enough for the kernel to let it run as soon as it wakes, and few
/// enough that what runs long goes on beside it.
const FRESH: u64 = 8;
/// What the kernel itself needs for the processes, and what is shared out of the page cache.
const MEMORY_EXTRA_MB: u64 = 48;
const GROUP: &str = "lambic";
/// A group is empty when its last process has been waited for, a moment after it was killed.
const REMOVE_ROUNDS: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
/// After all those rounds.
const REMOVE_PAUSE_LONG: Duration = Duration::from_secs(1);

/// Where groups can be made: found out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parents {
    /// The folder, and the controllers that its groups have.
    V2 {
        folder: PathBuf,
        controllers: Vec<Controller>,
    },
    V1(Vec<(Controller, PathBuf)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
}

const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

impl Controller {
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        }
    }
}

/// The bounds of one environment.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub memory_mb: u32,
    pub tmp_mb: u32,
}

/// How the processors are shared out when several want them: in proportion to memory among those of one kind, and what has
/// just begun before what has run for a while, as schedulers with feedback queues have it. Whoever answers within
/// milliseconds does not wait for a neighbour that computes for minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Fresh,
    Long,
}

/// The groups of one environment; removed when dropped.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
    /// Which of them counts what.
    controllers: Vec<(Controller, PathBuf)>,
    is_v2: bool,
}

impl Parents {
    /// Finds where this process may make groups.
    pub fn find() -> io::Result<Parents> {
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo")?);
        let own = own(&fs::read_to_string("/proc/self/cgroup")?);
        let v2 = match v2(&mounts, &own) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let mut v1 = Vec::new();
        for controller in CONTROLLERS {
            let Some(mount) = mounts
                .iter()
                .find(|mount| mount.controllers.contains(&controller))
            else {
                continue;
            };
            let Some(own) = own.iter().find(|own| own.controllers.contains(&controller)) else {
                continue;
            };
            let folder = mount.folder_of(&own.path).join(GROUP);
            match make_parent(&folder) {
                Ok(()) => v1.push((controller, folder)),
                Err(error) => {
                    tracing::debug!(%error, folder = %folder.display(), "no control groups can be made here");
                }
            }
        }
        if v1.is_empty() {
            return Err(v2);
        }
        Ok(Parents::V1(v1))
    }

    pub fn has(&self, controller: Controller) -> bool {
        match self {
            Parents::V2 { controllers, .. } => controllers.contains(&controller),
            Parents::V1(parents) => parents.iter().any(|(one, _)| *one == controller),
        }
    }

    pub fn lacks(&self) -> Vec<Controller> {
        let lacks = |controller: &Controller| !self.has(*controller);
        CONTROLLERS.into_iter().filter(lacks).collect()
    }

    fn folders(&self) -> Vec<&Path> {
        match self {
            Parents::V2 { folder, .. } => vec![folder],
            Parents::V1(parents) => parents.iter().map(|(_, folder)| folder.as_path()).collect(),
        }
    }

    /// Makes the groups of one environment, with bounds of memory and tasks, and its share of processors that others
    /// want too. Returns also the files by which a process enters them.
    pub fn make(&self, name: &str, bounds: Bounds) -> io::Result<(Group, Vec<OwnedFd>)> {
        let mut group = Group {
            folders: Vec::new(),
            controllers: Vec::new(),
            is_v2: matches!(self, Parents::V2 { .. }),
        };
        for parent in self.folders() {
            let folder = parent.join(name);
            fs::create_dir(&folder)?;
            group.folders.push(folder);
        }
        group.controllers = match self {
            Parents::V2 {
                folder,
                controllers,
            } => {
                let folder = folder.join(name);
                let of = |&controller| (controller, folder.clone());
                controllers.iter().map(of).collect()
            }
            Parents::V1(parents) => {
                let of =
                    |(controller, parent): &(Controller, PathBuf)| (*controller, parent.join(name));
                parents.iter().map(of).collect()
            }
        };
        group.set(Controller::Memory, bounds)?;
        group.set(Controller::Pids, bounds)?;
        // What starts is user code as well: it may take what is free, but from others only its share.
        group.set_share(bounds, Share::Long)?;
        // A single thread that moves itself need not wait until all others have passed a safe point, which takes
        // milliseconds. In version 2 it may not move so between groups of processes.
        let entry = if group.is_v2 { "cgroup.procs" } else { "tasks" };
        let mut entries = Vec::new();
        for folder in &group.folders {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(folder.join(entry))?;
            entries.push(OwnedFd::from(file));
        }
        Ok((group, entries))
    }

    /// Removes the groups whose names begin so, with whatever still runs in them.
    pub fn remove_left_behind(&self, prefix: &str) {
        for parent in self.folders() {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                if !entry.file_name().to_string_lossy().starts_with(prefix) {
                    continue;
                }
                let members = fs::read_to_string(entry.path().join("cgroup.procs"));
                for pid in members.unwrap_or_default().lines() {
                    // 0 is one that this process cannot see; to kill that would be to kill our own group.
                    if let Ok(pid @ 1..) = pid.parse::<i32>() {
                        let pid = nix::unistd::Pid::from_raw(pid);
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                }
                remove(&entry.path());
            }
        }
    }
}

/// Files, what is written into them, and whether it must succeed.
fn settings(
    controller: Controller,
    bounds: Bounds,
    is_v2: bool,
) -> Vec<(&'static str, String, bool)> {
    let memory_mb = u64::from(bounds.memory_mb);
    let memory = (memory_mb + u64::from(bounds.tmp_mb) + MEMORY_EXTRA_MB) << 20;
    // At least one processor while nobody else wants it; in proportion to memory when somebody does.
    let quota_us = PERIOD_US.max(PERIOD_US * memory_mb / MEMORY_MB_OF_A_CPU);
    match (controller, is_v2) {
        (Controller::Memory, true) => vec![
            ("memory.max", memory.to_string(), true),
            ("memory.swap.max", "0".to_owned(), false),
            ("memory.oom.group", "1".to_owned(), false),
        ],
        (Controller::Memory, false) => vec![
            // Where swap is counted: memory and swap together, which is never less. Whichever way the bound goes, one
            // of the two writes of it is in time.
            ("memory.memsw.limit_in_bytes", memory.to_string(), false),
            ("memory.limit_in_bytes", memory.to_string(), true),
            ("memory.memsw.limit_in_bytes", memory.to_string(), false),
            ("memory.swappiness", "0".to_owned(), false),
        ],
        (Controller::Cpu, true) => vec![("cpu.max", format!("{quota_us} {PERIOD_US}"), false)],
        (Controller::Cpu, false) => vec![
            ("cpu.cfs_period_us", PERIOD_US.to_string(), false),
            ("cpu.cfs_quota_us", quota_us.to_string(), false),
        ],
        (Controller::Pids, _) => vec![("pids.max", TASKS_MAX.to_string(), true)],
    }
}

/// Of the processors, in proportion to memory.
fn share_of(bounds: Bounds, share: Share, is_v2: bool) -> (&'static str, String, bool) {
    let times = match share {
        Share::Fresh => FRESH,
        Share::Long => 1,
    };
    let of = |whole: u64| whole * times * u64::from(bounds.memory_mb) / MEMORY_MB_OF_A_CPU;
    match is_v2 {
        true => ("cpu.weight", of(100).clamp(1, 10_000).to_string(), true),
        false => ("cpu.shares", of(1_024).max(2).to_string(), true),
    }
}

impl Group {
    /// Sets what a controller keeps the environment to.
    pub fn set(&self, controller: Controller, bounds: Bounds) -> io::Result<()> {
        self.write(controller, settings(controller, bounds, self.is_v2))
    }

    /// Of the processors, when somebody else wants them.
    pub fn set_share(&self, bounds: Bounds, share: Share) -> io::Result<()> {
        self.write(Controller::Cpu, vec![share_of(bounds, share, self.is_v2)])
    }

    fn write(
        &self,
        controller: Controller,
        settings: Vec<(&'static str, String, bool)>,
    ) -> io::Result<()> {
        let Some(folder) = self.folder(controller) else {
            return Ok(());
        };
        for (file, value, is_needed) in settings {
            let result = fs::write(folder.join(file), value);
            if is_needed {
                result?;
            }
        }
        Ok(())
    }

    /// Takes the bound of processors away again: what is killed has work to do before it is gone, a thousand processes
    /// much of it.
    pub fn lift(&self) {
        self.write_cpu(("cpu.cfs_quota_us", "-1"), ("cpu.max", "max"));
    }

    /// From here on it has only what nobody else wants of the processors, and leaves them at once when somebody does, where
    /// the kernel has such groups (since Linux 5.15). All that give way are equal: it is for what is killed.
    pub fn give_way(&self) {
        self.write_cpu(("cpu.idle", "1"), ("cpu.idle", "1"));
    }

    /// Gives it a full share of the processors, where it does not come to its end otherwise: it holds memory meanwhile.
    pub fn hasten(&self) {
        // What gives way has no share that could be set.
        self.write_cpu(("cpu.idle", "0"), ("cpu.idle", "0"));
        self.write_cpu(("cpu.shares", "1024"), ("cpu.weight", "100"));
    }

    /// A file and its value, in version 1 and in version 2.
    fn write_cpu(&self, v1: (&str, &str), v2: (&str, &str)) {
        let (file, value) = if self.is_v2 { v2 } else { v1 };
        if let Some(folder) = self.folder(Controller::Cpu) {
            // It ends without as well.
            let _ = fs::write(folder.join(file), value);
        }
    }

    /// What is in it, but for one; `None` where no controller counts it.
    pub fn members(&self, except: i32) -> Option<Members> {
        let folder = self.folder(Controller::Pids)?.to_owned();
        Some(Members { folder, except })
    }

    pub fn has(&self, controller: Controller) -> bool {
        self.folder(controller).is_some()
    }

    /// How many processes and threads are in it, the parent in between perhaps among them. It is a counter, which costs less
    /// than a list of [`Group::members`].
    pub fn tasks(&self) -> Option<usize> {
        let folder = self.folder(Controller::Pids)?;
        read(folder.join("pids.current")).ok()?.trim().parse().ok()
    }

    /// What [`Group::tasks`] reads and its bound, to be used again and again.
    pub fn open_tasks(&self) -> Option<Tasks> {
        let folder = self.folder(Controller::Pids)?;
        Some(Tasks {
            current: File::open(folder.join("pids.current")).ok()?,
            max: File::options()
                .write(true)
                .open(folder.join("pids.max"))
                .ok()?,
            limit: TASKS_MAX,
        })
    }

    fn folder(&self, controller: Controller) -> Option<&Path> {
        let of = |(one, _): &&(Controller, PathBuf)| *one == controller;
        self.controllers
            .iter()
            .find(of)
            .map(|(_, folder)| folder.as_path())
    }

    /// What the processes hold for themselves, bytes: without files, and what they share counts once.
    pub fn memory_bytes(&self) -> Option<u64> {
        let text = read(self.folder(Controller::Memory)?.join("memory.stat")).ok()?;
        Some(field(&text, if self.is_v2 { "anon" } else { "total_rss" }))
    }

    /// The most that was held at one time, bytes, also of files. It outlives the processes.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let text = read(self.folder(Controller::Memory)?.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// How many processes the kernel has killed because memory ran out.
    pub fn out_of_memory_kills(&self) -> u64 {
        let Some(folder) = self.folder(Controller::Memory) else {
            return 0;
        };
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = read(folder.join(file)).unwrap_or_default();
        field(&text, "oom_kill")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.folders.drain(..) {
            if fs::remove_dir(&folder).is_err() {
                remove_later(folder);
            }
        }
    }
}

/// A folder that is there may be another user's.
fn make_parent(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK)?),
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

fn remove(folder: &Path) {
    for _ in 0..REMOVE_ROUNDS {
        if is_removed(folder) {
            return;
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
    tracing::warn!(folder = %folder.display(), "a control group stays: something still runs in it");
}

fn is_removed(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// A thread of its own waits for groups to be empty, however long that takes: whoever drops an environment may not wait.
fn remove_later(folder: PathBuf) {
    static REMOVER: OnceLock<Mutex<mpsc::Sender<PathBuf>>> = OnceLock::new();
    let remover = REMOVER.get_or_init(|| {
        let (folders, queue) = mpsc::channel::<PathBuf>();
        let started = std::thread::Builder::new()
            .name("lambic-groups".to_owned())
            .spawn(move || remove_when_empty(&queue));
        // The next start of the server removes what is left behind.
        if let Err(error) = started {
            tracing::warn!(%error, "no thread can be started that removes control groups");
        }
        Mutex::new(folders)
    });
    let _ = remover.lock().expect("sending does not panic").send(folder);
}

fn remove_when_empty(queue: &mpsc::Receiver<PathBuf>) {
    // With the rounds that each of them has been looked at.
    let mut left: Vec<(PathBuf, u32)> = Vec::new();
    loop {
        let is_patient = left.iter().all(|(_, rounds)| *rounds > REMOVE_ROUNDS);
        let next = if left.is_empty() {
            queue.recv().map_err(mpsc::RecvTimeoutError::from)
        } else if is_patient {
            queue.recv_timeout(REMOVE_PAUSE_LONG)
        } else {
            queue.recv_timeout(REMOVE_PAUSE)
        };
        match next {
            Ok(folder) => left.push((folder, 0)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        left.retain_mut(|(folder, rounds)| {
            *rounds = rounds.saturating_add(1);
            if *rounds == REMOVE_ROUNDS {
                tracing::warn!(folder = %folder.display(), "a control group is not empty yet");
            }
            !is_removed(folder)
        });
    }
}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Which of its folders is mounted.
    root: String,
    at: PathBuf,
    is_v2: bool,
    controllers: Vec<Controller>,
}

impl Mount {
    /// The folder of a group, whose path counts from the root of the hierarchy.
    fn folder_of(&self, group: &str) -> PathBuf {
        let below = group.strip_prefix(self.root.trim_end_matches('/'));
        let below = below.unwrap_or(group);
        self.at.join(below.trim_start_matches('/'))
    }
}

/// One line of `/proc/self/cgroup`.
#[derive(Debug, PartialEq, Eq)]
struct OwnGroup {
    is_v2: bool,
    controllers: Vec<Controller>,
    path: String,
}

fn controllers(names: &str, by: char) -> Vec<Controller> {
    let names: Vec<&str> = names.split(by).collect();
    let has = |controller: &Controller| names.contains(&controller.name());
    CONTROLLERS.into_iter().filter(has).collect()
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (left, right): (Vec<&str>, Vec<&str>) =
            (left.split(' ').collect(), right.split(' ').collect());
        let ([_, _, _, root, at, ..], [kind @ ("cgroup" | "cgroup2"), _, options, ..]) =
            (left.as_slice(), right.as_slice())
        else {
            continue;
        };
        mounts.push(Mount {
            root: (*root).to_owned(),
            at: PathBuf::from(at),
            is_v2: *kind == "cgroup2",
            controllers: controllers(options, ','),
        });
    }
    mounts
}

fn own(cgroup: &str) -> Vec<OwnGroup> {
    let mut own = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        if let (Some(number), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next())
        {
            own.push(OwnGroup {
                is_v2: number == "0" && names.is_empty(),
                controllers: controllers(names, ','),
                path: path.to_owned(),
            });
        }
    }
    own
}

/// The place for groups of version 2, with its controllers handed on.
fn v2(mounts: &[Mount], own: &[OwnGroup]) -> io::Result<Parents> {
    let none = || io::Error::other("no control groups are mounted that this process may change");
    let mount = mounts.iter().find(|mount| mount.is_v2).ok_or_else(none)?;
    let own = own.iter().find(|own| own.is_v2).ok_or_else(none)?;
    // Where an earlier look has moved us down already.
    let server = format!("/{GROUP}-server");
    let path = own.path.strip_suffix(&server).unwrap_or(&own.path);
    let folder = mount.folder_of(path);
    let offered = fs::read_to_string(folder.join("cgroup.controllers"))?;
    let offered = controllers(offered.trim(), ' ');
    if offered.is_empty() {
        return Err(none());
    }
    // Members and controllers exclude each other, but for the root of the hierarchy: we move down.
    let is_root = !folder.join("cgroup.type").exists();
    if !is_root {
        let server = folder.join(format!("{GROUP}-server"));
        match fs::create_dir(&server) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::write(server.join("cgroup.procs"), std::process::id().to_string())?;
    }
    let groups = folder.join(GROUP);
    make_parent(&groups)?;
    for parent in [&folder, &groups] {
        for controller in &offered {
            // Others in the same group keep a controller from being handed on: then it is missing, and said so.
            let _ = fs::write(
                parent.join("cgroup.subtree_control"),
                format!("+{}", controller.name()),
            );
        }
    }
    let handed_on = fs::read_to_string(groups.join("cgroup.subtree_control"))?;
    let controllers = controllers(handed_on.trim(), ' ');
    if controllers.is_empty() {
        return Err(none());
    }
    Ok(Parents::V2 {
        folder: groups,
        controllers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_what_the_kernel_says() {
        let mounts = mounts(
            "22 1 0:20 / /proc rw - proc proc rw\n\
             30 25 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
             31 25 0:27 /docker/abc /sys/fs/cgroup/cpu rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
             32 25 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
        );
        assert_eq!(mounts.len(), 3);
        assert!(mounts[0].is_v2 && mounts[0].controllers.is_empty());
        assert_eq!(mounts[1].controllers, [Controller::Cpu]);
        let own = own("4:memory:/service/one\n1:cpu,cpuacct:/docker/abc/two\n0::/\n");
        assert_eq!(own[0].controllers, [Controller::Memory]);
        assert!(own[2].is_v2);
        for (mount, own, folder) in [
            (&mounts[0], &own[2], "/sys/fs/cgroup/unified"),
            (&mounts[1], &own[1], "/sys/fs/cgroup/cpu/two"),
            (&mounts[2], &own[0], "/sys/fs/cgroup/memory/service/one"),
        ] {
            assert_eq!(mount.folder_of(&own.path), Path::new(folder));
        }
    }

    #[test]
    fn what_does_not_end_while_it_gives_way_gets_a_full_share() {
        let folder = tempfile::tempdir().unwrap();
        let written = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        for (is_v2, file, share) in [(false, "cpu.shares", "1024"), (true, "cpu.weight", "100")] {
            let group = Group {
                folders: Vec::new(),
                controllers: vec![(Controller::Cpu, folder.path().to_owned())],
                is_v2,
            };
            group.give_way();
            assert_eq!(written("cpu.idle"), "1");
            group.hasten();
            assert_eq!(written("cpu.idle"), "0");
            assert_eq!(written(file), share);
        }
    }

    #[test]
    fn processors_come_with_memory() {
        for (memory_mb, quota, weight) in [
            (128, "100000 100000", "7"),
            (1_769, "100000 100000", "100"),
            (10_240, "578858 100000", "578"),
        ] {
            let bounds = Bounds {
                memory_mb,
                tmp_mb: 512,
            };
            assert_eq!(settings(Controller::Cpu, bounds, true)[0].1, quota);
            assert_eq!(share_of(bounds, Share::Long, true).1, weight);
            // Version 2 has no larger ones than 10,000.
            let fresh: u64 = share_of(bounds, Share::Fresh, true).1.parse().unwrap();
            assert_eq!(fresh / weight.parse::<u64>().unwrap(), FRESH);
        }
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), 3);
    }
}
