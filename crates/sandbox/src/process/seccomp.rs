//! Which system calls a program may make, as a filter of the kernel (seccomp, classic BPF).
//!
//! A list of what is refused, closed at both ends so that it is not weaker than a list of what is allowed: calls of
//! another architecture end the process, calls with numbers above those that were looked at do not exist, and
//! neither does `clone3`, whose flags lie in memory where a filter cannot see them (libraries fall back to
//! `clone`). Refused is what reaches other processes or the machine, what takes a namespace, a mount or a key, and what
//! has been the kernel's weak side without being of use to a function. The filter is made once; a child between fork
//! and exec only hands it over.

use std::io;

use nix::libc;

/// What one filter decides, as the kernel wants it.
pub type Filter = Vec<libc::sock_filter>;

/// The last number that was looked at when this was written: `mseal`, Linux 6.10.
const LAST: u32 = 462;
/// From here on, x86-64 has its calls a second time (x32).
#[cfg(target_arch = "x86_64")]
const SECOND_TIME: u32 = 0x4000_0000;
/// New namespaces, of all kinds.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

// Newer than libc's list.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;

/// Frames as they come from the wire, in its old form.
const SOCK_PACKET: u32 = 10;

/// As if it needed a right that the program does not have.
const REFUSED: &[libc::c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    STATMOUNT,
    LISTMOUNT,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Namespaces.
    libc::SYS_setns,
    libc::SYS_unshare,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Files by other ways than their names, and watching all of them.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // The time.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lookup_dcookie,
];

/// As if the kernel did not have it: programs know another way.
const UNKNOWN: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_memfd_secret,
    // With SIGCONT for their signal these would wake what stands still between two events.
    libc::SYS_timer_create,
    libc::SYS_mq_notify,
];

/// `fcntl`: another signal than SIGIO for a file that is ready; SIGCONT would do the same.
const F_SETSIG: u32 = 10;

// Places in the kernel's `seccomp_data`; of arguments the lower half, on little-endian machines.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(number: u32) -> u32 {
    16 + 8 * number
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const fn errno(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// The filter for this machine; `None` where its calls have not been looked at.
pub fn filter() -> Option<Filter> {
    let architecture = ARCHITECTURE.filter(|_| cfg!(target_endian = "little"))?;
    let mut code = Code(Vec::new());
    code.load(ARCH);
    code.unless_equal(architecture, KILL);
    code.load(NUMBER);
    #[cfg(target_arch = "x86_64")]
    code.if_at_least(SECOND_TIME, errno(libc::ENOSYS));
    code.if_at_least(LAST + 1, errno(libc::ENOSYS));
    for (calls, answer) in [
        (REFUSED, errno(libc::EPERM)),
        (UNKNOWN, errno(libc::ENOSYS)),
    ] {
        for &call in calls {
            code.if_equal(call as u32, answer);
        }
    }
    code.block(libc::SYS_clone, |code| {
        code.load(argument(0));
        code.if_any_bit(NAMESPACES, errno(libc::EPERM));
    });
    code.block(libc::SYS_fcntl, |code| {
        code.load(argument(1));
        code.if_equal(F_SETSIG, errno(libc::EPERM));
    });
    code.block(libc::SYS_personality, |code| {
        code.load(argument(0));
        // The usual one, and the question which one it is.
        code.if_equal(0, ALLOW);
        code.if_equal(u32::MAX, ALLOW);
        code.answer(errno(libc::EPERM));
    });
    code.block(libc::SYS_prctl, |code| {
        code.load(argument(0));
        // Whom it ends with is not its own to say; programs that ask for it are told that it is so.
        code.if_equal(libc::PR_SET_PDEATHSIG as u32, errno(0));
    });
    code.block(libc::SYS_ioctl, |code| {
        code.load(argument(1));
        // Typing for others at their terminal.
        code.if_equal(libc::TIOCSTI as u32, errno(libc::EPERM));
        code.if_equal(libc::TIOCLINUX as u32, errno(libc::EPERM));
        code.if_equal(libc::TIOCSETD as u32, errno(libc::EPERM));
    });
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        code.block(call, sockets);
    }
    code.answer(ALLOW);
    Some(code.0)
}

/// Its instructions as the kernel reads them.
pub fn bytes(filter: &[libc::sock_filter]) -> Vec<u8> {
    let of = |step: &libc::sock_filter| {
        let mut bytes = Vec::from(step.code.to_ne_bytes());
        bytes.extend([step.jt, step.jf]);
        bytes.extend(step.k.to_ne_bytes());
        bytes
    };
    filter.iter().flat_map(of).collect()
}

fn sockets(code: &mut Code) {
    code.load(argument(0));
    code.if_equal(libc::AF_UNIX as u32, ALLOW);
    // Of netlink only questions about addresses and routes.
    let mut netlink = Code(Vec::new());
    netlink.load(argument(2));
    netlink.if_equal(libc::NETLINK_ROUTE as u32, ALLOW);
    netlink.answer(errno(libc::EAFNOSUPPORT));
    code.if_equal_do(libc::AF_NETLINK as u32, netlink);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut internet = Code(Vec::new());
        internet.load(argument(1));
        // The type lies below its flags.
        internet.and(0xf);
        internet.if_equal(libc::SOCK_RAW as u32, errno(libc::EPERM));
        internet.if_equal(SOCK_PACKET, errno(libc::EPERM));
        internet.answer(ALLOW);
        code.if_equal_do(family as u32, internet);
    }
    code.answer(errno(libc::EAFNOSUPPORT));
}

/// Sets the filter for this thread and what it becomes. A system call only: it runs between fork and exec, of a process
/// with no new privileges.
#[allow(unsafe_code)]
pub fn set(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and what it points to live through the call, which only reads them; nix does not have it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Instructions in a row. Each test is followed by what it leads to, so that jumps stay short.
struct Code(Filter);

impl Code {
    fn add(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.0.push(libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        });
    }

    fn load(&mut self, place: u32) {
        self.add(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0, 0);
    }

    fn and(&mut self, mask: u32) {
        self.add(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0);
    }

    fn answer(&mut self, answer: u32) {
        self.add(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    }

    fn if_equal(&mut self, value: u32, answer: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, 1);
        self.answer(answer);
    }

    fn unless_equal(&mut self, value: u32, answer: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 1, 0);
        self.answer(answer);
    }

    fn if_at_least(&mut self, value: u32, answer: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, value, 0, 1);
        self.answer(answer);
    }

    fn if_any_bit(&mut self, bits: u32, answer: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, 0, 1);
        self.answer(answer);
    }

    /// Runs `then` if the value is loaded, which must not lead out again.
    fn if_equal_do(&mut self, value: u32, then: Code) {
        let length = u8::try_from(then.0.len()).expect("parts are short");
        self.add(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            value,
            0,
            length,
        );
        self.0.extend(then.0);
    }

    /// What is decided for one call; whatever `of` leaves open is allowed.
    fn block(&mut self, call: libc::c_long, of: impl Fn(&mut Code)) {
        let mut then = Code(Vec::new());
        of(&mut then);
        then.answer(ALLOW);
        self.if_equal_do(call as u32, then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = ARCHITECTURE.unwrap();

    /// What the kernel would do with the filter.
    fn decide(architecture: u32, call: libc::c_long, arguments: [u32; 3]) -> u32 {
        let filter = filter().unwrap();
        let (mut place, mut loaded) = (0, 0);
        loop {
            let step = filter[place];
            place += 1;
            let jump = |is: bool| usize::from(if is { step.jt } else { step.jf });
            match u32::from(step.code) {
                0x20 => {
                    loaded = match step.k {
                        NUMBER => call as u32,
                        ARCH => architecture,
                        argument => arguments[(argument as usize - 16) / 8],
                    }
                }
                0x54 => loaded &= step.k,
                0x15 => place += jump(loaded == step.k),
                0x35 => place += jump(loaded >= step.k),
                0x45 => place += jump(loaded & step.k != 0),
                0x06 => return step.k,
                code => panic!("{code:x}"),
            }
        }
    }

    #[test]
    fn what_is_decided() {
        let (eperm, enosys, family) = (
            errno(libc::EPERM),
            errno(libc::ENOSYS),
            errno(libc::EAFNOSUPPORT),
        );
        let (inet, unix, netlink) = (
            libc::AF_INET as u32,
            libc::AF_UNIX as u32,
            libc::AF_NETLINK as u32,
        );
        let (stream, raw) = (libc::SOCK_STREAM as u32, libc::SOCK_RAW as u32);
        let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
        for (call, arguments, decision) in [
            (libc::SYS_read, [0, 0, 0], ALLOW),
            (libc::SYS_execve, [0, 0, 0], ALLOW),
            (libc::SYS_mount, [0, 0, 0], eperm),
            (libc::SYS_ptrace, [0, 0, 0], eperm),
            (libc::SYS_clone3, [0, 0, 0], enosys),
            (libc::SYS_io_uring_setup, [0, 0, 0], enosys),
            (libc::SYS_clone, [libc::SIGCHLD as u32, 0, 0], ALLOW),
            (
                libc::SYS_clone,
                [(libc::CLONE_VM | libc::CLONE_THREAD) as u32, 0, 0],
                ALLOW,
            ),
            (libc::SYS_clone, [libc::CLONE_NEWUSER as u32, 0, 0], eperm),
            (libc::SYS_personality, [0, 0, 0], ALLOW),
            (libc::SYS_personality, [u32::MAX, 0, 0], ALLOW),
            (libc::SYS_personality, [0x0004_0000, 0, 0], eperm),
            (libc::SYS_prctl, [libc::PR_SET_NAME as u32, 0, 0], ALLOW),
            (
                libc::SYS_prctl,
                [libc::PR_SET_PDEATHSIG as u32, 0, 0],
                errno(0),
            ),
            (libc::SYS_ioctl, [0, libc::FIONREAD as u32, 0], ALLOW),
            (libc::SYS_ioctl, [0, libc::TIOCSTI as u32, 0], eperm),
            (libc::SYS_socket, [unix, stream, 0], ALLOW),
            (libc::SYS_socket, [inet, stream | flags, 0], ALLOW),
            (libc::SYS_socket, [inet, raw, 1], eperm),
            (
                libc::SYS_socket,
                [libc::AF_INET6 as u32, raw | flags, 1],
                eperm,
            ),
            (libc::SYS_socket, [inet, SOCK_PACKET, 0], eperm),
            (libc::SYS_socket, [netlink, raw | flags, 0], ALLOW),
            (libc::SYS_socket, [netlink, raw, 15], family),
            (libc::SYS_socket, [libc::AF_PACKET as u32, raw, 0], family),
            (libc::SYS_socket, [libc::AF_VSOCK as u32, stream, 0], family),
            (libc::SYS_socketpair, [unix, stream, 0], ALLOW),
            (i64::from(LAST), [0, 0, 0], ALLOW),
            (i64::from(LAST) + 1, [0, 0, 0], enosys),
        ] {
            assert_eq!(
                decide(HERE, call, arguments),
                decision,
                "{call} {arguments:x?}"
            );
        }
        // 32-bit programs have other numbers for everything.
        assert_eq!(decide(0x4000_0003, libc::SYS_read, [0, 0, 0]), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            decide(HERE, 0x4000_0000 | libc::SYS_mount, [0, 0, 0]),
            enosys
        );
    }
}
