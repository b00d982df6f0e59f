"""Descriptors that no forked child may keep, whoever forks it.

The write end of a liveness pipe says "the caller lives" for as long as anybody holds it. A child
that inherited one, ours or one that the user's own code forked, would keep the others alive after
their parent's death. A hook on fork closes them in every child; exec closes them by itself.
"""

from __future__ import annotations

import os

__all__ = ["close_private", "make_private"]

_private: set[int] = set()


def make_private(fd: int) -> int:
    """Have `fd` closed in every child forked from now on; returns it."""
    _private.add(fd)
    return fd


def close_private(fd: int) -> None:
    """Close a descriptor of `make_private` in the process that made it; elsewhere it is closed already."""
    if fd in _private:
        _private.discard(fd)
        os.close(fd)


def _after_fork_in_child() -> None:
    while _private:
        os.close(_private.pop())


os.register_at_fork(after_in_child=_after_fork_in_child)
