"""`semop` and `semtimedop` of the C library, each returning 0 or the error number."""

from __future__ import annotations

import ctypes
import time
from typing import Any

__all__ = ["sembufs", "semop", "semtimedop", "timed"]


class _Sembuf(ctypes.Structure):
    _fields_ = [("sem_num", ctypes.c_ushort), ("sem_op", ctypes.c_short), ("sem_flg", ctypes.c_short)]


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_library = ctypes.CDLL(None, use_errno=True)
_library.semop.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)

timed = hasattr(_library, "semtimedop")
if timed:
    _library.semtimedop.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def sembufs(operations: tuple[tuple[int, int], ...]) -> Any:
    """A C array for (operation, flags) pairs on the first semaphore of a set."""
    return (_Sembuf * len(operations))(*(_Sembuf(0, op, flags) for op, flags in operations))


def semop(semid: int, ops: Any, count: int) -> int:
    """Wait as long as it takes, unless the operations say otherwise."""
    return 0 if _library.semop(semid, ops, count) == 0 else ctypes.get_errno()


def semtimedop(semid: int, ops: Any, count: int, deadline: float) -> int:
    """Wait until `deadline` (of `time.monotonic`) at most; EAGAIN if it passed."""
    left = max(0.0, deadline - time.monotonic())
    span = _Timespec(int(left), int(left % 1 * 1e9))
    return 0 if _library.semtimedop(semid, ops, count, ctypes.byref(span)) == 0 else ctypes.get_errno()
