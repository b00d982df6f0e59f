"""`Pool` and `ForkExecutor` beside `Process`, on which they are built, and beside what they replace."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks import ours, peers
from benchmarks.arrays import make
from benchmarks.clock import milliseconds, rate
from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from benchmarks.peers import CHILDREN, Map, Opener
from benchmarks.work import total
from multiprocessing_kit import ForkExecutor, Pool

__all__ = ["ARRAYS", "MAP", "SUBMIT"]

_MANY = 500_000
_FEW = 2_000
_CALLS = 10_000
_ARRAYS = 32

_BODIES = "Process.map, every body read"

_FORK = multiprocessing.get_context("fork")


_our_pool = partial(Pool, CHILDREN)
_our_executor = partial(ForkExecutor, CHILDREN)
_their_pool = partial(_FORK.Pool, CHILDREN)
_their_executor = partial(ProcessPoolExecutor, CHILDREN, mp_context=_FORK)


@contextmanager
def _pool(chunksize: int | None = None) -> Iterator[Map]:
    with _our_pool() as made:
        yield lambda function, inputs: made.map(function, inputs, chunksize)
        made.close()
        made.join()


@contextmanager
def _executor(chunksize: int | None = None) -> Iterator[Map]:
    with _our_executor() as made:
        yield lambda function, inputs: made.map(function, inputs, chunksize=chunksize)


# ── many calls at once ────────────────────────────────────────────────────────────────────────────

MAP = Case(
    name="pools",
    title=f"`x + 1` up to {_MANY:,} times by one map, {CHILDREN} children; without their start",
    unit="us/call",
    contenders=(
        Contender(_BODIES, rate(ours.bodies, _MANY), ours=True),
        Contender("Pool.map", rate(_pool, _MANY), NoMoreThan(_BODIES, 1.5)),
        Contender("ForkExecutor.map", rate(_executor, _MANY), NoMoreThan(_BODIES, 1.5)),
        Contender("multiprocessing.Pool.map", rate(peers.pool, _MANY)),
        Contender("ProcessPoolExecutor.map", rate(peers.executor, _FEW)),
    ),
)

# ── one by one ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _submit(executor: Callable[[], Executor]) -> Iterator[Map]:
    with executor() as made:
        yield _one_by_one(made.submit, lambda future: future.result())


@contextmanager
def _apply_async(pool: Callable[[], Any]) -> Iterator[Map]:
    with pool() as made:
        yield _one_by_one(lambda function, each: made.apply_async(function, (each,)), lambda one: one.get())
        made.close()
        made.join()


def _one_by_one(submit: Callable[..., Any], result: Callable[[Any], Any]) -> Map:
    """A map that makes a call of its own for each input, and then waits for all."""

    def map_(function: Callable[..., Any], inputs: Iterable[Any]) -> list[Any]:
        return [result(pending) for pending in [submit(function, each) for each in inputs]]

    return map_


SUBMIT = Case(
    name="pools-submit",
    title=f"`x + 1` {_CALLS:,} times, each handed in by a call of its own, {CHILDREN} children",
    unit="us/call",
    contenders=(
        Contender("ForkExecutor.submit", rate(partial(_submit, _our_executor), _CALLS), ours=True),
        Contender("Pool.apply_async", rate(partial(_apply_async, _our_pool), _CALLS), ours=True),
        Contender("ProcessPoolExecutor.submit", rate(partial(_submit, _their_executor), _CALLS)),
        Contender("multiprocessing.Pool.apply_async", rate(partial(_apply_async, _their_pool), _CALLS)),
    ),
)

# ── large arguments ───────────────────────────────────────────────────────────────────────────────


def _arrays(opener: Opener) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        warm_up = make(scale, 2 * CHILDREN)
        with opener() as map_:
            list(map_(total, warm_up))
            arrays = make(scale, _ARRAYS)  # after the fork, and new ones: nobody has seen them
            return milliseconds(lambda: list(map_(total, arrays)))

    return measure


ARRAYS = Case(
    name="pools-arrays",
    title=f"{_ARRAYS} different arrays of 16 MB in, their sums out, {CHILDREN} children; without their start",
    unit="ms",
    contenders=(
        Contender(_BODIES, _arrays(ours.bodies), ours=True),
        Contender("Pool.map", _arrays(_pool), ours=True),
        Contender("Pool.map, chunks of 1", _arrays(partial(_pool, 1)), ours=True),
        Contender("ForkExecutor.map", _arrays(_executor), ours=True),
        Contender("ForkExecutor.map, chunks of 1", _arrays(partial(_executor, 1)), ours=True),
        Contender("multiprocessing.Pool.map", _arrays(peers.pool)),
        Contender("multiprocessing.Pool.map, chunks of 1", _arrays(partial(peers.pool, 1))),
        Contender("ProcessPoolExecutor.map", _arrays(peers.executor)),
    ),
    rounds=3,
)
