/* System calls that reach further than a function may, without a library in between: says which of them the kernel was
 * asked for. A call that is refused has one of four errors; any other means that it was looked at. */

#define _GNU_SOURCE
#include "runtime.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char made[8192];

static void say(const char *name, const char *how) {
    size_t had = strlen(made);
    snprintf(made + had, sizeof made - had, "%s\"%s: %s\"", had ? "," : "", name, how);
}

static void look(const char *name, long result) {
    if (result >= 0) {
        say(name, "done");
        return;
    }
    if (errno != EPERM && errno != ENOSYS && errno != EACCES && errno != EAFNOSUPPORT) say(name, strerror(errno));
}

#define CALL(number, ...) look(#number, syscall(number, ##__VA_ARGS__))

/* What may end the process, or make another one, in a process of its own: says what became of it. */
static void apart(const char *name, int (*act)(void)) {
    pid_t child = fork();
    if (child == 0) _exit(act());
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) say(name, "done");
}

#ifdef __x86_64__
/* The calls of 32 bits: `getuid` there. */
static int of_32_bits(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(24L) : "memory");
    return result < 0;
}

/* The calls of x86-64 with 32-bit pointers: `getpid` there. */
static int of_x32(void) { return syscall(0x40000000 | SYS_getpid) < 0; }
#endif

static uint64_t flags_tried;

static int cloned(void) {
    long child = syscall(SYS_clone, flags_tried | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child < 0;
}

static int cloned_3(void) {
    struct clone_args arguments = {.flags = flags_tried, .exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) _exit(0);
    return child < 0;
}

static int unshared(void) { return syscall(SYS_unshare, flags_tried) < 0; }

static const char *handle(const char *event) {
    (void)event;
    made[0] = 0;
    const struct {
        const char *name;
        uint64_t flag;
    } namespaces[] = {
        {"CLONE_NEWUSER", CLONE_NEWUSER}, {"CLONE_NEWNS", CLONE_NEWNS},   {"CLONE_NEWPID", CLONE_NEWPID},
        {"CLONE_NEWNET", CLONE_NEWNET},   {"CLONE_NEWIPC", CLONE_NEWIPC}, {"CLONE_NEWUTS", CLONE_NEWUTS},
        {"CLONE_NEWCGROUP", CLONE_NEWCGROUP},
    };
    for (size_t at = 0; at < sizeof namespaces / sizeof *namespaces; at++) {
        char name[64];
        flags_tried = namespaces[at].flag;
        snprintf(name, sizeof name, "clone %s", namespaces[at].name);
        apart(name, cloned);
        snprintf(name, sizeof name, "clone3 %s", namespaces[at].name);
        apart(name, cloned_3);
        snprintf(name, sizeof name, "unshare %s", namespaces[at].name);
        apart(name, unshared);
    }
    int own = open("/proc/self/ns/mnt", O_RDONLY);
    CALL(SYS_setns, own, 0);
    close(own);
    /* Mounts and roots. */
    CALL(SYS_mount, "none", "/tmp", "tmpfs", 0, 0);
    CALL(SYS_mount, "/", "/tmp", 0, MS_BIND, 0);
    CALL(SYS_mount, 0, "/", 0, MS_REMOUNT | MS_BIND, 0);
    CALL(SYS_umount2, "/tmp", MNT_DETACH);
    CALL(SYS_pivot_root, "/tmp", "/tmp");
    CALL(SYS_chroot, "/tmp");
    CALL(SYS_fsopen, "tmpfs", 0);
    CALL(SYS_open_tree, AT_FDCWD, "/", 1);
    CALL(SYS_move_mount, AT_FDCWD, "/", AT_FDCWD, "/tmp", 0);
    CALL(SYS_fsmount, -1, 0, 0);
    CALL(SYS_fspick, AT_FDCWD, "/", 0);
    CALL(SYS_mount_setattr, AT_FDCWD, "/", 0, 0, 0);
    CALL(SYS_swapon, "/tmp/swap", 0);
    /* Devices. */
    CALL(SYS_mknodat, AT_FDCWD, "/tmp/block", S_IFBLK | 0666, 0xfe00);
    CALL(SYS_mknodat, AT_FDCWD, "/tmp/character", S_IFCHR | 0666, 0x101);
    /* Other processes. */
    CALL(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
    CALL(SYS_ptrace, PTRACE_ATTACH, 1, 0, 0);
    CALL(SYS_ptrace, PTRACE_SEIZE, 1, 0, 0);
    CALL(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0);
    CALL(SYS_process_vm_writev, 1, 0, 0, 0, 0, 0);
    CALL(SYS_pidfd_getfd, -1, 0, 0);
    CALL(SYS_kcmp, 1, 1, 0, 0, 0);
    CALL(SYS_migrate_pages, 0, 0, 0, 0);
    CALL(SYS_move_pages, 0, 0, 0, 0, 0, 0);
    /* Sockets. */
    CALL(SYS_socket, AF_INET, SOCK_RAW, 1);
    CALL(SYS_socket, AF_INET, SOCK_RAW | SOCK_CLOEXEC, 255);
    CALL(SYS_socket, AF_INET6, SOCK_RAW, 58);
    CALL(SYS_socket, AF_INET, 10, 0);
    CALL(SYS_socket, AF_PACKET, SOCK_RAW, 0);
    CALL(SYS_socket, AF_PACKET, SOCK_DGRAM, 0);
    CALL(SYS_socket, AF_NETLINK, SOCK_RAW, 9);
    CALL(SYS_socket, AF_NETLINK, SOCK_RAW, 12);
    CALL(SYS_socket, AF_VSOCK, SOCK_STREAM, 0);
    CALL(SYS_socket, AF_ALG, SOCK_SEQPACKET, 0);
    CALL(SYS_socket, AF_KEY, SOCK_RAW, 2);
    CALL(SYS_socket, 44 /* AF_XDP */, SOCK_RAW, 0);
    CALL(SYS_socket, AF_BLUETOOTH, SOCK_RAW, 1);
    /* The kernel itself. */
    CALL(SYS_bpf, 0, 0, 0);
    CALL(SYS_perf_event_open, 0, 0, -1, -1, 0);
    CALL(SYS_userfaultfd, 0);
    CALL(SYS_userfaultfd, 1);
    CALL(SYS_io_uring_setup, 1, 0);
    CALL(SYS_io_uring_enter, -1, 0, 0, 0, 0);
    CALL(SYS_io_uring_register, -1, 0, 0, 0);
    CALL(SYS_init_module, 0, 0, "");
    CALL(SYS_finit_module, -1, "", 0);
    CALL(SYS_delete_module, "none", 0);
    CALL(SYS_kexec_load, 0, 0, 0, 0);
    CALL(SYS_reboot, 0, 0, 0, 0);
    CALL(SYS_syslog, 10, 0, 0);
    CALL(SYS_acct, "/tmp/account");
    CALL(SYS_quotactl, 0, 0, 0, 0);
    CALL(SYS_vhangup);
    CALL(SYS_sethostname, "mine", 4);
    CALL(SYS_setdomainname, "mine", 4);
    CALL(SYS_personality, 0x0040000);
    CALL(447 /* memfd_secret */, 0);
    CALL(100000, 0);
    /* Keys. */
    CALL(SYS_add_key, "user", "mine", "x", 1, -3);
    CALL(SYS_request_key, "user", "mine", 0, -3);
    CALL(SYS_keyctl, 0, -3, 1);
    /* Files by other ways than their names, and watching all of them. */
    CALL(SYS_name_to_handle_at, AT_FDCWD, "/", 0, 0, 0);
    CALL(SYS_open_by_handle_at, AT_FDCWD, 0, 0);
    CALL(SYS_fanotify_init, 0, 0);
    /* The time. */
    CALL(SYS_settimeofday, 0, 0);
    CALL(SYS_clock_settime, 0, 0);
    CALL(SYS_adjtimex, 0);
    /* Rights. */
    CALL(SYS_setuid, 0);
    CALL(SYS_setgid, 0);
    CALL(SYS_setresuid, 0, 0, 0);
    CALL(SYS_setgroups, 1, (gid_t[]){0});
    CALL(SYS_capset, (uint32_t[]){0x20080522, 0}, (uint32_t[]){~0u, ~0u, ~0u, ~0u, ~0u, ~0u});
    CALL(SYS_prctl, PR_SET_SECUREBITS, 1, 0, 0, 0);
    CALL(SYS_prctl, PR_CAPBSET_DROP, 1, 0, 0, 0);
    CALL(SYS_setpriority, PRIO_PROCESS, 0, -20);
    CALL(SYS_sched_setscheduler, 0, SCHED_FIFO, &(struct sched_param){1});
    CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, &(struct rlimit){1 << 20, 1 << 20}, 0);
    CALL(SYS_prlimit64, 0, RLIMIT_CORE, &(struct rlimit){1 << 20, 1 << 20}, 0);
#ifdef __x86_64__
    CALL(SYS_iopl, 3);
    CALL(SYS_ioperm, 0x60, 1, 1);
    CALL(SYS_modify_ldt, 0, 0, 0);
    CALL(SYS_kexec_file_load, -1, -1, 0, 0, 0);
    apart("a call of 32 bits", of_32_bits);
    apart("a call of x32", of_x32);
#endif
    static char answer[sizeof made + 2];
    snprintf(answer, sizeof answer, "[%s]", made);
    return answer;
}
