//! Puts the code of a function into an environment that runs already.
//!
//! The interpreter of a spare environment waits in a root without code. The code is mounted there from outside: a
//! thread of ours takes the mounts with it into the environment's namespace (`open_tree`, `setns`, `move_mount`), which
//! sees nothing of the host. Nothing of a user has run there before, and nobody else's will run there afterwards.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::root;

/// What is put where.
pub struct Mounts {
    code: OwnedFd,
    layer: Option<OwnedFd>,
    tmp: CString,
}

impl Mounts {
    /// Takes hold of the folders, read-only, as the host sees them.
    pub fn prepare(code: &Path, layer: Option<&Path>, tmp_mb: u32) -> io::Result<Mounts> {
        Ok(Mounts {
            code: take_hold(code)?,
            layer: layer.map(take_hold).transpose()?,
            tmp: CString::new(root::tmp_size(tmp_mb))?,
        })
    }

    /// Mounts them in the namespace of a process; blocks for a moment.
    pub fn put_into(self, process: OwnedFd) -> io::Result<()> {
        // A thread of its own: it cannot come back from there.
        let thread = std::thread::Builder::new()
            .name("lambic-assign".to_owned())
            .spawn(move || self.enter_and_mount(&process))?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread that mounts code panicked"))?
    }

    fn enter_and_mount(&self, process: &OwnedFd) -> io::Result<()> {
        // Root and current folder are common to all threads until one of them goes its own way.
        unshare(CloneFlags::CLONE_FS)?;
        setns(process, CloneFlags::CLONE_NEWNS)?;
        move_to(&self.code, c"/var/task")?;
        if let Some(layer) = &self.layer {
            move_to(layer, c"/opt")?;
        }
        let none: Option<&CStr> = None;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(
            none,
            c"/tmp",
            none,
            flags,
            Some(self.tmp.as_c_str()),
        )?)
    }
}

/// A mount of the folder that is not mounted anywhere yet.
#[allow(unsafe_code)]
pub fn take_hold(folder: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | (libc::AT_RECURSIVE as libc::c_uint);
    // SAFETY: a system call on a path that lives through it; what it returns is new and nobody else's. Neither the
    // standard library nor nix has it.
    let tree = unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        if tree < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(tree as libc::c_int)
    };
    let request = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: as above, on an open descriptor and a structure that lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}

#[allow(unsafe_code)]
fn move_to(tree: &OwnedFd, at: &CStr) -> io::Result<()> {
    // SAFETY: a system call on an open descriptor and constant paths.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
