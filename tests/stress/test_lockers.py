"""Twenty processes at one lock, or at one condition, for half a minute; the totals are exact."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from multiprocessing_kit.ipc.segment import Segment
from multiprocessing_kit.lockers import ConditionLocker, MutexLocker, RWLocker, SemaphoreLocker
from tests.forks import exit_of, fork
from tests.process.test_lockers import PATIENCE, check_permits, exclusive, kill, locker

__all__ = ["locker"]  # a fixture

pytestmark = [pytest.mark.stress, pytest.mark.timeout(180)]

PROCESSES = 20
SECONDS = 30.0


@exclusive
@pytest.mark.parametrize("killing", [False, True], ids=["", "while some are killed"])
def test_exact_totals(locker: Any, killing: bool) -> None:
    """Each adds 1 to a total in two steps, and then 1 to its own; who is killed may be one short."""
    with Segment(8 * (PROCESSES + 1)) as segment:
        words = segment.buf.cast("q")

        def add(number: int) -> None:
            with locker:
                total = sum(words[1:])
                words[0] = total
                words[number] += 1
                words[0] = total + 1

        def go_on() -> None:
            assert locker.acquire(timeout=PROCESSES), "the others go on"
            locker.release()

        hammer(add, go_on if killing else None)
        assert words[0] == sum(words[1:]) > 1000
        words.release()


@pytest.mark.parametrize("killing", [False, True], ids=["", "while some are killed"])
def test_readers_and_writers(killing: bool) -> None:
    """A reader that is in beside a writer finds a total that is not the sum."""
    shared = RWLocker()
    with Segment(8 * (1 + 2 * PROCESSES)) as segment:
        words = segment.buf.cast("q")
        written, read = words[1 : PROCESSES + 1], words[PROCESSES + 1 :]

        def use(number: int) -> None:
            if random.random() < 0.3:
                with shared.writer:
                    total = sum(written)
                    written[number - 1] += 1
                    os.sched_yield()
                    words[0] = total + 1
            else:
                with shared.reader:
                    for _ in range(2):
                        assert words[0] == sum(written) or shared.reader.owner_died
                        os.sched_yield()
                    read[number - 1] += 1

        def go_on() -> None:
            assert shared.writer.acquire(timeout=PROCESSES), "the others go on"
            words[0] = sum(written)  # mends what a dead writer has left
            shared.writer.release()

        hammer(use, go_on if killing else None)
        assert words[0] == sum(written) > 1000
        assert sum(read) > 1000
        assert shared.readers == 0
        for part in (written, read, words):
            part.release()
    shared.destroy()


def test_permits() -> None:
    permits = 3
    locker, counting = SemaphoreLocker(permits), MutexLocker()
    with Segment(8 * (PROCESSES + 3)) as segment:
        words = segment.buf.cast("q")
        now, most, total = range(PROCESSES, PROCESSES + 3)

        def enter(number: int) -> None:
            with locker:
                with counting:
                    words[now] += 1
                    words[most] = max(words[most], words[now])
                    words[total] += 1
                words[number - 1] += 1
                os.sched_yield()
                with counting:
                    words[now] -= 1

        hammer(enter)
        assert (words[now], words[most]) == (0, permits)
        assert words[total] == sum(words[:PROCESSES]) > 1000
        assert not any(check_permits(locker, permits))
        words.release()
    locker.destroy()
    counting.destroy()


def test_producers_and_consumers() -> None:
    """Two conditions of one lock, as `queue.Queue` has them: each change wakes one that waits for it."""
    room, producers = 5, PROCESSES // 2
    lock = MutexLocker()
    not_full, not_empty = ConditionLocker(lock), ConditionLocker(lock)
    with Segment(8 * (PROCESSES + 2)) as segment:
        words = segment.buf.cast("q")
        level, ended = PROCESSES, PROCESSES + 1
        end = time.monotonic() + SECONDS

        def produce(number: int) -> None:
            while time.monotonic() < end:
                with lock:
                    assert not_full.wait_for(lambda: words[level] < room, PATIENCE)
                    words[level] += 1
                    words[number] += 1
                    not_empty.notify()

        def consume(number: int) -> None:
            while True:
                with lock:
                    assert not_empty.wait_for(lambda: words[level] or words[ended], PATIENCE)
                    if words[level] == 0:
                        return
                    words[level] -= 1
                    words[number] += 1
                    not_full.notify()

        making = [fork(lambda n=n: produce(n)) for n in range(producers)]  # type: ignore[misc]
        using = [fork(lambda n=n: consume(n)) for n in range(producers, PROCESSES)]  # type: ignore[misc]
        assert [exit_of(pid) for pid in making] == [0] * len(making)
        with lock:
            words[ended] = 1
            not_empty.notify_all()
        assert [exit_of(pid) for pid in using] == [0] * len(using)
        assert sum(words[:producers]) == sum(words[producers:PROCESSES]) > 1000
        words.release()
    for each in (not_full, not_empty, lock):
        each.destroy()


def hammer(use: Callable[[int], object], go_on: Callable[[], object] | None = None) -> None:
    """Run `use` again and again in processes numbered from 1; with `go_on`, kill some, and call that."""
    source = random.Random(1)
    end = time.monotonic() + SECONDS

    def run(number: int) -> None:
        random.seed(os.getpid())
        while time.monotonic() < end:
            use(number)

    pids = {number: fork(lambda number=number: run(number)) for number in range(1, PROCESSES + 1)}  # type: ignore[misc]
    kills = 0
    while go_on is not None and time.monotonic() < end - 2:
        time.sleep(source.uniform(0.01, 0.1))  # the instants of the kills, not a synchronisation
        number = source.randint(1, PROCESSES)
        kill(pids[number])
        kills += 1
        go_on()
        pids[number] = fork(lambda number=number: run(number))  # type: ignore[misc]
    assert [exit_of(pid) for pid in pids.values()] == [0] * PROCESSES
    assert (kills > 0) == (go_on is not None)
