//! A process and everything below it: counted, stopped, continued, killed.
//!
//! A process is held by a pidfd, not by its number: the system gives the number of a process that has ended to
//! another one, and a signal must never reach that. What is below a process is found through `/proc`.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{libc, sys::signal::Signal, unistd::Pid};

/// A tree comes to rest in less than a millisecond, unless the machine is very busy or the tree is hostile.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// The first looks follow each other at once, the rest at this distance or at that of the time that they take.
const STOP_ROUNDS_BUSY: usize = 10;
const STOP_PAUSE: Duration = Duration::from_millis(1);
/// Of the kernel's files at once: most fit.
const READ_BYTES: usize = 4_096;
/// From this round on a process that waits for its half-made child counts as at rest: it stops as soon as it wakes.
const STOP_ROUNDS_PATIENT: usize = 50;

#[derive(Debug)]
pub struct Process {
    pid: i32,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Pidfd(OwnedFd),
    /// This system has no pidfds.
    Number,
    Gone,
}

impl Process {
    /// The process with this number, which must be a child of `parent` and not have been waited for by us.
    pub fn open(pid: i32, parent: i32) -> Process {
        let pidfd = pidfd_open(pid);
        // Looked up while it is held: if it is that child now, it was when it was opened.
        let handle = match pidfd {
            _ if parent_of(pid) != Some(parent) => Handle::Gone,
            Ok(pidfd) => Handle::Pidfd(pidfd),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                Handle::Number
            }
            Err(_) => Handle::Gone,
        };
        Process { pid, handle }
    }

    /// A process that somebody holds for us.
    pub fn held(pid: i32, pidfd: OwnedFd) -> Process {
        Process {
            pid,
            handle: Handle::Pidfd(pidfd),
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor of its own for it, if the system has such and it is still there.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        match &self.handle {
            Handle::Pidfd(pidfd) => pidfd.try_clone().ok(),
            Handle::Number | Handle::Gone => None,
        }
    }

    /// Tells that it was waited for: its number may belong to another one now.
    pub fn forget_number(&mut self) {
        if matches!(self.handle, Handle::Number) {
            self.handle = Handle::Gone;
        }
    }

    /// True if it was there to get the signal; `None` only asks.
    fn signal(&self, signal: Option<Signal>) -> bool {
        match &self.handle {
            Handle::Pidfd(pidfd) => pidfd_send_signal(pidfd, signal).is_ok(),
            Handle::Number => nix::sys::signal::kill(Pid::from_raw(self.pid), signal).is_ok(),
            Handle::Gone => false,
        }
    }

    /// All processes below it.
    pub fn below(&self) -> Vec<Process> {
        self.below_at_most(usize::MAX)
    }

    /// Of the processes below it so many that it can be told whether there are more than `processes_max`: looking each
    /// of them up costs us, not those who started them.
    pub fn below_at_most(&self, processes_max: usize) -> Vec<Process> {
        let mut found = Vec::new();
        let mut left = vec![self.pid];
        while found.len() <= processes_max
            && let Some(parent) = left.pop()
        {
            for pid in look(parent, false).children {
                if found.len() > processes_max {
                    break;
                }
                let child = Process::open(pid, parent);
                if !matches!(child.handle, Handle::Gone) {
                    left.push(pid);
                    found.push(child);
                }
            }
        }
        // If it is still there, its number was its own all the time.
        if self.signal(None) { found } else { Vec::new() }
    }

    /// Kills it and everything below.
    pub fn kill_all(&self) {
        // With the first process of a namespace the kernel kills all others, a thousand as well, at their own cost;
        // looking them up would be at ours.
        if self.is_first_of_namespace() {
            self.signal(Some(Signal::SIGKILL));
            return;
        }
        // Stopped first, from the top down, so that nothing new appears below what is killed already; then looked
        // up before their parents die.
        self.signal(Some(Signal::SIGSTOP));
        let mut below = self.below();
        for process in &below {
            process.signal(Some(Signal::SIGSTOP));
        }
        below.extend(self.below());
        for process in below.iter().chain([self]) {
            process.signal(Some(Signal::SIGKILL));
        }
    }

    /// Stops it and everything below, and returns what is below when none of it runs any more. The error says why
    /// that did not come about; more processes than `processes_max` are not waited for.
    pub async fn stop_all(&self, processes_max: usize) -> Result<Vec<Process>, String> {
        let start = Instant::now();
        let mut stopped: Vec<i32> = Vec::new();
        for round in 0.. {
            let looked = Instant::now();
            if !self.signal(Some(Signal::SIGSTOP)) {
                return Err("it ended".to_owned());
            }
            let (below, are_at_rest) = self.stop_below(processes_max, round >= STOP_ROUNDS_PATIENT);
            if below.len() >= processes_max {
                return Err(format!("more than {processes_max} processes"));
            }
            if !self.signal(None) {
                return Err("it ended".to_owned());
            }
            let pids: Vec<i32> = below.iter().map(Process::pid).collect();
            // What lost its parent while it was looked at appears elsewhere in the next round.
            if are_at_rest && pids == stopped {
                return Ok(below);
            }
            if start.elapsed() > STOP_TIME_MAX {
                break;
            }
            stopped = pids;
            // A tree of a thousand threads takes long to look at: no more than half of the time goes there.
            let took = looked.elapsed();
            if round < STOP_ROUNDS_BUSY && took < STOP_PAUSE {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(STOP_PAUSE.max(took)).await;
            }
        }
        Err("it could not be stopped".to_owned())
    }

    /// Tells what is below to stop, and whether all of it and this one were at rest when their children were looked up:
    /// then there are no others.
    fn stop_below(&self, processes_max: usize, with_waiting: bool) -> (Vec<Process>, bool) {
        let (mut below, mut are_at_rest) = (Vec::new(), true);
        let mut left = vec![self.pid];
        while below.len() < processes_max
            && let Some(parent) = left.pop()
        {
            let found = look(parent, with_waiting);
            are_at_rest &= found.is_at_rest;
            for pid in found.children {
                let child = Process::open(pid, parent);
                if child.signal(Some(Signal::SIGSTOP)) {
                    left.push(pid);
                    below.push(child);
                }
            }
        }
        (below, are_at_rest)
    }

    pub fn go_on(&self) {
        self.signal(Some(Signal::SIGCONT));
    }

    pub fn terminate(&self) {
        self.signal(Some(Signal::SIGTERM));
    }

    /// False for one that has ended, though nobody has waited for it.
    pub fn is_running(&self) -> bool {
        let stat = stat(self.pid);
        !matches!(
            stat.as_ref().map_or("", |stat| stat.field(0)),
            "" | "Z" | "X"
        )
    }

    /// True if it is number 1 in a PID namespace of its own, below ours.
    fn is_first_of_namespace(&self) -> bool {
        let status = read(format!("/proc/{}/status", self.pid));
        status.is_ok_and(|status| is_first(&status))
    }

    /// Memory in use (or its highest ever, for `VmHWM`), bytes.
    pub fn memory_bytes(&self, field: &str) -> u64 {
        let Ok(status) = read(format!("/proc/{}/status", self.pid)) else {
            return 0;
        };
        // Its number may be another's by now.
        if !self.signal(None) {
            return 0;
        }
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(0, |kilobytes| kilobytes << 10)
    }
}

/// A process with one thread and nothing below it, in a group that counts: it can be stopped without a look at it.
#[derive(Debug)]
pub struct Alone {
    tasks: Tasks,
    /// In the group, when nothing was below.
    count: u32,
    is_held: bool,
}

/// How many processes and threads are in a group, and how many may be: the kernel's files, open.
#[derive(Debug)]
pub struct Tasks {
    pub current: File,
    pub max: File,
    pub limit: u32,
}

impl Alone {
    /// Of a process that stands still, with nothing below it. `None`: it is to be looked at from all sides each time.
    pub fn of(process: &Process, tasks: Tasks) -> Option<Alone> {
        let has_one_thread = stat(process.pid)?.field(17) == "1";
        // If it is still there, its number was its own all the time.
        let is_there = process.signal(None);
        let count = tasks.count()?;
        (has_one_thread && is_there).then_some(Alone {
            tasks,
            count,
            is_held: false,
        })
    }

    /// Stops it. False: somebody is there with it, or it is not there.
    ///
    /// It stops as soon as it is back from the kernel, and until then nobody comes to be there: the group takes no more.
    pub fn stop(&mut self, process: &Process) -> bool {
        // Whoever is there already may start others.
        let may_be =
            process.signal(Some(Signal::SIGSTOP)) && self.tasks.count() == Some(self.count);
        self.is_held = may_be && self.tasks.set_max(self.count).is_ok();
        let is_alone = self.is_held && self.tasks.count() == Some(self.count);
        if !is_alone {
            self.let_go();
        }
        is_alone
    }

    /// It may start others again.
    pub fn let_go(&mut self) {
        if std::mem::take(&mut self.is_held) {
            // If that fails it cannot start any, and says so.
            let _ = self.tasks.set_max(self.tasks.limit);
        }
    }
}

impl Tasks {
    fn count(&self) -> Option<u32> {
        let mut bytes = [0; 16];
        let read = self.current.read_at(&mut bytes, 0).ok()?;
        std::str::from_utf8(&bytes[..read])
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn set_max(&self, max: u32) -> io::Result<()> {
        self.max.write_all_at(max.to_string().as_bytes(), 0)
    }
}

/// By its numbers in all namespaces that it is in, from ours inwards.
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let mut numbers = numbers.into_iter().flat_map(str::split_ascii_whitespace);
    numbers.next().is_some() && numbers.last() == Some("1")
}

/// A file of the kernel's, which does not tell its length: in as few calls as can be. Names of processes are any bytes.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let end = bytes.len();
        bytes.resize(end + READ_BYTES, 0);
        let read = file.read(&mut bytes[end..])?;
        bytes.truncate(end + read);
        if read == 0 {
            return Ok(match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            });
        }
    }
}

fn tasks(pid: i32) -> impl Iterator<Item = PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| task.path())
}

/// What is known of a process or a thread by its `stat`: the name before the state may hold anything.
struct Stat(String);

impl Stat {
    fn read(folder: &Path) -> Option<Stat> {
        let stat = read(folder.join("stat")).ok()?;
        Some(Stat(stat[stat.rfind(')')? + 1..].to_owned()))
    }

    /// From the state on, which is the first.
    fn field(&self, number: usize) -> &str {
        let mut fields = self.0.split_ascii_whitespace();
        fields.nth(number).unwrap_or_default()
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Stat::read(format!("/proc/{pid}").as_ref())
}

fn parent_of(pid: i32) -> Option<i32> {
    stat(pid)?.field(1).parse().ok()
}

/// A process as it was found, at rest or not, and whom it had started then.
struct Look {
    is_at_rest: bool,
    children: Vec<i32>,
}

/// One that was at rest has no other children. `with_waiting`: a wait that no signal ends counts as rest.
fn look(pid: i32, with_waiting: bool) -> Look {
    let mut found = Look {
        is_at_rest: true,
        children: Vec::new(),
    };
    let Some(whole) = stat(pid) else {
        return found;
    };
    // Most have one thread, of which this says all.
    let threads = whole.field(17).parse::<u32>().unwrap_or(0);
    let tasks: Vec<PathBuf> = match threads {
        0 | 1 => vec![format!("/proc/{pid}/task/{pid}").into()],
        _ => tasks(pid).collect(),
    };
    let stats: Vec<Option<Stat>> = match threads {
        0 | 1 => vec![Some(whole)],
        _ => tasks.iter().map(|task| Stat::read(task)).collect(),
    };
    found.is_at_rest = stats.iter().flatten().all(|stat| match stat.field(0) {
        "T" | "t" | "Z" | "X" => true,
        "D" => with_waiting,
        _ => false,
    });
    for task in tasks {
        let some = read(task.join("children")).unwrap_or_default();
        let numbers = some.split_ascii_whitespace();
        found.children.extend(numbers.flat_map(str::parse::<i32>));
    }
    found
}

#[allow(unsafe_code)]
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on integers; neither the standard library nor nix has it. What it returns is a new
    // descriptor that nobody else owns, closed on exec.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if pidfd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(pidfd as libc::c_int))
    }
}

#[allow(unsafe_code)]
pub fn pidfd_send_signal(pidfd: &OwnedFd, signal: Option<Signal>) -> io::Result<()> {
    let signal = signal.map_or(0, |signal| signal as libc::c_int);
    // SAFETY: a system call on a descriptor that is open, an integer and no further information.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn open(child: &Child) -> Process {
        Process::open(child.id() as i32, std::process::id() as i32)
    }

    #[test]
    fn a_number_that_was_given_to_another_process_is_not_signalled() {
        let mut ended = sleeper();
        let handle = open(&ended).handle;
        ended.kill().unwrap();
        ended.wait().unwrap();
        let mut bystander = sleeper();
        let pid = bystander.id() as i32;
        let reused = Process { pid, handle };
        assert!(reused.below().is_empty());
        reused.kill_all();
        let mut forgotten = Process {
            pid,
            handle: Handle::Number,
        };
        forgotten.forget_number();
        forgotten.kill_all();
        // Were it hit, `kill` would have come first.
        Process::open(pid, std::process::id() as i32).signal(Some(Signal::SIGTERM));
        let status = bystander.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(libc::SIGTERM));
    }

    #[tokio::test]
    async fn one_that_was_alone_stops_where_nobody_is_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (current, max) = (dir.path().join("current"), dir.path().join("max"));
        let counted = |count: &str| std::fs::write(&current, count).unwrap();
        let may_be = || std::fs::read_to_string(&max).unwrap();
        std::fs::write(&max, "1024").unwrap();
        counted("2\n");
        let tasks = || Tasks {
            current: File::open(&current).unwrap(),
            max: File::options().write(true).open(&max).unwrap(),
            limit: 1_024,
        };
        let mut child = sleeper();
        let process = open(&child);
        assert!(process.stop_all(64).await.unwrap().is_empty());
        let mut alone = Alone::of(&process, tasks()).unwrap();
        process.go_on();
        let start = Instant::now();
        let comes_to = |is_at_rest: bool| {
            while look(process.pid, false).is_at_rest != is_at_rest {
                assert!(start.elapsed() < STOP_TIME_MAX);
                std::thread::yield_now();
            }
        };
        comes_to(false);
        std::fs::write(&max, "").unwrap();
        assert!(alone.stop(&process));
        assert_eq!(may_be(), "2", "nobody may come");
        comes_to(true);
        std::fs::write(&max, "").unwrap();
        alone.let_go();
        assert_eq!(may_be(), "1024");
        counted("3\n");
        assert!(!alone.stop(&process), "somebody else is there");
        assert_eq!(may_be(), "1024");
        process.kill_all();
        child.wait().unwrap();
        counted("2\n");
        assert!(!alone.stop(&process), "it is gone");
    }

    #[test]
    fn another_ones_child_is_not_taken() {
        let mut child = sleeper();
        assert!(matches!(
            Process::open(child.id() as i32, 1).handle,
            Handle::Gone
        ));
        open(&child).kill_all();
        let status = child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(libc::SIGKILL));
    }

    #[test]
    fn a_name_may_be_any_bytes() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"\xff) R 1");
        let program = dir.path().join(name);
        // Not a copy: while another thread forks, a file that was just written is busy.
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = Command::new(program).arg("1000").spawn().unwrap();
        let process = open(&child);
        // Once it has its name.
        let comm = format!("/proc/{}/comm", process.pid);
        while read(&comm).unwrap().starts_with("lambic") {
            std::thread::yield_now();
        }
        assert!(matches!(process.handle, Handle::Pidfd(_)));
        assert!(!look(process.pid, false).is_at_rest);
        let below = Process::open(std::process::id() as i32, parent_of_this()).below();
        assert!(below.iter().any(|found| found.pid == process.pid));
        process.kill_all();
        child.wait().unwrap();
    }

    fn parent_of_this() -> i32 {
        std::os::unix::process::parent_id() as i32
    }

    #[test]
    fn the_first_of_a_namespace_is_known_by_its_numbers() {
        for (status, expected) in [
            ("Name:\tsh\nNSpid:\t4711\t1\nNSpgid:\t4711\t1\n", true),
            ("NSpid:\t4711\t20\t1\n", true),
            ("NSpid:\t4711\t2\n", false),
            ("NSpid:\t4711\n", false),
            // Nobody is above us.
            ("NSpid:\t1\n", false),
            ("Name:\told\n", false),
        ] {
            assert_eq!(is_first(status), expected, "{status:?}");
        }
    }

    #[tokio::test]
    async fn a_tree_stops_and_goes_on() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "sh -c 'sleep 1000 & sleep 1000 & wait' & read nothing",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = open(&child);
        let start = std::time::Instant::now();
        while process.below().len() < 3 {
            assert!(start.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(STOP_PAUSE).await;
        }
        let below = process.stop_all(64).await.unwrap();
        assert_eq!(below.len(), 3);
        for stopped in below.iter().chain([&process]) {
            assert!(look(stopped.pid, false).is_at_rest);
            stopped.go_on();
        }
        assert_eq!(
            process.stop_all(2).await.unwrap_err(),
            "more than 2 processes"
        );
        assert!(process.stop_all(64).await.is_ok());
        process.kill_all();
        child.wait().unwrap();
        assert_eq!(process.stop_all(64).await.unwrap_err(), "it ended");
    }
}
