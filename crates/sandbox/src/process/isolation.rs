//! How a process is shut in, and what this machine allows of that.
//!
//! | what | as root or with user namespaces | without |
//! |---|---|---|
//! | processes | own PID namespace: all end with the first | own session; found through `/proc` and killed (`tree`) |
//! | mounts, IPC, host name | own namespaces | shared |
//! | the server's folder of code | covered by an empty one | what the user may |
//! | user | `nobody` if started as root | the server's |
//! | files, core dumps, data, open files | rlimits | rlimits |
//! | network | shared (the Runtime API is on loopback) | shared |
//!
//! Only root can give a function another user. Started without root, the server's other files are the function's too.

use std::{
    ffi::{CStr, CString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, setrlimit},
    unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid, setsid},
};
use tokio::process::{Child, Command};

use super::tree::Process;
use crate::Error;

/// The user that root becomes: `nobody`.
const NOBODY: u32 = 65_534;
const OPEN_FILES_MAX: u64 = 1_024;
const FILE_BYTES_MAX: u64 = 512 << 20;
/// The interpreter's own needs beside the function's memory.
const DATA_BYTES_EXTRA: u64 = 32 << 20;
const PROCESSES_OF_NOBODY_MAX: u64 = 4_096;

/// What this machine allows, found out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The interpreter itself, behind shims.
    pub program: PathBuf,
    pub namespaces: bool,
    pub user: Option<u32>,
    /// The folder that programs find empty, where they have mounts of their own.
    covered: CString,
}

impl Isolation {
    /// Looks `program` up and tries what can be done with it. Programs are not to see what is in `covered`.
    pub async fn probe(program: &Path, covered: &Path) -> Result<Isolation, Error> {
        let spawn_error = |source| Error::Spawn {
            program: program.display().to_string(),
            source,
        };
        let found = Command::new(program)
            .args(["-c", "import sys; print(sys.executable)"])
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(spawn_error)?;
        let real = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        if !found.status.success() || real.is_empty() {
            return Err(spawn_error(io::Error::other(
                String::from_utf8_lossy(&found.stderr).trim().to_owned(),
            )));
        }
        let root = Uid::effective().is_root();
        // Programs start in folders of their own.
        let covered = std::path::absolute(covered).map_err(spawn_error)?;
        let mut isolation = Isolation {
            program: PathBuf::from(real),
            namespaces: true,
            user: root.then_some(NOBODY),
            covered: CString::new(covered.as_os_str().as_bytes())
                .map_err(|error| spawn_error(error.into()))?,
        };
        if !isolation.works().await {
            isolation.namespaces = false;
            if !isolation.works().await && isolation.user.take().is_some() {
                isolation.namespaces = true;
                isolation.namespaces = isolation.works().await;
            }
        }
        if !isolation.namespaces || (root && isolation.user.is_none()) {
            tracing::warn!(
                namespaces = isolation.namespaces,
                user = isolation.user,
                "processes are less isolated than they could be: this machine does not allow it"
            );
        }
        let cannot_write = "import os, sys; sys.exit(os.access(sys.argv[1], os.W_OK))";
        if !isolation.runs(&[cannot_write.as_ref(), &covered]).await {
            tracing::warn!(folder = %covered.display(),
                "processes can change the server's own files: this machine does not allow to prevent it");
        }
        Ok(isolation)
    }

    async fn works(&self) -> bool {
        self.runs(&["pass".as_ref()]).await
    }

    /// True if the script with its arguments ends well.
    async fn runs(&self, script: &[&Path]) -> bool {
        let mut command = Command::new(&self.program);
        command.args(["-S", "-c"]).args(script).current_dir("/");
        let spawned = self.spawn(command, 1_024).await;
        match spawned {
            Ok((mut child, _)) => child.wait().await.is_ok_and(|status| status.success()),
            Err(_) => false,
        }
    }

    /// Starts `command` shut in. Returns the child to wait for and the program itself, which has a parent of ours
    /// in between if it has its own PID namespace.
    pub async fn spawn(
        &self,
        mut command: Command,
        memory_mb: u32,
    ) -> io::Result<(Child, Process)> {
        let (pid_in, pid_out) = io::pipe()?;
        let shut_in = ShutIn {
            namespaces: self.namespaces,
            user: self.user,
            covered: self.covered.clone(),
            uid_map: format!("{0} {0} 1", Uid::effective()).into_bytes(),
            gid_map: format!("{0} {0} 1", Gid::effective()).into_bytes(),
            is_root: Uid::effective().is_root(),
            data_bytes: (u64::from(memory_mb) << 20) + DATA_BYTES_EXTRA,
            pid_out: OwnedFd::from(pid_out),
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        #[allow(unsafe_code)]
        // SAFETY: between fork and exec of a threaded program only async-signal-safe calls are allowed.
        // `ShutIn::run` makes system calls only, on values prepared above, and allocates nothing. The standard
        // library offers no other way to enter namespaces and set limits before exec.
        unsafe {
            command.pre_exec(move || shut_in.run());
        }
        let child = on_spawner(move || {
            let child = command.spawn();
            // Closes our end of the pipe.
            drop(command);
            child
        })
        .await?;
        let mut pid = [0; 4];
        let mut pid_in = pid_in;
        let pid = tokio::task::spawn_blocking(move || {
            io::Read::read_exact(&mut pid_in, &mut pid).map(|()| i32::from_ne_bytes(pid))
        })
        .await
        .map_err(io::Error::other)??;
        // Known as long as nobody has waited for it.
        let child_pid = child.id().map_or(0, |pid| pid as i32);
        let parent = if pid == child_pid {
            std::process::id() as i32
        } else {
            child_pid
        };
        Ok((child, Process::open(pid, parent)))
    }
}

/// What happens in the child between fork and exec.
struct ShutIn {
    namespaces: bool,
    user: Option<u32>,
    covered: CString,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    is_root: bool,
    data_bytes: u64,
    pid_out: OwnedFd,
}

impl ShutIn {
    fn run(&self) -> io::Result<()> {
        setsid()?;
        die_with_parent()?;
        if self.namespaces {
            self.enter_namespaces()?;
        }
        self.report_pid(std::process::id() as i32, !self.namespaces)?;
        for (resource, limit) in [
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_NOFILE, OPEN_FILES_MAX),
            (Resource::RLIMIT_FSIZE, FILE_BYTES_MAX),
            (Resource::RLIMIT_DATA, self.data_bytes),
        ] {
            setrlimit(resource, limit, limit)?;
        }
        if let Some(user) = self.user {
            setrlimit(
                Resource::RLIMIT_NPROC,
                PROCESSES_OF_NOBODY_MAX,
                PROCESSES_OF_NOBODY_MAX,
            )?;
            setgroups(&[])?;
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
            setresgid(group, group, group)?;
            setresuid(user, user, user)?;
        }
        no_new_privileges()?;
        // A change of user clears it.
        die_with_parent()
    }

    fn enter_namespaces(&self) -> io::Result<()> {
        let mut flags = CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        if !self.is_root {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags)?;
        if !self.is_root {
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", &self.uid_map)?;
            write_file(c"/proc/self/gid_map", &self.gid_map)?;
        }
        #[allow(unsafe_code)]
        // SAFETY: this process is the single-threaded copy that the first fork made, and both sides go on with
        // system calls only. A PID namespace holds the children of who made it, so a second fork is needed.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => self.wait_for(child),
            ForkResult::Child => {
                die_with_parent()?;
                let none: Option<&CStr> = None;
                mount(
                    none,
                    c"/",
                    none,
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                    none,
                )?;
                // Containers may refuse it; then the program sees no processes at all under its own ids.
                let _ = mount(
                    Some(c"proc"),
                    c"/proc",
                    Some(c"proc"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                    none,
                );
                // Where it is refused, the probe warns.
                let _ = mount(
                    Some(c"tmpfs"),
                    self.covered.as_c_str(),
                    Some(c"tmpfs"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
                    none,
                );
                Ok(())
            }
        }
    }

    /// The process between us and the namespace: reports the program's id, waits, and ends as it ended.
    fn wait_for(&self, child: Pid) -> ! {
        let _ = self.report_pid(child.as_raw(), true);
        #[allow(unsafe_code)]
        // SAFETY: plain system calls on a child of ours and on file numbers that this process does not use
        // again. Everything is closed so that nobody waits for our copies of pipes; nix has no close_range.
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

    fn report_pid(&self, pid: i32, is_mine_to_say: bool) -> io::Result<()> {
        if !is_mine_to_say {
            return Ok(());
        }
        nix::unistd::write(&self.pid_out, &pid.to_ne_bytes())?;
        Ok(())
    }
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

type Job = Box<dyn FnOnce() + Send>;

/// Starts processes on one thread that never ends: a child dies with the *thread* that started it
/// (`PR_SET_PDEATHSIG`), and the runtime's threads come and go.
async fn on_spawner<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static SPAWNER: OnceLock<std::sync::mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("lambic-spawner".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        jobs
    });
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let job: Job = Box::new(move || {
        let _entered = runtime.enter();
        let _ = done.send(job());
    });
    spawner
        .send(job)
        .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    result.await.map_err(io::Error::other)?
}

/// Makes reads of `fd` return at once.
pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(
        fd,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok(())
}
