"""What one job does, said by a subclass of `Worker`."""

from __future__ import annotations

import itertools
import os
import typing
from collections.abc import Callable
from typing import Any

from blinker import Signal

from multiprocessing_kit.events import SIGNALS, JobEvent
from multiprocessing_kit.lifecycle import Host, JobRun, JobStatus, emit
from multiprocessing_kit.observer import EventSource
from multiprocessing_kit.response import Response
from multiprocessing_kit.retry import RetryStrategy

__all__ = ["FunctionWorker", "Worker", "as_worker"]

_started = itertools.count()


class Worker(EventSource):
    """Subclass it and implement `process()`; give an instance to `Process.map`.

    A worker reaches the children by fork, so it may hold closures, open connections and the like. Each
    child has its own copy: what `process()` stores on `self` stays in that child.

    Args:
        name: For process titles and logs.
        retry: What to do with failed jobs; None answers them at once.

    Attributes:
        name, retry: As given; settable.
        job_id, attempt, status: Of the current job; the last one's after it.
        response: The current job's answer, None until there is one.
    """

    PER_JOB: typing.ClassVar[frozenset[str]] = frozenset(
        {"job_id", "status", "response", "attempt", "_argument", "_canceled", "_host", "_listeners"}
    )
    """Attributes that belong to a job or a process rather than to the worker."""

    name: str = ""
    retry: RetryStrategy | None = None
    job_id: str = ""
    status: JobStatus = JobStatus.READY
    response: Response | None = None
    attempt: int = 0
    _argument: object = None
    _canceled: bool = False
    _host: Host | None = None

    def __init__(self, name: str = "", *, retry: RetryStrategy | None = None) -> None:
        if retry is not None and not isinstance(retry, RetryStrategy):
            raise TypeError(f"retry must be a RetryStrategy, not {retry!r}")
        self.name = name
        self.retry = retry

    def setup(self) -> None:
        """Called once in each child before its first job: open connections here."""

    def process(self, argument: Any) -> Any:
        """Do one job; this one only fires JOB_RUNNING.

        Args:
            argument: One of the inputs.

        Returns:
            Any value, which becomes the body of a `JobResponse`; or a `Response`.
        """
        self.running()

    def teardown(self) -> None:
        """Called once in each child that ends in order."""

    def running(self, **info: Any) -> None:
        """Fire JOB_RUNNING with `info`; call it inside `process()`, from any thread."""
        emit(self, JobEvent.JOB_RUNNING, info=info)

    def start(self, argument: Any) -> Response:
        """Run one job with all its events and retries in this process.

        Under REQUEUE it waits and retries here: there is no queue. `KeyboardInterrupt` passes through.
        """
        response = JobRun(self, argument, f"{os.getpid()}-{next(_started)}").run()
        return typing.cast(Response, response)

    def cancel(self) -> None:
        """End the current job as CANCELED.

        In a listener of JOB_START it never runs, in one of JOB_RETRY it is not run again; inside
        `process()` it takes effect when that returns.
        """
        self._canceled = True

    def _signal(self, event: JobEvent) -> Signal:
        return SIGNALS[event]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in self.PER_JOB}
        if self._listeners:
            state["_listeners"] = self._listeners
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        listeners = state.get("_listeners")
        self.__dict__.update(state)
        if listeners:
            self._reconnect(listeners)


class FunctionWorker(Worker):
    """A worker around a plain function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(getattr(function, "__name__", type(function).__name__))
        self.function = function

    def process(self, argument: Any) -> Any:
        """Call the function."""
        return self.function(argument)


def as_worker(worker: Worker | Callable[[Any], Any]) -> Worker:
    """`worker` itself, or one around a plain function; `TypeError` for anything else."""
    if isinstance(worker, Worker):
        return worker
    if isinstance(worker, type) and issubclass(worker, Worker):
        raise TypeError(f"worker must be an instance: {worker.__name__}(), not the class {worker.__name__}")
    if callable(worker):
        return FunctionWorker(worker)
    raise TypeError(f"worker must be a Worker or a function of one argument, not {worker!r:.100}")
