"""The peers' pools, as the cases use them: opened, mapped with, ended in order.

All have as many children as ours, and fork as ours do; newer Pythons' default is another. loky has its own
way to start children and discourages forking; joblib uses loky. What is not in the standard library is
imported when a contender is measured: a package that is absent costs its contenders only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

__all__ = [
    "CHILDREN",
    "Map",
    "Opener",
    "executor",
    "joblib",
    "loky",
    "mpire",
    "mpire_shared",
    "pebble",
    "pool",
    "pool_imap",
]

CHILDREN = 2

Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
Opener = Callable[[], AbstractContextManager[Map]]

_FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def pool(chunksize: int | None = None) -> Iterator[Map]:
    """`multiprocessing.Pool.map`."""
    with _FORK.Pool(CHILDREN) as made:
        yield lambda function, inputs: made.map(function, inputs, chunksize)
        made.close()
        made.join()


@contextlib.contextmanager
def pool_imap(chunksize: int = 1) -> Iterator[Map]:
    """`multiprocessing.Pool.imap`."""
    with _FORK.Pool(CHILDREN) as made:
        yield lambda function, inputs: made.imap(function, inputs, chunksize)
        made.close()
        made.join()


@contextlib.contextmanager
def executor(chunksize: int = 1) -> Iterator[Map]:
    """`concurrent.futures.ProcessPoolExecutor.map`."""
    with ProcessPoolExecutor(CHILDREN, mp_context=_FORK) as made:
        yield lambda function, inputs: made.map(function, inputs, chunksize=chunksize)


@contextlib.contextmanager
def loky(chunksize: int = 1) -> Iterator[Map]:
    """`loky.ProcessPoolExecutor.map`."""
    with import_module("loky").ProcessPoolExecutor(CHILDREN) as made:
        yield lambda function, inputs: made.map(function, inputs, chunksize=chunksize)


@contextlib.contextmanager
def mpire(chunk_size: int | None = None) -> Iterator[Map]:
    """`mpire.WorkerPool.map`."""
    with _mpire() as made:
        # it would join arrays to one
        yield lambda function, inputs: made.map(
            function, inputs, chunk_size=chunk_size, concatenate_numpy_output=False
        )


@contextlib.contextmanager
def mpire_shared(shared: object) -> Iterator[Map]:
    """The same with `shared_objects`, which each child inherits and each job gets before its input."""
    with _mpire(shared_objects=shared) as made:
        yield made.map


@contextlib.contextmanager
def _mpire(**options: Any) -> Iterator[Any]:
    with import_module("mpire").WorkerPool(CHILDREN, start_method="fork", keep_alive=True, **options) as made:
        yield made
        made.stop_and_join()


@contextlib.contextmanager
def pebble(chunksize: int = 1) -> Iterator[Map]:
    """`pebble.ProcessPool.map`."""
    with import_module("pebble").ProcessPool(CHILDREN, context=_FORK) as made:  # ends it in order
        yield lambda function, inputs: made.map(function, inputs, chunksize=chunksize).result()


@contextlib.contextmanager
def joblib(batch_size: int | str = "auto") -> Iterator[Map]:
    """`joblib.Parallel`."""
    delayed = import_module("joblib").delayed
    with import_module("joblib").Parallel(CHILDREN, batch_size=batch_size) as made:
        yield lambda function, inputs: made(delayed(function)(each) for each in inputs)
        # its children would outlive it, for the next one, and keep its files open
        import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)
