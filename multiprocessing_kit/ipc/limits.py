"""Which limit of the system refused a segment or a semaphore, its value, and how to raise it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from multiprocessing_kit.errors import IpcError

__all__ = ["segment_refused", "semaphore_refused"]

_KERNEL = Path("/proc/sys/kernel")
_TABLES = Path("/proc/sysvipc")


def segment_refused(error: BaseException, size: int) -> IpcError:
    """The `IpcError` for a segment of `size` bytes that could not be created."""
    number = _errno_of(error)
    if number == errno.ENOSPC:
        name = "shmmni" if _is_full("shm", _number("shmmni")) else "shmall"
    else:
        name = {errno.EINVAL: "shmmax"}.get(number, "")
    hint = {
        "shmmni": "segments in the whole system; raise it with: sysctl -w kernel.shmmni=8192",
        "shmall": "pages of shared memory in the whole system; raise it with: sysctl -w kernel.shmall=…",
        "shmmax": f"bytes in one segment; raise it with: sysctl -w kernel.shmmax={size}",
    }
    return _refused(number, f"shared memory segment of {size} bytes", name, hint)


def semaphore_refused(error: BaseException) -> IpcError:
    """The `IpcError` for a semaphore that could not be created."""
    number = _errno_of(error)
    hint = {
        "sem": "SEMMSL SEMMNS SEMOPM SEMMNI, where SEMMNS (semaphores) and SEMMNI (semaphore sets) "
        'bound the whole system; raise them with: sysctl -w kernel.sem="500 64000 200 32000"'
    }
    return _refused(number, "semaphore", "sem" if number == errno.ENOSPC else "", hint)


def _refused(number: int, what: str, name: str, hint: dict[str, str]) -> IpcError:
    message = f"the system refused a System V {what}: {os.strerror(number)}"
    if name:
        message += f"; kernel.{name} is {_text(name)} ({hint[name]})"
    return IpcError(number, message, limit=f"kernel.{name}" if name else "")


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


def _text(name: str) -> str:
    try:
        return " ".join((_KERNEL / name).read_text().split())
    except OSError:  # not Linux, or /proc is hidden
        return "of unknown value"


def _number(name: str) -> int | None:
    text = _text(name)
    return int(text) if text.isdigit() else None


def _is_full(table: str, limit: int | None) -> bool:
    try:
        used = len((_TABLES / table).read_text().splitlines()) - 1
    except OSError:
        return True  # the likelier limit
    return limit is None or used >= limit
