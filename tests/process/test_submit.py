"""Jobs that are submitted one by one, beside the program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    PoolError,
    Process,
    Response,
    RetryStrategy,
    SerializationError,
    Worker,
    WorkerLostError,
)
from tests.gates import Gate

pytestmark = pytest.mark.parametrize(
    "batch_size", ["auto", pytest.param(1, marks=pytest.mark.thorough)], scope="module"
)


@pytest.fixture
def process(batch_size: Any) -> Iterator[Process]:
    with Process(2, batch_size=batch_size) as process:
        yield process


class Divide(Worker):
    """Ten, by the argument; at the second attempt, by one."""

    def process(self, argument: Any) -> Any:
        return 10 / (argument if self.attempt == 1 else 1)


def body(response: Response) -> Any:
    assert isinstance(response, JobResponse)
    return response.body


def test_a_response_for_each(process: Process) -> None:
    futures = [process.submit(Divide(), number) for number in (1, 2)]
    assert [body(future.result(60)) for future in futures] == [10, 5]


def test_a_failed_job_is_a_response_and_no_exception(process: Process) -> None:
    response = process.submit(Divide(), 0).result(60)
    assert not response.ok
    assert isinstance(response.exception, ZeroDivisionError)


def test_events_and_retries(process: Process) -> None:
    heard: list[tuple[str, object]] = []
    for event in JobEvent:
        process.on(event, lambda _, event, argument: heard.append((event.name, argument)))
    worker = Divide(retry=RetryStrategy(1))
    assert body(process.submit(worker, 0).result(60)) == 10
    process.shutdown()
    assert heard == [("JOB_START", 0), ("JOB_RETRY", 0), ("JOB_START", 0), ("JOB_SUCCESS", 0)]


def test_a_crash_is_that_jobs_own(process: Process) -> None:
    def job(number: int) -> int:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    futures = [process.submit(job, number) for number in range(20)]
    responses = [future.result(60) for future in futures]
    assert [body(r) for r in responses] == [None if number == 3 else number for number in range(20)]
    assert isinstance(responses[3].exception, WorkerLostError)


def test_what_cannot_be_pickled(process: Process) -> None:
    response = process.submit(abs, threading.Lock()).result(60)
    assert isinstance(response.exception, SerializationError)
    assert body(process.submit(abs, -1).result(60)) == 1


def test_from_many_threads(process: Process) -> None:
    found: list[Any] = []

    def ask(number: int) -> None:
        found.append(body(process.submit(abs, -number).result(60)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(20))


def test_in_asyncio(process: Process) -> None:
    async def ask() -> list[Response]:
        futures = [asyncio.wrap_future(process.submit(abs, -number)) for number in range(5)]
        return await asyncio.gather(*futures)

    assert list(map(body, asyncio.run(ask()))) == list(range(5))


def test_beside_a_map_and_with_several_workers(process: Process) -> None:
    with Gate() as gate:
        waiting = process.submit(lambda _: gate.wait(), None)
        assert [body(response) for response in process.map(abs, [-1, -2])] == [1, 2]
        assert body(process.submit(abs, -3).result(60)) == 3  # by children of its own
        gate.open()
        waiting.result(60)


def test_cancel(batch_size: Any) -> None:
    with Gate() as gate, Process(1, batch_size=batch_size) as process:
        started: list[str] = []
        began = threading.Event()

        def note(_: Process, job_id: str) -> None:
            started.append(job_id)
            began.set()

        process.on(JobEvent.JOB_START, note)
        job = lambda _: gate.wait()  # noqa: E731  # the same one each time
        running = process.submit(job, 0)
        assert began.wait(60)
        assert process.cancel(started[0])
        assert isinstance(running.result(60).exception, JobCanceledError)
        assert not process.cancel("another-0")
    assert not process.cancel(started[0])


@pytest.mark.parametrize("cancel_pending", [False, True])
def test_shutdown(cancel_pending: bool, batch_size: Any) -> None:
    with Gate() as gate:
        process = Process(1, batch_size=batch_size)
        job = lambda number: gate.wait() or number  # noqa: E731
        futures = [process.submit(job, number) for number in range(200)]
        process.shutdown(wait=False, cancel_pending=cancel_pending)
        with pytest.raises(PoolError, match="shut down"):
            process.submit(job, 0)
        gate.open()
        process.shutdown()
    canceled = [future.cancelled() for future in futures]
    assert all(future.done() for future in futures)
    assert any(canceled) is cancel_pending
    assert all(future.result().ok for future in futures if not future.cancelled())


def test_setup_that_fails(process: Process) -> None:
    class Bad(Worker):
        def setup(self) -> None:
            raise ValueError("no")

    future = process.submit(Bad(), 1)
    with pytest.raises(PoolError, match="setup"):
        future.result(60)


def test_nothing_is_lost_at_the_end_of_a_program(batch_size: Any, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from multiprocessing_kit import Process

def job(number):
    Path({str(tmp_path)!r}, str(number)).touch()

process = Process(2, batch_size={batch_size!r})
for number in range(50):
    process.submit(job, number)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    assert len(list(tmp_path.iterdir())) == 50
