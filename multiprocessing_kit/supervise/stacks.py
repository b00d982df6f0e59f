"""Where a process is: its Python stacks, written on demand by a handler in C.

The parent makes the file before it forks, sends a signal, and reads it afterwards. The handler runs whatever
the child is busy with, also in C code that never returns; it takes no lock and allocates nothing.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing_kit.supervise.child import ForkedChild

__all__ = ["Stacks"]

_DUMP: int | None = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else None
"""None of the signals that programs use for themselves."""


class Stacks:
    """The file of one child. Empty where the system has none without a name, or no real-time signals."""

    def __init__(self) -> None:
        self._fd = -1
        self._begin = 0
        if _DUMP is not None and hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("mpkit-stacks")

    def arm(self) -> None:
        """In the child: write to the file when asked."""
        if self._fd >= 0 and _DUMP is not None:
            faulthandler.register(_DUMP, file=self._fd, all_threads=True)

    def ask(self, child: ForkedChild) -> None:
        """In the parent: have `child` write."""
        if self._fd >= 0 and _DUMP is not None:
            self._begin = os.fstat(self._fd).st_size
            child.send_signal(_DUMP)

    def may_come(self, child: ForkedChild) -> bool:
        """In the parent: whether `child` has not begun to write only because it is not given a processor."""
        if self._fd < 0 or os.fstat(self._fd).st_size > self._begin:
            return False
        try:
            with open(f"/proc/{child.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"R"
        except OSError:
            return False

    def read(self) -> str:
        """In the parent: what the child has written since it was asked."""
        if self._fd < 0:
            return ""
        size = os.fstat(self._fd).st_size - self._begin
        return os.pread(self._fd, size, self._begin).decode(errors="replace")

    def close(self) -> None:
        """At the end, and in other children."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
