//! Puts the root of an environment together: carries out the list of its steps.
//!
//! System calls only, on values prepared beforehand: it runs in the child between fork and exec.

use std::{ffi::CStr, io};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{Access, Step};

const NONE: Option<&CStr> = None;

/// Makes `staging` the root of this process, which must be alone in its mount namespace. The error
/// says which step failed: past the last one, the change of the root itself.
pub fn build(staging: &CStr, steps: &[Step]) -> Result<(), (usize, io::Error)> {
    let last = |error: nix::Error| (steps.len(), error.into());
    mount(
        NONE,
        c"/",
        NONE,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NONE,
    )
    .map_err(last)?;
    mount(
        Some(c"tmpfs"),
        staging,
        Some(c"tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(c"size=16m,nr_inodes=4096,mode=755"),
    )
    .map_err(last)?;
    nix::unistd::chdir(staging).map_err(last)?;
    for (number, step) in steps.iter().enumerate() {
        carry_out(step).map_err(|error| (number, error))?;
    }
    restrict(c".", MsFlags::MS_RDONLY, false).map_err(|error| (steps.len(), error))?;
    // The old root lies over the new one until it is taken off (pivot_root(2), notes).
    nix::unistd::pivot_root(c".", c".").map_err(last)?;
    umount2(c".", MntFlags::MNT_DETACH).map_err(last)?;
    nix::unistd::chdir(c"/").map_err(last)
}

fn carry_out(step: &Step) -> io::Result<()> {
    match step {
        Step::Folder(at) => folder(at),
        Step::File { at, content } => file(at, content),
        Step::Link { at, to } => Ok(nix::unistd::symlinkat(
            to.as_c_str(),
            nix::fcntl::AT_FDCWD,
            at.as_c_str(),
        )?),
        Step::Bind {
            from,
            at,
            is_folder,
            access,
        } => {
            if *is_folder {
                folder(at)?;
            } else {
                file(at, &[])?;
            }
            let from = Some(from.as_c_str());
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(from, at.as_c_str(), NONE, flags, NONE)?;
            let flags = match access {
                Access::Read => MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                Access::Device => MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            };
            restrict(at, flags, true)
        }
        Step::Mount {
            kind,
            at,
            flags,
            options,
        } => Ok(mount(
            Some(kind.as_c_str()),
            at.as_c_str(),
            Some(kind.as_c_str()),
            *flags,
            Some(options.as_c_str()),
        )?),
    }
}

fn folder(at: &CStr) -> io::Result<()> {
    match nix::unistd::mkdir(at, nix::sys::stat::Mode::from_bits_truncate(0o755)) {
        Err(nix::Error::EEXIST) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn file(at: &CStr, content: &[u8]) -> io::Result<()> {
    use nix::fcntl::OFlag;
    let opened = nix::fcntl::open(
        at,
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        nix::sys::stat::Mode::from_bits_truncate(0o444),
    );
    let file = match opened {
        // In a mount that is read only already: it is there, or what is mounted there says that it is not.
        Err(nix::Error::EROFS) if content.is_empty() => return Ok(()),
        opened => opened?,
    };
    let mut left = content;
    while !left.is_empty() {
        let written = nix::unistd::write(&file, left)?;
        left = left.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Adds flags to a mount, with `all` also to those below it.
fn restrict(at: &CStr, flags: MsFlags, all: bool) -> io::Result<()> {
    let mut attributes = 0;
    for (flag, attribute) in [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    let request = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    #[allow(unsafe_code)]
    // SAFETY: a system call on a path and a structure that live through it; nix does not have it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            if all { libc::AT_RECURSIVE } else { 0 },
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    // Before Linux 5.12: this mount only, and what its source forbids must be said again.
    let found = nix::sys::statvfs::statvfs(at)?.flags();
    let mut flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    for (is, flag) in [
        (nix::sys::statvfs::FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (nix::sys::statvfs::FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (nix::sys::statvfs::FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (nix::sys::statvfs::FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (nix::sys::statvfs::FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (
            nix::sys::statvfs::FsFlags::ST_RELATIME,
            MsFlags::MS_RELATIME,
        ),
    ] {
        if found.contains(is) {
            flags |= flag;
        }
    }
    Ok(mount(NONE, at, NONE, flags, NONE)?)
}
