"""Large files, many files, open files: says where each of them ended."""

import errno
import os


def until_full(path):
    try:
        with open(path, "wb") as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError as error:
        return errno.errorcode[error.errno]


def handler(event, context):
    ended = [until_full("/tmp/a"), until_full("/tmp/b")]
    os.unlink("/tmp/a")
    os.unlink("/tmp/b")
    try:
        for number in range(10_000_000):
            open(f"/tmp/{number}", "w").close()
    except OSError as error:
        ended.append(errno.errorcode[error.errno])
    opened = []
    try:
        while True:
            opened.append(os.dup(1))
    except OSError as error:
        ended.append(errno.errorcode[error.errno])
    for one in opened:
        os.close(one)
    return ended
