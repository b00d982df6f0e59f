"""One suite for everything that is a queue; `queue.Queue` itself shows that the suite is right."""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError, QueueError, QueueFullError
from multiprocessing_kit.queues import (
    FifoQueue,
    LifoQueue,
    NullQueue,
    PriorityQueue,
    Queue,
    SharedMemQueue,
    ring,
)

Factory = Callable[..., Any]


class ListQueue(Queue[Any]):
    """The five methods and nothing else: tests what the base class gives."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._inner: queue.Queue[Any] = queue.Queue(maxsize)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            self._inner.put(item, block, timeout)
        except queue.Full as error:
            raise QueueFullError from error

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._inner.get(block, timeout)
        except queue.Empty as error:
            raise QueueEmptyError from error

    def qsize(self) -> int:
        return self._inner.qsize()

    def clear(self) -> None:
        for _ in self:
            pass

    def destroy(self) -> None:
        self.clear()


class NamedFifoQueue(FifoQueue[Any]):
    def __init__(self, maxsize: int = 0, **options: Any) -> None:
        super().__init__(maxsize, name=f"tests {next(NUMBERS)}", **options)


class NamedLifoQueue(LifoQueue[Any]):
    def __init__(self, maxsize: int = 0, **options: Any) -> None:
        super().__init__(maxsize, name=f"tests {next(NUMBERS)}", **options)


class NamedPriorityQueue(PriorityQueue[Any]):
    def __init__(self, maxsize: int = 0, **options: Any) -> None:
        super().__init__(maxsize, name=f"tests {next(NUMBERS)}", **options)


class StandardPriorityQueue(queue.PriorityQueue[Any]):
    """With the priority beside the item, as ours has it."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None, priority: float = 0) -> None:
        super().put((priority, next(NUMBERS), item), block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, timeout)[-1]

    def put_nowait(self, item: Any, priority: float = 0) -> None:
        self.put(item, block=False, priority=priority)


NUMBERS = itertools.count()
LAST_FIRST = (queue.LifoQueue, LifoQueue)
SHARED = [
    *(SharedMemQueue, FifoQueue, LifoQueue, PriorityQueue),
    *(NamedFifoQueue, NamedLifoQueue, NamedPriorityQueue),
]
OURS = [*SHARED, ListQueue]
STANDARD = [queue.Queue, queue.LifoQueue, StandardPriorityQueue]


def _factory(request: pytest.FixtureRequest) -> Iterator[Factory]:
    made: list[Any] = []

    def make(maxsize: int = 0, **options: Any) -> Any:
        made.append(request.param(maxsize, **options))
        return made[-1]

    yield make
    for each in made:
        if isinstance(each, Queue):
            each.destroy()


any_queue = pytest.fixture(params=[*OURS, *STANDARD], name="any_queue")(_factory)
our_queue = pytest.fixture(params=OURS, name="our_queue")(_factory)
shared_queue = pytest.fixture(params=SHARED, name="shared_queue")(_factory)
priority_queue = pytest.fixture(
    params=[PriorityQueue, NamedPriorityQueue, StandardPriorityQueue], name="priority_queue"
)(_factory)


def out(q: Any, items: Iterable[Any]) -> list[Any]:
    """These items, put one after the other, in the order in which they come out."""
    return [*items][::-1] if isinstance(q, LAST_FIRST) else [*items]


# What queue.Queue does.


def test_the_order(any_queue: Factory) -> None:
    q = any_queue()
    items = [None, 0, "text", b"bytes", {"a": [1, 2.5]}, (), b"x" * 100_000]
    for item in items:
        q.put(item)
    assert q.qsize() == len(items)
    assert [q.get() for _ in items] == out(q, items)
    assert q.empty()


def test_it_counts(any_queue: Factory) -> None:
    q = any_queue(2)
    assert (q.maxsize, q.qsize(), q.empty(), q.full()) == (2, 0, True, False)
    q.put(1)
    assert (q.qsize(), q.empty(), q.full()) == (1, False, False)
    q.put_nowait(2)
    assert (q.qsize(), q.empty(), q.full()) == (2, False, True)
    q.get_nowait()
    assert (q.qsize(), q.empty(), q.full()) == (1, False, False)


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}])
def test_nothing_there(any_queue: Factory, how: dict[str, Any]) -> None:
    with pytest.raises(queue.Empty):
        any_queue().get(**how)


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}])
def test_no_room(any_queue: Factory, how: dict[str, Any]) -> None:
    q = any_queue(1)
    q.put(1)
    with pytest.raises(queue.Full):
        q.put(2, **how)
    assert q.qsize() == 1


def test_without_waiting(any_queue: Factory) -> None:
    q = any_queue(1)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    q.put_nowait(1)
    with pytest.raises(queue.Full):
        q.put_nowait(2)


def test_a_negative_timeout(any_queue: Factory) -> None:
    q = any_queue(1)
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1)
    q.put(1)
    with pytest.raises(ValueError, match="timeout"):
        q.put(2, timeout=-1)
    assert q.get(block=False, timeout=-1) == 1, "means nothing to who does not wait"


@pytest.mark.parametrize("maxsize", [0, -1])
def test_no_bound(any_queue: Factory, maxsize: int) -> None:
    q = any_queue(maxsize)
    for number in range(1000):
        q.put(number, block=False)
    assert not q.full()


def test_a_getter_waits_for_an_item(any_queue: Factory) -> None:
    q = any_queue()
    got: list[Any] = []
    getter = threading.Thread(target=lambda: got.append(q.get(timeout=30)))
    getter.start()
    q.put("item")
    getter.join()
    assert got == ["item"]


def test_a_putter_waits_for_room(any_queue: Factory) -> None:
    q = any_queue(1)
    q.put(1)
    putter = threading.Thread(target=lambda: q.put(2, timeout=30))
    putter.start()
    assert [q.get(timeout=30), q.get(timeout=30)] == [1, 2], "there is room for one only"
    putter.join()


def test_many_threads(any_queue: Factory) -> None:
    q = any_queue(3)
    got: list[int] = []

    def put(first: int) -> None:
        for number in range(first, first + 100):
            q.put(number, timeout=30)

    def get() -> None:
        for _ in range(100):
            got.append(q.get(timeout=30))

    threads = [threading.Thread(target=put, args=(100 * n,)) for n in range(4)]
    threads += [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(400))


def test_true_although_empty(any_queue: Factory) -> None:
    assert any_queue()


# What we add.


def test_the_errors_are_ours_too(our_queue: Factory) -> None:
    q = our_queue(1)
    with pytest.raises(QueueEmptyError):
        q.get_nowait()
    q.put(1)
    with pytest.raises(QueueFullError):
        q.put_nowait(2)


def test_len(our_queue: Factory) -> None:
    q = our_queue()
    assert len(q) == 0
    q.put(1)
    assert len(q) == 1


def test_pop(our_queue: Factory) -> None:
    q = our_queue()
    assert q.pop() is None
    q.put(1)
    assert q.pop() == 1
    assert q.pop() is None


def test_get_all(our_queue: Factory) -> None:
    q = our_queue()
    assert q.get_all() == []
    q.put_many(range(1000))
    assert q.get_all() == out(q, range(1000))
    assert q.empty()


def test_iterating_drains(our_queue: Factory) -> None:
    q = our_queue()
    q.put_many("abc")
    first, *others = out(q, "abc")
    assert next(iter(q)) == first
    assert list(q) == others
    assert list(q) == []


def test_put_many_waits_with_one_timeout(our_queue: Factory) -> None:
    q = our_queue(3)
    with pytest.raises(QueueFullError):
        q.put_many(range(5), block=False)
    assert q.get_all() == out(q, [0, 1, 2]), "those that found room stay"
    with pytest.raises(QueueFullError):
        q.put_many(range(5), timeout=0.01)
    assert q.get_all() == out(q, [0, 1, 2])
    with pytest.raises(ValueError, match="timeout"):
        q.put_many([1], timeout=-1)


def test_put_many_into_a_small_queue(our_queue: Factory) -> None:
    q = our_queue(2)
    putter = threading.Thread(target=lambda: q.put_many(range(1000), timeout=30))
    putter.start()
    got: list[int] = []
    while len(got) < 1000:
        got += q.get_many(timeout=30)
    putter.join()
    assert sorted(got) == list(range(1000))
    assert got == sorted(got) or isinstance(q, LAST_FIRST)


def test_put_many_from_a_source_that_fails(our_queue: Factory) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError

    q = our_queue()
    with pytest.raises(LookupError):
        q.put_many(source())
    assert q.get_all() == out(q, [1, 2])


def test_get_many(our_queue: Factory) -> None:
    q = our_queue()
    with pytest.raises(QueueEmptyError):
        q.get_many(block=False)
    with pytest.raises(QueueEmptyError):
        q.get_many(timeout=0.01)
    with pytest.raises(ValueError, match="max_items"):
        q.get_many(0)
    with pytest.raises(ValueError, match="timeout"):
        q.get_many(timeout=-1)
    q.put_many(range(1000))
    everything = out(q, range(1000))
    assert q.get_many(3) == everything[:3]
    assert q.get_many() == everything[3:]


def test_get_many_waits_for_the_first(our_queue: Factory) -> None:
    q = our_queue()
    got: list[Any] = []
    getter = threading.Thread(target=lambda: got.append(q.get_many(5, timeout=30)))
    getter.start()
    q.put("item")
    getter.join()
    assert got == [["item"]]


def test_clear(our_queue: Factory) -> None:
    q = our_queue(2)
    q.put_many([1, 2])
    q.clear()
    assert q.empty()
    q.put_many([3, 4], block=False)
    assert q.get_all() == out(q, [3, 4])


def test_as_a_context_manager_it_is_destroyed(our_queue: Factory) -> None:
    with our_queue() as q:
        q.put(1)
    q.destroy()


# What only queues in shared memory do.


@pytest.fixture
def small(shared_queue: Factory) -> SharedMemQueue[Any]:
    """One of them all, as far as types go."""
    return shared_queue(size=4096)  # type: ignore[no-any-return]


def test_closed_it_can_be_drained(small: SharedMemQueue[Any]) -> None:
    small.put_many([1, 2, 3, 4])
    small.close()
    small.close()
    with pytest.raises(QueueClosedError, match="closed"):
        small.put(5)
    first, second, *others = out(small, [1, 2, 3, 4])
    assert small.get() == first
    assert small.get_many(1) == [second]
    assert small.get_all() == others
    with pytest.raises(QueueClosedError, match="drained"):
        small.get(block=False)
    with pytest.raises(QueueClosedError, match="drained"):
        small.get_many()
    assert small.pop() is None
    assert small.get_all() == list(small) == []


@pytest.mark.parametrize("way", ["close", "destroy"])
def test_the_end_wakes_all_who_wait(shared_queue: Factory, way: str) -> None:
    empty, full = shared_queue(1), shared_queue(1)
    full.put(1)
    calls: list[Callable[[], Any]] = [
        empty.get,
        empty.get_many,
        lambda: full.put(2),
        lambda: full.put_many([2]),
    ]
    check_all_end(calls, [getattr(empty, way), getattr(full, way)])


def check_all_end(calls: list[Callable[[], Any]], ends: list[Callable[[], None]]) -> None:
    """Whether they sleep already or only start: each call ends with QueueClosedError."""
    outcomes: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except QueueClosedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for end in ends:
        end()
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(calls)


def test_destroyed_it_does_nothing_more(shared_queue: Factory) -> None:
    q = shared_queue()
    q.put(1)
    q.destroy()
    q.destroy()
    calls: list[Callable[[], Any]] = [
        *(q.get, q.qsize, q.clear, q.close, q.get_all, q.pop, q.empty),
        *(lambda: q.put(1), lambda: list(q), lambda: len(q)),
    ]
    for call in calls:
        with pytest.raises(QueueClosedError, match="destroyed"):
            call()
    assert "destroyed" in repr(q)


def test_an_item_that_never_fits(small: SharedMemQueue[Any]) -> None:
    has = 4072 if isinstance(small, PriorityQueue) else 4080
    fits = b"x" * (has - 32)
    small.put(fits)
    assert small.get() == fits
    with pytest.raises(QueueError, match=rf"bytes takes 5\d\d\d bytes.* has {has}; .*size="):
        small.put(b"x" * 5000)
    assert small.empty()


@pytest.mark.parametrize("fenced", [False, True], ids=["as here", "fenced"])
@pytest.mark.parametrize("first_pages", [ring._NEAR, 8, 200])
def test_items_go_around_the_end(fenced: bool, first_pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_NEAR", first_pages)
    if fenced:
        monkeypatch.setattr(ring, "KEEPS_STORES_IN_ORDER", False)
    with SharedMemQueue[Any](size=4096) as q:
        for number in range(1000):
            items = [bytes([number % 256]) * (number % 700), number, "x" * (number % 90)][: number % 3 + 1]
            if number % 2:
                q.put_many(items)
            else:
                for item in items:
                    q.put(item)
            assert q.qsize() == len(items)
            got = q.get_many(number % 3 + 1) if number % 5 else [q.get() for _ in items]
            assert got == items
            q.put_many(range(number % 40))
            assert q.get_many(number % 7 + 1, block=False) if number % 40 else q.empty()
            q.clear()


def test_a_small_item_passes_a_large_one_that_waits(small: SharedMemQueue[Any]) -> None:
    small.put(b"x" * 2000)
    putter = threading.Thread(target=lambda: small.put(b"y" * 3000, timeout=30))
    putter.start()
    small.put("small", block=False)
    got = [small.get(timeout=30) for _ in range(3)]
    assert got == [*out(small, [b"x" * 2000, "small"]), b"y" * 3000]
    putter.join()


def test_others_may_be_faster_than_get_all(
    small: SharedMemQueue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "qsize", lambda: 3)
    assert small.get_all() == []
    small.put(1)
    assert small.get_all() == [1]
    small.close()
    assert small.get_all() == []


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no")


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_an_item_that_cannot_be_pickled(small: SharedMemQueue[Any]) -> None:
    with pytest.raises(QueueError, match="Unpicklable cannot be pickled") as caught:
        small.put(Unpicklable())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert small.empty()
    with pytest.raises(QueueError, match="Unpicklable"):
        small.put_many([1, 2, Unpicklable(), 3])
    assert small.get_all() == out(small, [1, 2])


def test_an_item_that_cannot_be_unpickled(
    small: SharedMemQueue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    small.put_many(out(small, [Unreadable(), 1]))
    with pytest.raises(QueueError, match="taken out, but cannot be unpickled") as caught:
        small.get()
    assert isinstance(caught.value.__cause__, ValueError)
    assert small.get() == 1
    small.put_many([1, Unreadable(), 2])
    assert small.get_all() == out(small, [1, 2])
    assert "cannot be unpickled" in caplog.text
    small.put(Unreadable())
    with pytest.raises(QueueError, match="cannot be unpickled"):
        small.get_all()


def test_it_cannot_be_pickled_itself(small: SharedMemQueue[Any]) -> None:
    with pytest.raises(TypeError, match="inherit it by fork"):
        pickle.dumps(small)


def test_a_size_of_nothing(shared_queue: Factory) -> None:
    with pytest.raises(ValueError, match="size"):
        shared_queue(size=0)


# What only queues with priorities do.


def test_the_lowest_priority_comes_first(priority_queue: Factory) -> None:
    q = priority_queue()
    for priority in (3, 1.5, float("inf"), -2, 0, float("-inf"), -2.25, 2**53):
        q.put(priority, priority=priority)
    q.put("default")
    q.put_nowait("in a hurry", -100)
    got = [q.get() for _ in range(10)]
    assert got == [float("-inf"), "in a hurry", -2.25, -2, 0, "default", 1.5, 3, 2**53, float("inf")]


def test_first_in_first_out_within_one_priority(priority_queue: Factory) -> None:
    q = priority_queue()
    for number in range(300):
        q.put(number, priority=number % 3)
        if number % 5 == 4:  # places in memory change hands
            assert q.get() < number
    got = [q.get() for _ in range(240)]
    assert got == sorted(got, key=lambda number: (number % 3, number))


def test_put_many_with_a_priority() -> None:
    with PriorityQueue[str](2) as q:
        q.put("z")
        with pytest.raises(QueueFullError):
            q.put_many("abc", block=False, priority=-1)
        assert q.get_many() == ["a", "z"]


@pytest.mark.parametrize(
    ("priority", "error"),
    [
        (float("nan"), ValueError),
        (2**53 + 1, ValueError),
        (10**400, ValueError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_priority(priority: Any, error: type[Exception]) -> None:
    with PriorityQueue[int](size=4096) as q:
        for call in (q.put_nowait, lambda item, priority: q.put_many([item], priority=priority)):
            with pytest.raises(error, match="'priority' must be a"):
                call(1, priority)
        assert q.empty()


@pytest.mark.parametrize("block", [5, -1, 1.5, None, "high"])
def test_a_priority_in_the_place_of_block(block: Any) -> None:
    with PriorityQueue[Any](size=4096) as q:
        for put in (q.put, q.put_many):
            with pytest.raises(TypeError, match="by its name: priority="):
                put("low", block)
        assert q.empty()
        q.put("low", block=1)  # type: ignore[arg-type]  # as the standard library's own tests do


def test_null_queue() -> None:
    q = NullQueue[int]()
    q.put(1)
    q.put_many([1, 2])
    assert (len(q), q.qsize(), q.empty(), q.full(), q.maxsize) == (0, 0, True, False, 0)
    assert q.pop() is None
    assert q.get_all() == list(q) == []
    for how in ({"block": False}, {"timeout": 0.001}, {}):
        with pytest.raises(QueueEmptyError):
            q.get(**how)
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1)
    q.clear()
    q.close()
    q.destroy()
    assert q
