"""What an item costs that goes through a queue: between two processes, and put and got by one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from multiprocessing_kit import SharedMemQueue

__all__ = ["CASES"]

_ITEMS = 20_000
_BATCH = 256
_ITEM = ("name", 1, 2.5)
_FAST = "faster-fifo"  # its mutex stays locked when its holder is killed
_PATIENCE = 60.0  # seconds; faster-fifo gives up after 10 by itself

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Peer:
    """A queue: how to make one, to put so many items in at once, and to take so many out, at least one."""

    make: Callable[[], Any]
    put: Callable[[Any, int], object]
    get: Callable[[Any, int], int]


def _put(queue: Any, _count: int) -> None:
    queue.put(_ITEM)


def _get(queue: Any, _count: int) -> int:
    queue.get()
    return 1


_OURS = _Peer(SharedMemQueue, _put, _get)
_OURS_MANY = _Peer(
    SharedMemQueue,
    lambda queue, count: queue.put_many([_ITEM] * count),
    lambda queue, count: len(queue.get_many(count)),
)
_STANDARD = _Peer(_FORK.Queue, _put, _get)
_SIMPLE = _Peer(_FORK.SimpleQueue, _put, _get)


def _faster_fifo() -> Any:
    return import_module("faster_fifo").Queue()


def _get_of_faster_fifo(queue: Any, _count: int) -> int:
    queue.get(timeout=_PATIENCE)
    return 1


_FASTER_FIFO = _Peer(_faster_fifo, lambda queue, _: queue.put(_ITEM, timeout=_PATIENCE), _get_of_faster_fifo)
_FASTER_FIFO_MANY = _Peer(
    _faster_fifo,
    lambda queue, count: queue.put_many([_ITEM] * count, timeout=_PATIENCE),
    lambda queue, count: len(queue.get_many(timeout=_PATIENCE, max_messages_to_get=count)),
)


# ── between two processes ─────────────────────────────────────────────────────────────────────────


def _between(peer: _Peer, batch: int = 1) -> Callable[[Scale], float]:
    """Microseconds per item from a child to this process, from the first one's arrival on."""

    def produce(queue: Any, items: int) -> None:
        peer.put(queue, 1)
        for _ in range(items // batch):
            peer.put(queue, batch)

    def measure(scale: Scale) -> float:
        items = _whole_batches(scale, batch)
        queue = peer.make()
        child = _FORK.Process(target=produce, args=(queue, items))
        child.start()
        left = items + 1 - peer.get(queue, 1)
        began = time.perf_counter()
        while left > 0:
            left -= peer.get(queue, batch)
        taken = time.perf_counter() - began
        child.join()
        _end(queue)
        return taken / items * 1e6

    return measure


# ── within one ────────────────────────────────────────────────────────────────────────────────────


def _within(peer: _Peer, batch: int = 1) -> Callable[[Scale], float]:
    """Microseconds per item that this process puts and gets."""

    def measure(scale: Scale) -> float:
        items = _whole_batches(scale, batch)
        queue = peer.make()
        began = time.perf_counter()
        for _ in range(items // batch):
            peer.put(queue, batch)
            left = batch
            while left > 0:
                left -= peer.get(queue, batch)
        taken = time.perf_counter() - began
        _end(queue)
        return taken / items * 1e6

    return measure


def _whole_batches(scale: Scale, batch: int) -> int:
    return max(1, scale.jobs(_ITEMS) // batch) * batch


def _end(queue: Any) -> None:
    for name in ("close", "join_thread", "destroy"):
        getattr(queue, name, lambda: None)()


def _contenders(measured: Callable[..., Callable[[Scale], float]]) -> tuple[Contender, ...]:
    return (
        Contender("SharedMemQueue", measured(_OURS), NoMoreThan(_FAST)),
        Contender("SharedMemQueue, many", measured(_OURS_MANY, _BATCH), NoMoreThan(_FAST, 1 / 4)),
        Contender(_FAST, measured(_FASTER_FIFO)),
        Contender(f"{_FAST}, many", measured(_FASTER_FIFO_MANY, _BATCH)),
        Contender("multiprocessing.Queue", measured(_STANDARD)),
        Contender("multiprocessing.SimpleQueue", measured(_SIMPLE)),
    )


CASES = (
    Case(
        name="queue-between",
        title=f"{_ITEMS:,} items from one process to another, one by one or {_BATCH} at once",
        unit="us/item",
        contenders=_contenders(_between),
    ),
    Case(
        name="queue-within",
        title=f"{_ITEMS:,} items that one process puts and gets, one by one or {_BATCH} at once",
        unit="us/item",
        contenders=_contenders(_within),
    ),
)
