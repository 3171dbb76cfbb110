"""As many threads as it can get."""

import threading
import time


def handler(event, context):
    while True:
        try:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        except (RuntimeError, MemoryError):
            pass
