"""A queue in shared memory that outlives any of its users' deaths.

    one System V segment
    ┌───────┬─────────────────┬─────────────┬──────────────────────────────┐
    │ stamp │ putters' words  │ getters'    │ ring of pickled records      │
    │       │ tail …, asleep  │ head,asleep │                              │
    └───────┴─────────────────┴─────────────┴──────────────────────────────┘
    six semaphores: for each end its lock, and two for the bell of those who wait for that end

    put                                          get
    pickle the item                              ┌ getters' lock ─────────────────────┐
    ┌ putters' lock ─────────────────────┐       │ ring, if a putter sleeps           │
    │ ring, if a getter sleeps           │       │ copy the first record out          │
    │ write the record behind the others │       │ move the head                      │
    │ move the tail                      │       └────────────────────────────────────┘
    └────────────────────────────────────┘       unpickle

    too little room:                             nothing there:
    look a few times more                        look a few times more
    ┌ getters' lock ─────────────────────┐       ┌ putters' lock ─────────────────────┐
    │ still so? flag "a putter sleeps"   │       │ still so? flag "a getter sleeps"   │
    │ note the bell                      │       │ note the bell                      │
    └────────────────────────────────────┘       └────────────────────────────────────┘
    wait for the bell, then try again            wait for the bell, then try again

The two ends have a lock each, so that a putter and a getter do not meet (the two-lock queue of Michael
and Scott, 1996). Closing takes both, putters' first; nobody else holds one while waiting for another.

Why no death does harm:

* A lock is a semaphore with undo: the kernel releases it when its holder dies.
* An end moves by one 8-byte store (`ring.py`): the record is in or it is not.
* Who sleeps has looked under the lock of those who would wake it, so nothing happens unseen between
  the look and the flag.
* The bell has no token that a killed sleeper could take along (`bell.py`).
* The bell rings before the end moves. Killed in between, the others have woken for nothing; the other
  way round a getter could sleep on beside an item.
* A flag goes up before its owner sleeps and comes down after the bell has rung. One left up by a
  killed sleeper costs one needless ring; none is ever down while somebody sleeps.
* Every putter that finds too little room is woken whenever room grows, and looks for itself: a
  large record that waits does not hold up a small one that would fit.
* Pickle runs the user's code, so it never runs under a lock.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError, QueueError, QueueFullError
from multiprocessing_kit.queues.base import Queue, check_max_items, deadline_of
from multiprocessing_kit.queues.records import RecordQueue
from multiprocessing_kit.queues.ring import RecordRing
from multiprocessing_kit.queues.store import RecordStore

__all__ = ["PickledQueue", "SharedMemQueue"]

T = TypeVar("T")

log = logging.getLogger("multiprocessing_kit.queues")

_PAGE = 4096
_BATCH = 256  # items per turn at a lock
_LINGER = 0.01  # seconds that put_many may sit on an item to collect more


class PickledQueue(Queue[T]):
    """What the queues in shared memory have in common: all but the order of their items.

    Args:
        layout: Where the records are, and in which order.
        maxsize: Most items it holds; 0 or less: as many as fit.
        size: Bytes for the records.
        name: Shared by all programs that give it; "": inherited by forked children only.
    """

    def __init__(self, layout: type[RecordStore], maxsize: int, size: int, name: str = "") -> None:
        super().__init__(maxsize)
        if size < 1:
            raise ValueError(f"'size' must be at least 1 byte, not {size}")
        self._name = name
        # Given up by destroy(): the memory is detached when the last thread has left it.
        self._records: RecordQueue | None = RecordQueue(layout, self.maxsize, -(-size // _PAGE) * _PAGE, name)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """As `Queue.put`; QueueError also if the item cannot be pickled. It is in whole, or not at all."""
        deadline = None if timeout is None else deadline_of(block, timeout)
        if not self._shared().put_one(self._dumps(item), block, deadline):
            raise QueueFullError(f"no room in {self!r}")

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """As `Queue.put_many`, with one turn at the lock for many items.

        If an item cannot be had or pickled, those before it are put, and its error is raised.
        """
        self._put_all(items, self._dumps, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """As `Queue.get`; QueueError if the item cannot be unpickled: then it is lost."""
        deadline = None if timeout is None else deadline_of(block, timeout)
        record = self._shared().take_one(block, deadline)
        if record is None:
            raise QueueEmptyError(f"nothing in {self!r}")
        return self._loads(record)

    def get_many(
        self, max_items: int | None = None, block: bool = True, timeout: float | None = None
    ) -> list[T]:
        """As `Queue.get_many`. Items that cannot be unpickled are logged and left out.

        Raises:
            QueueError: None of them could be unpickled.
        """
        check_max_items(max_items)
        deadline = deadline_of(block, timeout)
        # Without a bound, producers that keep up could hold us here for ever.
        limit = max_items or max(1, self.qsize())
        records = self._shared().take(min(limit, _BATCH), block, deadline)
        if not records:
            raise QueueEmptyError(f"nothing in {self!r}")
        return self._loads_all(self._take_more(records, limit))

    def get_all(self) -> list[T]:
        """As `Queue.get_all`. Items that cannot be unpickled are logged and left out."""
        return self._loads_all(self._take_more([], self.qsize()))

    def qsize(self) -> int:
        """How many items there are. Another process may change that at once."""
        return self._shared().count()

    def clear(self) -> None:
        """Drop every item."""
        self._shared().clear()

    def close(self) -> None:
        """Take no more items from anybody.

        Those that are there can still be had; after them `get` raises QueueClosedError, and so
        does every `put`, also those that wait.
        """
        self._shared().close()

    def destroy(self) -> None:
        """Remove the queue from the system; for every process, all calls raise QueueClosedError."""
        records, self._records = self._records, None
        if records is not None:
            records.destroy()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: children inherit it by fork")

    def __repr__(self) -> str:
        state = "destroyed" if self._records is None else f"{self._records.key:#x}"
        name = f" {self._name!r}" if self._name else ""
        return f"<{type(self).__name__}{name} {state} maxsize={self.maxsize}>"

    def _shared(self) -> RecordQueue:
        if self._records is None:
            raise QueueClosedError(f"{self!r} was destroyed")
        return self._records

    def _put_all(
        self, items: Iterable[T], dumps: Callable[[T], bytes], block: bool, timeout: float | None
    ) -> None:
        deadline = deadline_of(block, timeout)
        batch: list[bytes] = []
        due = time.monotonic() + _LINGER
        try:
            for item in items:
                batch.append(dumps(item))
                if len(batch) >= _BATCH or time.monotonic() >= due:
                    self._store(batch, block, deadline)
                    due = time.monotonic() + _LINGER
        except Exception:
            self._store(batch, block, deadline)
            raise
        self._store(batch, block, deadline)

    def _store(self, records: list[bytes], block: bool, deadline: float | None) -> None:
        """Put these records; the list is empty afterwards, whatever happens."""
        batch = records.copy()
        records.clear()
        if batch and not self._shared().put(batch, block, deadline):
            raise QueueFullError(f"no room in {self!r} for {len(batch)} more items")

    def _take_more(self, records: list[memoryview], limit: int) -> list[memoryview]:
        """Add what is there, up to `limit` in all. In turns, so that nobody waits long for the lock."""
        while len(records) < limit:
            more = self._shared().take_rest(min(limit - len(records), _BATCH))
            if not more:
                break
            records += more
        return records

    def _dumps(self, item: T) -> bytes:
        try:
            record = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # any other is not the item's: a signal handler may raise here
            raise QueueError(f"{self!r}: an item of type {type(item).__name__} cannot be pickled") from error
        most = self._shared().max_payload
        if len(record) > most:
            raise QueueError(
                f"{self!r}: an item of type {type(item).__name__} takes {len(record)} bytes, and the whole "
                f"queue has {most}; create it with a larger size="
            )
        return record

    def _loads(self, record: bytes | memoryview) -> T:
        try:
            item: T = pickle.loads(record)
        except Exception as error:
            raise QueueError(
                f"{self!r}: an item of {len(record)} bytes was taken out, but cannot be unpickled"
            ) from error
        return item

    def _loads_all(self, records: list[memoryview]) -> list[T]:
        items: list[T] = []
        failure: QueueError | None = None
        loads = self._loads
        for record in records:
            try:
                items.append(loads(record))
            except QueueError as error:
                failure = error
                log.exception("one item less")
        if failure is not None and not items:
            raise failure
        return items


class SharedMemQueue(PickledQueue[T]):
    """First in, first out, for any number of processes and threads that put and get.

    Children inherit it by fork. Killing any of them, at any moment, neither blocks the others nor
    leaves half an item; an item is lost only with a process that had already taken it out.

    It is removed when its creator exits or drops the object, if `destroy()` was not called before: keep it
    as long as children use it.

    Args:
        maxsize: Most items it holds; 0 or less: as many as fit.
        size: Bytes for the pickled items together, each with 16 to 23 bytes more; rounded up to 4 KiB.
            Memory is only used where items have been, so a large number costs nothing by itself.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
        ValueError: `size` is less than 1.
    """

    def __init__(self, maxsize: int = 0, *, size: int = 64 << 20) -> None:
        super().__init__(RecordRing, maxsize, size)
