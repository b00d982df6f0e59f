"""A segment and its semaphores that stay until they are removed, and are swept if that never happens.

    creator        segment ▸ stamp ▸ (key ▸ semaphore ▸ id) …          removes all at its exit, or
                                                                       when it drops the object
    its children   inherit the attachment                              never remove by themselves
    next start,    finds the stamp, sees that the creator
    clear_ipc.py   is dead and nobody is attached                      removes all

The segment is removed last, so that what is left is always named by its stamp.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.hygiene import sweep_once
from multiprocessing_kit.ipc.semaphore import Semaphore
from multiprocessing_kit.ipc.semset import SemaphoreSet
from multiprocessing_kit.ipc.stamp import (
    HEADER_SIZE,
    MAX_SEMAPHORES,
    Owner,
    Stamp,
    is_removed,
    mark_removed,
    write_semaphore,
)
from multiprocessing_kit.ipc.sysv import KEY_TRIES, Attachment, create_segment, random_key, require_sysv

__all__ = ["StampedSegment", "check_stamp", "make_semaphores", "remove_all"]

V = TypeVar("V")
S = TypeVar("S", Semaphore, SemaphoreSet)


class StampedSegment:
    """Shared memory with a stamp, and up to 8 semaphores or sets of them.

    It is removed with this object in its creator, whether or not children still use it.

    Args:
        kind: What it is for, at most 16 bytes of UTF-8; `clear_ipc.py` shows it.
        size: Bytes.
        values: First value of each semaphore.
        sets: The same for each set of semaphores that change together.

    Attributes:
        buf: Writable view of `size` bytes, format "B", without the stamp.
        semaphores, sets: As many as `values` and `sets`.
        key, id: Its System V key and id.
        owner: The creating process.

    Raises:
        IpcError: The system refused; names the limit that was hit. Nothing is left behind.
    """

    def __init__(
        self, kind: str, size: int, values: Sequence[int] = (), *, sets: Sequence[Sequence[int]] = ()
    ) -> None:
        check_stamp(kind, len(values) + len(sets))
        sweep_once()
        self.owner = Owner.current()
        self.size = size
        self._segment = create_segment(HEADER_SIZE + size)
        self.semaphores: list[Semaphore] = []
        self.sets: list[SemaphoreSet] = []
        try:
            memory = memoryview(self._segment)
            self._header = memory[:HEADER_SIZE]
            self.buf = memory[HEADER_SIZE : HEADER_SIZE + size]
            Stamp(kind, self.owner).write(memory)
            make_semaphores(self._header, values, self.semaphores, Semaphore)
            make_semaphores(self._header, sets, self.sets, SemaphoreSet, first_slot=len(values))
        except BaseException:
            remove_all(self._segment, [*self.semaphores, *self.sets])
            raise
        self.key: int = self._segment.key
        self.id: int = self._segment.id
        self._finalizer = weakref.finalize(
            self,
            _remove_as_owner,
            self.owner,
            self._segment,
            [*self.semaphores, *self.sets],
            self._header,
        )

    @property
    def is_removed(self) -> bool:
        """Whether some process has removed it."""
        return is_removed(self._header)

    def remove(self) -> None:
        """Remove it and its semaphores, for every process. May be called again.

        Processes keep their attachment; operations on its semaphores raise `SemaphoreRemovedError`.
        """
        if not self.is_removed:
            remove_all(self._segment, [*self.semaphores, *self.sets])
            mark_removed(self._header)
        self._finalizer.detach()


def check_stamp(kind: str, semaphores: int) -> None:
    """Raise ValueError if a stamp has no room for this."""
    if semaphores > MAX_SEMAPHORES or len(kind.encode()) > 16:
        raise ValueError(f"{kind!r} with {semaphores} semaphores does not fit into a stamp")


def make_semaphores(
    header: memoryview,
    values: Iterable[V],
    made: list[S],
    make: Callable[[int, V], S],
    *,
    first_slot: int = 0,
) -> None:
    """Create semaphores, or sets of them, each named in the stamp before it is there.

    Args:
        header: Where the stamp is.
        values: What each begins with.
        made: They are put in here, one by one.
        make: Creates one with a key and its values; FileExistsError if the key is taken.
        first_slot: Of the stamp, for the first one.
    """
    for slot, value in enumerate(values, first_slot):
        for _ in range(KEY_TRIES):
            key = random_key()
            write_semaphore(header, slot, key)
            try:
                made.append(make(key, value))
            except FileExistsError:
                write_semaphore(header, slot, 0)
                continue
            write_semaphore(header, slot, key, made[-1].id)
            break
        else:
            raise IpcError(errno.EEXIST, f"no free System V key found in {KEY_TRIES} tries")


def remove_all(segment: Attachment, semaphores: Iterable[Semaphore | SemaphoreSet]) -> None:
    """Remove a segment and what belongs to it, as far as it is still there."""
    # The segment goes last: as long as it is there, its stamp names what is left.
    for semaphore in semaphores:
        semaphore.remove()
    try:
        segment.remove()
    except require_sysv().ExistentialError:
        pass  # another process was faster


def _remove_as_owner(
    owner: Owner, segment: Attachment, semaphores: Sequence[Semaphore | SemaphoreSet], header: memoryview
) -> None:
    """What happens at the creator's exit, or when its object dies. Forked children inherit the call."""
    if owner == Owner.current() and not is_removed(header):
        remove_all(segment, semaphores)
        mark_removed(header)
