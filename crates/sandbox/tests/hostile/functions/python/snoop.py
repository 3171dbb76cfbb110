"""Looks for what is not its own, everywhere: files, other processes, the kernel's. Says what it found and could write."""

import os
import sys

# What the system is made of, and what is its own.
SKIPPED = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/proc", sys.base_prefix)
WRITABLE = (
    "/", "/var", "/var/task", "/var/runtime", "/opt", "/etc", "/dev", "/usr", "/usr/bin", "/proc/sys/kernel",
    "/var/task/snoop.py", "/var/runtime/client.py", "/etc/passwd", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
    "/proc/1/oom_score_adj", "/bin/sh", "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg",
)
KERNEL = ("/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/etc/shadow", "/sys/kernel", "/sys/fs/cgroup")


def handler(event, context):
    found = []

    def look(path):
        try:
            with open(path, "rb") as file:
                if event["word"].encode() in file.read(1 << 16):
                    found.append(path)
        except (OSError, ValueError):
            pass

    def walk(top):
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if os.path.join(folder, name) not in SKIPPED]
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    look(path)

    walk("/")
    for number in os.listdir("/proc"):
        if not number.isdigit():
            continue
        for name in ("environ", "cmdline", "mountinfo", "maps"):
            look(f"/proc/{number}/{name}")
        if int(number) != os.getpid():
            walk(f"/proc/{number}/root")
            walk(f"/proc/{number}/cwd")
    for number in event["processes"]:
        if os.path.exists(f"/proc/{number}") and number > 64:
            found.append(f"process {number}")
    for path in event["paths"]:
        if os.path.exists(path):
            found.append(path)
        look(path)
    for path in KERNEL:
        try:
            if os.path.isdir(path):
                found.extend(f"{path}/{name}" for name in os.listdir(path))
            else:
                with open(path, "rb") as file:
                    file.read(1)
                found.append(path)
        except OSError:
            pass
    for path in WRITABLE:
        target = os.path.join(path, "mine") if os.path.isdir(path) else path
        try:
            with open(target, "a"):
                found.append(f"can write {target}")
        except OSError:
            pass
    return found
