//! Landlock: which files a process may reach, given up by itself (Linux 5.13 and later).
//!
//! It stands where an environment cannot have a root of its own: the host's files are all there, and only those of
//! the system, the interpreter and the environment may be opened. Where programs have their own root it would add
//! nothing. Newer kernels also keep TCP connections to the ports that are named and signals to the own processes.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::libc;

const EXECUTE: u64 = 1 << 0;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const WRITE_FILE: u64 = 1 << 1;
/// All of the first version: up to making symbolic links.
const ALL_1: u64 = (1 << 13) - 1;
/// Moving between folders, from the second version.
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const CONNECT_TCP: u64 = 1 << 1;
const BIND_TCP: u64 = 1 << 0;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1 << 0;
const SCOPE_SIGNALS: u64 = 1 << 1;
const RULE_PATH: libc::c_int = 1;
const RULE_PORT: libc::c_int = 2;
const ASK_VERSION: libc::c_uint = 1;

#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathRule {
    allowed: u64,
    folder: libc::c_int,
}

#[repr(C)]
struct PortRule {
    allowed: u64,
    port: u64,
}

/// What may be reached.
#[derive(Debug, Default)]
pub struct Reach {
    /// Read and executed.
    pub read: Vec<PathBuf>,
    /// Written as well.
    pub write: Vec<PathBuf>,
    /// If set, no others can be connected to by TCP; none can be listened on.
    pub ports: Option<Vec<u16>>,
}

/// The kernel's version of Landlock; 0 if it has none.
pub fn version() -> u32 {
    #[allow(unsafe_code)]
    // SAFETY: a question without pointers; neither the standard library nor nix has it.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Ruleset>(),
            0usize,
            ASK_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Makes the rules, on the host's side. What does not exist is left out.
pub fn ruleset(reach: &Reach) -> io::Result<OwnedFd> {
    let version = version();
    let mut files = ALL_1;
    if version >= 2 {
        files |= REFER;
    }
    if version >= 3 {
        files |= TRUNCATE;
    }
    let with_ports = version >= 4 && reach.ports.is_some();
    let attributes = Ruleset {
        files,
        network: if with_ports {
            CONNECT_TCP | BIND_TCP
        } else {
            0
        },
        scoped: if version >= 6 {
            SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS
        } else {
            0
        },
    };
    // Older kernels know a shorter structure.
    let bytes = match version {
        0..=3 => 8,
        4..=5 => 16,
        _ => size_of::<Ruleset>(),
    };
    #[allow(unsafe_code)]
    // SAFETY: the structure lives through the call and is at least as long as said. What it returns is new and
    // nobody else's.
    let ruleset = unsafe {
        let made = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            bytes,
            0,
        );
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(made as libc::c_int)
    };
    for (paths, allowed) in [
        (&reach.read, EXECUTE | READ_FILE | READ_DIR),
        (&reach.write, files),
    ] {
        for path in paths {
            allow_path(&ruleset, path, allowed)?;
        }
    }
    for &port in reach.ports.iter().flatten().filter(|_| with_ports) {
        let rule = PortRule {
            allowed: CONNECT_TCP,
            port: port.into(),
        };
        add(&ruleset, RULE_PORT, (&raw const rule).cast())?;
    }
    Ok(ruleset)
}

fn allow_path(ruleset: &OwnedFd, path: &Path, allowed: u64) -> io::Result<()> {
    use nix::fcntl::OFlag;
    let opened = nix::fcntl::open(
        path,
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    );
    let Ok(opened) = opened else {
        return Ok(());
    };
    // What only folders have is refused for files.
    let of_files = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE;
    let rule = PathRule {
        allowed: if path.is_dir() {
            allowed
        } else {
            allowed & of_files
        },
        folder: opened.as_raw_fd(),
    };
    add(ruleset, RULE_PATH, (&raw const rule).cast())
}

#[allow(unsafe_code)]
fn add(ruleset: &OwnedFd, kind: libc::c_int, rule: *const libc::c_void) -> io::Result<()> {
    // SAFETY: the callers pass a pointer to the structure of this kind, which lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            kind,
            rule,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Restricts this thread and what it becomes. A system call only: it runs between fork and exec, of a process with no
/// new privileges.
#[allow(unsafe_code)]
pub fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: integers only.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
