"""One job's life in one process, from its first event to its answer.

    START ─▶ process() ─┬─ ok ────────────────────────▶ SUCCESS
      ▲                 ├─ failed, no retry left ─────▶ FAILED
      │                 ├─ cancel() ──────────────────▶ CANCELED
      └──── RETRY ◀─────┘  (IMMEDIATE: here; REQUEUE: handed back to the runner)

The same code serves `Worker.start` in any process and the runner's children.
"""

from __future__ import annotations

import enum
import os
import time
import typing
from dataclasses import dataclass
from typing import Any, Protocol

from multiprocessing_kit.changes import Changes
from multiprocessing_kit.errors import JobCanceledError, RetriesExhaustedError, SerializationError
from multiprocessing_kit.events import (
    SIGNALS,
    JobEvent,
    job_canceled,
    job_failed,
    job_start,
    job_success,
    send,
)
from multiprocessing_kit.response import JobResponse, Response, is_response
from multiprocessing_kit.retry import History, RetryType, Verdict

if typing.TYPE_CHECKING:
    from multiprocessing_kit.worker import Worker

__all__ = ["Host", "JobRun", "JobStatus", "Outcome", "Requeue", "Running", "emit"]

Outcome = tuple[object, bool, float]
"""What `process()` returned or raised, whether it raised, and after how many seconds."""


class JobStatus(enum.Enum):
    """Where a job stands."""

    READY = "ready"
    RUNNING = "running"
    RETRY = "retry"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELED = "canceled"


class Host(Protocol):
    """A runner's child, as the job that it runs sees it.

    Attributes:
        pid: Its process id.
    """

    pid: int

    @property
    def events(self) -> int:
        """Mask (`JobEvent.bit`) of the events that the caller wants to hear of."""

    def relay(self, payload: dict[str, Any]) -> None:
        """Send an event home."""

    def seal(self, response: Response) -> Response:
        """Make `response` fit to travel; gives a failed one in its place if it cannot."""

    def attempting(self, number: int) -> None:
        """An attempt, beyond the first, begins."""

    def pausing(self) -> None:
        """The job waits for its next attempt."""

    def check_process(self) -> None:
        """End this process if `process()` forked it and it came back from there."""


class Running(Protocol):
    """Jobs that a runner's child runs one after the other, as the one under way sees them.

    Attributes:
        index: Its place among the inputs.
        job_id: Its id.
        argument: What it was given.
    """

    @property
    def index(self) -> int: ...
    @property
    def job_id(self) -> str: ...
    @property
    def argument(self) -> object: ...
    @property
    def last(self) -> tuple[str, object]:
        """Id and argument of the last one that is done."""

    def cut(self) -> None:
        """Have this job looked at before another one begins."""


@dataclass(frozen=True)
class Requeue:
    """The job is to be run again, by whoever is free.

    Attributes:
        delay: Seconds to wait before.
        history: For the next attempt.
        changes: What JOB_RETRY listeners changed on the worker, by name.
        response: Of the attempt that failed.
    """

    delay: float
    history: History
    changes: dict[str, bytes | None]
    response: Response


class JobRun:
    """Runs one job.

    Args:
        worker: Whose `process()` to call.
        argument: With what.
        job_id: The job's name.
        history: Of earlier attempts, if any.
        changes: That arrived with it, if any.
        host: The runner's child, if this is one; without it REQUEUE waits and retries here.
        outcome: Of the first attempt, if it was made already.
    """

    def __init__(
        self,
        worker: Worker,
        argument: object,
        job_id: str,
        *,
        history: History | None = None,
        changes: dict[str, bytes | None] | None = None,
        host: Host | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self._worker = worker
        self._argument = argument
        self._job_id = job_id
        self._history = history
        self._changes = changes
        self._host = host
        self._outcome = outcome

    def run(self) -> Response | Requeue:
        """Run it to its answer, or to the point where another child may go on."""
        worker = self._worker
        worker.job_id = self._job_id
        worker.response = None
        worker._argument = self._argument
        if self._outcome is None:
            worker._canceled = False
        if worker.retry is None and self._changes is None:
            outcome, raised, seconds = self._attempt(1 if self._history is None else self._history.attempt)
            return self._finish(outcome, _as_response(outcome, raised, seconds))
        return self._run_with_retries()

    def _run_with_retries(self) -> Response | Requeue:
        worker = self._worker
        history = self._history or History()
        changes = Changes(self._changes)
        try:
            try:
                changes.apply(worker)
            except SerializationError as error:
                return self._finish(error, JobResponse(exception=error))
            while True:
                outcome, raised, seconds = self._attempt(history.attempt)
                response = _as_response(outcome, raised, seconds)
                if worker._canceled or isinstance(outcome, JobCanceledError):
                    return self._finish(outcome, response)
                try:
                    verdict = self._decide(outcome, response, history)
                    if verdict.again:
                        requeue = self._prepare_retry(verdict, response, history, changes)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a strategy of the user's, or a change that cannot travel
                    return self._finish(error, JobResponse(exception=error))
                if not verdict.again:
                    if verdict.exhausted and response.ok:
                        outcome = self._not_accepted(outcome, history)
                        response = JobResponse(response.body, exception=outcome)
                    return self._finish(outcome, response)
                if worker._canceled:
                    return self._finish(outcome, response)
                if requeue is not None:
                    return requeue
                if self._host is not None:
                    self._host.pausing()
                time.sleep(verdict.delay)
        finally:
            changes.undo(worker)

    def _attempt(self, number: int) -> Outcome:
        """Call `process()`, unless that was done already."""
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            return outcome
        return self._call(number)

    def _call(self, number: int) -> Outcome:
        worker = self._worker
        worker.attempt = number
        worker.status = JobStatus.RUNNING
        host = self._host
        if host is not None and number > 1:
            host.attempting(number)
        if job_start.receivers or (host is not None and host.events):
            emit(worker, JobEvent.JOB_START)
            if worker._canceled:
                return None, False, 0.0
        began = time.perf_counter()
        try:
            outcome: object = worker.process(self._argument)
            raised = False
        except BaseException as error:
            if host is None and isinstance(error, KeyboardInterrupt):
                raise  # in the user's own process this is the user
            outcome = error
            raised = True
            if host is not None:
                host.check_process()  # while `sys.exc_info` still tells what to exit with
        seconds = time.perf_counter() - began
        if host is not None:
            host.check_process()
        return outcome, raised, seconds

    def _decide(self, outcome: object, response: Response, history: History) -> Verdict:
        strategy = self._worker.retry
        if strategy is None or (response.ok and strategy.retry is None):
            return Verdict(False)
        return strategy.decide(outcome, history, (self._worker.process, self._argument))

    def _prepare_retry(
        self, verdict: Verdict, response: Response, history: History, changes: Changes
    ) -> Requeue | None:
        """Fire JOB_RETRY; the message to the runner where the next attempt is not ours."""
        worker = self._worker
        worker.status = JobStatus.RETRY
        worker.response = self._stamp(response)
        fire = {"response": response, "exception": response.exception, "delay": verdict.delay}
        if SIGNALS[JobEvent.JOB_RETRY].receivers:
            changes.watch(worker, lambda: emit(worker, JobEvent.JOB_RETRY, **fire))
        else:
            emit(worker, JobEvent.JOB_RETRY, **fire)
        history.attempt += 1
        strategy = worker.retry
        if self._host is None or strategy is None or strategy.retry_type is RetryType.IMMEDIATE:
            return None
        return Requeue(verdict.delay, history, changes.pack(worker), response)

    def _not_accepted(self, outcome: object, history: History) -> RetriesExhaustedError:
        return RetriesExhaustedError(
            f"job {self._job_id}: the retry strategy did not accept the result of attempt "
            f"{history.attempt}, the last one: {outcome!r:.200}",
            job_id=self._job_id,
        )

    def _finish(self, outcome: object, response: Response) -> Response:
        worker = self._worker
        if worker._canceled or isinstance(outcome, JobCanceledError):
            error = outcome if isinstance(outcome, JobCanceledError) else self._canceled()
            response = JobResponse(exception=error)
            last = _CANCELED
        else:
            last = _SUCCESS if response.ok else _FAILED
        response = self._stamp(response)
        if self._host is not None:
            sealed = self._host.seal(response)
            if sealed is not response:
                response, last = sealed, _FAILED
        worker.status, event, signal = last
        worker.response = response
        if signal.receivers:
            emit(worker, event, response=response, exception=response.exception)
        return response

    def _canceled(self) -> JobCanceledError:
        return JobCanceledError(f"job {self._job_id} was canceled by worker.cancel()", job_id=self._job_id)

    def _stamp(self, response: Response) -> Response:
        if isinstance(response, JobResponse):
            response.job_id = self._job_id
            response.attempts = self._worker.attempt
            response.pid = os.getpid() if self._host is None else self._host.pid
        return response


def _as_response(outcome: object, raised: bool, seconds: float) -> Response:
    if raised:
        response: Response = JobResponse(exception=typing.cast(BaseException, outcome))
    elif is_response(outcome):
        response = typing.cast(Response, outcome)
    else:
        response = JobResponse(outcome)
    if isinstance(response, JobResponse):
        response.duration = seconds
    return response


# How a job ends, and the event that says so (the caller makes its own from the answer).
_SUCCESS = (JobStatus.SUCCESS, JobEvent.JOB_SUCCESS, job_success)
_FAILED = (JobStatus.FAILED, JobEvent.JOB_FAILED, job_failed)
_CANCELED = (JobStatus.CANCELED, JobEvent.JOB_CANCELED, job_canceled)


def emit(worker: Worker, event: JobEvent, **filled: Any) -> None:
    """Send an event of the worker's current job to its listeners here and, if it wants it, to the caller."""
    signal = SIGNALS[event]
    host = worker._host
    wanted = host is not None and host.events & event.bit
    if not signal.receivers and not wanted:
        return
    payload: dict[str, Any] = {
        "event": event,
        "job_id": worker.job_id,
        "argument": worker._argument,
        "attempt": worker.attempt,
        "response": None,
        "exception": None,
        "delay": None,
        "info": {},
        "pid": os.getpid(),
        **filled,
    }
    if signal.receivers:
        send(signal, worker, payload)
    if wanted and host is not None:
        host.relay(payload)
