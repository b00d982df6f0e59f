"""System V segments and keys of ours: the one place that creates segments and explains refusals.

Every key lies in `0x4D4B0000 … 0x4D4BFFFF` ("MK"), so that a sweep can tell ours from foreign ones
before it looks inside:

    0x4D4B0000 … BFFF   drawn at random: what processes inherit, and every semaphore
    0x4D4BC000 … EFFF   made from a name: segments that are found again (`named.py`)
    0x4D4BF000 … FFFF   made from a user's id: the locks under which names are looked up (`naming.py`)

`sysv_ipc` has three traps, all handled here:

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
    "attach_segment",
    "create_segment",
    "create_segment_at",
    "is_our_key",
    "lock_key",
    "name_key",
    "random_key",
    "require_sysv",
    "sysv_ipc",
]

KEY_PREFIX = 0x4D4B
KEY_TRIES = 256  # two thirds of the 49152 random keys taken (Linux allows 32000 semaphores): 1e-45

_FIRST_NAME = 0xC000
_FIRST_LOCK = 0xF000

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
    return KEY_PREFIX << 16 | int.from_bytes(os.urandom(4), "big") % _FIRST_NAME


def name_key(number: int) -> int:
    """The key of our range that a name's hash stands for; random ones are never the same."""
    return KEY_PREFIX << 16 | _FIRST_NAME + number % (_FIRST_LOCK - _FIRST_NAME)


def lock_key(number: int) -> int:
    """The key of our range that a user's id stands for; those of names and random ones are never the same."""
    return KEY_PREFIX << 16 | _FIRST_LOCK + number % (0x10000 - _FIRST_LOCK)


def is_our_key(key: int) -> bool:
    """Whether `key` lies in our range."""
    return key >> 16 == KEY_PREFIX


def create_segment(size: int) -> Attachment:
    """Create a segment of `size` bytes, zeroed, untouched and attached. It is not marked for removal.

    Raises:
        IpcError: The system refused; names the limit that was hit.
    """
    require_sysv()
    for _ in range(KEY_TRIES):
        try:
            return create_segment_at(random_key(), size)
        except FileExistsError:
            continue
    raise IpcError(errno.EEXIST, f"no free System V key found in {KEY_TRIES} tries")


def create_segment_at(key: int, size: int) -> Attachment:
    """As `create_segment`, with this key.

    Raises:
        FileExistsError: The key is taken.
        IpcError: The system refused; names the limit that was hit.
    """
    sysv = require_sysv()
    segment: Attachment = Attachment.__new__(Attachment)
    try:
        segment.__init__(key, sysv.IPC_CREX, mode=0o400, size=size)  # type: ignore[misc]
        segment.mode = 0o600
        segment.detach()
        segment.attach()
    except sysv.ExistentialError as error:
        raise FileExistsError(errno.EEXIST, f"segment key {key:#x} is taken") from error
    except BaseException as error:
        # The key is set just before shmget, which leaves -1 in the id when it fails.
        if segment.key == key and segment.id != -1:
            segment.remove()
        if isinstance(error, (sysv.Error, OSError, MemoryError, ValueError, OverflowError)):
            raise segment_refused(error, size) from error
        raise
    return segment


def attach_segment(key: int) -> Attachment | None:
    """The segment with this key, attached; None if there is none, or this user may not read it.

    One whose creator was killed before he widened its mode is attached read-only.
    """
    sysv = require_sysv()
    for mode in (0o600, 0o400):
        try:
            return Attachment(key, 0, mode=mode)
        except sysv.PermissionsError:
            continue
        except (sysv.Error, OSError, ValueError):
            break
    return None
