"""A pool's whole life around two jobs: what a short program pays."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.cases.jobs import increment
from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from benchmarks.peers import CHILDREN, executor, pool
from multiprocessing_kit import Process

__all__ = ["CASE"]

_TIMES = 20


def _per_life(live: Callable[[], object]) -> Callable[[Scale], float]:
    """Milliseconds for one `live()`."""

    def measure(scale: Scale) -> float:
        times = scale.jobs(_TIMES) if not scale.quick else 2
        live()
        began = time.perf_counter()
        for _ in range(times):
            live()
        return (time.perf_counter() - began) / times * 1000

    return measure


def _process() -> None:
    Process(CHILDREN).map(increment, [1, 2])


def _pool() -> None:
    with pool() as peer:
        peer.map(increment, [1, 2], chunksize=1)


def _executor() -> None:
    with executor() as peer:
        list(peer.map(increment, [1, 2]))


CASE = Case(
    name="start-up",
    title=f"{CHILDREN} children made, used for 2 jobs and ended in order",
    unit="ms",
    contenders=(
        Contender("Process", _per_life(_process), NoMoreThan("Pool")),
        Contender("Pool", _per_life(_pool)),
        Contender("ProcessPoolExecutor", _per_life(_executor)),
    ),
)
