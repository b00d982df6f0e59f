"""Which limit of the system refused a segment or a semaphore, its value, and how to raise it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from multiprocessing_kit.errors import IpcError

__all__ = ["segment_refused", "semaphore_refused"]

_KERNEL = "/proc/sys/kernel"


def segment_refused(error: BaseException, size: int) -> IpcError:
    """The `IpcError` for a segment of `size` bytes that could not be created."""
    what, number = f"shared memory segment of {size} bytes", _errno_of(error)
    if number == errno.EINVAL:
        return _refused(number, what, "shmmax", "bytes in one segment", [size])
    if number != errno.ENOSPC:
        return _refused(number, what)
    segments = _values("shmmni")
    if not segments or _used("shm") >= segments[0]:
        return _refused(number, what, "shmmni", "segments in the whole system", _doubled(segments))
    return _refused(number, what, "shmall", "pages in the whole system", _doubled(_values("shmall")))


def semaphore_refused(error: BaseException) -> IpcError:
    """The `IpcError` for a semaphore that could not be created."""
    number = _errno_of(error)
    if number != errno.ENOSPC:
        return _refused(number, "semaphore")
    values = _values("sem")
    meaning = (
        "SEMMSL SEMMNS SEMOPM SEMMNI; of SEMMNS semaphores and SEMMNI sets in the whole system one ran out"
    )
    if len(values) == 4:
        values[1], values[3] = _doubled([values[1], values[3]])
    return _refused(number, "semaphore", "sem", meaning, values)


def _refused(
    number: int, what: str, name: str = "", meaning: str = "", enough: Sequence[int] = ()
) -> IpcError:
    message = f"the system refused a System V {what}: {os.strerror(number)}"
    if not name:
        return IpcError(number, message)
    value = " ".join(map(str, _values(name))) or "unknown"
    message += f"; the limit kernel.{name} is {value} ({meaning})"
    if enough:
        message += f"; raise it with: sysctl -w kernel.{name}='{' '.join(map(str, enough))}'"
    return IpcError(number, message, limit=f"kernel.{name}")


def _doubled(values: Sequence[int]) -> list[int]:
    return [max(2 * value, 64) for value in values]


def _values(name: str) -> list[int]:
    """The limit's numbers; none where it is not to be had (not Linux, or /proc is hidden)."""
    try:
        with open(f"{_KERNEL}/{name}") as file:
            return [int(value) for value in file.read().split()]
    except OSError:
        return []


def _used(table: str) -> int:
    """How many objects there are."""
    try:
        with open(f"/proc/sysvipc/{table}") as rows:
            return sum(1 for _ in rows) - 1
    except OSError:
        return 0


def _errno_of(error: BaseException) -> int:
    """The error number that `sysv_ipc` turned into `error`."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, (ValueError, OverflowError)):
        return errno.EINVAL
    if isinstance(error, OSError):  # the only OSError that sysv_ipc raises without its number
        return errno.ENOSPC
    return errno.EACCES  # sysv_ipc.PermissionsError
