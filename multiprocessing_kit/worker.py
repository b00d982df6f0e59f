"""What one job does, said by a subclass of `Worker`."""

from __future__ import annotations

import itertools
import os
import typing
from collections.abc import Callable
from typing import Any

from blinker import Signal

from multiprocessing_kit.events import SIGNALS, JobEvent
from multiprocessing_kit.lifecycle import Host, JobRun, JobStatus, Running, emit
from multiprocessing_kit.observer import EventSource
from multiprocessing_kit.response import Response
from multiprocessing_kit.retry import RetryStrategy

if typing.TYPE_CHECKING:
    from typing_extensions import Self

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
        attempt, status: Of the current job; the last one's after it.
        response: The current job's answer, None until there is one.
    """

    PER_JOB: typing.ClassVar[frozenset[str]] = frozenset(
        {"_job_id", "status", "response", "attempt", "_argument_given"}
        | {"_canceled", "_host", "_running", "_listeners"}
    )
    """Attributes that belong to a job or a process rather than to the worker."""

    name: str = ""
    retry: RetryStrategy | None = None
    status: JobStatus = JobStatus.READY
    response: Response | None = None
    attempt: int = 0
    _job_id: str = ""
    _argument_given: object = None
    _canceled: bool = False
    _host: Host | None = None
    _running: Running | None = None

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
        return typing.cast(Response, response)  # without a host it is never a Requeue

    @property
    def job_id(self) -> str:
        """The current job's id, the last one's after it."""
        return self._job_id if self._running is None else self._running.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self._job_id = job_id

    @property
    def _argument(self) -> object:
        return self._argument_given if self._running is None else self._running.argument

    @_argument.setter
    def _argument(self, argument: object) -> None:
        self._argument_given = argument

    def _begin(self, running: Running | None, job_id: str = "", argument: object = None) -> None:
        """Jobs begin that have nothing to do with the last one, or one with this id and argument."""
        self._job_id = job_id
        self._argument_given = argument
        self.response = None
        self.attempt = 1
        self.status = JobStatus.RUNNING
        self._canceled = False
        self._running = running

    def _leave(self, running: Running) -> None:
        """Stand where the last one that succeeded left off."""
        self._running = None
        self._job_id, self._argument_given = running.last
        self.status = JobStatus.SUCCESS

    def on(
        self, event: JobEvent | str, listener: Callable[..., object], *args: object, override: bool = False
    ) -> Self:
        """As `EventSource.on`; the listener runs in the child."""
        if self._running is not None:
            self._running.cut()
        return super().on(event, listener, *args, override=override)

    def cancel(self) -> None:
        """End the current job as CANCELED.

        In a listener of JOB_START it never runs, in one of JOB_RETRY it is not run again; inside
        `process()` it takes effect when that returns.
        """
        self._canceled = True
        if self._running is not None:
            self._running.cut()

    def _signal(self, event: JobEvent) -> Signal:
        return SIGNALS[event]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in self.PER_JOB}
        listeners = {event: held for event, held in (self._listeners or {}).items() if held}
        if listeners:
            state["_listeners"] = listeners
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
