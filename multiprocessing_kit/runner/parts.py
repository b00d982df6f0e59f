"""Parts of a map as jobs of an engine: some calls in each, and a future for what they return.

A part whose child dies is taken apart: its calls are made again, one by one, so that only the one which kills
its child is answered with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from multiprocessing_kit.errors import WorkerLostError
from multiprocessing_kit.ipc.codec import unpack_exception
from multiprocessing_kit.runner.calls import Call, call_each
from multiprocessing_kit.runner.engine import Engine

__all__ = ["Part", "PartFuture", "submit_part"]


class Part(NamedTuple):
    """What the calls of a part came to: results up to the first one that raised, and what that raised."""

    results: list[Any]
    error: BaseException | None


class PartFuture(Future[Part]):
    """Of one part.

    Args:
        jobs: The engine's futures of its calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Future[Any]] = []

    def cancel(self) -> bool:
        """Cancel what has not begun."""
        canceled = super().cancel()
        for job in self.jobs:
            job.cancel()
        return canceled


def submit_part(
    engine: Engine, function: Callable[..., Any], items: Sequence[Any], *, star: bool
) -> PartFuture:
    """Hand in the calls of `function` for these items, as one job.

    Args:
        engine: Runs it.
        function: Of one argument; with `star`, of as many as an item has.
        items: At least one.
        star: Whether an item is a tuple of arguments.
    """
    future = PartFuture()

    def done(job: Future[Any]) -> None:
        if job.cancelled():
            _cancel(future)
            return
        error = job.exception()
        if isinstance(error, WorkerLostError) and len(items) > 1:
            try:
                _one_by_one(engine, function, items, star, future)
                return
            except Exception as refused:  # an item that cannot be unpacked: somebody waits for an answer
                error = refused
        if future.set_running_or_notify_cancel():
            future.set_result(_opened(job.result(), is_chunk) if error is None else Part([], error))

    is_chunk = len(items) > 1 or (star and not isinstance(items[0], tuple))
    call = (call_each, (function, items, star), {}) if is_chunk else _call(function, items[0], star)
    job = engine.submit(call)
    future.jobs.append(job)
    job.add_done_callback(done)
    return future


def _one_by_one(
    engine: Engine, function: Callable[..., Any], items: Sequence[Any], star: bool, future: PartFuture
) -> None:
    left = len(items)

    def done(_job: Future[Any]) -> None:
        nonlocal left
        left -= 1
        if left:
            return
        if any(job.cancelled() for job in jobs):
            _cancel(future)
        elif future.set_running_or_notify_cancel():
            future.set_result(_joined(jobs))

    jobs = [engine.submit(_call(function, item, star), again=True) for item in items]
    future.jobs[:] = jobs
    for job in jobs:
        job.add_done_callback(done)


def _call(function: Callable[..., Any], item: Any, star: bool) -> Call:
    return function, tuple(item) if star else (item,), {}


def _opened(result: Any, is_chunk: bool) -> Part:
    if not is_chunk:
        return Part([result], None)
    results, raised = result
    return Part(results, None if raised is None else unpack_exception(raised))


def _joined(jobs: Sequence[Future[Any]]) -> Part:
    results: list[Any] = []
    for job in jobs:
        error = job.exception()
        if error is not None:
            return Part(results, error)
        results.append(job.result())
    return Part(results, None)


def _cancel(future: PartFuture) -> None:
    future.cancel()
    future.set_running_or_notify_cancel()
