"""The toolkit's queues beside the standard library's, one item at a time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from multiprocessing_kit import FifoQueue, LifoQueue, PriorityQueue

__all__ = ["CASES"]

_ITEMS = 20_000
_ITEMS_OF_SLOW = 2_000
_ITEM = ("name", 1, 2.5)

_FORK = multiprocessing.get_context("fork")

_Opener = Callable[[], AbstractContextManager[Any]]


@contextmanager
def _queue() -> Iterator[Any]:
    queue = _FORK.Queue()
    yield queue
    queue.close()
    queue.join_thread()


@contextmanager
def _simple_queue() -> Iterator[Any]:
    queue = _FORK.SimpleQueue()
    yield queue
    queue.close()


@contextmanager
def _manager_queue() -> Iterator[Any]:
    with _FORK.Manager() as manager:
        yield manager.Queue()


def _within(opener: _Opener, items: int) -> Callable[[Scale], float]:
    """Microseconds per item that this process puts and gets."""

    def measure(scale: Scale) -> float:
        repeated = scale.jobs(items)
        with opener() as queue:

            def work() -> None:
                for _ in range(repeated):
                    queue.put(_ITEM)
                    queue.get()

            return milliseconds(work) * 1000 / repeated

    return measure


def _between(opener: _Opener, items: int) -> Callable[[Scale], float]:
    """Microseconds per item from a child to this process, from the first one's arrival on."""

    def measure(scale: Scale) -> float:
        repeated = scale.jobs(items)
        with opener() as queue:
            child = _FORK.Process(target=_produce, args=(queue, repeated + 1))
            child.start()
            queue.get()
            began = time.perf_counter()
            for _ in range(repeated):
                queue.get()
            taken = time.perf_counter() - began
            child.join()
            return taken / repeated * 1e6

    return measure


def _produce(queue: Any, items: int) -> None:
    for _ in range(items):
        queue.put(_ITEM)


def _contenders(measured: Callable[[_Opener, int], Callable[[Scale], float]]) -> tuple[Contender, ...]:
    return (
        Contender("FifoQueue", measured(FifoQueue, _ITEMS), NoMoreThan("multiprocessing.Queue")),
        Contender("LifoQueue", measured(LifoQueue, _ITEMS), ours=True),
        Contender("PriorityQueue", measured(PriorityQueue, _ITEMS), ours=True),
        Contender("multiprocessing.Queue", measured(_queue, _ITEMS)),
        Contender("multiprocessing.SimpleQueue", measured(_simple_queue, _ITEMS)),
        Contender("Manager().Queue()", measured(_manager_queue, _ITEMS_OF_SLOW)),
    )


CASES = (
    Case(
        name="toolkit-queues-between",
        title=f"up to {_ITEMS:,} items from one process to another",
        unit="us/item",
        contenders=_contenders(_between),
    ),
    Case(
        name="toolkit-queues-within",
        title=f"up to {_ITEMS:,} items that one process puts and gets",
        unit="us/item",
        contenders=_contenders(_within),
    ),
)
