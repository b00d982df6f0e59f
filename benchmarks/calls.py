"""How a call is timed that takes microseconds: in many short runs, few of which are interrupted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.clock import milliseconds
from benchmarks.harness import Scale

__all__ = ["RUNS", "quickest", "typical"]

RUNS = 300
_LONG_ENOUGH = 1.0  # milliseconds: the clock's own time does not show

Work = Callable[[int], object]


def quickest(work: Work, scale: Scale) -> float:
    """Microseconds for one call in the quickest run, as `timeit` says: what differs is not the call's doing.

    Args:
        work: Makes so many calls, which wait for nobody.
        scale: How many runs.
    """
    return min(_runs(work, scale))


def typical(work: Work, scale: Scale) -> float:
    """Microseconds for one call in the median of the runs, for calls that wait for another process.

    Args:
        work: Makes so many calls.
        scale: How many runs.
    """
    return statistics.median(_runs(work, scale))


def _runs(work: Work, scale: Scale) -> Sequence[float]:
    calls = 1
    while milliseconds(partial(work, calls)) < _LONG_ENOUGH:
        calls *= 2
    return [milliseconds(partial(work, calls)) * 1000 / calls for _ in range(scale.jobs(RUNS))]
