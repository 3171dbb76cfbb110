"""System calls that reach further than a function may: says which of them were made."""

import ctypes
import errno
import os
import socket

libc = ctypes.CDLL(None, use_errno=True)


def handler(event, context):
    made = []

    def call(name, *arguments):
        ctypes.set_errno(0)
        if getattr(libc, name)(*arguments) >= 0:
            made.append(name)
        elif ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            made.append(f"{name}: {errno.errorcode[ctypes.get_errno()]}")

    def opened(*arguments):
        try:
            socket.socket(*arguments).close()
        except OSError:
            return
        made.append(f"socket {arguments}")

    call("ptrace", 0, 0, 0, 0)
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    call("umount2", b"/tmp", 2)
    call("unshare", 0x10000000)
    call("chroot", b"/tmp")
    call("setns", 0, 0)
    call("setuid", 0)
    call("setgid", 0)
    call("mknod", b"/tmp/disk", 0o60666, 0xFE00)
    call("sethostname", b"mine", 4)
    # With SIGCONT for their signal these would wake what stands still between two events.
    event = (ctypes.c_int * 16)(0, 0, 18, 0)
    call("timer_create", 1, event, ctypes.byref(ctypes.c_void_p()))
    call("mq_notify", 0, event)
    call("fcntl", 0, 10, 18)
    opened(socket.AF_INET, socket.SOCK_RAW, 1)
    opened(socket.AF_INET6, socket.SOCK_RAW, 58)
    opened(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened(socket.AF_NETLINK, socket.SOCK_RAW, 9)
    opened(socket.AF_VSOCK, socket.SOCK_STREAM)
    for path in ("/tmp/disk",):
        if os.path.exists(path):
            made.append(path)
    return made
