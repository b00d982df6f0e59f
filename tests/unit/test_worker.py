"""One job's lifecycle, run by `Worker.start` in this process."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    JobStatus,
    RetryStrategy,
    RetryType,
    Worker,
)


@dataclass
class Page:
    """A response of the user's own class."""

    body: str
    status: int

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def exception(self) -> BaseException | None:
        return None

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else self.status


class Calls(Worker):
    """Its jobs are functions of the worker."""

    def process(self, argument: Callable[[Calls], object]) -> object:
        return argument(self)


class Bare(Worker):
    def __init__(self) -> None:
        self.factor = 3

    def process(self, argument: int) -> int:
        return argument * self.factor


def raising(error: BaseException) -> Callable[[Calls], object]:
    def job(worker: Calls) -> object:
        raise error

    return job


def failing_until(attempt: int) -> Callable[[Calls], object]:
    def job(worker: Calls) -> object:
        if worker.attempt < attempt:
            raise ValueError(f"attempt {worker.attempt}")
        return "done"

    return job


def record(worker: Worker, seen: list[str]) -> None:
    """Note each event with the worker's status at that moment."""
    for event in JobEvent:
        worker.on(event, lambda worker, event: seen.append(f"{event.name} {worker.status.name}"))


START, RETRY = "JOB_START RUNNING", "JOB_RETRY RETRY"


@pytest.mark.parametrize(
    ("job", "events", "status"),
    [
        (failing_until(0), [START, "JOB_SUCCESS SUCCESS"], JobStatus.SUCCESS),
        (failing_until(2), [START, RETRY, START, "JOB_SUCCESS SUCCESS"], JobStatus.SUCCESS),
        (failing_until(9), [START, RETRY, START, RETRY, START, "JOB_FAILED FAILED"], JobStatus.FAILED),
        (raising(SystemExit(3)), [START, "JOB_FAILED FAILED"], JobStatus.FAILED),
        (raising(JobCanceledError("enough")), [START, "JOB_CANCELED CANCELED"], JobStatus.CANCELED),
        (
            lambda worker: worker.running(done=1),
            [START, "JOB_RUNNING RUNNING", "JOB_SUCCESS SUCCESS"],
            JobStatus.SUCCESS,
        ),
        (
            lambda worker: Worker.process(worker, None),
            [START, "JOB_RUNNING RUNNING", "JOB_SUCCESS SUCCESS"],
            JobStatus.SUCCESS,
        ),
    ],
)
@pytest.mark.parametrize("retry_type", RetryType)
def test_events_and_statuses(
    job: Callable[[Calls], object], events: list[str], status: JobStatus, retry_type: RetryType
) -> None:
    worker = Calls(retry=RetryStrategy(2, retry_type))
    assert worker.status is JobStatus.READY
    seen: list[str] = []
    record(worker, seen)
    response = worker.start(job)
    assert seen == events
    assert worker.status is status
    assert worker.response is response


@pytest.mark.parametrize(
    ("job", "body", "exit_code"),
    [
        (lambda worker: "value", "value", 0),
        (lambda worker: JobResponse("value", 5), "value", 5),
        (raising(ValueError("no")), None, 1),
        (raising(SystemExit(3)), None, 3),
    ],
)
def test_responses(job: Callable[[Calls], object], body: object, exit_code: int) -> None:
    response = cast(JobResponse, Calls().start(job))
    assert (response.body, response.exit_code, response.ok) == (body, exit_code, exit_code == 0)
    assert (response.attempts, response.pid, response.argument_index) == (1, os.getpid(), -1)
    assert response.duration >= 0
    assert response.job_id


def test_job_ids_differ_and_are_the_workers_meanwhile() -> None:
    worker = Calls()
    ids = [cast(JobResponse, worker.start(lambda w: w.job_id)) for _ in range(3)]
    assert [response.body for response in ids] == [response.job_id for response in ids]
    assert len({response.job_id for response in ids}) == 3


def test_the_exception_is_the_very_one_that_was_raised() -> None:
    error = ValueError("no")
    assert Calls().start(raising(error)).exception is error


def test_ctrl_c_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        Calls(retry=RetryStrategy()).start(raising(KeyboardInterrupt()))


def test_a_response_of_another_class_is_handed_on() -> None:
    page = Page("text", 200)
    worker = Calls()
    assert worker.start(lambda w: page) is page
    assert worker.status is JobStatus.SUCCESS


def test_a_response_that_is_not_ok_is_a_failure() -> None:
    worker = Calls(retry=RetryStrategy(2))
    seen: list[str] = []
    record(worker, seen)
    assert worker.start(lambda w: Page("", 503 if w.attempt == 1 else 200)) == Page("", 200)
    assert worker.start(lambda w: Page(str(w.attempt), 404)) == Page("3", 404)
    assert seen[:4] == [START, RETRY, START, "JOB_SUCCESS SUCCESS"]
    assert seen[4:] == [START, RETRY, START, RETRY, START, "JOB_FAILED FAILED"]


CANCELED_AT = {
    "start": (JobEvent.JOB_START, 0, 1, [START, "JOB_CANCELED CANCELED"]),
    "retry": (JobEvent.JOB_RETRY, 1, 1, [START, RETRY, "JOB_CANCELED CANCELED"]),
    "running": (JobEvent.JOB_RUNNING, 1, 1, [START, "JOB_RUNNING RUNNING", "JOB_CANCELED CANCELED"]),
}


@pytest.mark.parametrize("moment", CANCELED_AT)
@pytest.mark.parametrize("retry", [RetryStrategy(3), RetryStrategy(3, RetryType.REQUEUE)])
def test_cancel_in_a_listener(moment: str, retry: RetryStrategy) -> None:
    event, runs, attempts, events = CANCELED_AT[moment]
    ran: list[int] = []
    seen: list[str] = []

    def job(worker: Calls) -> None:
        ran.append(worker.attempt)
        if moment == "running":
            worker.running()
        raise ValueError("no")

    worker = Calls(retry=retry)
    record(worker, seen)
    worker.on(event, Worker.cancel)
    response = cast(JobResponse, worker.start(job))
    assert (len(ran), response.attempts, seen) == (runs, attempts, events)
    assert isinstance(response.exception, JobCanceledError)
    assert response.exception.job_id == response.job_id
    assert response.job_id in str(response.exception)
    assert not response.ok


@pytest.mark.parametrize(
    "outcome", ["value", ValueError("no"), JobResponse(exit_code=3), JobCanceledError("mine")]
)
def test_cancel_inside_process_takes_effect_when_that_returns(outcome: object) -> None:
    def job(worker: Calls) -> object:
        worker.cancel()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    worker = Calls(retry=RetryStrategy())
    response = cast(JobResponse, worker.start(job))
    assert (type(response.exception), response.body, response.attempts) == (JobCanceledError, None, 1)
    assert worker.status is JobStatus.CANCELED


def test_cancel_concerns_one_job_only() -> None:
    worker = Calls()
    worker.start(lambda w: w.cancel())
    assert worker.start(lambda w: "next").body == "next"
    worker.cancel()
    assert worker.start(lambda w: "again").body == "again", "there was no job to cancel"


def test_a_subclass_need_not_call_our_init() -> None:
    worker = Bare()
    seen: list[str] = []
    record(worker, seen)
    assert worker.start(7).body == 21
    assert seen == [START, "JOB_SUCCESS SUCCESS"]
    assert (worker.name, worker.retry) == ("", None)
    worker.retry, worker.name = RetryStrategy(1), "bare"
    assert cast(JobResponse, worker.start(None)).attempts == 2


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_is_as_good_and_has_no_job(clone: Callable[[Bare], Bare]) -> None:
    worker = Bare()
    worker.factor = 5
    worker.start(1)
    twin = clone(worker)
    assert (twin.status, twin.job_id, twin.response, twin.attempt) == (JobStatus.READY, "", None, 0)
    assert twin.start(2).body == 10


@pytest.mark.parametrize("retry", [3, "immediate", RetryStrategy])
def test_retry_must_be_a_strategy(retry: Any) -> None:
    with pytest.raises(TypeError, match="retry must be a RetryStrategy"):
        Worker(retry=retry)
