"""Tiny jobs in bulk: what one costs beside its own work, with defaults and with the best chunks."""

from __future__ import annotations

from functools import partial

from benchmarks import ours, peers
from benchmarks.clock import rate
from benchmarks.harness import AtMost, Case, Contender, NoMoreThan
from benchmarks.peers import CHILDREN
from benchmarks.work import increment

__all__ = ["CASE", "increment"]

# Jobs in a round: as many as take 0.1 to 1 seconds.
_MANY = 500_000
_SOME = 100_000
_FEW = 2_000

# Found by measuring chunks of 100, 1,000, 3,000, 10,000, 30,000 and 100,000 with as many jobs as below, then
# those around the best again; medians of three rounds. Around these the curves are flat: half or twice as
# much changes less than the noise does.
_BEST_OF_POOL = 100_000
_BEST_OF_EXECUTOR = 10_000
_BEST_OF_LOKY = 10_000
_BEST_OF_PEBBLE = 10_000
_BEST_OF_MPIRE = 1_000

CASE = Case(
    name="jobs",
    title=f"`x + 1` up to {_MANY:,} times, {CHILDREN} children; without their start",
    unit="us/job",
    contenders=(
        Contender(
            "Process.map",
            rate(ours.process, _MANY),
            (
                NoMoreThan("Pool.map, best chunks"),
                NoMoreThan("mpire", 0.1),
                NoMoreThan("joblib", 0.1),
                NoMoreThan("ProcessPoolExecutor.map", 0.01),
            ),
        ),
        Contender("Process.map, every body read", rate(ours.bodies, _MANY), ours=True),
        Contender("Process.imap", rate(ours.imap, _MANY), ours=True),
        Contender("Process.map, caller hears JOB_SUCCESS", rate(ours.listened, _SOME), AtMost(5)),
        Contender("Pool.map", rate(peers.pool, _MANY)),
        Contender("Pool.map, best chunks", rate(partial(peers.pool, _BEST_OF_POOL), _MANY)),
        Contender("ProcessPoolExecutor.map", rate(peers.executor, _FEW)),
        Contender(
            "ProcessPoolExecutor.map, best chunks", rate(partial(peers.executor, _BEST_OF_EXECUTOR), _MANY)
        ),
        Contender("mpire", rate(peers.mpire, _SOME)),
        Contender("mpire, best chunks", rate(partial(peers.mpire, _BEST_OF_MPIRE), _SOME)),
        Contender("joblib", rate(peers.joblib, _SOME)),
        Contender("loky", rate(peers.loky, _FEW)),
        Contender("loky, best chunks", rate(partial(peers.loky, _BEST_OF_LOKY), _MANY)),
        Contender("pebble", rate(peers.pebble, _FEW)),
        Contender("pebble, best chunks", rate(partial(peers.pebble, _BEST_OF_PEBBLE), _SOME)),
    ),
)
