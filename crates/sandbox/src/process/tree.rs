//! A process and everything below it: counted, stopped, continued, killed.
//!
//! A process is held by a pidfd, not by its number: the system gives the number of a process that has ended to
//! another one, and a signal must never reach that. What is below a process is found through `/proc`.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{libc, sys::signal::Signal, unistd::Pid};

/// A tree comes to rest in less than a millisecond, unless the machine is very busy or the tree is hostile.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// The first looks follow each other at once, the rest at this distance or at that of the time that they take.
const STOP_ROUNDS_BUSY: usize = 10;
const STOP_PAUSE: Duration = Duration::from_millis(1);
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
            for pid in children(parent) {
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
            let below = self.below_at_most(processes_max);
            if below.len() >= processes_max {
                return Err(format!("more than {processes_max} processes"));
            }
            for process in &below {
                process.signal(Some(Signal::SIGSTOP));
            }
            let pids: Vec<i32> = below.iter().map(Process::pid).collect();
            let at_rest = |&pid: &i32| is_at_rest(pid, round >= STOP_ROUNDS_PATIENT);
            // Whatever appeared since the last round may have been made by one that was not at rest yet.
            if pids == stopped && pids.iter().chain([&self.pid]).all(at_rest) {
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

    pub fn go_on(&self) {
        self.signal(Some(Signal::SIGCONT));
    }

    pub fn terminate(&self) {
        self.signal(Some(Signal::SIGTERM));
    }

    /// False for one that has ended, though nobody has waited for it.
    pub fn is_running(&self) -> bool {
        let stat = stat(format!("/proc/{}", self.pid).as_ref());
        !matches!(
            stat.and_then(|stat| stat.chars().next()),
            None | Some('Z' | 'X')
        )
    }

    /// True if it is number 1 in a PID namespace of its own, below ours.
    fn is_first_of_namespace(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        status.is_ok_and(|status| is_first(&status))
    }

    /// Memory in use (or its highest ever, for `VmHWM`), bytes.
    pub fn memory_bytes(&self, field: &str) -> u64 {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return 0;
        };
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(0, |kilobytes| kilobytes << 10)
    }
}

/// By its numbers in all namespaces that it is in, from ours inwards.
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let mut numbers = numbers.into_iter().flat_map(str::split_ascii_whitespace);
    numbers.next().is_some() && numbers.last() == Some("1")
}

fn tasks(pid: i32) -> impl Iterator<Item = std::path::PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| task.path())
}

fn children(pid: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for task in tasks(pid) {
        let some = std::fs::read_to_string(task.join("children")).unwrap_or_default();
        children.extend(some.split_ascii_whitespace().flat_map(str::parse::<i32>));
    }
    children
}

/// The state's letter and what follows it; the name before may hold anything.
fn stat(path: &std::path::Path) -> Option<String> {
    let stat = std::fs::read_to_string(path.join("stat")).ok()?;
    Some(stat[stat.rfind(')')? + 1..].trim_start().to_owned())
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = stat(format!("/proc/{pid}").as_ref())?;
    stat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// True if none of its threads runs: stopped, traced, ended; `with_waiting`: or in a wait that no signal ends.
fn is_at_rest(pid: i32, with_waiting: bool) -> bool {
    tasks(pid).all(|task| {
        let state = stat(&task).and_then(|stat| stat.chars().next());
        match state {
            Some('T' | 't' | 'Z' | 'X') | None => true,
            Some('D') => with_waiting,
            Some(_) => false,
        }
    })
}

#[allow(unsafe_code)]
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
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
fn pidfd_send_signal(pidfd: &OwnedFd, signal: Option<Signal>) -> io::Result<()> {
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
            assert!(is_at_rest(stopped.pid, false));
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
