"""Twenty processes at one lock for half a minute; the totals are exact."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from multiprocessing_kit.ipc.segment import Segment
from tests.forks import exit_of, fork
from tests.process.test_lockers import exclusive, locker

__all__ = ["locker"]  # a fixture

pytestmark = [pytest.mark.stress, pytest.mark.timeout(180)]

PROCESSES = 20
SECONDS = 30.0


@exclusive
@pytest.mark.parametrize("killing", [False, True], ids=["", "while some are killed"])
def test_exact_totals(locker: Any, killing: bool) -> None:
    """Each adds 1 to a total in two steps, and then 1 to its own; who is killed may be one short."""
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
            assert exit_of(pids[number]) == -signal.SIGKILL
            kills += 1
            assert locker.acquire(timeout=PROCESSES), "the others go on"
            locker.release()
            pids[number] = fork(lambda number=number: add(number))  # type: ignore[misc]
        for pid in pids.values():
            assert exit_of(pid) == 0
        total = sum(words[1:])
        assert total > 1000
        assert words[0] == total
        assert (kills > 0) == killing
        words.release()
