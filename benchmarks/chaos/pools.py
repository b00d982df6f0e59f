"""The pools that are compared, each used as its own documentation does.

What they have in common with the other measurements: two children, and fork where there is a choice.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol

from benchmarks.chaos.faults import JOBS
from benchmarks.peers import CHILDREN
from multiprocessing_kit import Process

__all__ = ["POOLS", "Job", "Pool", "Witness"]

_FORK = multiprocessing.get_context("fork")

Job = Callable[[int], object]


class Witness(Protocol):
    """Is told what a user sees."""

    def map(self) -> AbstractContextManager[None]:
        """While the map is under way; what is raised from it is noted and ends it."""

    def answer(self, index: int, value: object) -> None:
        """A job has a result."""

    def failure(self, index: int, error: BaseException) -> None:
        """A job has an error of its own, and the map goes on."""


Pool = Callable[[Job, float | None, Witness], None]


def ours(job: Job, timeout: float | None, witness: Witness) -> None:
    """`Process.map`."""
    with Process(CHILDREN, timeout=timeout) as made, witness.map():
        for index, response in enumerate(made.map(job, JOBS)):
            if response.exception is None:
                witness.answer(index, response.body)
            else:
                witness.failure(index, response.exception)


def pool(job: Job, _timeout: float | None, witness: Witness) -> None:
    """`multiprocessing.Pool.map`; only the map as a whole can be given up."""
    with _FORK.Pool(CHILDREN) as made, witness.map():
        _all(made.map(job, JOBS), witness)


def executor(job: Job, _timeout: float | None, witness: Witness) -> None:
    """`ProcessPoolExecutor.map`; its timeout counts from the start of the map."""
    with ProcessPoolExecutor(CHILDREN, mp_context=_FORK) as made, witness.map():
        _all(made.map(job, JOBS), witness)


def mpire(job: Job, timeout: float | None, witness: Witness) -> None:
    """`mpire.WorkerPool.map`."""
    with import_module("mpire").WorkerPool(CHILDREN, start_method="fork") as made, witness.map():
        _all(made.map(job, JOBS, task_timeout=timeout), witness)


def pebble(job: Job, timeout: float | None, witness: Witness) -> None:
    """`pebble.ProcessPool.map`, whose iterator goes on after an error."""
    with import_module("pebble").ProcessPool(CHILDREN, context=_FORK) as made, witness.map():
        results = made.map(job, JOBS, timeout=timeout).result()
        for index in JOBS:
            try:
                value = next(results)
            except StopIteration:
                break
            except Exception as error:
                witness.failure(index, error)
            else:
                witness.answer(index, value)


def joblib(job: Job, timeout: float | None, witness: Witness) -> None:
    """`joblib.Parallel`, with loky's children."""
    package = import_module("joblib")
    with package.Parallel(CHILDREN, timeout=timeout) as made, witness.map():
        _all(made(package.delayed(job)(each) for each in JOBS), witness)


def _all(values: Any, witness: Witness) -> None:
    for index, value in enumerate(values):
        witness.answer(index, value)


POOLS: dict[str, Pool] = {
    "multiprocessing_kit": ours,
    "multiprocessing.Pool.map": pool,
    "ProcessPoolExecutor.map": executor,
    "mpire": mpire,
    "pebble": pebble,
    "joblib (loky)": joblib,
}
