"""A long job among short ones: what waits behind it in its child's lane goes to children that are idle."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from multiprocessing_kit import Process

SHORT = 200  # so many short jobs make the runner queue several in each lane


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("which", range(SHORT, SHORT + 16, 5))
def test_jobs_behind_a_long_one_are_run_by_others(pipe: tuple[int, int], which: int) -> None:
    """The long job waits for a later one, which would otherwise wait behind it for ever."""
    read, write = pipe

    def job(number: int) -> int:
        if number == which:
            os.read(read, 1)
        if number == SHORT + 15:
            os.write(write, b".")
        return number

    if which == SHORT + 15:
        os.write(write, b".")
    bodies = [response.body for response in Process(2).imap(job, range(SHORT + 16), ordered=False)]
    assert sorted(bodies) == list(range(SHORT + 16))


@pytest.mark.parametrize("seed", range(5))
def test_each_job_runs_once(pipe: tuple[int, int], seed: int) -> None:
    """Whatever is taken back, and however the child gets ahead of that."""
    read, write = pipe
    slow = set(random.Random(seed).sample(range(400), 25))
    assert ran(read, slow_job(write, slow)) == Counter(range(400))


def slow_job(write: int, slow: set[int]) -> Callable[[int], int]:
    def job(number: int) -> int:
        os.write(write, number.to_bytes(4, "little"))
        if number in slow:
            sum(range(300_000))
        return number

    return job


def ran(read: int, job: Callable[[int], int]) -> Counter[int]:
    """Which jobs were run, and how often."""
    assert [response.body for response in Process(3).map(job, range(400))] == list(range(400))
    data = os.read(read, 4 * 400 + 4)
    return Counter(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))


def test_a_child_that_dies_with_jobs_behind_it() -> None:
    def job(number: int) -> int:
        if number == SHORT:
            os._exit(7)
        return number

    responses = Process(2).map(job, range(SHORT + 50))
    assert [response.body for response in responses if response.ok] == [
        number for number in range(SHORT + 50) if number != SHORT
    ]
    assert "exited with 7" in str(responses[SHORT].exception)
