"""A segment and its semaphores that stay until they are removed, and are swept if that never happens.

    creator        segment ▸ stamp ▸ (key ▸ semaphore ▸ id) …          removes all at its exit
    its children   inherit the attachment                              never remove by themselves
    next start,    finds the stamp, sees that the creator
    clear_ipc.py   is dead and nobody is attached                      removes all

The segment is removed last, so that what is left is always named by its stamp.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.hygiene import sweep_once
from multiprocessing_kit.ipc.semaphore import Semaphore
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

__all__ = ["StampedSegment"]


class StampedSegment:
    """Shared memory with a stamp, and up to 8 semaphores.

    Args:
        kind: What it is for, at most 16 bytes of UTF-8; `clear_ipc.py` shows it.
        size: Bytes.
        values: First value of each semaphore.

    Attributes:
        buf: Writable view of `size` bytes, format "B", without the stamp.
        semaphores: As many as `values`.
        key, id: Its System V key and id.
        owner: The creating process.

    Raises:
        IpcError: The system refused; names the limit that was hit. Nothing is left behind.
    """

    def __init__(self, kind: str, size: int, values: Sequence[int] = ()) -> None:
        if len(values) > MAX_SEMAPHORES or len(kind.encode()) > 16:
            raise ValueError(f"{kind!r} with {len(values)} semaphores does not fit into a stamp")
        sweep_once()
        self.owner = Owner.current()
        self.size = size
        self._segment = create_segment(HEADER_SIZE + size)
        self.semaphores: list[Semaphore] = []
        try:
            memory = memoryview(self._segment)
            self._header = memory[:HEADER_SIZE]
            self.buf = memory[HEADER_SIZE : HEADER_SIZE + size]
            Stamp(kind, self.owner).write(memory)
            for slot, value in enumerate(values):
                self.semaphores.append(self._create_semaphore(slot, value))
        except BaseException:
            _remove(self._segment, self.semaphores)
            raise
        self.key: int = self._segment.key
        self.id: int = self._segment.id
        self._finalizer = weakref.finalize(
            self, _remove_as_owner, self.owner, self._segment, self.semaphores, self._header
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
            _remove(self._segment, self.semaphores)
            mark_removed(self._header)
        self._finalizer.detach()

    def _create_semaphore(self, slot: int, value: int) -> Semaphore:
        for _ in range(KEY_TRIES):
            key = random_key()
            write_semaphore(self._header, slot, key)
            try:
                semaphore = Semaphore(key, value)
            except FileExistsError:
                write_semaphore(self._header, slot, 0)
                continue
            write_semaphore(self._header, slot, key, semaphore.id)
            return semaphore
        raise IpcError(errno.EEXIST, f"no free System V key found in {KEY_TRIES} tries")


def _remove(segment: Attachment, semaphores: Sequence[Semaphore]) -> None:
    # The segment goes last: as long as it is there, its stamp names what is left.
    for semaphore in semaphores:
        semaphore.remove()
    try:
        segment.remove()
    except require_sysv().ExistentialError:
        pass  # another process was faster


def _remove_as_owner(
    owner: Owner, segment: Attachment, semaphores: Sequence[Semaphore], header: memoryview
) -> None:
    """What happens at the creator's exit, or when its object dies. Forked children inherit the call."""
    if owner == Owner.current() and not is_removed(header):
        _remove(segment, semaphores)
        mark_removed(header)
