"""The pool itself; see `engine` for who runs the calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from multiprocessing_kit.errors import PoolClosedError, PoolFullError
from multiprocessing_kit.pool.results import AsyncResult, Callback, ResultIterator, UnorderedResultIterator
from multiprocessing_kit.runner.arguments import not_negative, positive
from multiprocessing_kit.runner.calls import CallWorker, chunks
from multiprocessing_kit.runner.engine import Engine
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.listening import CallerEvents
from multiprocessing_kit.runner.parts import PartFuture, submit_part
from multiprocessing_kit.supervise.cpus import available_cpus

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pool"]

_AHEAD = 64
"""Parts of `imap` for each child that are handed in before their results are taken."""


class Pool(CallerEvents):
    """As `multiprocessing.pool.Pool`, and a child that is killed takes nothing with it.

    A call whose child dies is made again in another one, `crash_retries` times; then it raises
    `WorkerLostError`. Listeners given to `on`, and callbacks, run in a thread of the pool's own.

    Args:
        processes: How many children; by default as many as this process may use CPUs.
        initializer: Called once in each child before its first call, with `initargs`. If it raises, all
            results raise `PoolError`.
        initargs: For it.
        maxtasksperchild: Jobs after which a child is replaced by a fresh one, with some jitter.
        maxsize: Jobs that may wait or run; one more raises `PoolFullError`. 0 for no limit.
        crash_retries: How often a call is made again after its child died. With 0, children get one call at
            a time, and none is made twice but those of a chunk that was asked for.
        name: Shown in the children's process titles.

    Raises:
        TypeError, ValueError: An argument makes no sense.
        PoolError: There is no child to be had.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        maxsize: int = 0,
        crash_retries: int = 2,
        name: str = "",
    ) -> None:
        super().__init__()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._size = available_cpus() if processes is None else positive(processes, "processes")
        self._maxsize = not_negative(maxsize, "maxsize")
        limits = Limits(not_negative(crash_retries, "crash_retries"), None, _tasks(maxtasksperchild), None)
        worker = CallWorker(name, initializer, tuple(initargs))
        self._open = True
        self._may_repeat = crash_retries > 0
        self._iterators: weakref.WeakSet[ResultIterator] = weakref.WeakSet()
        self._engine = Engine(
            worker,
            self._size,
            name=name,
            limits=limits,
            audience=self._weak_audience(),
            batch_size=None if self._may_repeat else 1,
        )
        self._engine.start()
        self._finalizer = weakref.finalize(self, _terminate, self._engine)

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None
    ) -> Any:
        """`func(*args, **kwds)`, in a child. Raises as `AsyncResult.get` and `apply_async`."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `apply`, without waiting.

        Raises:
            PoolClosedError: The pool was closed (a `ValueError`).
            PoolFullError: It has `maxsize` jobs.
        """
        self._check_open()
        self._check_room(1)
        future = self._engine.submit((func, tuple(args), dict(kwds or {})))
        return AsyncResult([future], future.result, callback, error_callback)

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """`[func(item) for item in iterable]`, in children. Raises the first error, and as `apply_async`.

        Args:
            func: Takes an item.
            iterable: Collected at once.
            chunksize: Items in each job; by default more in the first ones.
        """
        return self._map(func, iterable, chunksize, star=False).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `map`, without waiting."""
        return self._map(func, iterable, chunksize, callback, error_callback, star=False)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """As `map`, with each item unpacked as arguments."""
        return self._map(func, iterable, chunksize, star=True).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `starmap`, without waiting."""
        return self._map(func, iterable, chunksize, callback, error_callback, star=True)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> ResultIterator:
        """As `map`, with an iterator over the results, in order; items are taken some way ahead of them."""
        return self._lazily(ResultIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> ResultIterator:
        """As `imap`, with the results as they come."""
        return self._lazily(UnorderedResultIterator, func, iterable, chunksize)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        star: bool,
    ) -> AsyncResult:
        self._check_open()
        items = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
        size = None if chunksize is None else positive(chunksize, "chunksize")
        parts = list(chunks(items, self._size, size if self._may_repeat else size or 1))
        self._check_room(len(parts))
        futures = [submit_part(self._engine, func, part, star=star) for part in parts]
        return AsyncResult(futures, lambda: _joined(futures), callback, error_callback)

    def _lazily(
        self, kind: type[ResultIterator], func: Callable[..., Any], iterable: Iterable[Any], chunksize: int
    ) -> ResultIterator:
        self._check_open()
        size, iterator, engine = positive(chunksize, "chunksize"), iter(iterable), self._engine
        parts = iter(lambda: list(islice(iterator, size)), [])
        self._check_room(1)
        results = kind(
            (submit_part(engine, func, part, star=False) for part in parts),
            _AHEAD * self._size,
            _has_room(engine, self._maxsize),
        )
        self._iterators.add(results)
        return results

    def _check_open(self) -> None:
        if not self._open:
            raise PoolClosedError("Pool not running: it was closed or terminated; make another")

    def _check_room(self, more: int) -> None:
        held, most = self._engine.unanswered, self._maxsize
        if most and held + more > most:
            raise PoolFullError(
                f"the pool has {held} unanswered jobs and may have {most}: no room for {more} more; "
                "wait for results, or raise maxsize",
                maxsize=most,
            )

    # ── life ──────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Take no more calls; the children end when all are made, with those of `imap` that are left."""
        self._open = False
        try:
            for results in list(self._iterators):
                results.hand_in_all()
        finally:
            self._engine.close()

    def terminate(self) -> None:
        """End the children at once; results that are not there raise `PoolError`."""
        self._open = False
        self._finalizer()

    def join(self) -> None:
        """Wait until the children have ended; ValueError before `close` or `terminate`."""
        if self._open:
            raise ValueError("Pool is still running: close or terminate it first")
        self._engine.join()
        self._finalizer.detach()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        state = "running" if self._open else "closed"
        return f"<{type(self).__name__} {state} processes={self._size}>"


def _tasks(maxtasksperchild: int | None) -> int | None:
    try:
        return None if maxtasksperchild is None else positive(maxtasksperchild, "maxtasksperchild")
    except TypeError as error:
        raise ValueError(*error.args) from None  # as the standard library's


def _has_room(engine: Engine, most: int) -> Callable[[], bool]:
    return (lambda: engine.unanswered < most) if most else lambda: True


def _terminate(engine: Engine) -> None:
    engine.terminate()
    engine.join()


def _joined(futures: Sequence[PartFuture]) -> list[Any]:
    results: list[Any] = []
    for future in futures:
        part = future.result()
        if part.error is not None:
            raise part.error
        results += part.results
    return results
