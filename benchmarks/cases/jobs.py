"""Trivial jobs, each handed out alone: what one job costs beside its own work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from benchmarks.peers import CHILDREN, executor, pool
from multiprocessing_kit import Process

__all__ = ["CASE", "increment", "per_job"]

_JOBS = 20_000
_JOBS_OF_SLOW = 4_000  # takes ten times as long per job, and the number is per job


def increment(number: int) -> int:
    """The job."""
    return number + 1


def per_job(work: Callable[[range], Iterable[object]], jobs: int) -> float:
    """Microseconds per job, after a warm-up that starts the children."""
    _consume(work(range(jobs // 10)))
    began = time.perf_counter()
    _consume(work(range(jobs)))
    return (time.perf_counter() - began) / jobs * 1e6


def _consume(results: Iterable[object]) -> None:
    deque(results, maxlen=0)


def _process_map(scale: Scale) -> float:
    with Process(CHILDREN) as process:
        return per_job(lambda inputs: process.map(increment, inputs), scale.jobs(_JOBS))


def _process_imap(scale: Scale) -> float:
    with Process(CHILDREN) as process:
        return per_job(lambda inputs: process.imap(increment, inputs), scale.jobs(_JOBS))


def _pool_map(scale: Scale) -> float:
    with pool() as peer:
        return per_job(lambda inputs: peer.map(increment, inputs, chunksize=1), scale.jobs(_JOBS))


def _pool_imap(scale: Scale) -> float:
    with pool() as peer:
        return per_job(lambda inputs: peer.imap(increment, inputs, chunksize=1), scale.jobs(_JOBS))


def _pool_map_chunks(scale: Scale) -> float:
    with pool() as peer:
        return per_job(lambda inputs: peer.map(increment, inputs), scale.jobs(_JOBS))


def _executor_map(scale: Scale) -> float:
    with executor() as peer:
        return per_job(lambda inputs: peer.map(increment, inputs, chunksize=1), scale.jobs(_JOBS_OF_SLOW))


CASE = Case(
    name="jobs",
    title=f"{_JOBS:,} jobs of `x + 1`, one by one, {CHILDREN} children; without their start",
    unit="us/job",
    contenders=(
        Contender("Process.map", _process_map, NoMoreThan("Pool.imap", 0.5)),
        Contender("Process.imap", _process_imap, NoMoreThan("Pool.imap", 0.5)),
        Contender("Pool.map", _pool_map),
        Contender("Pool.imap", _pool_imap),
        Contender("ProcessPoolExecutor.map", _executor_map),
        Contender("Pool.map in chunks of its own choice", _pool_map_chunks),
    ),
)
