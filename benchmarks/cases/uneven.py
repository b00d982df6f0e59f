"""Jobs of very different lengths: whether one child waits while the other still has work in stock.

The number is the time of the whole map over the ideal: the sum of the lengths shared evenly, or the longest
job. Long jobs at the end cannot be shared evenly by one who does not know the lengths: the last line says
what is possible in the given order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache, partial

from benchmarks import ours, peers
from benchmarks.clock import milliseconds
from benchmarks.harness import AtMost, Case, Contender, Scale
from benchmarks.peers import CHILDREN, Opener
from benchmarks.work import busy

__all__ = ["LONG_LAST", "MIXED"]

_SECONDS = 1.0  # for each child
_SHORTEST, _LONGEST = 10e-6, 100e-3
_TAIL = 0.5  # a Pareto exponent: nine of ten jobs are below 1 ms, and take a twentieth of the time
_SEED = 15  # gives a mix that can be shared out in both orders, within 1% of the ideal

Order = Callable[[Sequence[float]], Sequence[float]]


@cache
def _lengths(seconds: float) -> Sequence[float]:
    """Seconds, in an order without sense."""
    chance = random.Random(_SEED)
    lengths: list[float] = []
    while sum(lengths) < seconds * CHILDREN:
        lengths.append(min(_SHORTEST * chance.paretovariate(_TAIL), _LONGEST))
    return lengths


def _ordered(scale: Scale, order: Order) -> Sequence[float]:
    return order(_lengths(_SECONDS / 10 if scale.quick else _SECONDS))


def _ideal(lengths: Sequence[float]) -> float:
    return max(sum(lengths) / CHILDREN, *lengths)


def _map(opener: Opener, order: Order) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        lengths = _ordered(scale, order)
        with opener() as map_:
            list(map_(busy, [1e-3] * 2 * CHILDREN))
            return milliseconds(lambda: list(map_(busy, lengths))) / (_ideal(lengths) * 1000)

    return measure


def _possible(order: Order) -> Callable[[Scale], float]:
    """Each job to the child that is free first, in no time."""

    def measure(scale: Scale) -> float:
        lengths = _ordered(scale, order)
        busy_until = [0.0] * CHILDREN
        for length in lengths:
            busy_until[busy_until.index(min(busy_until))] += length
        return max(busy_until) / _ideal(lengths)

    return measure


def _contenders(order: Order) -> list[Contender]:
    return [
        Contender("Process.map", _map(ours.process, order), AtMost(1.05)),
        Contender("Process(batch_size=1).map", _map(partial(ours.process, batch_size=1), order), ours=True),
        Contender("Pool.map", _map(peers.pool, order)),
        Contender("Pool.map, chunks of 1", _map(partial(peers.pool, 1), order)),
        Contender("ProcessPoolExecutor.map", _map(peers.executor, order)),
        Contender("mpire", _map(peers.mpire, order)),
        Contender("mpire, chunks of 1", _map(partial(peers.mpire, 1), order)),
        Contender("joblib", _map(peers.joblib, order)),
        Contender("joblib, batches of 1", _map(partial(peers.joblib, 1), order)),
        Contender("loky", _map(peers.loky, order)),
        Contender("pebble", _map(peers.pebble, order)),
        Contender("possible in this order (calculated)", _possible(order)),
    ]


MIXED = Case(
    name="uneven",
    title=f"jobs from 10 us to 100 ms, {_SECONDS:g} s for each of {CHILDREN} children; time over the ideal",
    unit="x ideal",
    contenders=_contenders(lambda lengths: lengths),
    rounds=3,
)

LONG_LAST = Case(
    name="uneven-long-last",
    title="the same, the shortest first and the longest last",
    unit="x ideal",
    contenders=_contenders(sorted),
    rounds=3,
)
