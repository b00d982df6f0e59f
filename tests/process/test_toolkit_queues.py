"""The queues of the toolkit between processes, some of which are killed, and between programs."""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import queue as queue_module
import random
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from multiprocessing_kit.errors import IpcError, QueueClosedError, QueueEmptyError, QueueError, QueueFullError
from multiprocessing_kit.ipc import bell
from multiprocessing_kit.queues import (
    FifoQueue,
    LifoQueue,
    PriorityQueue,
    blocks,
    heap,
    records,
    stack,
    store,
)
from tests.forks import exit_of, fork, wait_until
from tests.gates import Gate
from tests.interrupts import interrupted
from tests.kills import Instants
from tests.process.test_shared_mem_queue import PATIENCE, STRIDES, blob, inner, sleepers

AnyQueue = Any  # a FifoQueue, LifoQueue or PriorityQueue
Maker = Callable[..., AnyQueue]

AT_ONCE = 1.0  # seconds: how soon the next one must get on after a kill

NUMBERS = itertools.count()


def new_name() -> str:
    return f"tests {os.getpid()} {next(NUMBERS)}"


def named(cls: Any) -> Maker:
    return lambda maxsize=0, **options: cls(maxsize, name=new_name(), **options)


MAKERS: dict[str, Maker] = {
    "fifo": FifoQueue,
    "lifo": LifoQueue,
    "priority": PriorityQueue,
    "named fifo": named(FifoQueue),
    "named lifo": named(LifoQueue),
    "named priority": named(PriorityQueue),
}
makers = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
classes = pytest.mark.parametrize("cls", [FifoQueue, LifoQueue, PriorityQueue])


def put(queue: AnyQueue, item: Any, **how: Any) -> None:
    """With a priority that its content tells."""
    if isinstance(queue, PriorityQueue):
        how["priority"] = hash(item) % 4
    queue.put(item, **how)


# Totals.


def tell(tally: mmap.mmap, name: int, *numbers: int) -> None:
    tally[name * 32 : name * 32 + 32] = b"".join(number.to_bytes(8, "little") for number in numbers).ljust(32)


def told(tally: mmap.mmap, name: int) -> tuple[int, int]:
    first, second = tally[name * 32 : name * 32 + 8], tally[name * 32 + 8 : name * 32 + 16]
    return int.from_bytes(first, "little"), int.from_bytes(second, "little")


def produce(queue: AnyQueue, name: int, stop: Callable[[int], bool], tally: mmap.mmap) -> None:
    total = 0
    for number in itertools.takewhile(lambda number: not stop(number), itertools.count()):
        value = name << 32 | number
        put(queue, (value, blob(number)), timeout=PATIENCE)
        total += value
        tell(tally, name, number + 1, total)


def consume(queue: AnyQueue, name: int, tally: mmap.mmap) -> None:
    chance = random.Random(name)
    count = total = 0
    with contextlib.suppress(QueueClosedError):
        while True:
            for value, content in queue.get_many(chance.randint(1, 3), timeout=PATIENCE):
                assert content == blob(value & 0xFFFFFFFF)
                count, total = count + 1, total + value
    tell(tally, name, count, total)


def check_totals(maker: Maker, processes: int, stop: Callable[[int], bool]) -> int:
    """What was put is what was got. Returns how many items that were."""
    tally = mmap.mmap(-1, processes * 32)
    half = processes // 2
    with maker(half, size=1 << 15) as queue:
        consumers = [fork(partial(consume, queue, name, tally)) for name in range(half)]
        producers = [fork(partial(produce, queue, name, stop, tally)) for name in range(half, processes)]
        assert [exit_of(pid) for pid in producers] == [0] * half
        queue.close()
        assert [exit_of(pid) for pid in consumers] == [0] * half
        assert queue.get_all() == []
    got, was_put = (
        [sum(column) for column in zip(*(told(tally, name) for name in names), strict=True)]
        for names in (range(half), range(half, processes))
    )
    tally.close()
    assert got == was_put
    count: int = got[0]
    return count


@makers
def test_many_processes_put_and_get(maker: Maker) -> None:
    assert check_totals(maker, 6, lambda number: number >= 150) == 3 * 150


# Deaths: at every instruction.


INSTANTS = Instants(by_instruction=(stack, heap, store, blocks, bell), by_line=(records,))

ACTIONS: dict[str, tuple[Callable[[AnyQueue], object], dict[Any, list[str]]]] = {
    # what is done to a queue with "a" and "b", and what may be in it then, for each class
    "put": (lambda queue: queue.put("c"), {LifoQueue: ["ba", "cba"], PriorityQueue: ["ab", "abc"]}),
    "get": (lambda queue: queue.get(), {LifoQueue: ["ba", "a"], PriorityQueue: ["ab", "b"]}),
    "clear": (lambda queue: queue.clear(), {LifoQueue: ["ba", ""], PriorityQueue: ["ab", ""]}),
    "close": (lambda queue: queue.close(), {LifoQueue: ["ba"], PriorityQueue: ["ab"]}),
    "get_many": (
        lambda queue: queue.get_many(2),
        {LifoQueue: ["ba", ""], PriorityQueue: ["ab", "b", ""]},
    ),
    "put_many": (
        lambda queue: queue.put_many("cd"),
        {LifoQueue: ["ba", "cba", "dcba"], PriorityQueue: ["ab", "abc", "abcd"]},
    ),
}


@STRIDES
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("cls", [LifoQueue, PriorityQueue])
def test_killed_at_any_instruction(
    cls: Any, action: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_LOOKS", 1)
    act, contents = ACTIONS[action]

    def prepare() -> AnyQueue:
        queue = cls(size=4096)
        queue.put_many("xyz")
        queue.get_all()
        queue.put_many("ab")
        return queue

    states = []
    for queue in INSTANTS.killed(prepare, act, stride=1 if stride == 1 else 7):
        assert inner(queue)._appenders.lock.value == 1
        closed = inner(queue)._store.closed
        count = queue.qsize()
        content = "".join(queue.get_all())
        assert len(content) == count
        states.append((content, closed))
        if not closed:
            queue.put_many("yz", block=False)
            assert sorted(queue.get_many(5, block=False)) == ["y", "z"]
    expected = [(content, False) for content in contents[cls]]
    if action == "close":
        expected.append((expected[0][0], True))
    assert states == sorted(states, key=expected.index), "first not done, from one instant on done"
    assert {states[0], states[-1]} == {expected[0], expected[-1]}


@STRIDES
@pytest.mark.parametrize("side", ["getter", "putter"])
@pytest.mark.parametrize("cls", [LifoQueue, PriorityQueue])
def test_who_should_wake_a_sleeper_is_killed(
    cls: Any, side: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done by then wakes the sleeper; otherwise the next one's does."""
    monkeypatch.setattr(records, "_LOOKS", 1)
    sleeping = 0

    def prepare() -> AnyQueue:
        nonlocal sleeping
        queue = cls(1, size=4096)
        if side == "putter":
            queue.put("full")
        sleeping = fork(lambda: queue.get() if side == "getter" else queue.put("late"))
        wait_until(lambda: sleepers(queue) == 1)
        return queue

    def wake(queue: AnyQueue) -> object:
        return queue.put("item") if side == "getter" else queue.get()

    done = []
    for queue in INSTANTS.killed(prepare, wake, stride=1 if stride == 1 else 13):
        with contextlib.suppress(QueueFullError, QueueEmptyError):
            if side == "getter":
                queue.put("second", timeout=AT_ONCE)  # wakes the sleeper if the first one has not
            else:
                queue.get(timeout=AT_ONCE)
        assert exit_of(sleeping) == 0
        done.append(len(queue.get_all()))
    assert set(done) == {0, 1}


# Creators.


@classes
def test_dropped_by_its_creator(cls: Maker) -> None:
    with Gate() as dropped:

        def use(queue: AnyQueue) -> None:
            dropped.wait()
            with pytest.raises(QueueClosedError, match="creator has ended or dropped it"):
                queue.get()

        def start() -> int:
            queue = cls()
            return fork(lambda: use(queue))

        pid = start()
        gc.collect()
        dropped.open()
        assert exit_of(pid) == 0


# Deaths: at any instant.


def go_on(queue: AnyQueue) -> list[Any]:
    """The next one gets on at once, and finds whole items, in order."""
    count = queue.qsize()
    found: list[Any] = queue.get_all()
    assert len(found) == count
    assert all(content == blob(number) for _, number, content in found)
    if isinstance(queue, PriorityQueue):
        assert found == sorted(found, key=lambda item: (item[0] % 4, item[1]))
    else:
        numbers = [number for _, number, _ in found]
        assert numbers == sorted(numbers, reverse=isinstance(queue, LifoQueue))
    queue.put((0, 0, blob(0)), timeout=AT_ONCE)
    assert queue.get(timeout=AT_ONCE) == (0, 0, blob(0))
    return found


def use(queue: AnyQueue, action: str, tally: mmap.mmap, started: int) -> None:
    """Put or get, and write down how much was done."""
    chance = random.Random(os.getpid())
    for number in itertools.count():
        if action != "get":
            item = (chance.randrange(1000), number, blob(number))
            if isinstance(queue, PriorityQueue):
                queue.put(item, priority=item[0] % 4)
            else:
                queue.put(item)
        if action != "put":
            queue.get()
        tell(tally, 0, number + 1, 0)
        if number == 0:
            os.write(started, b"x")


def check_kills(maker: Maker, action: str, rounds: int) -> None:
    """One that puts, or gets, is killed: what it was at is there or not, and the next one gets on."""
    chance = random.Random(f"{action} {rounds}")
    tally = mmap.mmap(-1, 32)
    reading, writing = os.pipe()
    for _ in range(rounds):
        with maker(size=1 << 18) as queue:
            before = 0
            if action == "get":
                before = 1500
                queue.put_many((0, number, b"") for number in range(before))
            pid = fork(lambda: use(queue, action, tally, writing))  # runs at once
            assert os.read(reading, 1) == b"x"
            time.sleep(chance.uniform(0, 0.005))  # no synchronisation: it picks the instant
            os.kill(pid, signal.SIGKILL)
            assert exit_of(pid) == -signal.SIGKILL
            begun = time.monotonic()
            count = queue.qsize()
            assert time.monotonic() - begun < AT_ONCE
            done, _ = told(tally, 0)
            if action == "put":
                assert count in {done, done + 1}
                assert len(go_on(queue)) == count
            elif action == "get":
                assert before - count in {done, done + 1}
                queue.clear()
            else:
                assert count <= 1
                queue.clear()
            assert go_on(queue) == []
            queue.put(b"x" * (inner(queue).max_payload - 32), block=False)  # no memory is lost
    os.close(reading)
    os.close(writing)
    tally.close()


@pytest.mark.parametrize("action", ["put", "get", "both"])
@makers
def test_killed_in_the_middle(maker: Maker, action: str) -> None:
    check_kills(maker, action, 20)


def check_killed_waiters(maker: Maker, action: str, rounds: int) -> None:
    """One that waits is killed: the other one that waits is the next."""
    for _ in range(rounds):
        with maker(1) as queue:
            if action == "put":
                queue.put("full")
            pids = [fork(lambda: queue.get() if action == "get" else queue.put("new")) for _ in range(2)]
            wait_until(lambda: sleepers(queue) == 2)
            os.kill(pids[0], signal.SIGKILL)
            assert exit_of(pids[0]) == -signal.SIGKILL
            begun = time.monotonic()
            if action == "get":
                queue.put("new")
            else:
                assert queue.get() == "full"
            assert exit_of(pids[1]) == 0
            assert time.monotonic() - begun < AT_ONCE
            assert queue.get_all() == ([] if action == "get" else ["new"])


@pytest.mark.parametrize("action", ["put", "get"])
@makers
def test_killed_while_waiting(maker: Maker, action: str) -> None:
    check_killed_waiters(maker, action, 20)


@makers
def test_a_signal_handler_that_raises(maker: Maker) -> None:
    chance = random.Random(7)

    def put_and_get() -> None:
        put(queue, b"x" * chance.randrange(200), timeout=PATIENCE)
        queue.get(timeout=PATIENCE)

    def child() -> None:
        for _ in interrupted(put_and_get, 100, 0.0001, 0.002):
            assert inner(queue)._appenders.lock.value == 1

    with maker(size=1 << 16) as queue:
        assert exit_of(fork(child)) == 0
        queue.clear()
        assert go_on(queue) == []


# Programs that share a name.


def run(cls: Any, name: str, code: str) -> int:
    """Run a program to its end; returns its exit code."""
    with program(cls, name, code) as started:
        return started.wait(PATIENCE)


def program(cls: Any, name: str, code: str) -> subprocess.Popen[str]:
    opening = (
        f"from multiprocessing_kit.queues import {cls.__name__} as Q; q = Q(9, size=8192, name={name!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", f"import os, signal\n{opening}\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@classes
def test_two_programs_share_a_name(cls: Any) -> None:
    name = new_name()
    answer = (
        "import sys; q.put((q.get(timeout=30), os.getpid())); print('ready', flush=True); sys.stdin.read()"
    )
    with cls(9, size=8192, name=name) as queue:
        queue.put("question")
        with program(cls, name, answer) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            assert queue.get(timeout=PATIENCE) == ("question", other.pid)
        assert other.returncode == 0


@classes
def test_it_outlives_its_programs(cls: Any) -> None:
    name = new_name()
    assert run(cls, name, "q.put_many('abc')") == 0
    assert run(cls, name, "q.put('d'); os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    with cls(9, size=8192, name=name) as queue:
        assert "".join(queue.get_all()) == ("dcba" if cls is LifoQueue else "abcd")
    with cls(9, size=8192, name=name) as queue:
        assert queue.empty(), "destroyed at the end of the block, this is a new one"


@classes
@pytest.mark.parametrize("way", ["close", "destroy"])
def test_the_end_wakes_another_program(cls: Any, way: str) -> None:
    name = new_name()
    with cls(9, size=8192, name=name) as queue:
        waiting = (
            "from multiprocessing_kit.errors import QueueClosedError\n"
            "try: q.get(timeout=30)\nexcept QueueClosedError: print('closed')"
        )
        with program(cls, name, waiting) as other:
            wait_until(lambda: sleepers(queue) == 1)
            getattr(queue, way)()
            assert other.communicate(timeout=PATIENCE)[0] == "closed\n"


@classes
def test_one_that_is_there_with_other_bounds(cls: Any) -> None:
    name = new_name()
    with cls(9, size=8192, name=name) as queue:
        queue.put("item")
        with pytest.raises(QueueError, match=r"maxsize=9, not 10"):
            cls(10, size=8192, name=name)
        with pytest.raises(IpcError, match="bytes"):
            cls(9, size=4096, name=name)
        assert queue.get() == "item"


@classes
def test_closed_it_stays_closed(cls: Any) -> None:
    name = new_name()
    cls(9, size=8192, name=name).close()
    with cls(9, size=8192, name=name) as queue, pytest.raises(QueueClosedError):
        queue.put("item")


# The standard library's own tests of queues.


class ByItem(PriorityQueue[Any]):
    """Puts items in their own order, as queue.PriorityQueue does."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None, priority: float = 0) -> None:
        super().put(item, block, timeout, item if isinstance(item, int) else priority)


KINDS = {"Queue": FifoQueue, "LifoQueue": LifoQueue, "PriorityQueue": ByItem}
# Left out: task_done and join, which we do not have; another maxsize for a queue in use, which is the same
# for every process; shutdown, which is our close; references to items, which are copies.
STANDARD_TESTS = [
    *(
        (kind, "BaseQueueTestMixin", test)
        for kind in KINDS
        for test in ("test_basic", "test_negative_timeout_raises_exception", "test_nowait")
    ),
    *(
        ("Queue", "BaseSimpleQueueTest", test)
        for test in (
            *("test_basic", "test_order", "test_many_threads", "test_many_threads_nonblock"),
            *("test_many_threads_timeout", "test_negative_timeout_raises_exception"),
        )
    ),
]


@pytest.mark.parametrize(("kind", "mixin", "test"), STANDARD_TESTS)
def test_of_the_standard_library(kind: str, mixin: str, test: str) -> None:
    standard = pytest.importorskip("test.test_queue")
    cls = type(kind, (KINDS[kind],), {})  # the mixin tells the order from the name
    with contextlib.ExitStack() as stack:
        body = {"queue": queue_module, "type2test": lambda _, *bounds: stack.enter_context(cls(*bounds))}
        case = type("Case", (getattr(standard, mixin), unittest.TestCase), body)(test)
        case.debug()
