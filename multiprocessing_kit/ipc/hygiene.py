"""Find this package's System V objects, and remove those whose creator is dead.

What is not ours is never touched. An object is looked into only if its key lies in our range, its
mode is what we create, and it belongs to us (root may look at everybody's); a semaphore is removed
only if the stamp of a dead creator's segment names it.

    state       creator                      attached by     a sweep
    alive       runs                         anybody         leaves it
    in use      dead, or in another pid      somebody, or    leaves it
                namespace                    unknown
    kept        dead, has given it a name    nobody          leaves it: it waits to be found again
    orphaned    dead, has given it no name   nobody          removes it
                or has not finished it

The lock under which names are looked up (`naming.py`) has no segment. It is there for an instant only, or
if its holder was killed: then it is orphaned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import NamedTuple

from multiprocessing_kit.ipc.naming import clear_lock, lock_is_held, user_lock_key
from multiprocessing_kit.ipc.stamp import NAMED_HEADER_SIZE, Stamp, start_time
from multiprocessing_kit.ipc.sysv import is_our_key, sysv_ipc
from multiprocessing_kit.ipc.tables import SegmentRow, SemaphoreRow, read_segments, read_semaphores

__all__ = ["IpcObject", "remove", "scan", "sweep", "sweep_once"]

log = logging.getLogger("multiprocessing_kit.ipc")
_swept = False


class IpcObject(NamedTuple):
    """One of our objects in the system.

    Attributes:
        kind: "semaphore", "naming lock", "unstamped" (its creator has not finished, or never will), or
            what the segment's stamp says, such as "queue".
        id, key: Its System V id and key.
        size: Bytes; 0 for a semaphore.
        pid: The creator, in its own pid namespace; 0 if unknown.
        state: "alive", "in use", "kept" or "orphaned".
        name: Of a named one and of its semaphores, else "".
    """

    kind: str
    id: int
    key: int
    size: int
    pid: int
    state: str
    name: str = ""


def scan(*, unattached_only: bool = False) -> list[IpcObject]:
    """All our objects, each segment after the semaphores that belong to it.

    Looking into a segment attaches it for a moment, read-only. With `unattached_only`, segments
    that somebody has attached, which cannot be orphans, are not looked into and not listed.
    Empty on systems without /proc/sysvipc.
    """
    if sysv_ipc is None:
        return []
    found: list[IpcObject] = []
    for row in read_segments():
        if _may_be_ours(row) and not (unattached_only and row.attached):
            found += _look_into(row)
    return [*found, *_locks()]


def remove(objects: Iterable[IpcObject]) -> list[IpcObject]:
    """Remove these objects; returns those that were still there. Give them in the order of `scan`.

    Raises:
        sysv_ipc.PermissionsError: One belongs to another user.
    """
    removed = []
    for item in objects:
        if item.kind == "naming lock":
            removed += [item] if clear_lock() else []
            continue
        call = sysv_ipc.remove_semaphore if item.kind == "semaphore" else sysv_ipc.remove_shared_memory
        try:
            call(item.id)
        except sysv_ipc.ExistentialError:
            continue  # somebody else was faster
        removed.append(item)
    return removed


def sweep() -> list[IpcObject]:
    """Remove every orphan; returns what was removed."""
    removed = remove(item for item in scan(unattached_only=True) if item.state == "orphaned")
    if removed:
        log.info("removed %d System V objects of ours whose creators are dead", len(removed))
    return removed


def sweep_once() -> None:
    """`sweep()`, but once per process. A failure is logged: it must not hinder who comes next."""
    global _swept  # noqa: PLW0603  # once per process
    if _swept:
        return
    _swept = True
    try:
        sweep()
    except Exception:
        log.warning("could not sweep orphaned System V objects", exc_info=True)


def _may_be_ours(row: SegmentRow | SemaphoreRow) -> bool:
    # A segment is created with mode 0400 and widened at once, see sysv.py.
    return is_our_key(row.key) and row.mode in (0o600, 0o400) and os.geteuid() in (row.uid, 0)


def _look_into(row: SegmentRow) -> list[IpcObject]:
    try:
        memory = sysv_ipc.attach(row.id, None, sysv_ipc.SHM_RDONLY)
    except (sysv_ipc.Error, ValueError):
        return []  # removed in the meantime
    try:
        head = bytes(memory.read(min(NAMED_HEADER_SIZE, row.size)))
    finally:
        memory.detach()
    stamp = Stamp.read(head)
    if stamp is None:
        return [] if any(head) else [_unstamped(row)]
    state = _state(stamp.owner.is_dead(), start_time(stamp.owner.pid) == stamp.owner.started, row)
    if state == "orphaned" and stamp.name and stamp.ready and not stamp.removed:
        state = "kept"
    segment = IpcObject(stamp.kind, row.id, row.key, row.size, stamp.owner.pid, state, stamp.name)
    return [*_semaphores(stamp, row, state), segment]


def _unstamped(row: SegmentRow) -> IpcObject:
    # The kernel shows pid 0 for a creator that this pid namespace does not know.
    alive = row.creator != 0 and start_time(row.creator) is not None
    state = _state(row.creator != 0 and not alive, alive, row)
    return IpcObject("unstamped", row.id, row.key, row.size, row.creator, state)


def _state(dead: bool, alive: bool, row: SegmentRow) -> str:
    if dead and not row.attached:
        return "orphaned"
    return "alive" if alive and not dead else "in use"


def _semaphores(stamp: Stamp, row: SegmentRow, state: str) -> list[IpcObject]:
    """The semaphores that the stamp names and that are there, with our marks and the same owner."""
    rows = {each.key: each for each in read_semaphores() if _may_be_ours(each) and each.uid == row.uid}
    found = []
    for key, number in stamp.semaphores:
        each = rows.get(key)
        if each is None:
            continue
        # Without an id the creator died while it made this one. Had its key been somebody else's,
        # that semaphore would have been used before.
        if each.id == number if number is not None else not each.used:
            found.append(IpcObject("semaphore", each.id, key, 0, stamp.owner.pid, state, stamp.name))
    return found


def _locks() -> list[IpcObject]:
    """This user's lock for names, if it is there."""
    return [
        IpcObject("naming lock", row.id, row.key, 0, 0, "in use" if lock_is_held() else "orphaned")
        for row in read_semaphores()
        if row.key == user_lock_key() and _may_be_ours(row)
    ]
