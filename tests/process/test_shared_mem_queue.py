"""Queues between real processes, some of which are killed at the worst moments."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError, QueueFullError
from multiprocessing_kit.ipc import bell as bell_module
from multiprocessing_kit.ipc.bell import Bell
from multiprocessing_kit.ipc.semaphore import MAX_VALUE, Semaphore
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.queues import SharedMemQueue, records, ring, shared_mem, store
from multiprocessing_kit.queues.records import RecordQueue
from tests.forks import exit_of, fork, wait_until
from tests.interrupts import interrupted
from tests.kills import Instants

PATIENCE = 30  # seconds; only ever used up by a failing test


def sleepers(queue: SharedMemQueue[Any]) -> int:
    """How many processes wait for one of the queue's bells."""
    ends = inner(queue)._appenders, inner(queue)._takers
    return sum(semaphore.guard.waiting_for_nonzero for end in ends for semaphore in end.bell._semaphores)


def locks(queue: SharedMemQueue[Any]) -> list[Semaphore]:
    return [inner(queue)._appenders.lock, inner(queue)._takers.lock]


def inner(queue: SharedMemQueue[Any]) -> RecordQueue:
    assert queue._records is not None
    return queue._records


@pytest.fixture
def queue() -> Iterator[SharedMemQueue[Any]]:
    with SharedMemQueue[Any](size=1 << 16) as queue:
        yield queue


# Totals.


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
@pytest.mark.parametrize("maxsize", [0, 1, 7])
def test_every_item_arrives_once(maxsize: int, batches: bool) -> None:
    producers, consumers, each = 4, 4, 250

    def produce(name: int) -> None:
        items = ((name, number, bytes(number)) for number in range(each))
        if batches:
            source.put_many(items, timeout=PATIENCE)
        else:
            for item in items:
                source.put(item, timeout=PATIENCE)

    def consume() -> None:
        got: list[tuple[int, int]] = []
        while True:
            try:
                items = source.get_many(timeout=PATIENCE) if batches else [source.get(timeout=PATIENCE)]
            except QueueClosedError:
                break
            assert all(blob == bytes(number) for _, number, blob in items)
            got += [(name, number) for name, number, _ in items]
        results.put(got)

    # Two records of the largest size fit, so there is little room at the end.
    with SharedMemQueue[Any](maxsize, size=4096) as source, SharedMemQueue[Any]() as results:
        consuming = [fork(consume) for _ in range(consumers)]
        producing = [fork(lambda name=name: produce(name)) for name in range(producers)]  # type: ignore[misc]
        assert [exit_of(pid) for pid in producing] == [0] * producers
        source.close()
        assert [exit_of(pid) for pid in consuming] == [0] * consumers
        shares = results.get_all()
    expected = Counter((name, number) for name in range(producers) for number in range(each))
    assert Counter(pair for share in shares for pair in share) == expected
    for share, name in itertools.product(shares, range(producers)):
        numbers = [number for who, number in share if who == name]
        assert numbers == sorted(numbers), "in the order of their producer"


def test_a_child_of_a_child(queue: SharedMemQueue[Any]) -> None:
    def child() -> None:
        assert exit_of(fork(lambda: queue.put(os.getppid()))) == 0

    pid = fork(child)
    assert queue.get(timeout=PATIENCE) == pid
    assert exit_of(pid) == 0


# Deaths: at every instruction.


INSTANTS = Instants(by_instruction=(ring, store, bell_module), by_line=(records,))
STRIDES = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.stress), pytest.param(5, marks=pytest.mark.thorough)]
)
"""Instructions from one kill to the next."""


def simple() -> SharedMemQueue[Any]:
    queue = SharedMemQueue[Any](size=4096)
    queue.put("used before")
    queue.get()
    queue.put_many("ab")
    return queue


def new() -> SharedMemQueue[Any]:
    return SharedMemQueue[Any](size=4096)


def around_the_end() -> SharedMemQueue[Any]:
    """The first item begins a few words before the end, the second goes on at the start."""
    queue = SharedMemQueue[Any](size=4096)
    queue.put(b"x" * 4000)
    queue.get()
    queue.put_many("ab")
    return queue


def at_its_first_pages_again() -> SharedMemQueue[Any]:
    queue = SharedMemQueue[Any](size=4096)
    queue.put(b"x" * 2000)
    queue.get()
    queue.put_many("ab")
    return queue


def beyond_its_first_pages() -> SharedMemQueue[Any]:
    queue = SharedMemQueue[Any](size=4096)
    queue.put(b"x" * 2000)
    queue.get()
    return queue


def with_a_bound() -> SharedMemQueue[Any]:
    queue = SharedMemQueue[Any](4)
    queue.put_many("ab")
    return queue


def full() -> SharedMemQueue[Any]:
    queue = SharedMemQueue[Any](2)
    queue.put_many("ab")
    return queue


def empty(call: Callable[[], object]) -> None:
    with contextlib.suppress(QueueEmptyError):
        call()


def no_room(call: Callable[[], object]) -> None:
    with contextlib.suppress(QueueFullError):
        call()


ACTIONS: dict[str, Callable[[SharedMemQueue[Any]], object]] = {
    "put": lambda queue: queue.put("c"),
    "put_many": lambda queue: queue.put_many("cd"),
    "get": lambda queue: queue.get(),
    "get_many": lambda queue: queue.get_many(2),
    "clear": lambda queue: queue.clear(),
    "close": lambda queue: queue.close(),
    "get in vain": lambda queue: empty(lambda: queue.get(timeout=0)),
    "put in vain": lambda queue: no_room(lambda: queue.put("c", timeout=0)),
}


@STRIDES
@pytest.mark.parametrize(
    ("prepare", "action", "before", "after"),
    [
        (simple, "put", "ab", "abc"),
        (simple, "put_many", "ab", "abcd"),
        (simple, "get", "ab", "b"),
        (simple, "get_many", "ab", ""),
        (simple, "clear", "ab", ""),
        (simple, "close", "ab", "ab"),
        (new, "put", "", "c"),
        (with_a_bound, "put", "ab", "abc"),
        (around_the_end, "put", "ab", "abc"),
        (around_the_end, "get", "ab", "b"),
        (around_the_end, "get_many", "ab", ""),
        (at_its_first_pages_again, "put", "ab", "abc"),
        (at_its_first_pages_again, "get", "ab", "b"),
        (beyond_its_first_pages, "put", "", "c"),
        (beyond_its_first_pages, "put_many", "", "cd"),
        (beyond_its_first_pages, "get in vain", "", ""),
        (full, "put in vain", "ab", "ab"),
    ],
)
def test_killed_at_any_instruction(  # noqa: PLR0917
    prepare: Callable[[], SharedMemQueue[Any]],
    action: str,
    before: str,
    after: str,
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring, "_NEAR", 512 if prepare is around_the_end else 16)
    monkeypatch.setattr(records, "_LOOKS", 1)
    monkeypatch.setattr(shared_mem, "_LINGER", PATIENCE)  # put_many makes it one batch, although traced
    outcomes = []
    for queue in INSTANTS.killed(prepare, ACTIONS[action], stride=stride):
        assert [lock.value for lock in locks(queue)] == [1, 1]
        assert queue.qsize() in {len(before), len(after)}
        expected = before if queue.qsize() == len(before) else after
        closed = inner(queue)._store.closed
        if not closed and not queue.full():
            queue.put("z", block=False)
            expected += "z"
        outcomes.append((expected, closed))
        assert "".join(queue.get_all()) == expected
        assert queue.qsize() == 0
        if not closed:
            queue.put_many("yz", block=False)
            assert queue.get_many(5, block=False) == ["y", "z"]
    assert outcomes == sorted(outcomes, key=outcomes.index), "first not done, from one instant on done"
    assert len(set(outcomes)) == 1 + (before != after or action == "close")


@STRIDES
@pytest.mark.parametrize("side", ["getter", "putter"])
def test_who_should_wake_a_sleeper_is_killed(side: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has done by then wakes the sleeper; otherwise the next one's does."""
    monkeypatch.setattr(records, "_LOOKS", 1)
    sleeping = 0

    def moved(queue: SharedMemQueue[Any]) -> int:
        return inner(queue)._store.words[ring._TAIL if side == "getter" else ring._HEAD]

    def prepare() -> SharedMemQueue[Any]:
        nonlocal sleeping
        queue = SharedMemQueue[Any](1, size=4096)
        if side == "putter":
            queue.put("full")
        sleeping = fork(queue.get if side == "getter" else lambda: queue.put("late"))
        wait_until(lambda: sleepers(queue) == 1)
        assert moved(queue) == 0
        return queue

    def wake(queue: SharedMemQueue[Any]) -> object:
        return ACTIONS["put" if side == "getter" else "get"](queue)

    alone = []
    for queue in INSTANTS.killed(prepare, wake, stride=stride):
        alone.append(moved(queue) != 0)
        if not alone[-1]:
            wake(queue)
        assert exit_of(sleeping) == 0
        assert queue.get_all() == ([] if side == "getter" else ["late"])
    assert set(alone) == {False, True}


@pytest.mark.parametrize("side", ["getter", "putter"])
def test_killed_sleepers_take_nothing_along(side: str) -> None:
    with SharedMemQueue[str](1) as queue:
        if side == "putter":
            queue.put("full")
        pids = [fork(queue.get if side == "getter" else lambda: queue.put("new")) for _ in range(4)]
        wait_until(lambda: sleepers(queue) == 4)
        for pid in pids[:3]:
            os.kill(pid, signal.SIGKILL)
            assert exit_of(pid) == -signal.SIGKILL
        if side == "getter":
            queue.put("new", timeout=PATIENCE)
        else:
            assert queue.get(timeout=PATIENCE) == "full"
        assert exit_of(pids[3]) == 0
        assert queue.get_all() == ([] if side == "getter" else ["new"])


def blob(seed: int) -> bytes:
    """Bytes that cannot be mistaken for others, of very different lengths."""
    return hashlib.sha256(str(seed).encode()).digest() * (seed * 7 % 40)


@pytest.mark.thorough
def test_kills_at_any_instant_leave_whole_items_and_a_free_mutex() -> None:
    rounds = 100
    chance = random.Random(20260101)

    with SharedMemQueue[Any](50, size=1 << 15) as queue:

        def hammer(name: int, started: int) -> None:
            numbers = itertools.count()
            os.write(started, b"x")
            while True:
                number = next(numbers)
                queue.put((name, number, blob(number)))
                for _, got, content in queue.get_many(2, timeout=PATIENCE):
                    assert content == blob(got)
                queue.put_many([(name, number, blob(number))] * 2, timeout=PATIENCE)
                if queue.qsize() > 20:
                    with contextlib.suppress(QueueEmptyError):  # the other was faster
                        queue.get_many(10, block=False)

        reading, writing = os.pipe()
        for name in range(rounds):
            pids = [fork(lambda: hammer(name, writing)) for _ in range(2)]  # noqa: B023  # runs at once
            assert len(os.read(reading, 1) + os.read(reading, 1)) == 2
            time.sleep(chance.uniform(0, 0.004))  # no synchronisation: it picks the instant
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                assert exit_of(pid) == -signal.SIGKILL
                for _, number, content in queue.get_all():
                    assert content == blob(number)
                queue.put((-1, name, blob(name)), timeout=PATIENCE)
        assert all(content == blob(number) for _, number, content in queue.get_all())
        assert queue.qsize() == 0
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
def test_kills_among_several_lose_no_more_than_was_in_flight(batches: bool) -> None:
    """One of two producers and one of two consumers are killed; the others go on to the end."""
    rounds, each, flight = 30, 200, 4 if batches else 1
    chance = random.Random(20260102)

    def produce(queue: SharedMemQueue[Any], name: int, done: mmap.mmap) -> None:
        for first in range(0, each, flight):
            items = [(name, number, blob(number)) for number in range(first, first + flight)]
            if batches:
                queue.put_many(items, timeout=PATIENCE)
            else:
                queue.put(items[0], timeout=PATIENCE)
            done[name] = (first + flight) // flight

    def consume(queue: SharedMemQueue[Any], seen: mmap.mmap) -> None:
        with contextlib.suppress(QueueClosedError):
            while True:
                got = queue.get_many(flight, timeout=PATIENCE) if batches else [queue.get(timeout=PATIENCE)]
                for name, number, content in got:
                    assert content == blob(number)
                    seen[name * each + number] += 1

    for _ in range(rounds):
        done, seen = mmap.mmap(-1, 2), mmap.mmap(-1, 2 * each)
        with SharedMemQueue[Any](20, size=1 << 14) as queue:
            consumers = [fork(lambda: consume(queue, seen)) for _ in range(2)]  # noqa: B023  # runs at once
            producers = [fork(lambda name=name: produce(queue, name, done)) for name in range(2)]  # type: ignore[misc]  # noqa: B023
            for pid in (producers[0], consumers[0]):
                time.sleep(chance.uniform(0, 0.01))  # no synchronisation: it picks the instant
                os.kill(pid, signal.SIGKILL)
            assert exit_of(producers[1]) == 0
            queue.close()
            assert exit_of(consumers[1]) == 0
            assert exit_of(producers[0]) in (-signal.SIGKILL, 0)
            assert exit_of(consumers[0]) in (-signal.SIGKILL, 0)
            assert queue.get_all() == []
        put = [done[0] * flight, each]
        arrived = [seen[name * each : (name + 1) * each] for name in range(2)]
        assert max(map(max, arrived)) == 1, "nothing twice"
        assert sum(arrived[0][put[0] + flight :]) == 0, "only what was put"
        lost = sum(count - sum(content[:count]) for count, content in zip(put, arrived, strict=True))
        assert lost <= flight, "only what the killed consumer had taken out"
        done.close()
        seen.close()


def test_a_signal_handler_that_raises_leaves_the_mutex_free(queue: SharedMemQueue[Any]) -> None:
    def put_and_get() -> None:
        queue.put(b"x" * 100, timeout=PATIENCE)
        queue.get(timeout=PATIENCE)

    def child() -> None:
        for _ in interrupted(put_and_get, 300, 0.0001, 0.002):
            assert [lock.value for lock in locks(queue)] == [1, 1]
        queue.clear()

    assert exit_of(fork(child)) == 0
    assert queue.qsize() == 0


# Waiting.


def test_waiters_give_up_in_time(queue: SharedMemQueue[Any]) -> None:
    def child() -> None:
        with pytest.raises(QueueEmptyError):
            queue.get(timeout=0.02)
        with pytest.raises(QueueEmptyError):
            queue.get_many(timeout=0.02)
        with SharedMemQueue[int](1) as full:
            full.put(1)
            with pytest.raises(QueueFullError):
                full.put(2, timeout=0.02)

    assert [exit_of(pid) for pid in [fork(child) for _ in range(4)]] == [0] * 4


def test_who_waits_for_the_mutex_gives_up_in_time(queue: SharedMemQueue[Any]) -> None:
    """Its holder may be stopped, for instance."""
    with locks(queue)[0].guard, locks(queue)[1].guard:

        def child() -> None:
            with pytest.raises(QueueEmptyError):
                queue.get(timeout=0.02)
            with pytest.raises(QueueFullError):
                queue.put(1, timeout=0.02)

        assert exit_of(fork(child)) == 0


def test_a_signal_does_not_end_the_wait(queue: SharedMemQueue[Any]) -> None:
    reading, writing = os.pipe()

    def child() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: os.write(writing, b"x"))
        assert queue.get(timeout=PATIENCE) == "item"
        assert queue.get() == "another"

    pid = fork(child)
    for item in ("item", "another"):
        wait_until(lambda: sleepers(queue) == 1)
        os.kill(pid, signal.SIGUSR1)
        assert os.read(reading, 1) == b"x"
        queue.put(item)
    assert exit_of(pid) == 0
    os.close(reading)
    os.close(writing)


def test_all_sizes_of_putters_are_woken_as_room_grows() -> None:
    with SharedMemQueue[Any](size=4096) as queue:
        queue.put_many([b"x" * 1000] * 3)
        queue.put(b"x" * 900)
        sizes = [3900, 2000, 300]
        pids = [fork(lambda size=size: queue.put(b"y" * size, timeout=PATIENCE)) for size in sizes]  # type: ignore[misc]
        wait_until(lambda: sleepers(queue) == 3)
        queue.get()
        assert exit_of(pids[2]) == 0, "the only one that fits beside what is there"
        got = [len(queue.get(timeout=PATIENCE)) for _ in range(6)]
        assert sorted(got) == sorted([1000, 1000, 900, *sizes])
        assert [exit_of(pid) for pid in pids[:2]] == [0, 0]


@pytest.mark.parametrize("way", ["close", "destroy"])
def test_closing_wakes_other_processes(way: str) -> None:
    def waits(call: Callable[[], object]) -> None:
        with pytest.raises(QueueClosedError):
            call()

    with SharedMemQueue[int]() as empty, SharedMemQueue[int](1) as full:
        full.put(1)
        pids = [fork(lambda: waits(empty.get)), fork(lambda: waits(lambda: full.put(2)))]
        for each in (empty, full):
            wait_until(lambda: sleepers(each) == 1)  # noqa: B023  # runs at once
        assert exit_of(fork(getattr(empty, way))) == 0
        assert exit_of(fork(getattr(full, way))) == 0
        assert [exit_of(pid) for pid in pids] == [0, 0]
        with pytest.raises(QueueClosedError):
            empty.put(1)


# The bell.


@pytest.fixture
def bell() -> Iterator[Bell]:
    segment = StampedSegment("test", 1, (0, 0))
    first, second = segment.semaphores
    yield Bell((first, second), segment.buf)
    segment.remove()
    segment.buf.release()


def test_a_ring_between_noting_and_waiting_is_heard(bell: Bell) -> None:
    noted = bell.note()
    assert not bell.wait(noted, 0)
    bell.ring()
    assert bell.wait(noted, None)
    assert bell.wait(noted, None)
    assert not bell.wait(bell.note(), 0)


def test_a_bell_goes_on_after_all_that_a_semaphore_can_count(bell: Bell) -> None:
    first = bell.note()
    for count in (MAX_VALUE - 2, MAX_VALUE - 1, MAX_VALUE):
        semaphore, _ = bell.note()
        semaphore.set(count)
        noted = bell.note()
        assert not bell.wait(noted, 0)
        bell.ring()
        assert bell.wait(noted, 0)
    assert bell.wait(first, 0)


def test_ringing_a_full_bell(bell: Bell) -> None:
    semaphore, _ = bell.note()
    semaphore.set(MAX_VALUE - 2)
    noted = bell.note()
    for _ in range(4):
        bell.ring()
    assert semaphore.value == MAX_VALUE
    assert bell.wait(noted, 0)
    assert not bell.wait(bell.note(), 0)


def test_a_semaphore() -> None:
    segment = StampedSegment("test", 1, (1,))
    semaphore: Semaphore = segment.semaphores[0]
    with semaphore.guard:
        assert not semaphore.wait_for(1, 0)
        assert not semaphore.wait_for(1, 0.01)
    assert semaphore.wait_for(1)
    assert exit_of(fork(semaphore.guard.acquire)) == 0
    assert semaphore.value == 1, "given back by the child's end"
    assert exit_of(fork(semaphore.release)) == 0
    assert semaphore.value == 2
    segment.remove()
