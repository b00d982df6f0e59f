"""Segments that unrelated processes find by a name, and find again at their next start.

    open_named("mutex", "orders", …)
      │
      ├─ one user's lock (`naming.py`) ─────────────────────────────────────────────┐
      │  the name's keys, 16 of them, in order: whose segment is there?             │
      │    ours, whole, same kind and name  ▸ this is it                            │
      │    ours, but half made or half removed: its process is dead  ▸ removed      │
      │    anybody else's  ▸ next key                                               │
      │  none is it?  ▸ segment ▸ name and stamp ▸ semaphores ▸ "ready"             │
      └─────────────────────────────────────────────────────────────────────────────┘

Two processes that open a name at the same instant get the same segment: one of them made it, and the other
one waited. A user's names are his own: the user's id is part of what the keys are made from, and
nothing is used that belongs to another user.

A named segment stays until somebody removes it: `remove()`, or `clear_ipc.py` when told so. Removing it
while others have it open is allowed. They keep their attachment, see `is_removed`, and every operation on its
semaphores raises `SemaphoreRemovedError`; whoever opens the name from then on makes a new one.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.naming import run_alone
from multiprocessing_kit.ipc.semaphore import Semaphore, SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import SemaphoreSet
from multiprocessing_kit.ipc.stamp import (
    MAX_NAME_BYTES,
    NAMED_HEADER_SIZE,
    Owner,
    Stamp,
    is_half_made,
    is_removed,
    mark_ready,
    mark_removed,
)
from multiprocessing_kit.ipc.stamped import check_stamp, make_semaphores, remove_all
from multiprocessing_kit.ipc.sysv import (
    Attachment,
    attach_segment,
    create_segment_at,
    name_key,
    require_sysv,
)

__all__ = ["NamedSegment", "open_named"]

KEYS_PER_NAME: Final = 16
"""Of 12288. With 3000 named objects about all 16 of a name would be taken once in 10**9 names."""


class _Wanted(NamedTuple):
    """What a process asks for."""

    kind: str
    name: str
    size: int
    values: Sequence[int]
    sets: Sequence[Sequence[int]]
    prepare: Callable[[memoryview], object] | None


class NamedSegment:
    """Shared memory with a stamp, a name and up to 8 semaphores or sets of them. See `open_named`.

    Attributes:
        buf: Writable view of `size` bytes, format "B", without stamp and name.
        semaphores, sets: In the order in which they were asked for.
        kind, name, size: What was asked for.
        key, id: Its System V key and id.
        owner: The process that made it, which may be dead.
        created: Whether this call made it.
    """

    def __init__(self, segment: Attachment, stamp: Stamp, *, created: bool) -> None:
        memory = memoryview(segment)
        self._segment = segment
        self._header = memory[:NAMED_HEADER_SIZE]
        self.buf = memory[NAMED_HEADER_SIZE : NAMED_HEADER_SIZE + stamp.size]
        self.kind, self.name, self.size = stamp.kind, stamp.name, stamp.size
        self.owner = stamp.owner
        self.created = created
        self.key: int = segment.key
        self.id: int = segment.id
        self.semaphores: list[Semaphore] = []
        self.sets: list[SemaphoreSet] = []

    @property
    def is_removed(self) -> bool:
        """Whether some process has removed it."""
        return is_removed(self._header)

    def remove(self) -> None:
        """Remove it and its semaphores, for every process, and free the name. May be called again.

        Processes keep their attachment; operations on its semaphores raise `SemaphoreRemovedError`.
        """
        if not self.is_removed:
            run_alone(self._remove)

    def _remove(self) -> None:
        if not self.is_removed:
            # Marked first: if this process dies half-way, the next one that opens the name does the rest.
            mark_removed(self._header)
            remove_all(self._segment, [*self.semaphores, *self.sets])

    def __repr__(self) -> str:
        return f"<NamedSegment {self.kind} {self.name!r} {self.size} bytes>"


def open_named(
    kind: str,
    name: str,
    size: int,
    values: Sequence[int] = (),
    *,
    sets: Sequence[Sequence[int]] = (),
    prepare: Callable[[memoryview], object] | None = None,
) -> NamedSegment:
    """Find this user's segment of this kind and name, or make it.

    Args:
        kind: What it is for, at most 16 bytes of UTF-8. Names of different kinds are different names.
        name: At most 120 bytes of UTF-8, not empty and without null characters.
        size: Bytes; zeroed when it is made.
        values: First value of each semaphore, if it is made here.
        sets: The same for each set of semaphores that change together.
        prepare: Called with the memory of one that is made here, before any other process can find it. If it
            raises, nothing is made.

    Raises:
        IpcError: The system refused; or one of another size, or with other semaphores, has this name.
        TypeError: The name is no str.
        ValueError: The name is empty, too long or contains a null character; or the kind is too long.
    """
    _check_name(name)
    check_stamp(kind, len(values) + len(sets))
    if size < 1:
        raise ValueError(f"a segment needs at least 1 byte, not {size}")
    require_sysv()
    return run_alone(partial(_find_or_make, _Wanted(kind, name, size, values, sets, prepare)))


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    length = len(name.encode())
    if not 0 < length <= MAX_NAME_BYTES or "\0" in name:
        raise ValueError(
            f"a name has 1 to {MAX_NAME_BYTES} bytes in UTF-8, no null character; {name[:40]!r} has {length}"
        )


def _find_or_make(wanted: _Wanted) -> NamedSegment:
    """Under the user's lock."""
    free = []
    for key in _keys(wanted):
        segment = attach_segment(key)
        if segment is None or not _is_ours(segment):
            free.append(key)  # or another user's: then it turns out not to be free
            continue
        head = bytes(memoryview(segment)[:NAMED_HEADER_SIZE])
        stamp = Stamp.read(head)
        if stamp is None:
            if is_half_made(head) and segment.number_attached == 1:
                remove_all(segment, ())
                free.append(key)
        elif not stamp.ready or stamp.removed:
            _remove_rest(segment, stamp)
            free.append(key)
        elif (stamp.kind, stamp.name) == (wanted.kind, wanted.name):
            return _found(segment, stamp, wanted)
    for key in free:
        try:
            return _make(key, wanted)
        except FileExistsError:
            continue
    raise IpcError(
        errno.EEXIST,
        f"all {KEYS_PER_NAME} System V keys of the {wanted.kind} {wanted.name!r} are taken by other objects",
    )


def _keys(wanted: _Wanted) -> Iterator[int]:
    what = f"{wanted.kind}\0{wanted.name}\0{os.geteuid()}"
    hashes = (zlib.crc32(f"{each}\0{what}".encode()) for each in range(KEYS_PER_NAME))
    yield from dict.fromkeys(map(name_key, hashes))


def _is_ours(segment: Attachment) -> bool:
    # A segment is created with mode 0400 and widened at once, see sysv.py.
    user = os.geteuid()
    return segment.uid == segment.cuid == user and segment.mode & 0o777 in (0o600, 0o400)


def _found(segment: Attachment, stamp: Stamp, wanted: _Wanted) -> NamedSegment:
    there = len(stamp.semaphores)
    if stamp.size != wanted.size or there != len(wanted.values) + len(wanted.sets):
        raise IpcError(
            errno.EINVAL,
            f"the {wanted.kind} {wanted.name!r} is there with {stamp.size} bytes and {there} semaphores, "
            f"not {wanted.size} and {len(wanted.values) + len(wanted.sets)}; open it so, or destroy it first",
        )
    named = NamedSegment(segment, stamp, created=False)
    try:
        pairs = [(key, number) for key, number in stamp.semaphores if number is not None]
        count = len(wanted.values)
        named.semaphores += [Semaphore.attach(key, number) for key, number in pairs[:count]]
        named.sets += [
            SemaphoreSet.attach(key, number, len(values))
            for (key, number), values in zip(pairs[count:], wanted.sets, strict=True)
        ]
    except (SemaphoreRemovedError, ValueError) as error:
        raise IpcError(
            errno.EIDRM,
            f"the {wanted.kind} {wanted.name!r} has lost its semaphores, somebody removed them: remove the "
            f"rest with: ipcrm -m {segment.id}",
        ) from error
    return named


def _make(key: int, wanted: _Wanted) -> NamedSegment:
    segment = create_segment_at(key, NAMED_HEADER_SIZE + wanted.size)
    made: list[Semaphore | SemaphoreSet] = []
    try:
        stamp = Stamp(wanted.kind, Owner.current(), name=wanted.name, size=wanted.size)
        named = NamedSegment(segment, stamp, created=True)
        stamp.write(memoryview(segment))
        try:
            make_semaphores(named._header, wanted.values, named.semaphores, Semaphore)
            make_semaphores(
                named._header, wanted.sets, named.sets, SemaphoreSet, first_slot=len(wanted.values)
            )
            if wanted.prepare is not None:
                wanted.prepare(named.buf)
            mark_ready(named._header)
        finally:
            made += [*named.semaphores, *named.sets]
    except BaseException:
        remove_all(segment, made)
        raise
    return named


def _remove_rest(segment: Attachment, stamp: Stamp) -> None:
    """Remove what a killed process made or left of a named segment."""
    sysv = require_sysv()
    for key, number in stamp.semaphores:
        try:
            # As in hygiene.py: one without an id that was ever used is somebody else's.
            semaphore = sysv.Semaphore(key)
            if semaphore.id == number if number is not None else not semaphore.o_time:
                semaphore.remove()
        except (sysv.Error, OSError):
            continue  # gone already, or another user's
    remove_all(segment, ())
