"""`Process.cancel`: wherever a job is, it ends, and no other one does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import tenacity

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    Process,
    RetryStrategy,
    RetryType,
    Worker,
)
from tests.gates import Gate
from tests.process.test_crashes import in_order
from tests.process.test_uneven import Ran

HOUR = tenacity.wait_fixed(3600)
forks_beside_a_thread = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def stay() -> object:
    return threading.Event().wait()


def sibling(job_id: str, index: int) -> str:
    """The id of another job of the same run."""
    return f"{job_id.rpartition('-')[0]}-{index}"


def check(response: JobResponse, attempts: int, *, pid: bool) -> None:
    """It is the answer of a canceled job."""
    error = response.exception
    assert type(error) is JobCanceledError
    assert error.job_id == response.job_id != ""
    assert "process.cancel()" in str(error)
    assert (response.attempts, response.pid > 0) == (attempts, pid)


def listen(process: Process) -> list[tuple[str, object, bool]]:
    """(event, argument, whether a child had it) of the ends."""
    heard: list[tuple[str, object, bool]] = []
    for event in (JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED, JobEvent.JOB_CANCELED):
        process.on(event, lambda _, event, argument, pid: heard.append((event.name[4:], argument, pid > 0)))
    return heard


@pytest.mark.parametrize(
    ("batch_size", "index"), [(10, 3), ("auto", 99), (1, 99), (10, 99)], ids=["lane", "auto", "1", "10"]
)
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_job_that_waits(batch_size: Any, apart: bool, ordered: bool, index: int, tmp_path: Path) -> None:
    """In a lane behind a job that ends once it is canceled, or among the inputs."""
    with Ran(tmp_path / "ran") as ran, Gate() as gate:

        def job(argument: Any) -> bool:
            number = argument[0] if apart else argument
            ran.note(number)
            return number != 0 or gate.wait()

        process = Process(1, batch_size=batch_size)

        def cancel(process: Process, argument: Any, job_id: str) -> None:
            if argument in (0, [0]):
                assert process.cancel(sibling(job_id, index))
                process.cancel(sibling(job_id, index))

        process.on(JobEvent.JOB_START, cancel)
        if index == 3:
            process.on(JobEvent.JOB_CANCELED, lambda _: gate.open())
        else:
            gate.open()
        heard = listen(process)
        inputs = [[number] if apart else number for number in range(100)]
        responses = [cast(JobResponse, r) for r in process.imap(job, inputs, ordered=ordered)]
        assert sorted(ran.counts().elements()) == [number for number in range(100) if number != index]
    responses.sort(key=lambda response: response.argument_index)
    check(responses.pop(index), 0, pid=False)
    assert [response.body for response in responses] == [True] * 99
    assert len({response.pid for response in responses}) == 1
    assert [entry for entry in heard if entry[0] != "SUCCESS"] == [("CANCELED", inputs[index], False)]
    assert len(heard) == 100


def test_a_job_whose_lane_is_full() -> None:
    """What lies before it does not fit into the lane; it is not forgotten."""

    def job(argument: tuple[int, bytes]) -> object:
        time.sleep(0.01)  # the caller sends what it can meanwhile
        return argument[0] != 13 or stay()

    def cancel(process: Process, argument: Any, job_id: str) -> None:
        if argument[0] == 9:
            assert process.cancel(sibling(job_id, 13))

    process = Process(1, batch_size=10).on(JobEvent.JOB_START, cancel)
    responses = [*process.imap(job, [(number, bytes(60_000)) for number in range(40)])]
    assert [type(response.exception) for response in responses].count(JobCanceledError) == 1
    assert type(responses[13].exception) is JobCanceledError


@pytest.mark.parametrize("kind", ["generator", "list"])
def test_inputs_that_are_not_taken_yet(kind: str, tmp_path: Path) -> None:
    """They are taken when it is their turn."""
    with Ran(tmp_path / "ran") as ran:

        def job(number: int) -> int:
            ran.note(number)
            return number

        process = Process(2, window=4)
        inputs: Any = iter(range(50)) if kind == "generator" else [*range(50)]
        stream = cast("Iterator[JobResponse]", process.imap(job, inputs))
        responses = [next(stream)]
        for index in (20, 30, 31, 49, 50, 1000):
            assert process.cancel(sibling(responses[0].job_id, index))
        responses += list(stream)
        canceled = {20, 30, 31, 49}
        assert ran.counts().keys() == set(range(50)) - canceled
    for index, response in enumerate(responses):
        if index in canceled:
            check(response, 0, pid=False)
        else:
            assert response.body == index


@pytest.mark.parametrize("batch_size", ["auto", 10])
@pytest.mark.parametrize("strategy", [None, *(RetryStrategy(3, kind) for kind in RetryType)])
def test_a_job_that_runs(batch_size: Any, strategy: RetryStrategy | None) -> None:
    class Staying(Worker):
        def process(self, argument: int) -> int:
            if argument == 20:
                self.running()
                stay()
            return argument

    process = Process(2, batch_size=batch_size)
    process.on(JobEvent.JOB_RUNNING, lambda process, job_id: process.cancel(job_id))
    heard = listen(process)
    responses = in_order(process, Staying(retry=strategy), range(40))
    check(responses.pop(20), 1, pid=True)
    assert [response.body for response in responses] == [number for number in range(40) if number != 20]
    assert {response.attempts for response in responses} == {1}
    assert [entry for entry in heard if entry[0] != "SUCCESS"] == [("CANCELED", 20, True)]
    assert len(heard) == 40


class Failing(Worker):
    """Argument 0 fails at its first attempt."""

    def process(self, argument: int) -> int:
        if argument == 0 and self.attempt == 1:
            raise ValueError
        return argument


@pytest.mark.parametrize("wait", [HOUR, None], ids=["delayed", "at once"])
def test_a_job_that_waits_for_its_next_attempt(wait: Any) -> None:
    """Canceled when others have been answered since it was requeued."""
    process = Process(1)
    heard = listen(process)
    ids: list[str] = []
    process.on(JobEvent.JOB_RETRY, lambda _, job_id: ids.append(job_id))
    process.on(JobEvent.JOB_SUCCESS, lambda process, argument: argument == 3 and process.cancel(ids[0]))
    worker = Failing(retry=RetryStrategy(1, RetryType.REQUEUE, wait=wait))
    responses = in_order(process, worker, range(200))
    assert ("CANCELED", 0, False) in heard
    check(responses.pop(0), 1, pid=False)
    assert [response.body for response in responses] == list(range(1, 200))
    assert len(heard) == 200


@pytest.mark.parametrize("repeat", range(10))
@pytest.mark.parametrize("retry_type", RetryType)
def test_canceled_by_a_listener_of_its_retry(retry_type: RetryType, repeat: int) -> None:
    """Its child may be about to hand it back just then."""

    class Fails(Worker):
        def process(self, argument: int) -> int:
            if argument == 5:
                raise ValueError
            return argument

    process = Process(2).on(JobEvent.JOB_RETRY, lambda process, job_id: process.cancel(job_id))
    heard = listen(process)
    worker = Fails(retry=RetryStrategy(1, retry_type, wait=tenacity.wait_fixed(1000)))
    responses = in_order(process, worker, range(10))
    assert type(responses[5].exception) is JobCanceledError
    assert [response.body for response in responses if response.ok] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert len(heard) == 10


def test_canceled_by_a_listener_of_the_retry_of_a_crash() -> None:
    def job(argument: int) -> int:
        if argument == 5:
            os._exit(3)
        return argument

    process = Process(2).on(JobEvent.JOB_RETRY, lambda process, job_id: process.cancel(job_id))
    responses = in_order(process, job, range(10))
    check(responses.pop(5), 1, pid=False)
    assert all(response.ok for response in responses)


def test_a_job_that_is_done() -> None:
    """It keeps its answer."""
    process = Process(2)
    process.on(JobEvent.JOB_SUCCESS, lambda process, job_id: process.cancel(job_id))
    assert [response.body for response in process.map(str, range(100))] == [str(n) for n in range(100)]


def test_all_of_them(tmp_path: Path) -> None:
    with Ran(tmp_path / "ran") as ran:
        process = Process(2)

        def cancel_all(process: Process, job_id: str) -> None:
            for index in range(1000):
                process.cancel(sibling(job_id, index))

        def job(number: int) -> None:
            ran.note(number)
            stay()

        process.on(JobEvent.JOB_START, cancel_all)
        responses = in_order(process, job, range(1000))
        assert sum(ran.counts().values()) <= 10
    assert {type(response.exception) for response in responses} == {JobCanceledError}


@forks_beside_a_thread
@pytest.mark.parametrize("waits", [False, True], ids=["runs", "waits"])
def test_from_another_thread(waits: bool) -> None:
    """While the caller sleeps."""
    begun: list[str] = []
    has_begun = threading.Event()

    def note(_: Process, job_id: str) -> None:
        begun.append(job_id)
        has_begun.set()

    with Gate() as gate:

        def job(argument: int) -> bool:
            if argument == 0:
                return gate.wait() if waits else bool(stay())
            return True

        process = Process(1, batch_size=10).on(JobEvent.JOB_START, note)
        process.on(JobEvent.JOB_CANCELED, lambda _: gate.open())

        def cancel() -> None:
            has_begun.wait()
            assert process.cancel(sibling(begun[0], 5 if waits else 0))

        thread = threading.Thread(target=cancel)
        thread.start()
        responses = in_order(process, job, range(10))
        thread.join()
    check(responses.pop(5 if waits else 0), 0 if waits else 1, pid=not waits)
    assert [response.body for response in responses] == [True] * 9


@pytest.mark.parametrize(
    "name",
    [
        lambda own: "",
        lambda own: "no-1",
        lambda own: own.replace("-", ""),
        lambda own: f"{own}x",
        lambda own: f"x{own}",
    ],
)
def test_unknown_ids(name: Callable[[str], str]) -> None:
    process = Process(1)
    stream = cast("Iterator[JobResponse]", process.imap(str, range(10)))
    own = next(stream).job_id
    assert not process.cancel(name(own))
    assert not Process(1).cancel(own)
    assert process.cancel(own)
    assert all(response.ok for response in stream)
    assert not process.cancel(own), "its run is over"


def test_only_in_the_run_that_it_belongs_to() -> None:
    """Two runs of one object at the same time."""
    process = Process(1)
    first = cast("Iterator[JobResponse]", process.imap(str, range(100)))
    second = cast("Iterator[JobResponse]", process.imap(str, range(100)))
    next(first)
    assert process.cancel(sibling(next(second).job_id, 99))
    assert [response.ok for response in first] == [True] * 99
    assert [response.ok for response in second] == [True] * 98 + [False]
