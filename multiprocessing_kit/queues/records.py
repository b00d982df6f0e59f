"""Records of bytes, from any process to any other. The drawing is in `shared_mem.py`.

A `RecordStore` knows where the bytes are and which record comes first, this one who may touch them when,
and who sleeps. A ring has a lock for each end. A stack or a heap has one for both, and all else is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from multiprocessing_kit.errors import QueueClosedError, QueueError
from multiprocessing_kit.ipc.bell import Bell
from multiprocessing_kit.ipc.named import NamedSegment, open_named
from multiprocessing_kit.ipc.semaphore import Semaphore, SemaphoreRemovedError
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.sysv import require_sysv
from multiprocessing_kit.queues.base import remaining
from multiprocessing_kit.queues.store import RecordStore

__all__ = ["RecordQueue"]

A = TypeVar("A")
R = TypeVar("R")
Noted = tuple[Semaphore, int]

_TRIES = 3  # at a lock, before sleeping until it is free
_LOOKS = 100  # at the store, before sleeping until it changes: less than falling asleep and waking cost
_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class _End:
    """One end of the queue.

    Attributes:
        lock: Of those who use this end.
        asleep: Whether somebody sleeps until they have; written under the lock.
        bound: One word more, 0 when new.
    """

    def __init__(self, semaphores: Sequence[Semaphore], words: memoryview) -> None:
        self.lock, first, second = semaphores
        self.asleep = words[:1]
        self.bell = Bell((first, second), words[1:2])
        self.bound = words[2:3]

    def note(self) -> Noted:
        """Before sleeping until this end is used. Under its lock."""
        self.asleep[0] = 1
        return self.bell.note()

    def wake(self) -> None:
        """Wake who sleeps, before the change. Under the lock."""
        # Killed after the ring, the flag stays up: one needless ring later. Never the other way round.
        if self.asleep[0]:
            self.bell.ring()
            self.asleep[0] = 0


class RecordQueue:
    """Every call may raise QueueClosedError: it was removed.

    Args:
        layout: Where the records are, and in which order.
        max_records: Most records it holds; 0: as many as fit.
        size: Bytes for the records with their overhead.
        name: Shared by all programs that give it; "": inherited by forked children only.

    Attributes:
        key: Of its segment.
        max_payload: Bytes of the largest record that ever fits.

    Raises:
        QueueError: One of this name is there, with another `max_records`.
        IpcError: The system refused; or one of this name is there, with another `size`.
    """

    def __init__(self, layout: type[RecordStore], max_records: int, size: int, name: str = "") -> None:
        values = (1, 0, 0, 1, 0, 0) if layout.locks == 2 else (1, 0, 0, 0, 0)
        self._name = name
        self._segment: StampedSegment | NamedSegment
        if name:
            self._segment = open_named(layout.kind, name, layout.bytes_for(size), values)
        else:
            self._segment = StampedSegment(layout.kind, layout.bytes_for(size), values)
        self._store = layout(self._segment.buf, max_records)
        semaphores = list(self._segment.semaphores)
        self._has_two_locks = layout.locks == 2
        if not self._has_two_locks:
            semaphores.insert(3, semaphores[0])
        self._appenders = _End(semaphores[:3], self._store.own[0])
        self._takers = _End(semaphores[3:], self._store.own[1])
        self._busy: type[Exception] = require_sysv().BusyError
        self._gone: type[Exception] = require_sysv().ExistentialError
        self.key = self._segment.key
        self.max_payload = self._store.max_payload
        if name:
            self._locked(self._appenders, self._agree, max_records)

    def put_one(self, record: bytes, block: bool, deadline: float | None) -> bool:
        """Add a record, waiting for room. False if the time ran out."""
        try:
            with self._appenders.lock.guard:
                if self._append_one(record):
                    return True
        except (self._busy, self._gone):
            pass
        return self.put([record], block, deadline)

    def put(self, records: list[bytes], block: bool, deadline: float | None) -> bool:
        """Take records out of the list and add them, waiting for room. False if the time ran out."""
        store, looks = self._store, _LOOKS
        try:
            while True:
                head = store.head
                if self._locked(self._appenders, self._append, records, deadline):
                    looks = _LOOKS
                if not records:
                    return True
                if not block:
                    return False
                if not store.has_lost_records(head, looks):
                    looks = 1
                    noted = self._locked(self._takers, self._note_full, len(records[0]), deadline)
                    self._sleep(noted, deadline)
        except TimeoutError:
            return False

    def take_one(self, block: bool, deadline: float | None) -> bytes | None:
        """Remove the first record, waiting for one. None if the time ran out.

        Raises:
            QueueClosedError: Closed, and there are no more.
        """
        try:
            with self._takers.lock.guard:
                record = self._remove_one()
                if record:
                    return record
        except (self._busy, self._gone):
            pass
        return self._first(lambda _: self._remove_one(), None, block, deadline)

    def take(self, most: int, block: bool, deadline: float | None) -> list[memoryview]:
        """Remove up to `most` records, waiting for the first; none if the time ran out.

        Raises:
            QueueClosedError: Closed, and there are no more.
        """
        taken = self._first(self._remove, most, block, deadline)
        return self._store.split(taken) if taken else []

    def take_rest(self, most: int) -> list[memoryview]:
        """Remove up to `most` records that are there."""
        return self._store.split(self._locked(self._takers, self._remove, most))

    def count(self) -> int:
        """How many records there are."""
        return self._locked(self._appenders, lambda _: self._store.count(), None)

    def clear(self) -> None:
        """Drop every record."""
        self._locked(self._takers, self._clear, None)

    def close(self) -> None:
        """Take no more records."""
        if not self._has_two_locks:
            self._locked(self._appenders, self._close, None)
            return
        # Nobody waits for a lock while holding the takers' one, so this cannot be a deadlock.
        self._locked(self._appenders, lambda _: self._locked(self._takers, self._close, None), None)

    def destroy(self) -> None:
        """Remove it from the system; whoever waits wakes. Needs no lock, so nobody can hinder it."""
        self._segment.remove()

    def _first(
        self, remove: Callable[[A], R | None], argument: A, block: bool, deadline: float | None
    ) -> R | None:
        looks = _LOOKS if block else 1
        try:
            while True:
                if self._store.has_records(looks):
                    taken = self._locked(self._takers, remove, argument, deadline)
                    if taken:
                        return taken
                else:
                    looks = 1
                    self._sleep(self._locked(self._appenders, self._note_empty, block, deadline), deadline)
        except TimeoutError:
            return None

    def _locked(self, end: _End, action: Callable[[A], R], argument: A, deadline: float | None = None) -> R:
        """Run `action` under an end's lock. Raises TimeoutError if others held it until `deadline`."""
        tries = 0
        try:
            while True:
                try:
                    # A signal handler that raises does so inside, where leaving gives the lock back.
                    with end.lock.guard:
                        return action(argument)
                except self._busy:
                    # Held for microseconds only, so let others run before sleeping. Sleepers wake to
                    # try again; being handed it in turn would mean a switch of processes per record.
                    tries += 1
                    if tries <= _TRIES:
                        _let_others_run()
                    elif not end.lock.wait_for(1, remaining(deadline)):
                        raise TimeoutError from None
        except (self._gone, SemaphoreRemovedError) as error:
            raise self._destroyed() from error

    def _sleep(self, noted: Noted | None, deadline: float | None) -> None:
        """Until the bell rings; not at all if there is nothing noted. TimeoutError at `deadline`."""
        if noted is None:
            return
        try:
            if not Bell.wait(noted, remaining(deadline)):
                raise TimeoutError
        except SemaphoreRemovedError as error:
            raise self._destroyed() from error

    def _destroyed(self) -> QueueClosedError:
        return QueueClosedError(
            f"{self!r} was destroyed, or it has no name and its creator has ended or dropped it"
        )

    def _agree(self, max_records: int) -> None:
        """Whoever has it first says how many records it holds."""
        bound = self._appenders.bound
        if not bound[0]:
            bound[0] = max_records + 1
        if bound[0] != max_records + 1:
            raise QueueError(
                f"{self!r} is there with maxsize={bound[0] - 1}, not {max_records}; "
                "give the same, or destroy() it first"
            )

    def _append_one(self, record: bytes) -> bool:
        if self._store.closed:
            raise QueueClosedError(f"{self!r} was closed")
        if self._appenders.asleep[0]:
            self._appenders.wake()
        return self._store.append_one(record)

    def _append(self, records: list[bytes]) -> int:
        if self._store.closed:
            raise QueueClosedError(f"{self!r} was closed")
        self._appenders.wake()
        return self._store.append(records)

    def _remove_one(self) -> bytes | None:
        if self._takers.asleep[0]:
            self._takers.wake()
        return self._store.take_one()

    def _remove(self, most: int) -> Any:
        self._takers.wake()
        return self._store.take(most)

    def _clear(self, _: None) -> None:
        self._takers.wake()
        self._store.clear()

    def _close(self, _: None) -> None:
        self._appenders.wake()
        self._takers.wake()
        self._store.close()

    def _note_empty(self, block: bool) -> Noted | None:
        """Under the appenders' lock: until it is given back, there will be no record."""
        if self._store.has_records():
            return None
        if self._store.closed:
            raise QueueClosedError(f"{self!r} was closed and is drained")
        if not block:
            raise TimeoutError
        return self._appenders.note()

    def _note_full(self, size: int) -> Noted | None:
        """Under the takers' lock: until it is given back, there will not be more room."""
        if self._store.closed or self._store.has_room(size):
            return None
        return self._takers.note()

    def __repr__(self) -> str:
        return f"{self._store.kind} {self._name!r}" if self._name else f"{self._store.kind} {self.key:#x}"
