"""What listeners of JOB_RETRY change goes with the job, to another child too, and with no other job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from multiprocessing_kit import (
    JobEvent,
    JobResponse,
    Process,
    RetryStrategy,
    RetryType,
    SerializationError,
    Worker,
)
from tests.gates import Gate


def run(process: Process, worker: Worker, inputs: Iterable[Any]) -> list[JobResponse]:
    return cast("list[JobResponse]", process.map(worker, inputs))


class Mirrored(Worker):
    """Job "moves" fails once in the first child; its second attempt finds that child busy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(retry=RetryStrategy(3, RetryType.REQUEUE))
        self.mirrors = ["first", "second"]
        self.busy, self.moved = Gate(), Gate()

    def process(self, argument: str) -> tuple[int, list[str], bool]:
        if argument == "moves" and self.attempt == 1:
            raise ConnectionError(f"{os.getpid()}")
        if argument == "holds the second child":
            self.busy.wait()
        if argument == "holds the first child":
            self.busy.open()
            self.moved.wait()
        if argument == "moves":
            self.moved.open()
        return os.getpid(), list(self.mirrors), hasattr(self, "timeout")


INPUTS = ["moves", "holds the second child", "holds the first child", "ends"]


def drops_a_mirror(worker: Mirrored) -> None:
    worker.mirrors.pop(0)


def replaces_the_mirrors(worker: Mirrored) -> None:
    worker.mirrors = ["third"]


def sets_a_timeout(worker: Mirrored) -> None:
    worker.timeout = 30  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("listener", "mirrors", "timeout"),
    [
        (None, ["first", "second"], False),
        (drops_a_mirror, ["second"], False),
        (replaces_the_mirrors, ["third"], False),
        (sets_a_timeout, ["first", "second"], True),
    ],
)
def test_a_change_follows_its_job_to_another_child(
    listener: Callable[[Mirrored], None] | None, mirrors: list[str], timeout: bool
) -> None:
    worker = Mirrored()
    first_child: list[int] = []
    process = Process(2).on(JobEvent.JOB_RETRY, lambda _, pid: first_child.append(pid))
    if listener is not None:
        worker.on(JobEvent.JOB_RETRY, listener)
    with worker.busy, worker.moved:
        responses = run(process, worker, INPUTS)
    assert [response.exception for response in responses] == [None] * 4
    pid, *changed = responses[0].body
    assert first_child == [responses[2].body[0]] != [pid], "its attempts were in different children"
    assert changed == [mirrors, timeout]
    assert [response.body[1:] for response in responses[1:]] == [(["first", "second"], False)] * 3
    assert responses[0].attempts == 2
    assert worker.mirrors == ["first", "second"]


@pytest.mark.parametrize("retry_type", RetryType)
def test_no_other_job_sees_a_change(retry_type: RetryType) -> None:
    class Growing(Worker):
        def __init__(self) -> None:
            super().__init__(retry=RetryStrategy(3, retry_type))
            self.timeouts = [1]

        def process(self, failures: int) -> list[int]:
            if self.attempt <= failures:
                raise TimeoutError
            return list(self.timeouts)

    worker = Growing().on(JobEvent.JOB_RETRY, lambda w: w.timeouts.append(w.timeouts[-1] * 2))
    responses = run(Process(2), worker, [0, 1, 2, 3] * 25)
    assert [response.body for response in responses] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8]] * 25


class Trying(Worker):
    def process(self, failures: int) -> None:
        if self.attempt <= failures:
            raise ValueError


def test_a_change_that_cannot_travel_fails_its_job_alone() -> None:
    worker = Trying(retry=RetryStrategy(3, RetryType.REQUEUE))
    worker.on(JobEvent.JOB_RETRY, lambda w: setattr(w, "connection", lambda: None))
    responses = run(Process(1), worker, [1, 0])
    assert isinstance(responses[0].exception, SerializationError)
    assert "worker.connection" in str(responses[0].exception)
    assert responses[1].ok
