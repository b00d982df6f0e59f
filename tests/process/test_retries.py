"""Retries in the runner: here or elsewhere, at once or later."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import tenacity

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    Process,
    RetriesExhaustedError,
    RetryStrategy,
    RetryType,
    Worker,
)

REQUEUE = RetryType.REQUEUE
HOUR = tenacity.wait_fixed(3600)
both_types = pytest.mark.parametrize("retry_type", RetryType)


class Failing(Worker):
    """Fails as many times as its argument says."""

    def process(self, failures: int) -> str:
        if self.attempt <= failures:
            raise ValueError(f"attempt {self.attempt}")
        return f"done at {self.attempt}"


def run(process: Process, worker: Worker, inputs: Iterable[Any]) -> list[JobResponse]:
    return cast("list[JobResponse]", process.map(worker, inputs))


def listen(process: Process) -> list[tuple[str, object, object]]:
    """(event, argument, attempt) of all that the caller hears."""
    heard: list[tuple[str, object, object]] = []
    for event in JobEvent:
        process.on(
            event, lambda _, event, argument, attempt: heard.append((event.name[4:], argument, attempt))
        )
    return heard


@both_types
def test_a_job_that_fails_twice(retry_type: RetryType) -> None:
    process = Process(2)
    heard = listen(process)
    (response,) = run(process, Failing(retry=RetryStrategy(3, retry_type)), [2])
    assert (response.ok, response.attempts, response.body) == (True, 3, "done at 3")
    assert heard == [
        ("START", 2, 1),
        ("RETRY", 2, 1),
        ("START", 2, 2),
        ("RETRY", 2, 2),
        ("START", 2, 3),
        ("SUCCESS", 2, 3),
    ]


@both_types
@pytest.mark.parametrize("processes", [1, 3])
def test_each_job_has_its_own_attempts(retry_type: RetryType, processes: int) -> None:
    inputs = [0, 1, 2, 3, 4, 5] * 20
    responses = run(Process(processes), Failing(retry=RetryStrategy(3, retry_type)), inputs)
    assert [response.attempts for response in responses] == [1, 2, 3, 4, 4, 4] * 20
    assert [response.ok for response in responses] == [failures <= 3 for failures in inputs]
    assert str(responses[5].exception) == "attempt 4"
    assert [response.argument_index for response in responses] == list(range(len(inputs)))


@pytest.mark.parametrize(
    ("retry_type", "expected"),
    [
        (RetryType.IMMEDIATE, ["START 1", "RETRY 1", "START 1", "SUCCESS 1", "START 0", "SUCCESS 0"]),
        (REQUEUE, ["START 1", "RETRY 1", "START 0", "SUCCESS 0", "START 1", "SUCCESS 1"]),
    ],
)
def test_who_goes_first(retry_type: RetryType, expected: list[str]) -> None:
    process = Process(1)
    heard = listen(process)
    run(process, Failing(retry=RetryStrategy(1, retry_type)), [1, 0])
    assert [f"{event} {argument}" for event, argument, _ in heard] == expected


def test_the_end_of_a_queue_without_end() -> None:
    """A requeued job lets one window of inputs go first."""
    process = Process(1, window=5)
    inputs = itertools.chain([1], itertools.repeat(0))
    stream = process.imap(Failing(retry=RetryStrategy(1, REQUEUE)), inputs, ordered=False)
    places = [cast(JobResponse, next(stream)).argument_index for _ in range(30)]
    cast(Any, stream).close()
    assert 0 in places
    assert places.index(0) >= 5


def test_a_waiting_job_keeps_no_child_from_work() -> None:
    """The only child runs all other jobs while the first one waits for an hour."""
    process = Process(1)
    heard = listen(process)
    inputs = [1, *([0] * 50)]
    stream = process.imap(Failing(retry=RetryStrategy(1, REQUEUE, wait=HOUR)), inputs, ordered=False)
    responses = [cast(JobResponse, next(stream)) for _ in range(50)]
    cast(Any, stream).close()
    assert [response.argument_index for response in responses] == list(range(1, 51))
    assert len({response.pid for response in responses}) == 1
    assert heard[:2] == [("START", 1, 1), ("RETRY", 1, 1)]
    assert heard.count(("SUCCESS", 0, 1)) == 50
    assert len([event for event, argument, _ in heard if argument == 1]) == 2


def test_many_jobs_wait_at_the_same_time() -> None:
    process = Process(1)
    heard = listen(process)
    wait = tenacity.wait_fixed(0.001)
    responses = run(process, Failing(retry=RetryStrategy(1, REQUEUE, wait=wait)), [1] * 40)
    assert [response.attempts for response in responses] == [2] * 40
    assert [event for event, _, _ in heard].count("RETRY") == 40


@both_types
def test_the_delay_is_the_strategys(retry_type: RetryType) -> None:
    delays: list[float] = []
    process = Process(1).on(JobEvent.JOB_RETRY, lambda _, delay: delays.append(delay))
    wait = tenacity.wait_incrementing(0.001, 0.001)
    run(process, Failing(retry=RetryStrategy(3, retry_type, wait=wait)), [3])
    assert delays == pytest.approx([0.001, 0.002, 0.003])


def test_tenacitys_state_goes_with_a_requeued_job() -> None:
    """`idle_for` and the attempt number are known in whichever child asks."""
    shown: list[object] = []

    def wait(state: tenacity.RetryCallState) -> float:
        return 0.001 * state.attempt_number

    def stop(state: tenacity.RetryCallState) -> bool:
        return state.idle_for > 0.0025

    process = Process(2).on(JobEvent.JOB_RETRY, lambda _, attempt: shown.append(attempt))
    (response,) = run(process, Failing(retry=RetryStrategy(9, REQUEUE, wait=wait, stop=stop)), [9])
    assert (response.attempts, shown) == (3, [1, 2])


@both_types
def test_cancel_at_retry(retry_type: RetryType) -> None:
    process = Process(2)
    heard = listen(process)
    worker = Failing(retry=RetryStrategy(3, retry_type)).on(JobEvent.JOB_RETRY, Worker.cancel)
    (response,) = run(process, worker, [2])
    assert isinstance(response.exception, JobCanceledError)
    assert heard == [("START", 2, 1), ("RETRY", 2, 1), ("CANCELED", 2, 1)]


@both_types
def test_a_result_that_is_never_accepted(retry_type: RetryType) -> None:
    retry = tenacity.retry_if_result(lambda body: body is None)
    worker = Worker(retry=RetryStrategy(2, retry_type, retry=retry))
    (response,) = run(Process(2), worker, [1])
    assert isinstance(response.exception, RetriesExhaustedError)
    assert (response.attempts, response.ok) == (3, False)


@both_types
def test_each_attempt_is_run_once(retry_type: RetryType, tmp_path: Path) -> None:
    path = tmp_path / "attempts"

    class Writing(Failing):
        def process(self, failures: int) -> str:
            with path.open("a") as file:
                file.write(f"{self.job_id} {self.attempt}\n")
            return super().process(failures)

    responses = run(Process(3), Writing(retry=RetryStrategy(2, retry_type)), [2, 0, 1, 3] * 10)
    expected = [f"{r.job_id} {n}" for r in responses for n in range(1, r.attempts + 1)]
    assert sorted(path.read_text().splitlines()) == sorted(expected)
