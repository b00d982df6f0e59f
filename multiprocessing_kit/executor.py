"""`ForkExecutor`: a `concurrent.futures.Executor` in which a crash fails only the call that crashed."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any

from multiprocessing_kit.errors import PoolClosedError
from multiprocessing_kit.runner.arguments import not_negative, positive
from multiprocessing_kit.runner.calls import CallWorker, chunks
from multiprocessing_kit.runner.engine import Engine
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.listening import CallerEvents
from multiprocessing_kit.runner.parts import PartFuture, submit_part
from multiprocessing_kit.supervise.cpus import available_cpus

__all__ = ["ForkExecutor"]


class ForkExecutor(CallerEvents, Executor):
    """Makes calls in forked children; see `concurrent.futures.Executor`.

    The children are forked at the first `submit` or `map`, by the thread that calls it. A call whose child
    dies is made again in another one, `crash_retries` times; then its future raises `WorkerLostError`.
    Functions, arguments and results are pickled. Listeners given to `on` run in a thread of the executor's
    own; the `argument` of an event is the call: function, arguments, keyword arguments.

    Args:
        max_workers: How many children; by default as many as this process may use CPUs.
        initializer: Called once in each child before its first call, with `initargs`. If it raises, all
            futures raise `PoolError`.
        initargs: For it.
        max_tasks_per_child: Calls after which a child is replaced by a fresh one, with some jitter.
        crash_retries: How often a call is made again after its child died. With 0, children get one call at
            a time, and none is made twice but those of a chunk that was asked for.
        name: Shown in the children's process titles.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        crash_retries: int = 2,
        name: str = "",
    ) -> None:
        super().__init__()
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r:.100}")
        self._size = available_cpus() if max_workers is None else positive(max_workers, "max_workers")
        tasks = None if max_tasks_per_child is None else positive(max_tasks_per_child, "max_tasks_per_child")
        self._limits = Limits(not_negative(crash_retries, "crash_retries"), None, tasks, None)
        self._may_repeat = crash_retries > 0
        self._worker = CallWorker(name, initializer, initargs)
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn(*args, **kwargs)` called; its future.

        Raises:
            PoolClosedError: It was shut down (a `RuntimeError`).
            PoolError: There is no child to be had, or the initializer has failed.
        """
        return self._started().submit((fn, args, kwargs))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As the built-in `map`, with the calls made in children and the results in order.

        Args:
            fn: Takes an item of each iterable.
            *iterables: Collected at once; with `buffersize`, as results are taken.
            timeout: Seconds after which the iterator raises `TimeoutError`; None for never.
            chunksize: Calls in each job; by default larger ones first, and one by one with `buffersize`.
            buffersize: At most how many jobs are handed in whose results were not taken; None for all.

        Returns:
            An iterator of the results; it raises what a call raised. Closing it cancels what has not begun.

        Raises:
            PoolClosedError, PoolError: As for `submit`.
            TypeError, ValueError: An argument makes no sense.
        """
        size = None if chunksize is None else positive(chunksize, "chunksize")
        buffer = None if buffersize is None else positive(buffersize, "buffersize")
        deadline = None if timeout is None else time.monotonic() + timeout
        engine = self._started()
        star = len(iterables) != 1
        items: Iterable[Any] = zip(*iterables, strict=False) if star else iterables[0]
        if buffer is None:
            known = items if isinstance(items, (list, tuple, range)) else list(items)
            parts: Iterator[Any] = iter(chunks(known, self._size, size if self._may_repeat else size or 1))
        else:
            iterator = iter(items)
            parts = iter(lambda: list(islice(iterator, size or 1)), [])
        handed_in = (submit_part(engine, fn, part, star=star) for part in parts)
        futures = deque(islice(handed_in, buffer))
        return _results(futures, handed_in, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the children when all are made.

        Args:
            wait: Until then.
            cancel_futures: Cancel the calls that have not begun.
        """
        with self._lock:
            self._closed = True
            engine = self._engine
        if engine is not None:
            engine.close(cancel=cancel_futures)
            if wait:
                engine.join()

    def _started(self) -> Engine:
        with self._lock:
            if self._closed:
                raise PoolClosedError("cannot schedule new futures after shutdown; make another executor")
            if self._engine is None:
                name = self._worker.name
                engine = Engine(
                    self._worker,
                    self._size,
                    name=name,
                    limits=self._limits,
                    audience=self._weak_audience(),
                    batch_size=None if self._may_repeat else 1,
                )
                engine.start()
                self._engine = engine
                # Dropped without shutdown: what was handed in is done, and then the children end.
                weakref.finalize(self, engine.close).atexit = False
            return self._engine


def _results(futures: deque[PartFuture], more: Iterator[PartFuture], deadline: float | None) -> Iterator[Any]:
    try:
        while futures:
            left = None if deadline is None else deadline - time.monotonic()
            part = futures[0].result(left)
            futures.popleft()
            futures.extend(islice(more, 1))
            part.results.reverse()
            while part.results:
                yield part.results.pop()  # and not kept here as well: results may be large
            if part.error is not None:
                raise part.error
    finally:
        for future in futures:
            future.cancel()
