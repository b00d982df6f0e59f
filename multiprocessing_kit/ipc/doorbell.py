"""A descriptor that one process makes readable to wake another: an eventfd, or a pipe without it.

A job may close every descriptor it finds (`os.closerange(3, 256)`, as daemons do) and then open
files, which get the lowest free numbers. So a doorbell sits at a high number: a closed one answers
with EBADF for good, rather than that a ring is written into somebody's file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

__all__ = ["Doorbell"]

_HIGH = 512
"""Lowest descriptor number a doorbell asks for; falls back to any where the limit is below that."""


class Doorbell:
    """Made before the fork; either side may ring, one side waits on `fileno()` and clears."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = _lift(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        else:
            read, write = os.pipe()
            self._read, self._write = _lift(read), _lift(write)
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
        self._open = True

    def fileno(self) -> int:
        """The descriptor that is readable once somebody rang."""
        return self._read

    def ring(self) -> None:
        """Wake the waiter; rings before `clear` count as one, and those after `close` for nothing.

        Raises:
            OSError: With EBADF when the descriptor was closed behind our back.
        """
        if self._open:  # a signal handler may ring while the doorbell is closed
            with contextlib.suppress(BlockingIOError):  # a full pipe is as readable as can be
                os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Forget the rings so far. Raises as `ring` does."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Close in this process; idempotent."""
        if self._open:
            self._open = False
            for fd in {self._read, self._write}:
                # A job may have closed it already, which is all that is wanted here.
                with contextlib.suppress(OSError):
                    os.close(fd)


def _lift(fd: int) -> int:
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except OSError:
        return fd
    os.close(fd)
    return high
