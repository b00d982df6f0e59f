"""The backend: joblib's calls on an engine and its children.

    with parallel_config:  ┌ Parallel() ─ configure ── submit … ── terminate ┐   the same children
                           └ Parallel() ─ configure ── submit … ── terminate ┘   end with the context
    Parallel(backend=…)()               ─ configure ── submit … ── terminate     and end with the call

joblib has no word for the end of a context: it drops the backend then, and the children end with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from joblib import cpu_count
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    get_active_backend,
)

from multiprocessing_kit.errors import PoolClosedError, PoolError
from multiprocessing_kit.joblib_backend.batches import BatchWorker, Raised
from multiprocessing_kit.joblib_backend.pickling import Carried
from multiprocessing_kit.runner.arguments import not_negative
from multiprocessing_kit.runner.engine import Engine
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.telling import Audience

__all__ = ["ForkBackend"]


class _Plan(NamedTuple):
    """What children are for: the same ones serve calls that agree in it."""

    size: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


_NOBODY = Audience(lambda: 0, lambda _event: None)


class ForkBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs batches in forked children; joblib makes it, from the name "multiprocessing_kit".

    Args:
        crash_retries: How often a batch is run again after its child died; then `Parallel` raises
            `WorkerLostError`.
        initializer: Called once in each child before its first batch, with `initargs`. If it raises, so does
            `Parallel`: `PoolError`. May be given to `Parallel`, too.
        initargs: For it.
        **options: Of `joblib.parallel.ParallelBackendBase`.

    Raises:
        TypeError, ValueError: `crash_retries` makes no sense.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        *,
        crash_retries: int = 2,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._limits = Limits(not_negative(crash_retries, "crash_retries"))
        self._calls = 0
        self._least = 0
        self._initializer = initializer, initargs
        self._plan = _Plan(0, None, ())
        self._owner = os.getpid()
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[[Engine], ForkBackend] | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many children `n_jobs` means: None is 1, -1 all processors, -2 all but one.

        Below another parallel call it is 1.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1:
            return 1
        if self.nesting_level or multiprocessing.current_process().daemon:
            warnings.warn(
                f"parallel calls below another one run one by one: n_jobs=1 instead of {n_jobs}", stacklevel=3
            )
            return 1
        return n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        *,
        max_nbytes: int | None = None,
        mmap_mode: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **_others: object,  # whatever else joblib has to tell its own backends
    ) -> int:
        """Have children ready for a call; how many."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._least = sys.maxsize if max_nbytes is None or mmap_mode != "r" else max_nbytes
        if self._owner != os.getpid():  # this is a copy of the parent's, and so is the engine
            self._let_go()
            self._calls = 0
        if not self._calls:  # else a generator of another call has not come to its end
            plan = _Plan(n_jobs, *((initializer, initargs) if initializer else self._initializer))
            if plan != self._plan:
                self._stop()
            self._plan = plan
        if self._engine is None:
            self._start()
        self._calls += 1
        self.parallel = parallel
        return self._plan.size

    def submit(
        self, func: Callable[[], list[Any]], callback: Callable[[Future[Any]], None] | None = None
    ) -> Future[Any]:
        """Hand in a batch. In the calling thread or, as batches end, in the engine's."""
        engine = self._engine
        try:
            if engine is None:
                raise PoolClosedError("the call of Parallel that this batch belongs to was aborted")
            future = engine.submit(Carried((func, (), {}), self._least))
        except PoolError as error:  # joblib would wait for ever for a batch that it could not hand in
            future = Future()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(_once(callback))
        return future

    apply_async = submit
    """Its name before joblib 1.5."""

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch; or raise what it raised."""
        outcome = out.result()
        if isinstance(outcome, Raised):
            raise outcome.error()
        return outcome

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the children, whatever they are at; with `ensure_ready`, have others ready."""
        self._stop(at_once=True)
        if ensure_ready:
            self._start()

    def terminate(self) -> None:
        """A call is over."""
        self.reset_batch_stats()
        self._calls = max(0, self._calls - 1)
        if self._calls:
            return
        self.parallel = None  # it holds this object, and nobody should have to look for circles
        if get_active_backend()[0] is self:
            self._settle()
        else:
            self._stop()

    def _start(self) -> None:
        size, initializer, initargs = self._plan
        threads = self.inner_max_num_threads
        worker = BatchWorker(
            threads or 1, threads or max(cpu_count() // size, 1), initializer=initializer, initargs=initargs
        )
        engine = Engine(worker, size, name=worker.name, limits=self._limits, audience=_NOBODY)
        engine.start()
        self._engine, self._owner = engine, os.getpid()
        self._finalizer = weakref.finalize(self, _end, engine)
        self._finalizer.atexit = False  # at the end of the program the engine ends by itself

    def _stop(self, *, at_once: bool = False) -> None:
        engine = self._let_go()
        if engine is not None:
            _end(engine, at_once=at_once)

    def _let_go(self) -> Engine | None:
        engine, self._engine = self._engine, None
        if self._finalizer is not None:
            self._finalizer.detach()
        return engine

    def _settle(self) -> None:
        """Wait until the engine's thread has come back from joblib.

        It told joblib of the last batch from within a call of joblib's that holds this object. Was it the
        last to let go of it, it could not wait for its own end, and children would outlive the context.
        """
        if self._engine is not None:
            with contextlib.suppress(PoolError):
                self._engine.submit((list, (), {})).exception()


def _once(callback: Callable[[Future[Any]], None]) -> Callable[[Future[Any]], None]:
    """Let go of joblib's callback as it is called: it holds the future, the call and the backend.

    With the future holding it in turn, the garbage collector would say when a context's children end.
    """
    held = [callback]

    def call(future: Future[Any]) -> None:
        held.pop()(future)

    return call


def _end(engine: Engine, *, at_once: bool = False) -> None:
    if at_once:
        engine.terminate()
    else:
        engine.close()
    engine.join()
