"""A Python that runs already and splits off environments (`zygote.rs`).

It never runs code of a function. For each environment it forks; the copy goes into namespaces of its own, gets the code
mounted, gives up what it does not need, and becomes the runtime client. The order is that of `shut_in.rs`, and whatever
must be decided comes from there: this carries it out. Each call that fails is told with its number in `STAGES`.

What is a function's own must never be in the zygote's memory, also not for a moment: what it lets go of stays there, for
all copies that follow to be read. Variables, which may be secrets, come to the copy on a link of its own. They come last,
when whoever wants the environment holds its process: a copy that is not held never runs a function's code. For some copies
they come much later: those wait until a function needs one, and get its code mounted then, from outside.
"""

import sys

import client

# What a client that is started by itself has, too; it is not called so there.
OF_CLIENT = set(sys.modules) - {"client"}

import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
MESSAGE_BYTES_MAX = 1 << 18
FILES_MAX = 16
# Each is a descriptor here until its end, and there must be some left for an order.
CHILDREN_MAX = 900
# Of the copy, until whoever wants it answers.
WAIT_SECONDS = 10
CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
# Of both architectures: calls got common numbers before this one.
SYS_MOVE_MOUNT = 429
AT_FDCWD = -100
MOVE_MOUNT_F_EMPTY_PATH = 4
CAPABILITY_VERSION_3 = 0x20080522
SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40
BACKLOG = 128
# What many functions import, read while nobody waits for it.
COMMON = (
    "base64 collections concurrent.futures contextlib dataclasses datetime decimal enum functools hashlib io logging "
    "pathlib random re ssl tempfile threading traceback typing urllib.parse urllib.request uuid"
).split()
# As in `shut_in.rs`.
STAGES = {
    "session": 1,
    "group": 2,
    "namespaces": 3,
    "network": 5,
    "mount": 6,
    "limit": 7,
    "user": 8,
    "seccomp": 10,
    # Described as what is none of the above.
    "start": 0,
}


def call(function, *arguments):
    if function(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def prctl(option, argument):
    call(LIBC.prctl, option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def mount(kind, at, flags, options):
    kind, at, options = kind.encode(), at.encode(), options.encode()
    call(LIBC.mount, kind, at, kind, ctypes.c_ulong(flags), options)


def move_mount(tree, at):
    arguments = [ctypes.c_long(tree), b"", ctypes.c_long(AT_FDCWD), at, ctypes.c_long(MOVE_MOUNT_F_EMPTY_PATH)]
    call(LIBC.syscall, ctypes.c_long(SYS_MOVE_MOUNT), *arguments)


def drop_capabilities():
    """A change of user takes them, but only from root."""
    call(LIBC.capset, struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24))


def filter_calls(program):
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    call(LIBC.prctl, PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program))


def open_network(ports, connectors):
    """Loopback, the listeners in it, and sockets by which the host can connect to listeners of the function."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP | IFF_RUNNING))
    sockets = []
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
        sockets.append(listener)
    for _ in range(connectors):
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
    return sockets


class Order:
    """One environment that is wanted: what it is, and files that it needs."""

    def __init__(self, settings, order, files):
        self.settings = settings
        self.order = order
        self.stdout, self.stderr = files[1:3]
        trees = len(order["trees"])
        self.trees = files[3 : 3 + trees]
        self.groups = files[3 + trees :]
        self.stage = "session"
        # Last: it closes its file if the rest fails.
        self.link = socket.socket(fileno=files[0])

    def tell_pid(self, pid, pidfd):
        socket.send_fds(self.link, [b"P" + pid.to_bytes(4, sys.byteorder) + bytes(3)], [pidfd])

    def tell_started(self, sockets):
        socket.send_fds(self.link, [b"S" + bytes(7)], [one.fileno() for one in sockets])

    def tell_failure(self, error):
        words = (ord("F"), STAGES[self.stage], 0, getattr(error, "errno", None) or 0)
        try:
            self.link.send(struct.pack("=BBHi", *words))
        except OSError:
            # Nobody wants it any more.
            pass

    def assignment(self):
        """Waits for it: from then on somebody holds this process, and ends it."""
        self.link.settimeout(WAIT_SECONDS)
        if self.order["waits"]:
            # Held is what it is from here on, also without a function.
            self.link.recv(1)
            self.link.settimeout(None)
        return json.loads(self.link.recv(MESSAGE_BYTES_MAX))

    def settle(self, folder, limits):
        self.stage = "mount"
        os.chdir(folder)
        self.stage = "limit"
        for number, limit in limits:
            resource.setrlimit(number, (limit, limit))

    def shut_in(self):
        """The sockets that the host wants of its network."""
        order, settings = self.order, self.settings
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self.stage = "group"
        for group in self.groups:
            os.write(group, b"0")
        self.stage = "namespaces"
        call(LIBC.unshare, settings["namespaces"])
        self.stage = "network"
        sockets = open_network(settings["ports"], order["connectors"])
        socket.sethostname("localhost")
        self.stage = "mount"
        for kind, at, flags, options in order["mounts"]:
            mount(kind, at, flags, options)
        for tree, at in zip(self.trees, order["trees"]):
            move_mount(tree, at.encode())
        if not order["waits"]:
            self.settle(order["folder"], order["limits"])
        self.stage = "user"
        if settings["user"] is not None:
            user = settings["user"]
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        drop_capabilities()
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        # A change of user clears it, and takes the process's own files in `/proc` from it; a program that starts gets
        # those back.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_DUMPABLE, 1)
        self.stage = "seccomp"
        if settings["filter"]:
            filter_calls(bytes.fromhex(settings["filter"]))
        return sockets

    def take_streams(self):
        """Standard input and output are the environment's, and nothing else stays open."""
        null = os.open("/dev/null", os.O_RDONLY)
        for file, number in ((null, 0), (self.stdout, 1), (self.stderr, 2)):
            os.dup2(file, number)
        sys.stdin = sys.__stdin__ = open(0, closefd=False)
        self.link.detach()
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def become(self):
        """In the copy, which is the function's from here on. It has left the zygote behind: nothing of that waits for it."""
        try:
            sockets = self.shut_in()
            self.stage = "start"
            self.tell_started(sockets)
            assignment = self.assignment()
            if self.order["waits"]:
                self.settle(assignment["folder"], assignment["limits"])
        except Exception as error:
            self.tell_failure(error)
            os._exit(1)
        self.take_streams()
        os.environ.clear()
        os.environ.update(assignment["variables"])
        time.tzset()
        sys.path_importer_cache.clear()
        forget_hidden()
        gc.enable()
        client.main()


def forget_hidden():
    """A module of the function or of a layer stands before one of the same name that was read already."""
    own = set()
    for folder in client.own_path():
        try:
            own.update(name.partition(".")[0] for name in os.listdir(folder))
        except OSError:
            pass
    for name in sys.modules.keys() - OF_CLIENT:
        if name.partition(".")[0] in own:
            del sys.modules[name]


class Zygote:
    def __init__(self):
        self.control = socket.socket(fileno=0)
        self.settings = json.loads(self.control.recv(MESSAGE_BYTES_MAX))
        self.own = os.pidfd_open(os.getpid())
        self.poll = select.epoll()
        self.poll.register(self.control, select.EPOLLIN)
        # By their pidfds: the number of the order, and the process.
        self.children = {}
        self.common = list(COMMON)

    def run(self):
        """Takes orders, and returns the order in the copy that is for it."""
        # Collected garbage would be a write to pages that are shared with all copies.
        gc.disable()
        gc.freeze()
        self.control.send(b"R")
        while True:
            found = self.poll.poll(0 if self.common else None)
            if not found:
                self.read_ahead()
            for file, _ in found:
                if file != self.control.fileno():
                    self.bury(file)
                elif order := self.take_order():
                    return order

    def read_ahead(self):
        name = self.common.pop(0)
        try:
            __import__(name)
        except ImportError:
            pass
        if not self.common:
            gc.freeze()

    def take_order(self):
        """The order in the copy that is for it. Whatever is wrong with one of them, the others go on."""
        message, files, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES_MAX, FILES_MAX)
        wanted = None
        try:
            wanted = Order(self.settings, json.loads(message), files)
            if self.split(wanted):
                return wanted
        except Exception as error:
            if wanted:
                wanted.tell_failure(error)
        if wanted:
            wanted.link.detach()
        for file in files:
            os.close(file)

    def split(self, wanted):
        """True in the copy."""
        wanted.stage = "namespaces"
        if len(self.children) >= CHILDREN_MAX:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        # The next child is the first process of a namespace, and the one after that must not be in it.
        call(LIBC.unshare, CLONE_NEWPID)
        try:
            pid = os.fork()
        except OSError:
            call(LIBC.setns, self.own, CLONE_NEWPID)
            raise
        if pid == 0:
            self.control.detach()
            self.poll.close()
            wanted.stage = "session"
            return True
        try:
            call(LIBC.setns, self.own, CLONE_NEWPID)
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.children[pidfd] = (wanted.order["number"], pid)
        self.poll.register(pidfd, select.EPOLLIN)
        try:
            wanted.tell_pid(pid, pidfd)
        except OSError:
            # Who gave the order has given up, and nobody else can end it.
            os.kill(pid, signal.SIGKILL)
        return False

    def bury(self, pidfd):
        number, pid = self.children[pidfd]
        # Not waited for: whatever wakes this, the others need it.
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            return
        del self.children[pidfd]
        self.poll.unregister(pidfd)
        os.close(pidfd)
        self.control.send(struct.pack("=BQi", ord("E"), number, status))


if __name__ == "__main__":
    Zygote().run().become()
