"""How joblib's batches reach children, and what comes back.

    joblib ── Carried(batch) ──▶ cloudpickle, large arrays beside it ──▶ BatchWorker: batch()
           ◀── results, Raised ◀──────────── Carried(outcome) ◀────────────┘

Children may be older than the program's latest functions (a notebook's cells are run again and again). So,
as joblib's own processes do, they get functions and classes of `__main__`, local ones and lambdas by value.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle

from multiprocessing_kit.ipc.codec import PackedException, pack_exception, unpack_exception
from multiprocessing_kit.joblib_backend.inherited import forget_loky, limit_threads
from multiprocessing_kit.joblib_backend.pickling import Carried
from multiprocessing_kit.runner.calls import Call, CallWorker

__all__ = ["BatchWorker", "Raised"]

_PROTOCOL = pickle.HIGHEST_PROTOCOL


class Raised:
    """What a batch raised, in the place of its results."""

    def __init__(self, packed: PackedException) -> None:
        self._packed = packed

    def error(self) -> BaseException:
        """It, with a `RemoteError` that has the traceback as cause."""
        return unpack_exception(self._packed)


class BatchWorker(CallWorker):
    """Runs batches.

    Args:
        openmp: Threads that OpenMP may use in a child.
        blas: Threads that BLAS may use.
        initializer: Called once in each child before its first batch, with `initargs`.
    """

    def __init__(
        self,
        openmp: int,
        blas: int,
        *,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        super().__init__("joblib", initializer, initargs)
        self._threads = openmp, blas

    def setup(self) -> None:
        """Put right what was inherited, and call the initializer."""
        forget_loky()
        limit_threads(*self._threads)
        super().setup()

    def process(self, argument: Call) -> Carried:
        """Run a batch."""
        try:
            return Carried(super().process(argument))
        except Exception as error:
            return Carried(Raised(_packed(error)))


def _packed(error: Exception) -> PackedException:
    data, type_name, message, text = pack_exception(error)
    if data is None:
        try:  # its class may be one that travels by value
            data = cloudpickle.dumps(error, _PROTOCOL)
            if type(pickle.loads(data)) is not type(error):
                data = None
        except Exception:
            data = None
    return data, type_name, message, text
