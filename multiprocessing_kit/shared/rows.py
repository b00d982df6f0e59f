"""Who may change the table when. Where its bytes are is in `cells.py`.

    one System V segment                          eight semaphores, each a lock
    ┌───────┬────────┬─────────┬───────────┐      seven stripes    each for the keys of every seventh bucket
    │ stamp │ words  │ buckets │ cells     │      the structure    for inserts and removals
    └───────┴────────┴─────────┴───────────┘

    read               write, add               insert, remove
    no lock;           ┌ stripe ─────────┐      ┌ stripe ─────────────────────┐
    again, if          │ find the cell   │      │ find the cell, or that there│
    disturbed          │ write the row   │      │ is none                     │
                       │ version + 1     │      │ ┌ structure ──────────────┐ │
                       └─────────────────┘      │ │ repair, insert, remove  │ │
                                                │ └─────────────────────────┘ │
                                                └─────────────────────────────┘

The structure is always the inner lock, so nobody waits in a circle. All are semaphores with undo: the
kernel gives back what a dead process held, and what it had not finished does not count or is repaired.
A reader that is disturbed again and again takes the stripe, under which its bucket holds still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from zlib import crc32

from multiprocessing_kit.errors import TableClosedError
from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.semaphore import Semaphore, SemaphoreRemovedError
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.sysv import require_sysv
from multiprocessing_kit.shared.cells import Cells, Disturbed

__all__ = ["LOCKS", "Rows"]

R = TypeVar("R")

_STRIPES = 7
LOCKS = (1,) * (_STRIPES + 1)
"""First values of the semaphores."""

_TRIES = 3  # at a lock, before sleeping until it is free
_LOOKS = 20  # of a reader, before it takes the lock
_CHUNK = 1024  # buckets per look while scanning
_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Rows:
    """Packed rows by packed keys. Every call raises TableClosedError once the table has been removed.

    Args:
        segment: With memory for `cells` and the semaphores `LOCKS`.
        cells: The rows in that memory.
        table: How errors call it.

    Attributes:
        cells: As given.
    """

    def __init__(self, segment: NamedSegment | StampedSegment, cells: Cells, table: str) -> None:
        self._segment = segment
        self.cells = cells
        self._table = table
        *self._stripes, self._structure = segment.semaphores
        self._guards = [stripe.guard for stripe in self._stripes]
        self._busy: type[Exception] = require_sysv().BusyError
        self._gone: type[Exception] = require_sysv().ExistentialError

    def count(self) -> int:
        """How many rows there are."""
        self._check()
        count = self.cells.count()
        return self._locked(self._structure, self._exact_count) if count is None else count

    def read(self, key: bytes) -> bytes | None:
        """The row of this key, or None."""
        self._check()
        mark = _mark(key)
        for _ in range(_LOOKS):
            try:
                return self.cells.read(mark, key)
            except Disturbed:
                continue
        return self._locked(self._stripe(mark), self._read, mark, key)

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows; each bucket as it was at one instant."""
        for start in range(0, self.cells.buckets, _CHUNK):
            self._check()
            for bucket in self.cells.used_buckets(start, start + _CHUNK):
                yield from self._read_bucket(bucket)

    def write(self, key: bytes, row: bytes) -> bool:
        """Set the row of this key. False if it has none, and there is no room."""
        mark = _mark(key)
        return self._locked(self._stripe(mark), self._write, mark, key, row)

    def add(self, key: bytes, numbers: Any, word: int, by: Any, new: Callable[[], bytes]) -> Any:
        """Add to one number, as `Cells.add`. Without a row, make a `new` one, which has the sum in it.

        Returns:
            The sum, or None if there is no row and no room for one.
        """
        mark = _mark(key)
        return self._locked(self._stripe(mark), self._add, mark, key, numbers, word, by, new)

    def try_add(self, key: bytes, numbers: Any, word: int, by: Any) -> Any:
        """As `add`, if there is such a row and nobody holds its lock; else None."""
        code = crc32(key)
        cells = self.cells
        try:
            with self._guards[(code & cells.mask) % _STRIPES]:
                cell = cells.find(code << 32 | len(key), key)
                return cells.add(cell, numbers, word, by) if cell else None
        except (self._busy, self._gone):
            return None

    def take(self, key: bytes) -> bytes | None:
        """Remove the row of this key, and return it; None if there is none."""
        mark = _mark(key)
        return self._locked(self._stripe(mark), self._take, mark, key)

    def keep(self, key: bytes, row: bytes) -> bytes | None:
        """The row of this key; without one, give it this. None if there is no room for that."""
        mark = _mark(key)
        return self._locked(self._stripe(mark), self._keep, mark, key, row)

    def _read(self, mark: int, key: bytes) -> bytes | None:
        cell = self.cells.find(mark, key)
        return self.cells.row(cell) if cell else None

    def _write(self, mark: int, key: bytes, row: bytes) -> bool:
        cell = self.cells.find(mark, key)
        if not cell:
            return self._locked(self._structure, self._insert, mark, key, row)
        self.cells.write(cell, row)
        return True

    def _add(  # noqa: PLR0917  # called by _locked only
        self, mark: int, key: bytes, numbers: Any, word: int, by: Any, new: Callable[[], bytes]
    ) -> Any:
        cell = self.cells.find(mark, key)
        if cell:
            return self.cells.add(cell, numbers, word, by)
        return by if self._locked(self._structure, self._insert, mark, key, new()) else None

    def _take(self, mark: int, key: bytes) -> bytes | None:
        row = self._read(mark, key)
        if row is not None:
            self._locked(self._structure, self._remove, mark, key)
        return row

    def _keep(self, mark: int, key: bytes, row: bytes) -> bytes | None:
        there = self._read(mark, key)
        if there is not None:
            return there
        return row if self._locked(self._structure, self._insert, mark, key, row) else None

    def _read_bucket(self, bucket: int) -> list[tuple[bytes, bytes]]:
        for _ in range(_LOOKS):
            try:
                return self.cells.read_bucket(bucket)
            except Disturbed:
                continue
        return self._locked(self._stripes[bucket % _STRIPES], self.cells.bucket, bucket)

    def _insert(self, mark: int, key: bytes, row: bytes) -> bool:
        self._repair()
        return self.cells.insert(mark, key, row)

    def _remove(self, mark: int, key: bytes) -> None:
        self._repair()
        self.cells.remove(mark, key)

    def _exact_count(self) -> int:
        self._repair()
        count = self.cells.count()
        assert count is not None
        return count

    def _repair(self) -> None:
        if self.cells.is_half_done:
            self.cells.repair()

    def _stripe(self, mark: int) -> Semaphore:
        return self._stripes[self.cells.bucket_of(mark) % _STRIPES]

    def _check(self) -> None:
        if self._segment.is_removed:
            raise self._destroyed()

    def _destroyed(self) -> TableClosedError:
        return TableClosedError(
            f"{self._table} was destroyed, or it has no name and its creator has ended or dropped it",
            table=self._table,
        )

    def _locked(self, lock: Semaphore, action: Callable[..., R], *arguments: Any) -> R:
        """Run `action` under a lock."""
        tries = 0
        try:
            while True:
                try:
                    # A signal handler that raises does so inside, where leaving gives the lock back.
                    with lock.guard:
                        return action(*arguments)
                except self._busy:
                    # Held for microseconds only, so let others run before sleeping.
                    tries += 1
                    if tries <= _TRIES:
                        _let_others_run()
                    else:
                        lock.wait_for(1)
        except (self._gone, SemaphoreRemovedError) as error:
            raise self._destroyed() from error


def _mark(key: bytes) -> int:
    """Hash and length. Python's own hash differs between processes; crc32 is the fastest that does not."""
    return crc32(key) << 32 | len(key)
