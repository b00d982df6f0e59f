"""One consumer of a crew at a time on a host.

A smooth restart with topics in another order starts the new consumer of a topic, in another place, before the
old one is asked to end. They have one name, under which the new one would take what the old one holds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multiprocessing_kit.manager.context import Context

__all__ = ["turn"]

_LOOK_SECONDS = 0.1


@contextmanager
def turn(path: Path, context: Context) -> Iterator[bool]:
    """Wait until no other process is in here, and keep others out; ends with the process, however it ends.

    Args:
        path: Of a file to lock. The lock is this process's own: children do not inherit it, and so do not
            prolong it.
        context: Whose end ends the waiting.

    Yields:
        Whether it is our turn; False if we are to end before.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not (ours := _locked(descriptor)) and context.sleep(_LOOK_SECONDS):
            pass
        yield ours
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
