"""OS signals for a loop: nothing happens at a signal but a byte in a pipe, which the loop reads.

Python writes the number of each signal into the pipe in its C handler, in their order; the handler in
Python is there only so that the system's default does not strike.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SignalQueue"]


class SignalQueue:
    """Signals that come between `__enter__` and `__exit__`, in the main thread, which alone may set handlers.

    Args:
        signums: Which.
    """

    def __init__(self, signums: Iterable[int]) -> None:
        self._signums = tuple(signums)
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1
        self._read = self._write = -1

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        for descriptor in (self._read, self._write):
            os.set_blocking(descriptor, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for signum in self._signums:
            self._previous[signum] = signal.signal(signum, _nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)
        self._previous.clear()
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """Readable when one has come."""
        return self._read

    @property
    def is_empty(self) -> bool:
        """Whether none has come since `take`."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        return not poll.poll(0)

    def take(self) -> list[int]:
        """Those that have come since, in their order; many of a kind may have become one."""
        with contextlib.suppress(BlockingIOError):
            return [signum for signum in os.read(self._read, 4096) if signum in self._previous]
        return []


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    pass
