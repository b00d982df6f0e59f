"""Large arguments: how fast arrays reach the children."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks import ours
from benchmarks.arrays import PEERS, make, size
from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, NoMoreThan, NoMoreThanBest, Scale
from benchmarks.peers import CHILDREN, Opener
from benchmarks.work import total

__all__ = ["CASE"]

_ARRAYS = 32


def _map(opener: Opener) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        warm_up = make(scale, 2 * CHILDREN)
        with opener() as map_:
            list(map_(total, warm_up))
            arrays = make(scale, _ARRAYS)  # after the fork, and new ones: nobody has seen them
            return milliseconds(lambda: list(map_(total, arrays)))

    return measure


def _memcpy(scale: Scale) -> float:
    numpy = import_module("numpy")
    arrays = make(scale, _ARRAYS)
    buffer = numpy.zeros(size(scale))

    def copy() -> None:
        for array in arrays:
            numpy.copyto(buffer, array)

    return milliseconds(copy)


CASE = Case(
    name="arrays-in",
    title=f"{_ARRAYS} different arrays of 16 MB in, their sums out, {CHILDREN} children; without their start",
    unit="ms",
    contenders=(
        Contender(
            "Process.map",
            _map(ours.bodies),
            (
                NoMoreThan("Pool.map", 1 / 7),
                NoMoreThanBest(tuple(PEERS), 1 / 5),
                NoMoreThan("memcpy of the same", 1.5),
            ),
        ),
        *(Contender(name, _map(opener)) for name, opener in PEERS.items()),
        Contender("memcpy of the same", _memcpy),
    ),
)
