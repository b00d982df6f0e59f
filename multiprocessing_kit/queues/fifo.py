"""First in, first out, also between programs that only share a name."""

from __future__ import annotations

from typing import TypeVar

from multiprocessing_kit.queues.ring import RecordRing
from multiprocessing_kit.queues.shared_mem import PickledQueue, SharedMemQueue

__all__ = ["FifoQueue"]

T = TypeVar("T")


class FifoQueue(SharedMemQueue[T]):
    """A `SharedMemQueue` that may have a name.

    Without a name, children inherit it by fork, and it is removed when its creator exits or drops the
    object: keep it as long as children use it. With one, every program of this user that gives the same
    name has the same queue; it outlives them all, with what is in it, until one calls `destroy()`. One
    that was closed stays closed.

    Args:
        maxsize: Most items it holds; 0 or less: as many as fit.
        size: Bytes for the pickled items together, each with 16 to 23 bytes more; rounded up to 4 KiB.
            Memory is only used where items have been, so a large number costs nothing by itself.
        name: Shared by all programs that give it; "": inherited by forked children only.

    Raises:
        IpcError: The system refused the memory or a semaphore, and names the limit that was hit; or
            there is a queue of this name with another `size`.
        QueueError: There is a queue of this name with another `maxsize`.
        ValueError: `size` is less than 1.
    """

    def __init__(self, maxsize: int = 0, *, size: int = 64 << 20, name: str = "") -> None:
        PickledQueue.__init__(self, RecordRing, maxsize, size, name)
