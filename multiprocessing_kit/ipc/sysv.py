"""System V segments and keys of ours: the one place that creates segments and explains refusals.

Every key lies in `0x4D4B0000 … 0x4D4BFFFF` ("MK"), so that a sweep can tell ours from foreign ones
before it looks inside. `sysv_ipc` has three traps, all handled here:

* It fills a new segment with `init_character` when it is created writable, which touches every
  page. Created read-only it does not, so we create with mode 0400, then widen the mode.
* It never detaches when an object dies. `Attachment` does, and since every view of the memory
  keeps its `Attachment` alive, memory is never unmapped under a view.
* It turns error numbers into assorted exceptions, and `shmget` succeeding before `shmat` fails
  leaves a segment behind.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.limits import segment_refused

try:
    import sysv_ipc
except ImportError:  # no wheel and no compiler: Segment falls back to mmap, queues say so
    sysv_ipc = None

__all__ = [
    "KEY_PREFIX",
    "KEY_TRIES",
    "Attachment",
    "create_segment",
    "is_our_key",
    "random_key",
    "require_sysv",
    "sysv_ipc",
]

KEY_PREFIX = 0x4D4B
KEY_TRIES = 256  # half of our 65536 keys taken (Linux allows 32000 semaphores): 2**-256

_SharedMemory: Any = object if sysv_ipc is None else sysv_ipc.SharedMemory


class Attachment(_SharedMemory):  # type: ignore[misc]  # sysv_ipc is untyped
    """An attached segment. Detaches when it dies, that is when the last view of it has gone."""

    def __del__(self) -> None:
        if self.attached:
            self.detach()


def require_sysv() -> Any:
    """The `sysv_ipc` module.

    Raises:
        IpcError: It cannot be imported here.
    """
    if sysv_ipc is None:
        raise IpcError(errno.ENOSYS, "System V IPC is not available: the module sysv_ipc cannot be imported")
    return sysv_ipc


def random_key() -> int:
    """A key of our range, from the system's randomness: forked children never draw the same."""
    return KEY_PREFIX << 16 | int.from_bytes(os.urandom(2), "big")


def is_our_key(key: int) -> bool:
    """Whether `key` lies in our range."""
    return key >> 16 == KEY_PREFIX


def create_segment(size: int) -> Attachment:
    """Create a segment of `size` bytes, zeroed, untouched and attached. It is not marked for removal.

    Raises:
        IpcError: The system refused; names the limit that was hit.
    """
    sysv = require_sysv()
    for _ in range(KEY_TRIES):
        key = random_key()
        segment: Attachment = Attachment.__new__(Attachment)
        try:
            segment.__init__(key, sysv.IPC_CREX, mode=0o400, size=size)  # type: ignore[misc]
            segment.mode = 0o600
            segment.detach()
            segment.attach()
        except sysv.ExistentialError:
            continue
        except BaseException as error:
            # The key is set just before shmget, which leaves -1 in the id when it fails.
            if segment.key == key and segment.id != -1:
                segment.remove()
            if isinstance(error, (sysv.Error, OSError, MemoryError, ValueError, OverflowError)):
                raise segment_refused(error, size) from error
            raise
        return segment
    raise IpcError(errno.EEXIST, f"no free System V key found in {KEY_TRIES} tries")
