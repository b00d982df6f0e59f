"""Twenty processes on one table for half a minute: every count is there in the end, and every row whole."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from multiprocessing_kit.shared import Shared
from tests.forks import exit_of, fork
from tests.process.test_shared import COLUMNS, check_whole, is_whole, locks, row

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

PROCESSES, SECONDS, ROWS = 20, 30, 200


@pytest.mark.parametrize("kills", [0, 2000])
def test_hammering(kills: int) -> None:
    """Counts have their own keys; the other rows come and go. A kill may come between two counts."""

    def hammer(name: int, end: float) -> None:
        chance = random.Random(f"{name} {os.getpid()}")
        while time.monotonic() < end:
            table.incr("all", "number")
            counts.incr(str(name), "made")
            key = str(chance.randrange(50))
            if chance.random() < 0.5:
                table[key] = row(chance.randrange(1000))
            else:
                found = table.pop(key, None)
                assert found is None or is_whole(found)
            found = table.get(str(chance.randrange(50)))
            assert found is None or is_whole(found)

    with Shared(COLUMNS, ROWS) as table, Shared({"made": int}) as counts:
        end = time.monotonic() + SECONDS
        pids = [fork(lambda n=n: hammer(n, end)) for n in range(PROCESSES)]  # type: ignore[misc]
        killed = 0
        while killed < kills and time.monotonic() < end - 1:
            name = killed % PROCESSES
            os.kill(pids[name], signal.SIGKILL)
            assert exit_of(pids[name]) == -signal.SIGKILL
            killed += 1
            pids[name] = fork(lambda n=name: hammer(n, end))  # type: ignore[misc]
        assert [exit_of(pid) for pid in pids] == [0] * PROCESSES
        assert locks(table) == locks(counts) == [1] * 8
        made = sum(found["made"] for found in counts.values())
        assert made <= table.get("all", "number") <= made + killed
        assert made > 10_000
        del table["all"]
        assert all(map(is_whole, table.values()))
        check_whole(table, ROWS)
