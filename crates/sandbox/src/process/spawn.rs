//! Starts a program shut in, and finds out what it is called on the host.

use std::{
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::net::UnixDatagram, unix::process::CommandExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, mpsc},
    time::Duration,
};

use nix::{
    sys::resource::Resource,
    unistd::{Gid, Uid},
};

use super::{
    Isolation,
    child::Child,
    host_link::{self, Word},
    root::{self, Step},
    seccomp,
    shut_in::{Maps, Mounts, Namespaces, ShutIn, Stage},
    tree::Process,
};

const OPEN_FILES_MAX: u64 = 1_024;
/// Of all environments together, where the kernel does not count each one's.
const PROCESSES_OF_USER_MAX: u64 = 4_096;
/// A file that was just written cannot be run while a process that is being started elsewhere still has it open, as all have
/// between fork and exec what their parent had: that takes milliseconds.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Threads that start processes: each one waits until its child is another program.
const SPAWNERS: usize = 4;

/// A program as it is found from inside.
pub struct Program {
    /// Name, arguments, environment, input and output.
    pub command: std::process::Command,
    /// Where it starts.
    pub folder: PathBuf,
    /// What its root is put together of, and where on the host.
    pub root: Option<(PathBuf, Vec<Step>)>,
    /// Of one process, bytes.
    pub data_bytes: u64,
    /// Of one file.
    pub file_bytes: u64,
    /// Files that take it into its control groups.
    pub groups: Vec<OwnedFd>,
    pub has_own_process_limit: bool,
    pub landlock: Option<OwnedFd>,
    /// Sockets that are wanted to connect to its own network with, if it has one.
    pub connectors: usize,
    /// It is ours, and splits off others that are shut in further than it is itself.
    pub is_zygote: bool,
}

pub struct Spawned {
    /// Whom to wait for.
    pub child: Child,
    /// The program itself, which has a parent of ours in between if it has its own PID namespace.
    pub process: Process,
    /// Of its own network: the Runtime API's listener, the way out, the connectors.
    pub sockets: Vec<OwnedFd>,
}

/// Starts `program`. An error that comes from the program's file has the system's number; others have a text.
pub async fn spawn(isolation: &Isolation, program: Program) -> io::Result<Spawned> {
    let Program {
        mut command,
        folder,
        root,
        data_bytes,
        file_bytes,
        groups,
        has_own_process_limit,
        landlock,
        connectors,
        is_zygote,
    } = program;
    let (host, child_side) = host_link::pair()?;
    let user = isolation.user.filter(|_| !is_zygote);
    let limits = limits(
        file_bytes,
        data_bytes,
        user.is_some() && !has_own_process_limit,
    );
    let steps: Vec<Step> = root.iter().flat_map(|(_, steps)| steps.clone()).collect();
    let mounts = match root {
        Some((staging, steps)) => Mounts::Own {
            staging: c_path(&staging)?,
            steps,
        },
        None => Mounts::Covered(c_path(isolation.covered())?),
    };
    let is_root = Uid::effective().is_root();
    let shut_in = ShutIn {
        host: child_side,
        groups,
        namespaces: isolation.namespaces.then(|| Namespaces {
            maps: (!is_root).then(|| Maps {
                users: format!("{0} {0} 1", Uid::effective()).into_bytes(),
                groups: format!("{0} {0} 1", Gid::effective()).into_bytes(),
            }),
            own_processes: !is_zygote,
            own_network: isolation.own_network && !is_zygote,
            connectors,
            mounts,
        }),
        folder: c_path(&folder)?,
        limits,
        user,
        landlock,
        seccomp: (isolation.seccomp && !is_zygote)
            .then(seccomp::filter)
            .flatten(),
    };
    if shut_in.namespaces.is_none() {
        command.current_dir(&folder);
    }
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec of a threaded program only async-signal-safe calls are allowed. `ShutIn::run`
    // makes system calls only, on values prepared above, and allocates nothing. The standard library offers no
    // other way to enter namespaces and set limits before exec.
    unsafe {
        command.pre_exec(move || shut_in.run());
    }
    let (child, word) = on_spawner(move || {
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let spawned = unless_busy(
            || command.spawn(),
            // What the one said that could not be run.
            || while let Ok(Some(_)) = host_link::heard(&host) {},
        );
        match spawned {
            Ok(child) => Ok((child, host_link::heard(&host)?)),
            Err(error) => Err(failure(&host, &steps, error)),
        }
    })
    .await?;
    let Some(Word::Started { pid, sockets }) = word else {
        return Err(io::Error::other("the child did not tell its number"));
    };
    // Known as long as nobody has waited for it.
    let child_pid = child.id().map_or(0, |pid| pid as i32);
    let parent = if pid == child_pid {
        std::process::id() as i32
    } else {
        child_pid
    };
    Ok(Spawned {
        child: Child::Own(child),
        process: Process::open(pid, parent),
        sockets,
    })
}

/// Tries again, after `before_next`, while the program is open for writing elsewhere.
fn unless_busy<T>(
    mut spawn: impl FnMut() -> io::Result<T>,
    mut before_next: impl FnMut(),
) -> io::Result<T> {
    for _ in 0..BUSY_TRIES {
        match spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                before_next();
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
    spawn()
}

/// What the system keeps a program to.
pub fn limits(file_bytes: u64, data_bytes: u64, limits_processes: bool) -> Vec<(Resource, u64)> {
    let mut limits = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, OPEN_FILES_MAX),
        (Resource::RLIMIT_FSIZE, file_bytes),
        (Resource::RLIMIT_DATA, data_bytes),
    ];
    if limits_processes {
        limits.push((Resource::RLIMIT_NPROC, PROCESSES_OF_USER_MAX));
    }
    limits
}

/// The error with what the child was at, if it had not come to the program itself.
fn failure(host: &UnixDatagram, steps: &[Step], error: io::Error) -> io::Error {
    loop {
        match host_link::heard(host) {
            Ok(Some(Word::Started { .. } | Word::Split { .. })) => {}
            Ok(Some(Word::Failed { stage, number, .. })) => {
                let what = match steps.get(usize::from(number)) {
                    Some(step) if stage == Stage::Mount as u8 => root::describe(step),
                    _ => Stage::describe(stage).to_owned(),
                };
                return io::Error::other(format!("cannot {what}: {error}"));
            }
            Ok(None) | Err(_) => return error,
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts processes on threads that never end: a child dies with the *thread* that started it
/// (`PR_SET_PDEATHSIG`), and the runtime's threads come and go.
async fn on_spawner<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static SPAWNERS_QUEUE: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let queue = SPAWNERS_QUEUE.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..SPAWNERS {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("lambic-spawner-{number}"))
                .spawn(move || {
                    loop {
                        let job = queue.lock().expect("receiving does not panic").recv();
                        let Ok(job) = job else { break };
                        job();
                    }
                })
                .expect("a thread can be started");
        }
        jobs
    });
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let job: Job = Box::new(move || {
        let _entered = runtime.enter();
        let _ = done.send(job());
    });
    queue
        .send(job)
        .map_err(|_| io::Error::other("the threads that start processes have ended"))?;
    result.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_open_elsewhere_is_tried_again() {
        use io::ErrorKind::{ExecutableFileBusy, NotFound};
        // How often it is busy, what comes then, and how often it was tried.
        for (busy, then, tries) in [
            (0, Ok(()), 1),
            (2, Ok(()), 3),
            (2, Err(NotFound), 3),
            (0, Err(NotFound), 1),
            (u32::MAX, Err(ExecutableFileBusy), BUSY_TRIES + 1),
        ] {
            let (mut tried, mut cleared) = (0, 0);
            let spawn = || {
                tried += 1;
                match tried > busy {
                    true => then.map_err(io::Error::from),
                    false => Err(ExecutableFileBusy.into()),
                }
            };
            let result = unless_busy(spawn, || cleared += 1);
            assert_eq!(result.map_err(|error| error.kind()), then);
            assert_eq!((tried, cleared), (tries, tries - 1));
        }
    }
}
