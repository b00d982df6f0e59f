"""Queues between real processes, some of which are killed at the worst moments."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError, QueueFullError
from multiprocessing_kit.ipc.bell import Bell
from multiprocessing_kit.ipc.semaphore import MAX_VALUE, Semaphore
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.queues import SharedMemQueue
from multiprocessing_kit.queues.records import RecordQueue
from multiprocessing_kit.queues.ring import RecordRing

PATIENCE = 30  # seconds; only ever used up by a failing test


def fork(body: Callable[[], object]) -> int:
    """Run `body` in a forked child that ends at once; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


def exit_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleepers(queue: SharedMemQueue[Any]) -> int:
    """How many processes wait for the queue's bell."""
    return sum(semaphore.guard.waiting_for_nonzero for semaphore in inner(queue)._bell._semaphores)


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only the kernel knows and does not announce."""
    while not condition():
        os.sched_yield()


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


# Deaths: where it strikes, and what must come out.


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    monkeypatch.setattr(owner, name, die)


def after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    original = getattr(owner, name)

    def run_and_die(*args: Any) -> None:
        original(*args)
        die()

    monkeypatch.setattr(owner, name, run_and_die)


@pytest.mark.parametrize(
    ("moment", "owner", "name", "putting", "getting"),
    [
        (before, RecordRing, "load", ["a"], ["a"]),
        (before, RecordRing, "append", ["a"], None),
        (after, RecordRing, "append", ["a"], None),
        (before, RecordRing, "take", None, ["a"]),
        (after, RecordRing, "take", None, ["a"]),
        (before, RecordQueue, "_wake", ["a"], ["a"]),
        (after, RecordQueue, "_wake", ["a"], ["a"]),
        (before, RecordRing, "commit", ["a"], ["a"]),
        (after, RecordRing, "commit", ["a", "new"], []),
    ],
)
def test_a_holder_of_the_mutex_is_killed(  # noqa: PLR0917  # a table
    queue: SharedMemQueue[Any],
    moment: Callable[..., None],
    owner: type,
    name: str,
    putting: list[str] | None,
    getting: list[str] | None,
) -> None:
    def child(action: Callable[[], object]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            moment(patch, owner, name)
            action()

    for action, expected in ((lambda: queue.put("new"), putting), (queue.get, getting)):
        if expected is None:
            continue
        queue.put("a")
        assert exit_of(fork(lambda action=action: child(action))) == -signal.SIGKILL  # type: ignore[misc]
        assert queue.qsize() == len(expected)
        queue.put("z", timeout=PATIENCE)
        assert queue.get_all() == [*expected, "z"]


@pytest.mark.parametrize("stage", ["before the ring", "after the ring", "before the commit"])
@pytest.mark.parametrize("side", ["getter", "putter"])
def test_who_should_wake_a_sleeper_is_killed(side: str, stage: str) -> None:
    """The next one wakes it."""
    with SharedMemQueue[str](1, size=4096) as queue:
        if side == "putter":
            queue.put("full")
        sleep = queue.get if side == "getter" else lambda: queue.put("late")
        wake = (lambda: queue.put("x")) if side == "getter" else queue.get

        def child() -> None:
            with pytest.MonkeyPatch.context() as patch:
                if stage == "before the commit":
                    before(patch, RecordRing, "commit")
                else:
                    (before if stage == "before the ring" else after)(patch, Bell, "ring")
                wake()

        sleeping = fork(sleep)
        wait_until(lambda: sleepers(queue) == 1)
        assert exit_of(fork(child)) == -signal.SIGKILL
        wake()
        assert exit_of(sleeping) == 0
        assert queue.get_all() == ([] if side == "getter" else ["late"])


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


def test_kills_at_any_instant_leave_whole_items_and_a_free_mutex() -> None:
    rounds = 200
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


class Interrupted(BaseException):
    pass


def test_a_signal_handler_that_raises_leaves_the_mutex_free(queue: SharedMemQueue[Any]) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    def child() -> None:
        signal.signal(signal.SIGALRM, interrupt)
        chance = random.Random(7)
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.002))
                while True:
                    queue.put(b"x" * 100, timeout=PATIENCE)
                    queue.get(timeout=PATIENCE)
            except Interrupted:
                assert inner(queue)._mutex.value == 1
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
    with inner(queue)._mutex.guard:

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
    assert semaphore.acquire()
    assert not semaphore.acquire(0)
    assert not semaphore.acquire(0.01)
    semaphore.release()
    assert exit_of(fork(semaphore.acquire)) == 0
    assert semaphore.value == 1, "given back by the child's end"
    assert exit_of(fork(lambda: semaphore.acquire(undo=False))) == 0
    assert semaphore.value == 0
    segment.remove()
