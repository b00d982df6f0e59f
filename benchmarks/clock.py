"""How a map is timed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from benchmarks.harness import Scale
from benchmarks.peers import Opener
from benchmarks.work import increment

__all__ = ["milliseconds", "per_job", "rate"]


def per_job(work: Callable[[range], Iterable[object]], jobs: int) -> float:
    """Microseconds per job, after a warm-up that starts the children.

    Args:
        work: Maps over the numbers. An iterator that it returns is taken to its end; a list is in hand.
        jobs: How many.
    """
    _finish(work(range(jobs // 10)))
    return milliseconds(lambda: _finish(work(range(jobs)))) * 1000 / jobs


def rate(opener: Opener, jobs: int) -> Callable[[Scale], float]:
    """Measures microseconds for one of so many trivial jobs."""

    def measure(scale: Scale) -> float:
        with opener() as map_:
            return per_job(lambda inputs: map_(increment, inputs), scale.jobs(jobs))

    return measure


def milliseconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _finish(results: Iterable[object]) -> None:
    if isinstance(results, Iterator):
        deque(results, maxlen=0)
