"""The end of the stack."""

import sys


def handler(event, context):
    sys.setrecursionlimit(1 << 30)

    def down(depth):
        return [down(depth + 1)]

    return sorted([down(0)], key=lambda one: down(0))
