"""AWS's module of this name: what a function does when its start is over, and before its first event.

A function or a layer may bring AWS's own package along: then that one is found first, and the client asks it in the same way.
"""

__all__ = ["register_before_snapshot", "register_after_restore"]

_before, _after = [], []


def register_before_snapshot(func, *args, **kwargs):
    """To be called when the start is over, the last registered first. Decorates a function, too."""
    _before.append((func, args, kwargs))
    return func


def register_after_restore(func, *args, **kwargs):
    """To be called before the first event, the first registered first. Decorates a function, too."""
    _after.append((func, args, kwargs))
    return func


def get_before_snapshot():
    return _before


def get_after_restore():
    return _after
