"""Tiny jobs, each handed out alone: for work that must not wait for its neighbours."""

from __future__ import annotations

from functools import partial

from benchmarks import ours, peers
from benchmarks.clock import rate
from benchmarks.harness import Case, Contender, NoMoreThan
from benchmarks.peers import CHILDREN

__all__ = ["CASE"]

_JOBS = 20_000
_JOBS_OF_SLOW = 3_000  # take ten times as long per job, and the number is per job

CASE = Case(
    name="one-by-one",
    title=f"`x + 1` up to {_JOBS:,} times, one at a time, {CHILDREN} children; without their start",
    unit="us/job",
    contenders=(
        Contender(
            "Process(batch_size=1).map",
            rate(partial(ours.process, batch_size=1), _JOBS),
            (NoMoreThan("Pool.imap", 1 / 3), NoMoreThan("ProcessPoolExecutor.map", 1 / 10)),
        ),
        Contender("Pool.imap", rate(peers.pool_imap, _JOBS)),
        Contender("Pool.map, chunks of 1", rate(partial(peers.pool, 1), _JOBS)),
        Contender("ProcessPoolExecutor.map", rate(peers.executor, _JOBS_OF_SLOW)),
        Contender("mpire, chunks of 1", rate(partial(peers.mpire, 1), _JOBS_OF_SLOW)),
        Contender("loky", rate(peers.loky, _JOBS_OF_SLOW)),
        Contender("pebble", rate(peers.pebble, _JOBS_OF_SLOW)),
    ),
)
