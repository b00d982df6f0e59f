"""What children inherit from a program that has used threads, and what they are to do about it.

- GNU's OpenMP (libgomp, which scikit-learn comes with) hangs in a forked child that wants several threads, if
  its parent has had several; with one thread it does not. OpenBLAS and MKL can be forked.
- loky keeps its processes for the next call, and waits for ever in a fork, where the thread that looks after
  them is not.
"""

from __future__ import annotations

import os
import sys

from joblib.parallel import ParallelBackendBase

__all__ = ["forget_loky", "limit_threads"]

_kept: list[object] = []
"""Whose end would wake its threads, in the parent."""


def limit_threads(openmp: int, blas: int) -> None:
    """Limit them in this process: of libraries that are loaded, and of those that will be."""
    for name in ParallelBackendBase.MAX_NUM_THREADS_VARS:
        os.environ[name] = str(blas)
    try:
        from threadpoolctl import threadpool_limits  # noqa: PLC0415  # there if scikit-learn is
    except ImportError:
        return
    threadpool_limits({"openmp": openmp, "blas": blas})


def forget_loky() -> None:
    """Have loky start processes of this child's own if a job asks for it by name."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if loky is not None:
        _kept.append(loky._executor)
        loky._executor = None  # type: ignore[attr-defined]
