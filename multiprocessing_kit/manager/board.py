"""What workers tell the master without a message: a row of numbers each, in memory they share.

A row has one writer, the worker with its PIN, and the master reads it when somebody asks. The memory
belongs to a file without a name, so that it is gone with its last process, and a master that executes
itself anew still has it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time

from multiprocessing_kit.manager.settings import MOST_WORKERS

__all__ = ["Board", "Row"]

_ROW = struct.Struct("=dQd")
_ROW_BYTES = 64  # rows of two writers do not share a line of the processor's cache
_READY_SINCE, _EXECUTED, _BUSY_SINCE = 0, 8, 16


class Board:
    """The rows of all workers.

    Args:
        descriptor: Of a board's file that was made before; None makes one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        size = MOST_WORKERS * _ROW_BYTES
        if descriptor is None:
            descriptor = _unnamed_file()
            os.write(descriptor, bytes(size))  # and not only set its size: a full disk shows here
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)

    def fileno(self) -> int:
        """The file."""
        return self._descriptor

    def row(self, pin: int) -> Row:
        """That of a worker."""
        return Row(self._memory, pin * _ROW_BYTES)

    def close(self) -> None:
        """In this process."""
        self._memory.close()
        os.close(self._descriptor)


class Row:
    """Numbers of one worker; each is written by one store."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at

    def clear(self) -> None:
        """For the next worker with this PIN; by the master, while there is none."""
        self._memory[self._at : self._at + _ROW.size] = bytes(_ROW.size)

    def ready(self) -> None:
        """`init` is over."""
        self._write(_READY_SINCE, "=d", time.monotonic())

    def begin(self) -> None:
        """A call begins."""
        self._write(_BUSY_SINCE, "=d", time.time())

    def end(self, executed: int) -> None:
        """It is over, and the worker has made so many."""
        self._write(_EXECUTED, "=Q", executed)
        self._write(_BUSY_SINCE, "=d", 0.0)

    def ready_since(self) -> float:
        """When `init` was over, by `time.monotonic()`; 0.0 if it is not."""
        since: float = _ROW.unpack_from(self._memory, self._at)[0]
        return since

    def read(self) -> tuple[bool, int, float]:
        """Whether it is ready, how many calls it has made, and since when it is at one; 0.0 if at none."""
        ready, executed, busy_since = _ROW.unpack_from(self._memory, self._at)
        return bool(ready), executed, busy_since

    def _write(self, offset: int, form: str, value: float) -> None:
        struct.pack_into(form, self._memory, self._at + offset, value)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mpkit-board")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
