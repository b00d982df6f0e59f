"""How many workers a backlog asks for: up at once, down one by one after a while."""

from __future__ import annotations

import pytest

from multiprocessing_kit.service.scaling import Scaling

LEAST, MOST, PER_WORKER = 1, 8, 100
IDLE_LOOKS = 5


@pytest.mark.parametrize(
    ("workers", "ready", "busy", "wanted"),
    [
        (1, 0, 0, 1),
        (1, 100, 1, 1),
        (1, 101, 1, 2),
        (1, 750, 1, 8),
        (1, 100_000, 1, 8),
        (4, 350, 4, 4),
        (4, 0, 4, 4),  # nobody waits, and all are busy
        (8, 10_000, 8, 8),
        (0, 1, 0, 1),  # of a topic whose least is 0
    ],
)
def test_one_look(workers: int, ready: int, busy: int, wanted: int) -> None:
    assert Scaling(LEAST, MOST, PER_WORKER).wanted(workers, ready, busy) == wanted


def test_shrinks_one_by_one_after_a_while_and_not_below_the_least() -> None:
    scaling = Scaling(LEAST, MOST, PER_WORKER)
    workers, seen = 4, []
    for _ in range(IDLE_LOOKS * 4):
        workers = scaling.wanted(workers, 0, 0)
        seen.append(workers)
    assert seen == [4] * 4 + [3] * 5 + [2] * 5 + [1] * 6


def test_a_lull_is_no_reason_to_shrink() -> None:
    scaling = Scaling(LEAST, MOST, PER_WORKER)
    for look in range(IDLE_LOOKS * 3):
        ready = 400 if look % (IDLE_LOOKS - 1) == 0 else 0
        assert scaling.wanted(4, ready, 0) == 4


def test_swings_at_no_steady_backlog() -> None:
    for ready in range(0, 900, 7):
        scaling = Scaling(LEAST, MOST, PER_WORKER)
        workers, changes = 1, 0
        for _ in range(100):
            wanted = scaling.wanted(workers, ready, min(workers, 1))
            changes += wanted != workers
            workers = wanted
        assert changes <= 1, ready
