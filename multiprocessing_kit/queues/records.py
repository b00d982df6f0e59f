"""Records of bytes, from any process to any other, first in first out. The drawing is in `shared_mem.py`.

`RecordRing` knows where the bytes are, this one who may touch them when, and who sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from multiprocessing_kit.errors import QueueClosedError
from multiprocessing_kit.ipc.bell import Bell
from multiprocessing_kit.ipc.semaphore import Semaphore, SemaphoreRemovedError
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.sysv import require_sysv
from multiprocessing_kit.queues.base import remaining
from multiprocessing_kit.queues.ring import (
    FLAGS_AT,
    FLAGS_SIZE,
    LENGTH_SIZE,
    RING_HEADER,
    RecordRing,
    RingState,
)

__all__ = ["RecordQueue"]

R = TypeVar("R")
Noted = tuple[Semaphore, int]

_GETTERS, _PUTTERS, _TURN = range(3)  # bytes of flags: who sleeps, and the bell's own
_PUT, _GOT, _CLOSED = 2, 3, 4  # in a RingState

_TRIES = 3  # at the mutex, before sleeping until it is free
_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class RecordQueue:
    """Every call may raise QueueClosedError: it was removed.

    Attributes:
        key: Of its segment.
        max_payload: Bytes of the largest record that ever fits.
    """

    def __init__(self, max_records: int, size: int) -> None:
        self._segment = StampedSegment("queue", RING_HEADER + size, (1, 0, 0))
        self._mutex, first, second = self._segment.semaphores
        self._max_records = max_records
        self._ring = RecordRing(self._segment.buf)
        self._flags = self._segment.buf[FLAGS_AT : FLAGS_AT + FLAGS_SIZE]
        self._bell = Bell((first, second), self._flags[_TURN : _TURN + 1])
        self._busy: type[Exception] = require_sysv().BusyError
        self._gone: type[Exception] = require_sysv().ExistentialError
        self.key = self._segment.key
        self.max_payload = self._ring.capacity - LENGTH_SIZE

    def put(self, records: list[bytes], block: bool, deadline: float | None) -> bool:
        """Take records out of the list and add them, waiting for room. False if the time ran out."""
        while True:
            try:
                noted = self._locked(lambda: self._append(records, block), deadline)
            except TimeoutError:
                return False
            if not records:
                return True
            if noted is None or not self._wait(noted, deadline):
                return False

    def take(self, limit: int, block: bool, deadline: float | None) -> list[bytes] | None:
        """Remove up to `limit` records, waiting for the first; none if the time ran out.

        Returns None if the queue is closed and there are no more.
        """
        while True:
            try:
                taken = self._locked(lambda: self._remove(limit, block), deadline)
            except TimeoutError:
                return []
            if not isinstance(taken, tuple):
                return taken
            if not self._wait(taken, deadline):
                return []

    def count(self) -> int:
        """How many records there are."""
        _, _, put, got, _ = self._locked(self._ring.load)
        return put - got

    def clear(self) -> None:
        """Drop every record."""
        self._locked(lambda: self._change(lambda state: (0, 0, state[_PUT], state[_PUT], state[_CLOSED])))

    def close(self) -> None:
        """Take no more records."""
        self._locked(lambda: self._change(lambda state: (*state[:4], 1)))

    def destroy(self) -> None:
        """Remove it from the system; whoever waits wakes. Needs no mutex, so nobody can hinder it."""
        self._segment.remove()

    def _locked(self, action: Callable[[], R], deadline: float | None = None) -> R:
        """Run `action` under the mutex. Raises TimeoutError if others held it until `deadline`."""
        if self._segment.is_removed:
            raise self._destroyed()
        tries = 0
        try:
            while True:
                try:
                    # A signal handler that raises does so inside, where leaving gives the mutex back.
                    with self._mutex.guard:
                        return action()
                except self._busy:
                    # Held for microseconds only, so let others run before sleeping. Sleepers wake to
                    # try again; being handed it in turn would mean a switch of processes per record.
                    tries += 1
                    if tries <= _TRIES:
                        _let_others_run()
                    elif not self._mutex.wait_for(1, remaining(deadline)):
                        raise TimeoutError from None
        except (self._gone, SemaphoreRemovedError) as error:
            raise self._destroyed() from error

    def _wait(self, noted: Noted, deadline: float | None) -> bool:
        try:
            return self._bell.wait(noted, remaining(deadline))
        except SemaphoreRemovedError as error:
            raise self._destroyed() from error

    def _destroyed(self) -> QueueClosedError:
        return QueueClosedError(f"{self!r} was destroyed")

    def _append(self, records: list[bytes], block: bool) -> Noted | None:
        ring = self._ring
        state = ring.load()
        if state[_CLOSED]:
            raise QueueClosedError(f"{self!r} was closed")
        done = 0
        for record in records:
            head, tail, put, got, _ = state
            if 0 < self._max_records <= put - got or tail - head + len(record) > self.max_payload:
                break
            state = ring.append(state, record)
            done += 1
        if done:
            self._wake(_GETTERS)
            ring.commit(state)
            del records[:done]
        return self._note(_PUTTERS) if records and block else None

    def _remove(self, limit: int, block: bool) -> list[bytes] | Noted | None:
        ring = self._ring
        state = ring.load()
        count = min(limit, state[_PUT] - state[_GOT])
        if not count:
            if state[_CLOSED]:
                return None
            return self._note(_GETTERS) if block else []
        records = []
        for _ in range(count):
            record, state = ring.take(state)
            records.append(record)
        self._wake(_PUTTERS)
        ring.commit(state)
        return records

    def _change(self, change: Callable[[RingState], RingState]) -> None:
        self._wake(_GETTERS)
        self._wake(_PUTTERS)
        self._ring.commit(change(self._ring.load()))

    def _note(self, who: int) -> Noted:
        self._flags[who] = 1
        return self._bell.note()

    def _wake(self, who: int) -> None:
        # Killed after the ring, the flag stays up: one needless ring later. Never the other way round.
        if self._flags[who]:
            self._bell.ring()
            self._flags[who] = 0

    def __repr__(self) -> str:
        return f"queue {self.key:#x}"
