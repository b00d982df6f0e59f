"""Storms: children are killed at random, by the thousand, and each job has its one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import Process
from tests.process.test_crashes import AGAIN, CASES, batches, check_among_good_ones, check_storm, ways

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]


@ways
@batches
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_kills(run: Any, batch_size: Any, seed: int, tmp_path: Path) -> None:
    process = Process(3, batch_size=batch_size, crash_retries=1000)
    path = tmp_path / "called"
    check_storm(run, process, path, count=100_000, kills=1000, seed=seed, again=AGAIN[batch_size])


@pytest.mark.parametrize("name", CASES)
@ways
@batches
def test_a_hundred_bad_jobs_among_ten_thousand(name: str, run: Any, batch_size: Any) -> None:
    check_among_good_ones(name, run, batch_size, bad=100, count=10_000)


@batches
def test_with_all_limits(batch_size: Any, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"timeout": 30.0, "max_tasks_per_child": 700, "max_memory_per_child": 4 << 30}
    with Process(4, batch_size=batch_size, crash_retries=1000, **limits) as process:
        for seed in range(5):
            path = tmp_path / str(seed)
            again = AGAIN[batch_size]
            check_storm(list_of_map, process, path, count=20_000, kills=100, seed=seed, again=again)


def list_of_map(process: Process, job: Any, inputs: Any) -> list[Any]:
    return list(process.map(job, inputs))
