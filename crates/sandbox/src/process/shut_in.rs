//! What happens in the child between fork and exec: it goes into namespaces of its own, takes another root, and gives
//! up what it does not need.
//!
//! Between fork and exec of a threaded program only async-signal-safe calls are allowed. Everything here makes system
//! calls only, on values prepared beforehand, and allocates nothing.

use std::{
    ffi::{CStr, CString},
    io,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, setrlimit},
    unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid, setsid},
};

use super::{
    host_link, network,
    root::{self, Step},
    seccomp,
};

/// Prepared by the host.
pub struct ShutIn {
    pub host: UnixDatagram,
    /// Files that take the process into its control groups.
    pub groups: Vec<OwnedFd>,
    pub namespaces: Option<Namespaces>,
    /// Where the program starts.
    pub folder: CString,
    pub limits: Vec<(Resource, u64)>,
    pub user: Option<u32>,
    pub landlock: Option<OwnedFd>,
    pub seccomp: Option<seccomp::Filter>,
}

pub struct Namespaces {
    /// For a server without root: its ids, which it keeps inside.
    pub maps: Option<Maps>,
    /// False for a zygote: what it splits off has.
    pub own_processes: bool,
    pub own_network: bool,
    /// Sockets of that network for the host to connect with.
    pub connectors: usize,
    pub mounts: Mounts,
}

pub struct Maps {
    pub users: Vec<u8>,
    pub groups: Vec<u8>,
}

pub enum Mounts {
    /// The host's root, with one folder covered.
    Covered(CString),
    /// A root of its own, put together at this folder.
    Own { staging: CString, steps: Vec<Step> },
}

/// Of 1,000, added to what a program's memory counts.
pub const OOM_SCORE: &[u8] = b"500";

/// Namespaces of every program that is shut in.
pub const OWN: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Where a child failed; the number tells which step of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Session = 1,
    Group,
    Namespaces,
    UserMap,
    Network,
    Mount,
    Limit,
    User,
    Landlock,
    Seccomp,
}

impl Stage {
    pub fn describe(stage: u8) -> &'static str {
        match stage {
            1 => "begin a session",
            2 => "enter its control group",
            3 => "make namespaces",
            4 => "map its user",
            5 => "make a network of its own",
            6 => "mount its root",
            7 => "set its limits",
            8 => "become another user",
            9 => "restrict files by Landlock",
            10 => "restrict system calls by seccomp",
            _ => "start",
        }
    }
}

impl ShutIn {
    pub fn run(&self) -> io::Result<()> {
        let at = |stage: Stage| move |error| self.failed(stage, 0, error);
        setsid().map_err(|error| self.failed(Stage::Session, 0, error.into()))?;
        die_with_parent().map_err(at(Stage::Session))?;
        // The root is for all to read, however private the server's own files are.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        if self
            .namespaces
            .as_ref()
            .is_none_or(|namespaces| namespaces.own_processes)
        {
            // Where the system runs out of memory, functions go before the server, however that is protected.
            let _ = write_file(c"/proc/self/oom_score_adj", OOM_SCORE);
        }
        for group in &self.groups {
            nix::unistd::write(group, b"0")
                .map_err(|error| self.failed(Stage::Group, 0, error.into()))?;
        }
        match &self.namespaces {
            Some(namespaces) => self.enter(namespaces)?,
            None => host_link::say_started(&self.host, std::process::id() as i32, &[])?,
        }
        for &(resource, limit) in &self.limits {
            setrlimit(resource, limit, limit)
                .map_err(|error| self.failed(Stage::Limit, 0, error.into()))?;
        }
        if let Some(user) = self.user {
            become_user(user).map_err(at(Stage::User))?;
        }
        no_new_privileges().map_err(at(Stage::User))?;
        // A change of user clears it.
        die_with_parent().map_err(at(Stage::Session))?;
        close_at_exec();
        if let Some(ruleset) = &self.landlock {
            super::landlock::restrict(ruleset).map_err(at(Stage::Landlock))?;
        }
        if let Some(filter) = &self.seccomp {
            seccomp::set(filter).map_err(at(Stage::Seccomp))?;
        }
        Ok(())
    }

    /// Tells the host where it was; the error itself travels by the standard library's own way.
    fn failed(&self, stage: Stage, number: usize, error: io::Error) -> io::Error {
        let _ = host_link::say_failed(&self.host, stage as u8, number as u16);
        error
    }

    fn enter(&self, namespaces: &Namespaces) -> io::Result<()> {
        let at = |stage: Stage| move |error| self.failed(stage, 0, error);
        let mut flags = OWN;
        if namespaces.own_processes {
            flags |= CloneFlags::CLONE_NEWPID;
        }
        if namespaces.maps.is_some() {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        if namespaces.own_network {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        unshare(flags).map_err(|error| self.failed(Stage::Namespaces, 0, error.into()))?;
        if let Some(maps) = &namespaces.maps {
            write_file(c"/proc/self/setgroups", b"deny").map_err(at(Stage::UserMap))?;
            write_file(c"/proc/self/uid_map", &maps.users).map_err(at(Stage::UserMap))?;
            write_file(c"/proc/self/gid_map", &maps.groups).map_err(at(Stage::UserMap))?;
        }
        let sockets = if namespaces.own_network {
            Some(network::open(namespaces.connectors).map_err(at(Stage::Network))?)
        } else {
            None
        };
        if !namespaces.own_processes {
            host_link::say_started(&self.host, std::process::id() as i32, &[])?;
            return self.change_mounts(&namespaces.mounts);
        }
        #[allow(unsafe_code)]
        // SAFETY: this process is the single-threaded copy that the first fork made, and both sides go on with
        // system calls only. A PID namespace holds the children of who made it, so a second fork is needed.
        match unsafe { fork() }.map_err(|error| self.failed(Stage::Namespaces, 0, error.into()))? {
            ForkResult::Parent { child } => {
                let _ = match &sockets {
                    Some(sockets) => {
                        let (numbers, count) = sockets.numbers();
                        host_link::say_started(&self.host, child.as_raw(), &numbers[..count])
                    }
                    None => host_link::say_started(&self.host, child.as_raw(), &[]),
                };
                wait_for(child)
            }
            ForkResult::Child => {
                die_with_parent().map_err(at(Stage::Session))?;
                set_host_name();
                self.change_mounts(&namespaces.mounts)
            }
        }
    }

    fn change_mounts(&self, mounts: &Mounts) -> io::Result<()> {
        let none: Option<&CStr> = None;
        match mounts {
            Mounts::Own { staging, steps } => {
                root::build(staging, steps)
                    .map_err(|(number, error)| self.failed(Stage::Mount, number, error))?;
            }
            Mounts::Covered(covered) => {
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(none, c"/", none, private, none)
                    .map_err(|error| self.failed(Stage::Mount, 0, error.into()))?;
                // Containers may refuse it; then the program sees no processes at all under its own ids.
                let _ = mount(
                    Some(c"proc"),
                    c"/proc",
                    Some(c"proc"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                    none,
                );
                // Where it is refused, the probe says so.
                let _ = mount(
                    Some(c"tmpfs"),
                    covered.as_c_str(),
                    Some(c"tmpfs"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
                    none,
                );
            }
        }
        nix::unistd::chdir(self.folder.as_c_str())
            .map_err(|error| self.failed(Stage::Mount, usize::from(u16::MAX), error.into()))
    }
}

/// The process between us and the namespace: waits, and ends as the program ended.
fn wait_for(child: Pid) -> ! {
    #[allow(unsafe_code)]
    // SAFETY: plain system calls on a child of ours and on file numbers that this process does not use again.
    // Everything is closed so that nobody waits for our copies of pipes; nix has no close_range.
    unsafe {
        libc::close_range(0, libc::c_uint::MAX, 0);
        let mut status = 0;
        while libc::waitpid(child.as_raw(), &raw mut status, 0) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
            libc::_exit(128 + signal)
        }
        libc::_exit(libc::WEXITSTATUS(status))
    }
}

fn become_user(user: u32) -> io::Result<()> {
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    setresgid(group, group, group)?;
    Ok(setresuid(user, user, user)?)
}

fn write_file(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = nix::fcntl::open(
        path,
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    nix::unistd::write(&file, bytes)?;
    Ok(())
}

/// The host's own is nobody's business; where it stays, nothing depends on it.
fn set_host_name() {
    const NAME: &CStr = c"localhost";
    #[allow(unsafe_code)]
    // SAFETY: a constant and its length; nix has it behind a feature.
    unsafe {
        libc::sethostname(NAME.as_ptr(), NAME.count_bytes());
    }
}

/// Whatever file a library of the server left open for programs.
fn close_at_exec() {
    #[allow(unsafe_code)]
    // SAFETY: integers only; it closes nothing now. Kernels before 5.11 refuse it, and then what all files of this
    // program have by themselves must do.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as _);
    }
}

#[allow(unsafe_code)]
fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl with integers only; nix has it behind a feature that would build it again for everybody.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

#[allow(unsafe_code)]
fn no_new_privileges() -> io::Result<()> {
    // SAFETY: as above. Set-user-id programs give the function nothing.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
