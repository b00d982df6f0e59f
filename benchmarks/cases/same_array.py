"""One large argument in every job: whether it travels once or each time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks import ours, peers
from benchmarks.arrays import PEERS, make
from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, Scale
from benchmarks.peers import CHILDREN, Map, Opener
from benchmarks.work import total_and

if TYPE_CHECKING:
    from benchmarks.work import Array

__all__ = ["CASE"]

_JOBS = 64


def _map(opener: Opener) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        other, array = make(scale, 2)
        with opener() as map_:
            list(map_(total_and, _pairs(other, 2 * CHILDREN)))
            return milliseconds(lambda: list(map_(total_and, _pairs(array, _JOBS))))

    return measure


def _mpire_shared(scale: Scale) -> float:
    """Each child inherits the array, so their start is in the number."""
    (array,) = make(scale, 1)

    def work() -> None:
        with peers.mpire_shared(array) as map_:
            list(map_(_total_of_shared, range(_JOBS)))

    return milliseconds(work)


def _total_of_shared(array: Array, number: int) -> float:
    return total_and((array, number))


@contextlib.contextmanager
def _mpire() -> Iterator[Map]:
    """mpire would make two arguments of a pair."""
    with peers.mpire() as map_:
        yield lambda function, inputs: map_(function, _wrapped(inputs))


def _wrapped(inputs: Iterable[Any]) -> list[tuple[Any]]:
    return [(each,) for each in inputs]


def _pairs(array: Array, count: int) -> list[tuple[Array, int]]:
    return [(array, number) for number in range(count)]


CASE = Case(
    name="same-array",
    title=f"{_JOBS} jobs with the same array of 16 MB and a number, its sum returned, {CHILDREN} children",
    unit="ms",
    contenders=(
        Contender("Process.map", _map(ours.bodies), ours=True),
        *(
            Contender(name, _map(_mpire if opener is peers.mpire else opener))
            for name, opener in PEERS.items()
        ),
        Contender("mpire, shared_objects, with its start", _mpire_shared),
    ),
    rounds=3,
)
