"""System V semaphores as the C library has them: several in a set, several changes in one operation."""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

__all__ = [
    "GETVAL",
    "LAST_PID",
    "SETVAL",
    "last_error",
    "sembufs",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "timed",
    "timespec",
    "try_semop",
    "try_semtimedop",
    "values",
]

GETVAL, SETVAL, LAST_PID = (5, 8, 4) if sys.platform == "darwin" else (12, 16, 11)
"""For `semctl`: read a value, write it, who did the last operation."""

_GETALL = 6 if sys.platform == "darwin" else 13


class _Sembuf(ctypes.Structure):
    _fields_ = [("sem_num", ctypes.c_ushort), ("sem_op", ctypes.c_short), ("sem_flg", ctypes.c_short)]


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_library = ctypes.CDLL(None, use_errno=True)
_library.semop.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_library.semget.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
# Its fourth argument is a variable one: left out here, ctypes passes it as such.
_library.semctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)

timed = hasattr(_library, "semtimedop")
if timed:
    _library.semtimedop.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

try_semop: Any = _library.semop
"""`semop` as it is: 0, or -1 and `last_error()`."""

try_semtimedop: Any = _library.semtimedop if timed else None

last_error = ctypes.get_errno


def sembufs(operations: tuple[tuple[int, ...], ...]) -> Any:
    """A C array for (operation, flags) pairs on the first semaphore of a set; triples name another one."""
    steps = (step if len(step) == 3 else (0, *step) for step in operations)
    return (_Sembuf * len(operations))(*(_Sembuf(*step) for step in steps))


def timespec(seconds: float) -> Any:
    """A C structure with this many seconds, and a reference to pass it on."""
    seconds = max(0.0, seconds)
    return ctypes.byref(_Timespec(int(seconds), int(seconds % 1 * 1e9)))


def semop(semid: int, ops: Any, count: int) -> int:
    """Wait as long as it takes, unless the operations say otherwise; 0 or the error number."""
    return 0 if _library.semop(semid, ops, count) == 0 else ctypes.get_errno()


def semtimedop(semid: int, ops: Any, count: int, deadline: float) -> int:
    """Wait until `deadline` (of `time.monotonic`) at most; 0 or the error number, EAGAIN if it passed."""
    span = timespec(deadline - time.monotonic())
    return 0 if _library.semtimedop(semid, ops, count, span) == 0 else ctypes.get_errno()


def semget(key: int, count: int, flags: int) -> int:
    """The id of the set with this key; OSError if it cannot be had."""
    number: int = _library.semget(key, count, flags)
    if number == -1:
        raise OSError(ctypes.get_errno(), "semget")
    return number


def values(semid: int, count: int) -> list[int]:
    """The values of the `count` semaphores of a set, at one instant; OSError if they cannot be had."""
    array = (ctypes.c_ushort * count)()
    if _library.semctl(semid, 0, _GETALL, array) == -1:
        raise OSError(ctypes.get_errno(), "semctl")
    return list(array)


def semctl(semid: int, which: int, command: int, value: int = 0) -> int:
    """What `command` says about one semaphore of a set; OSError if it cannot be had."""
    answer: int = _library.semctl(semid, which, command, value)
    if answer == -1:
        raise OSError(ctypes.get_errno(), "semctl")
    return answer
