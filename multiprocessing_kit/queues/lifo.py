"""Last in, first out, between processes.

    one System V segment: words, then a stack of pickled records (`stack.py`)
    five semaphores: one lock, and two bells of two, for those who wait for an item and for room

Putters and getters work at the same end, so they share one lock. All else is as drawn in `shared_mem.py`.
"""

from __future__ import annotations

from typing import TypeVar

from multiprocessing_kit.queues.shared_mem import PickledQueue
from multiprocessing_kit.queues.stack import RecordStack

__all__ = ["LifoQueue"]

T = TypeVar("T")


class LifoQueue(PickledQueue[T]):
    """`queue.LifoQueue` for any number of processes and threads: the last item put is the next one got.

    Killing any of them, at any moment, neither blocks the others nor leaves half an item. Names, and who
    removes it, are as with `FifoQueue`.

    Args:
        maxsize: Most items it holds; 0 or less: as many as fit.
        size: Bytes for the pickled items together, each with 16 to 23 bytes more; rounded up to 4 KiB.
        name: Shared by all programs that give it; "": inherited by forked children only.

    Raises:
        IpcError: The system refused the memory or a semaphore, and names the limit that was hit; or
            there is a queue of this name with another `size`.
        QueueError: There is a queue of this name with another `maxsize`.
        ValueError: `size` is less than 1.
    """

    def __init__(self, maxsize: int = 0, *, size: int = 64 << 20, name: str = "") -> None:
        super().__init__(RecordStack, maxsize, size, name)
