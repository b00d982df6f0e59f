"""A pool's whole life around two jobs: what a short program pays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import peers
from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from benchmarks.peers import CHILDREN, Opener
from benchmarks.work import increment
from multiprocessing_kit import Process

__all__ = ["CASE"]

_TIMES = 20
_TIMES_OF_SLOW = 4


def _life(live: Callable[[], object], times: int = _TIMES) -> Callable[[Scale], float]:
    """Measures milliseconds for one `live()`."""

    def measure(scale: Scale) -> float:
        repeated = 2 if scale.quick else times
        live()
        return milliseconds(lambda: [live() for _ in range(repeated)]) / repeated

    return measure


def _process() -> None:
    Process(CHILDREN).map(increment, [1, 2])


def _peer(opener: Opener) -> Callable[[], object]:
    def live() -> None:
        with opener() as map_:
            list(map_(increment, [1, 2]))

    return live


CASE = Case(
    name="start-up",
    title=f"{CHILDREN} children made, used for 2 jobs and ended in order",
    unit="ms",
    contenders=(
        Contender("Process", _life(_process), NoMoreThan("Pool")),
        Contender("Pool", _life(_peer(partial(peers.pool, 1)))),
        Contender("ProcessPoolExecutor", _life(_peer(peers.executor))),
        Contender("mpire", _life(_peer(peers.mpire), _TIMES_OF_SLOW)),
        Contender("loky", _life(_peer(peers.loky), _TIMES_OF_SLOW)),
        Contender("pebble", _life(_peer(peers.pebble), _TIMES_OF_SLOW)),
    ),
)
