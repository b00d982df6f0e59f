"""The standard library's own tests of queues, of `queue` and of `multiprocessing.Queue`, on ours.

Their names for ours are those of `queue`. Two of its methods have another form here, which `Shutdown` and
`PriorityQueue` give their tests: `shutdown()` is `close()`, and a priority stands beside its item.
"""

from __future__ import annotations

import math
import multiprocessing
import queue
import unittest
from types import SimpleNamespace
from typing import Any

import pytest

from multiprocessing_kit.errors import QueueClosedError
from multiprocessing_kit.queues import FifoQueue as OurFifoQueue
from multiprocessing_kit.queues import LifoQueue as OurLifoQueue
from multiprocessing_kit.queues import PriorityQueue as OurPriorityQueue
from multiprocessing_kit.queues import SharedMemQueue

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

threads = pytest.importorskip("test.test_queue", reason="this Python comes without its tests of queue")
processes = pytest.importorskip(
    "test._test_multiprocessing", reason="this Python comes without its tests of multiprocessing"
)

COUNTED = "ours have no task_done() and join(): who waits for results counts those"
THERE_LATER = "there, a thread pickles the item later; here put() raises QueueError, see tests/contract"
CLOSED = "there, for one process, and the words of a message; ours are in tests/contract"
NOT_OURS = {
    "test_queue_task_done": COUNTED,
    "test_queue_join": COUNTED,
    "test_task_done": COUNTED,
    "test_shutdown_all_methods_in_one_thread": COUNTED,
    "test_shutdown_immediate_all_methods_in_one_thread": COUNTED,
    "test_shutdown_all_methods_in_many_threads": COUNTED,
    "test_shutdown_immediate_all_methods_in_many_threads": COUNTED,
    "test_shutdown_join": COUNTED,
    "test_shutdown_immediate_join": COUNTED,
    "test_shutdown_put_join": COUNTED,
    "test_shutdown_immediate_put_join": COUNTED,
    "test_shutdown_get_task_done_join": COUNTED,
    "test_shrinking_queue": "the maxsize of ours is for all their users, and fixed",
    "test_references": "its items are of a local class, which cannot be pickled",
    "test_queue_feeder_donot_stop_onexc": THERE_LATER,
    "test_queue_feeder_on_queue_feeder_error": THERE_LATER,
    "test_closed_queue_empty_exceptions": CLOSED,
    "test_closed_queue_put_get_exceptions": CLOSED,
}
NOT_LAST_IN_FIRST_OUT = {
    "test_get": "of the order first in, first out",
    "test_fork": "as before",
}


def without(base: Any, *tables: dict[str, str]) -> Any:
    """A class of theirs, without the tests that do not apply."""
    return type(base.__name__, (base,), {name: None for table in (NOT_OURS, *tables) for name in table})


class Shutdown:
    """As `queue.Queue` of Python 3.13 has it, by what ours have."""

    is_shutdown = False

    def shutdown(self: Any, immediate: bool = False) -> None:
        """As there."""
        self.is_shutdown = True
        self.close()
        if immediate:
            self.clear()


class Queue(Shutdown, OurFifoQueue[Any]):
    """Under their name."""


class LifoQueue(Shutdown, OurLifoQueue[Any]):
    """Under their name."""


class PriorityQueue(Shutdown, OurPriorityQueue[Any]):
    """Under their name, with numbers that are their own priorities."""

    def put(
        self, item: Any, block: bool = True, timeout: float | None = None, priority: float = math.inf
    ) -> None:
        """As there."""
        super().put(item, block, timeout, item if isinstance(item, int) else math.inf)


class Ours:
    """What they take from the class that they are mixed into."""

    kind: type[Any]
    queue = SimpleNamespace(Full=queue.Full, Empty=queue.Empty, ShutDown=QueueClosedError)
    TYPE = "processes"
    Process: Any = staticmethod(multiprocessing.get_context("fork").Process)
    Event: Any = staticmethod(multiprocessing.get_context("fork").Event)

    @pytest.fixture(autouse=True)
    def _destroyed(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        made: list[Any] = []

        def make(maxsize: int = 0) -> Any:
            made.append(self.kind(maxsize))
            return made[-1]

        self.type2test = self.Queue = self.JoinableQueue = make
        monkeypatch.setattr(multiprocessing, "Queue", make)
        yield
        for each in made:
            each.destroy()


class TestFifo(Ours, without(threads.BaseQueueTestMixin), unittest.TestCase):  # type: ignore[misc]
    kind = Queue


class TestLifo(Ours, without(threads.BaseQueueTestMixin), unittest.TestCase):  # type: ignore[misc]
    kind = LifoQueue


class TestPriority(Ours, without(threads.BaseQueueTestMixin), unittest.TestCase):  # type: ignore[misc]
    kind = PriorityQueue


class TestFifoAsSimple(Ours, without(threads.BaseSimpleQueueTest), unittest.TestCase):  # type: ignore[misc]
    kind = Queue


class TestSharedMemAsSimple(Ours, without(threads.BaseSimpleQueueTest), unittest.TestCase):  # type: ignore[misc]
    kind = SharedMemQueue


class TestPriorityAsSimple(Ours, without(threads.BaseSimpleQueueTest), unittest.TestCase):  # type: ignore[misc]
    kind = PriorityQueue


class TestFifoOfProcesses(Ours, without(processes._TestQueue), unittest.TestCase):  # type: ignore[misc]
    kind = Queue


class TestSharedMemOfProcesses(Ours, without(processes._TestQueue), unittest.TestCase):  # type: ignore[misc]
    kind = SharedMemQueue


class TestPriorityOfProcesses(Ours, without(processes._TestQueue), unittest.TestCase):  # type: ignore[misc]
    kind = PriorityQueue


class TestLifoOfProcesses(Ours, without(processes._TestQueue, NOT_LAST_IN_FIRST_OUT), unittest.TestCase):  # type: ignore[misc]
    kind = LifoQueue
