"""Tells when a file is written to, by the kernel's inotify where there is one.

Source: inotify(7). Python has no interface to it, and of its three calls two are needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

__all__ = ["FileWatch"]

_IN_MODIFY = 0x2
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class FileWatch:
    """Of one file, by any process of this host.

    Args:
        path: Of the file, which must be there.

    Attributes:
        works: Whether the system tells; otherwise `fileno` is None.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
            watched = self._descriptor >= 0 and (
                libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_MODIFY) >= 0
            )
            if not watched:  # the user's limit of watches: whoever asks looks by himself now and then
                self.close()
        self.works = self._descriptor >= 0

    def fileno(self) -> int | None:
        """Readable when it was written to since `clear`."""
        return self._descriptor if self.works else None

    def clear(self) -> None:
        """Forget what was."""
        with contextlib.suppress(BlockingIOError):
            while self._descriptor >= 0 and os.read(self._descriptor, 65536):
                pass

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor, self.works = self._descriptor, -1, False
        if descriptor >= 0:
            os.close(descriptor)
