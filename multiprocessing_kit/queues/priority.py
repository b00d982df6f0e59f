"""The lowest priority first, between processes.

    one System V segment: words, lists of free memory, a heap, pickled records (`heap.py`)
    five semaphores: one lock, and two bells of two, for those who wait for an item and for room

A put and a get may each move any record in the heap, so they share one lock. All else is as drawn in
`shared_mem.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from multiprocessing_kit.errors import QueueFullError
from multiprocessing_kit.queues.base import deadline_of
from multiprocessing_kit.queues.heap import RecordHeap, prefix
from multiprocessing_kit.queues.shared_mem import PickledQueue

__all__ = ["PriorityQueue"]

T = TypeVar("T")


class PriorityQueue(PickledQueue[T]):
    """Items with priorities, for any number of processes and threads: the lowest comes first.

    Among items of one priority the first in is the first out. The priority is a number beside the item
    and not the item itself, as in `queue.PriorityQueue`: comparing items would run their code, and
    unpickle them, while all others wait.

    Killing any user, at any moment, neither blocks the others nor leaves half an item. Names, and who
    removes it, are as with `FifoQueue`.

    Args:
        maxsize: Most items it holds; 0 or less: as many as fit.
        size: Bytes for the pickled items together, each with 24 to 55 bytes more; rounded up to 4 KiB.
            Items leave in another order than they came, so an item may have to wait although there are
            as many bytes free as it needs, but not in one piece.
        name: Shared by all programs that give it; "": inherited by forked children only.

    Raises:
        IpcError: The system refused the memory or a semaphore, and names the limit that was hit; or
            there is a queue of this name with another `size`.
        QueueError: There is a queue of this name with another `maxsize`.
        ValueError: `size` is less than 1.
    """

    def __init__(self, maxsize: int = 0, *, size: int = 64 << 20, name: str = "") -> None:
        super().__init__(RecordHeap, maxsize, size, name)

    def put(self, item: T, block: bool = True, timeout: float | None = None, priority: float = 0) -> None:
        """As `Queue.put`, behind all items of the same or a lower priority.

        `block` and `timeout` stand where they do in `queue.PriorityQueue`: give `priority` by its name.

        Args:
            item: What to add.
            block: Wait for room.
            timeout: Seconds to wait at most; None: as long as it takes.
            priority: A float, or an int that is one too: any up to 2**53.

        Raises:
            TypeError: `priority` is no number; or `block` is no bool, so it may be meant as a priority.
            ValueError: `priority` is a larger int, or not a number (NaN); or `timeout` is negative.
        """
        _check_block(block)
        deadline = None if timeout is None else deadline_of(block, timeout)
        record = _prefix(priority) + self._dumps(item)
        if not self._shared().put_one(record, block, deadline):
            raise QueueFullError(f"no room in {self!r}")

    def put_nowait(self, item: T, priority: float = 0) -> None:
        """`put` without waiting."""
        self.put(item, block=False, priority=priority)

    def put_many(
        self, items: Iterable[T], block: bool = True, timeout: float | None = None, priority: float = 0
    ) -> None:
        """As `Queue.put_many`, all with one priority, with one turn at the lock for many items."""
        _check_block(block)
        first, dumps = _prefix(priority), self._dumps
        self._put_all(items, lambda item: first + dumps(item), block, timeout)


def _check_block(block: object) -> None:
    """Refuse what was meant as a priority. 0 and 1 stay flags, as in code that is older than bools."""
    if block not in (True, False):
        raise TypeError(f"'block' must be a bool, not {block!r}; give a priority by its name: priority=…")


def _prefix(priority: float) -> bytes:
    try:
        if priority + 0.0 == priority:
            return prefix(priority)
    except OverflowError:
        pass
    except TypeError:
        raise TypeError(f"'priority' must be a number, not {type(priority).__name__}") from None
    raise ValueError(f"'priority' must be a float, or an int that is one exactly, not {priority!r}")
