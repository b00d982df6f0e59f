"""The standard library's pools, as the cases use them.

All fork, as ours do; the default of newer Pythons is another. Children are ended in order, not
terminated, as ours are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

__all__ = ["CHILDREN", "executor", "pool"]

CHILDREN = 2

_FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def pool() -> Iterator[multiprocessing.pool.Pool]:
    """A `multiprocessing.Pool`."""
    with _FORK.Pool(CHILDREN) as made:
        yield made
        made.close()
        made.join()


def executor() -> ProcessPoolExecutor:
    """A `ProcessPoolExecutor`; a context manager."""
    return ProcessPoolExecutor(CHILDREN, mp_context=_FORK)
