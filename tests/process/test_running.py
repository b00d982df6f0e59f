"""`worker.running(**info)`, called where it may be and where it should not be."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, Process, Worker

Payload = dict[str, Any]


def test_info_that_cannot_travel_is_described() -> None:
    class Reports(Worker):
        def process(self, argument: object) -> None:
            self.running(done=argument, handler=test_info_that_cannot_travel_is_described.__code__, text="x")

    heard: list[Payload] = []
    process = Process(1).on("job_running", lambda _, info: heard.append(info))
    assert process.map(Reports(), [50])[0].ok
    code = test_info_that_cannot_travel_is_described.__code__
    assert heard == [{"done": 50, "handler": repr(code), "text": "x"}]


def test_running_outside_a_job_is_heard_in_the_child_alone(tmp_path: Path) -> None:
    """`setup()` and `teardown()` belong to no job, so the caller could not say whose event it is."""
    path = tmp_path / "heard"

    class Connects(Worker):
        def setup(self) -> None:
            self.running(connecting=True)

        def teardown(self) -> None:
            self.running(connected=False)

    def line(worker: Worker, info: Payload) -> None:
        with path.open("a") as file:
            file.write(json.dumps(info) + "\n")

    heard: list[Payload] = []
    worker = Connects().on("job_running", line)
    process = Process(3).on("job_running", lambda _, info, argument: heard.append({**info, "of": argument}))
    with process:
        for _ in range(2):
            assert all(response.ok for response in process.map(worker, range(20)))
    assert sorted(payload["of"] for payload in heard) == sorted([*range(20)] * 2)
    assert '{"connecting": true}' in path.read_text().splitlines()


def test_running_from_threads() -> None:
    class Threaded(Worker):
        def process(self, argument: int) -> None:
            threads = [threading.Thread(target=self.report, args=(argument, n)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        def report(self, argument: int, number: int) -> None:
            for step in range(50):
                self.running(of=argument, number=number, step=step)

    heard: list[tuple[int, int, int]] = []
    process = Process(2)
    process.on(
        "job_running", lambda _, argument, info: heard.append((argument, info["number"], info["step"]))
    )
    process.map(Threaded(), range(3))
    assert sorted(heard) == sorted(itertools.product(range(3), range(4), range(50)))


def test_a_thread_that_outlives_its_job() -> None:
    """What it reports too late belongs to no job, and does no harm."""

    class LeavesThreads(Worker):
        def process(self, argument: int) -> int:
            def report() -> None:
                for step in range(100):
                    self.running(step=step)

            threads.append(threading.Thread(target=report))
            threads[-1].start()
            return argument

        def teardown(self) -> None:
            for thread in threads:
                thread.join()

    threads: list[threading.Thread] = []
    heard: list[int] = []
    process = Process(2).on("job_running", lambda _, info: heard.append(info["step"]))
    assert [response.body for response in process.map(LeavesThreads(), range(50))] == [*range(50)]
    assert set(heard) <= set(range(100))


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("not a number",)


def test_info_that_the_caller_cannot_unpickle(caplog: pytest.LogCaptureFixture) -> None:
    class Tells(Worker):
        def process(self, argument: int) -> int:
            self.running(what=Unreadable())
            return argument

    heard: list[Any] = []
    process = Process(1).on(JobEvent.JOB_RUNNING, lambda _, info: heard.append(info))
    assert [response.body for response in process.map(Tells(), [1, 2])] == [1, 2]
    assert heard == [{}, {}]
    assert "the payload of JOB_RUNNING cannot be unpickled" in caplog.text
