"""A queue that forgets."""

from __future__ import annotations

import threading
from typing import TypeVar

from multiprocessing_kit.errors import QueueEmptyError
from multiprocessing_kit.queues.base import Queue, deadline_of

__all__ = ["NullQueue"]

T = TypeVar("T")


class NullQueue(Queue[T]):
    """Drops what is put, so it is always empty. For those who only want the events."""

    def __init__(self) -> None:
        super().__init__()

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Drop the item."""
        deadline_of(block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """There is never an item: raises QueueEmptyError once the time is up.

        Waiting without a time-out would be for ever, so that raises QueueEmptyError at once, too.
        """
        deadline_of(block, timeout)
        if block and timeout:
            threading.Event().wait(timeout)
        raise QueueEmptyError("a NullQueue keeps nothing")

    def qsize(self) -> int:
        """0."""
        return 0

    def clear(self) -> None:
        """There is nothing to drop."""

    def destroy(self) -> None:
        """There is nothing to remove."""
