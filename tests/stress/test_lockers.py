"""Twenty processes at one lock for half a minute; the totals are exact."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.ipc.segment import Segment
from multiprocessing_kit.lockers import (
    FileLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(180)]

PROCESSES = 20
SECONDS = 30.0

MAKE: dict[str, Callable[[Path], Any]] = {
    "mutex": lambda _: MutexLocker(),
    "spin": lambda _: SpinLocker(),
    "reentrant": lambda _: ReentrantLocker(),
    "semaphore": lambda _: SemaphoreLocker(1),
    "file": lambda folder: FileLocker(folder / "lock"),
    "writer": lambda _: RWLocker().writer,
}


def fork(body: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("killing", [False, True], ids=["", "while some are killed"])
def test_exact_totals(kind: str, killing: bool, tmp_path: Path) -> None:
    """Each adds 1 to a total in two steps, and then 1 to its own; who is killed may be one short."""
    locker = MAKE[kind](tmp_path)
    source = random.Random(1)
    with Segment(8 * (PROCESSES + 1)) as segment:
        words = segment.buf.cast("q")
        end = time.monotonic() + SECONDS

        def add(number: int) -> None:
            while time.monotonic() < end:
                with locker:
                    total = sum(words[1:])
                    words[0] = total
                    words[number] += 1
                    words[0] = total + 1

        pids = {number: fork(lambda number=number: add(number)) for number in range(1, PROCESSES + 1)}  # type: ignore[misc]
        kills = 0
        while killing and time.monotonic() < end - 2:
            time.sleep(source.uniform(0.01, 0.1))  # the instants of the kills, not a synchronisation
            number = source.randint(1, PROCESSES)
            os.kill(pids[number], signal.SIGKILL)
            os.waitpid(pids[number], 0)
            kills += 1
            assert locker.acquire(timeout=PROCESSES), "the others go on"
            locker.release()
            pids[number] = fork(lambda number=number: add(number))  # type: ignore[misc]
        for pid in pids.values():
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        total = sum(words[1:])
        assert total > 1000
        assert words[0] == total
        assert (kills > 0) == killing
        words.release()
    locker.destroy()
