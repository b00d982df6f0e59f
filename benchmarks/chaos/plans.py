"""What is mapped under fire: seeded plans, and the worker that carries them out."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from multiprocessing_kit import RetryStrategy, RetryType, Worker

__all__ = ["MOST_JOBS", "TIMEOUT", "Plan", "Planned", "Scores", "plan", "tell"]

MOST_JOBS = 20_000
TIMEOUT = 0.5
_LARGE = 300_000
"""Bytes: such results go by shared memory of their own."""

_PATIENCE = 100_000
"""Runs again: nothing is given up that was to be repeated."""


@dataclass(frozen=True)
class Plan:
    """One map.

    Attributes:
        jobs: How many.
        way: "map", "imap" or "unordered".
        long: Every so many jobs one sleeps; no other job takes any time.
        seconds: For how long.
        large: Every so many jobs one has a large result.
        crashes: Every so many jobs one ends its child by a segmentation fault when it is first run.
        again: Whether jobs are run again when they are lost, or take too long.
    """

    jobs: int
    way: str
    long: int
    seconds: float
    large: int
    crashes: int
    again: bool

    def body(self, number: int) -> object:
        """What the job of this number returns."""
        if number % self.large == self.large - 1:
            return bytes([number % 251]) * _LARGE
        return number * 7 + 1


def plan(chance: random.Random, *, again: bool) -> Plan:
    """Another one: many tiny jobs with some longer ones between them, or few jobs that all last."""
    tiny = chance.random() < 0.7
    return Plan(
        jobs=chance.randrange(2_000, MOST_JOBS) if tiny else chance.randrange(20, 80),
        way=chance.choice(["map", "imap", "unordered"]),
        long=chance.randrange(50, 500) if tiny else 1,
        seconds=chance.choice([0.001, 0.005, 0.03]),
        large=chance.choice([100, 1_000, MOST_JOBS]),
        crashes=chance.choice([1_000, 5_000, MOST_JOBS]) if again else MOST_JOBS,
        again=again,
    )


class Scores:
    """How often each job was run, in memory that all processes share, and that outlives those that write."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * MOST_JOBS)).cast("I")

    def clear(self) -> None:
        """A map begins."""
        self._counts[:] = memoryview(bytes(4 * MOST_JOBS)).cast("I")

    def add(self, number: int) -> int:
        """A job is run; the how-manieth time this is. No two children have the same job at once."""
        self._counts[number] += 1
        return self._counts[number]

    def of(self, jobs: int) -> Iterator[int]:
        """Of the first so many jobs."""
        return iter(self._counts[:jobs])


class Planned(Worker):
    """Carries out a plan. Without the scores and the descriptor in it, so that children may be kept."""

    def __init__(self, plan: Plan, retry_type: RetryType) -> None:
        super().__init__(retry=RetryStrategy(_PATIENCE, retry_type) if plan.again else None)
        self.plan = plan

    scores: Scores
    news: int
    _told = False

    def process(self, number: int) -> object:
        if not self._told:  # its first job in this child
            self._told = True
            tell(self.news, "works", pid=os.getpid())
        plan, runs = self.plan, self.scores.add(number)
        if number % plan.long == plan.long - 1:
            time.sleep(plan.seconds)
        if runs == 1 and number % plan.crashes == plan.crashes - 1:
            tell(self.news, "crashes", pid=os.getpid())
            ctypes.string_at(0)
        return plan.body(number)


def tell(descriptor: int, what: str, **news: Any) -> None:
    """Write a line that cannot be torn: the writer may be killed at any time."""
    line = json.dumps({"what": what, "at": time.monotonic(), **news}) + "\n"
    os.write(descriptor, line.encode()[:4096])
