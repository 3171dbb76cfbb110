"""Many processes, each of which takes less than the function may have."""

import os
import time


def handler(event, context):
    for _ in range(20):
        if os.fork() == 0:
            keep = bytearray(b"x") * (50 << 20)
            time.sleep(1000)
            del keep
    time.sleep(1000)
