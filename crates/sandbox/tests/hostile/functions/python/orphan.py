"""Leaves a process behind, in a session of its own, and answers."""

import os
import sys


def handler(event, context):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", event["mark"]])
        os._exit(0)
    return []
