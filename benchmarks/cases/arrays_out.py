"""Large results: how fast arrays come home, touched once or used in full.

A view of shared memory is in hand at once, and its pages come when they are touched. So the caller, which
keeps all arrays, touches every page, or sums every array, before the clock is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import ours
from benchmarks.arrays import PEERS, make, size
from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, NoMoreThan, NoMoreThanBest, Scale
from benchmarks.peers import CHILDREN, Opener
from benchmarks.work import filled

if TYPE_CHECKING:
    from benchmarks.work import Array

__all__ = ["SUMMED", "TOUCHED"]

_ARRAYS = 32
_PAGE = 4096 // 8


def _touch(array: Array) -> None:
    array[::_PAGE].sum()


def _sum(array: Array) -> None:
    array.sum()


def _map(use: Callable[[Array], None], opener: Opener) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        make(scale, 1)  # numpy is there before the children are
        job = partial(filled, size(scale))
        with opener() as map_:
            list(map_(job, range(2 * CHILDREN)))

            def work() -> None:
                arrays = list(map_(job, range(_ARRAYS)))
                for array in arrays:
                    use(array)

            return milliseconds(work)

    return measure


def _contenders(
    use: Callable[[Array], None], goals: tuple[NoMoreThan | NoMoreThanBest, ...]
) -> list[Contender]:
    return [
        Contender("Process.map", _map(use, ours.bodies), goals, ours=True),
        *(Contender(name, _map(use, opener)) for name, opener in PEERS.items()),
    ]


TOUCHED = Case(
    name="arrays-out",
    title=f"{_ARRAYS} arrays of 16 MB made by {CHILDREN} children, kept by the caller, each page touched",
    unit="ms",
    contenders=_contenders(_touch, (NoMoreThan("Pool.map", 1 / 4), NoMoreThanBest(tuple(PEERS), 1 / 2.5))),
    rounds=3,
)

SUMMED = Case(
    name="arrays-out-summed",
    title="the same, each array summed by the caller",
    unit="ms",
    contenders=_contenders(_sum, ()),
    rounds=3,
)
