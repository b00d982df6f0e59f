"""What every queue is: `queue.Queue`'s interface, and a few calls more.

Five methods are each queue's own; the rest is built on them. A queue on a database or a broker
needs no more than those five.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError

__all__ = ["Queue"]

T = TypeVar("T")
Q = TypeVar("Q", bound="Queue[Any]")


class Queue(ABC, Generic[T]):
    """Items in, items out. Any number of processes and threads may do either.

    Args:
        maxsize: Most items it holds; 0 or less: as many as fit.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = max(0, maxsize)

    @property
    def maxsize(self) -> int:
        """Most items it holds; 0: no bound on their number."""
        return self._maxsize

    @abstractmethod
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        Args:
            item: What to add.
            block: Wait for room.
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            QueueFullError: No room, and no (more) time to wait.
            QueueClosedError: It was closed or destroyed.
            QueueError: The item can never be taken.
            ValueError: `timeout` is negative.
        """

    @abstractmethod
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Remove the next item and return it.

        Args:
            block: Wait for an item.
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            QueueEmptyError: Nothing there, and no (more) time to wait.
            QueueClosedError: It was closed and is drained, or it was destroyed.
            ValueError: `timeout` is negative.
        """

    @abstractmethod
    def qsize(self) -> int:
        """How many items there are. Another process may change that at once."""

    @abstractmethod
    def clear(self) -> None:
        """Drop every item."""

    @abstractmethod
    def destroy(self) -> None:
        """Drop the queue itself, with all it holds, for every process. May be called again."""

    def close(self) -> None:
        """Take no more items from anybody; those that are there can still be had.

        Where a queue has nothing to tell its users, as here, this does nothing.
        """

    def put_nowait(self, item: T) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def get_nowait(self) -> T:
        """`get` without waiting."""
        return self.get(block=False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Add items in this order, with one time-out for all of them.

        Raises:
            QueueFullError: Not all found room in time. Those before stay in the queue.
        """
        deadline = deadline_of(block, timeout)
        for item in items:
            self.put(item, block, remaining(deadline))

    def get_many(
        self, max_items: int | None = None, block: bool = True, timeout: float | None = None
    ) -> list[T]:
        """Remove the items that are there, and return them; waits, like `get`, for the first only.

        Args:
            max_items: Most items to take, at least 1; None: all.
            block: Wait if there is none.
            timeout: Seconds to wait for the first.

        Raises:
            QueueEmptyError: Nothing there, and no (more) time to wait.
            QueueClosedError: It was closed and is drained, or it was destroyed.
            ValueError: `timeout` is negative, or `max_items` less than 1.
        """
        check_max_items(max_items)
        items = [self.get(block, timeout)]
        while max_items is None or len(items) < max_items:
            try:
                items.append(self.get(block=False))
            except (QueueEmptyError, QueueClosedError):
                break  # what we have counts; the next call tells
        return items

    def pop(self) -> T | None:
        """The next item, or None if there is none."""
        return next(iter(self), None)

    def get_all(self) -> list[T]:
        """Remove and return every item that is there; an empty list if there is none."""
        return list(self)

    def empty(self) -> bool:
        """Whether there is no item. Another process may change that at once."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there are `maxsize` items. Another process may change that at once."""
        return 0 < self._maxsize <= self.qsize()

    def __len__(self) -> int:
        return self.qsize()

    def __bool__(self) -> bool:
        # With __len__ alone an empty queue would be false, and `queue or default` would lose it;
        # queue.Queue is true, too.
        return True

    def __iter__(self) -> Iterator[T]:
        """Remove and yield items until there is none. Does not wait."""
        while True:
            try:
                item = self.get(block=False)
            except QueueEmptyError:
                return
            except QueueClosedError:
                self.qsize()  # a destroyed queue raises again; one closed and drained has just ended
                return
            yield item

    def __enter__(self: Q) -> Q:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End of the `with` block: `destroy()`."""
        self.destroy()


def deadline_of(block: bool, timeout: float | None) -> float | None:
    """When to give up, on the monotonic clock; None: never. Checks `timeout` as `queue.Queue` does."""
    if not block or timeout is None:
        return None
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return time.monotonic() + timeout


def remaining(deadline: float | None) -> float | None:
    """Seconds until `deadline`, not less than 0; None: no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def check_max_items(max_items: int | None) -> None:
    """Raise ValueError if `max_items` is less than 1."""
    if max_items is not None and max_items < 1:
        raise ValueError(f"'max_items' must be at least 1, not {max_items}")
