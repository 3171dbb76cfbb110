"""The same, but it waits for it."""

import time

import orphan


def handler(event, context):
    orphan.handler(event, context)
    time.sleep(1000)
