"""Children that are replaced in good time: after so many jobs, or when they have grown too large."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, Process, RetryStrategy, RetryType, Worker, WorkerLostError
from multiprocessing_kit.runner import crew, stream
from multiprocessing_kit.supervise.memory import own_memory
from multiprocessing_kit.supervise.stop import StopSteps
from tests.process.test_crashes import batches, in_order, loop, ways

MB = 1 << 20


class Noting(Worker):
    """Notes what is called, and where."""

    def __init__(self, path: Path, retry: RetryStrategy | None = None) -> None:
        super().__init__(retry=retry)
        self.path = path
        self.child = ""

    def note(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{what} {self.child}\n")

    def setup(self) -> None:
        self.child = f"{os.getpid()}-{time.monotonic_ns()}"  # among many children, a pid comes again
        self.note("setup")

    def process(self, argument: Any) -> Any:
        self.note("process")
        return argument

    def teardown(self) -> None:
        self.note("teardown")

    def noted(self, what: str) -> Counter[str]:
        """How often each child did it."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return Counter(child for noted, child in lines if noted == what)

    def check_ends(self, *, unused: int) -> None:
        """Each child was set up once, and ended in order.

        Towards the end, a child may be made for a job that another is quicker to take.
        """
        set_up, processed = self.noted("setup"), self.noted("process")
        assert set(set_up.values()) == {1}
        assert set_up == self.noted("teardown")
        assert processed.keys() <= set_up.keys()
        assert len(set_up) - len(processed) <= unused


def check(worker: Noting, tasks: int, jobs: int, *, alone: bool) -> None:
    """`jobs` were run by as many children as that takes, each of which ended in order."""
    processed = worker.noted("process")
    assert sum(processed.values()) == jobs
    assert max(processed.values()) <= tasks
    least = tasks - tasks // 10
    assert len(processed) >= -(-jobs // tasks)
    if alone:
        assert len(processed) <= -(-jobs // least)
        assert min([*processed.values()][:-1], default=least) >= least
    worker.check_ends(unused=0 if alone else 2)


@pytest.mark.parametrize(("tasks", "jobs"), [(1, 30), (2, 60), (7, 200), (1000, 5000)])
@ways
@batches
@pytest.mark.parametrize("processes", [1, 3])
def test_after_so_many_jobs(  # noqa: PLR0917
    tasks: int, jobs: int, run: Any, batch_size: Any, processes: int, tmp_path: Path
) -> None:
    worker = Noting(tmp_path / "notes")
    process = Process(processes, max_tasks_per_child=tasks, batch_size=batch_size)
    responses = run(process, worker, range(jobs))
    assert [response.body for response in responses] == list(range(jobs))
    assert {response.attempts for response in responses} == {1}
    check(worker, tasks, jobs, alone=processes == 1)


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tasks", [1, 2, 7, 100_000])
def test_a_hundred_thousand_jobs(tasks: int, tmp_path: Path) -> None:
    """For as many children."""
    worker = Noting(tmp_path / "notes")
    responses = Process(3, max_tasks_per_child=tasks).map(worker, range(100_000))
    assert [response.body for response in responses] == list(range(100_000))
    check(worker, tasks, 100_000, alone=False)


@pytest.mark.parametrize("tasks", [1, 7])
@pytest.mark.parametrize("processes", [1, 2])
def test_resident_children(tasks: int, processes: int, tmp_path: Path) -> None:
    """Maps go on counting where the last one left off."""
    worker = Noting(tmp_path / "notes")
    with Process(processes, max_tasks_per_child=tasks) as process:
        for _ in range(4):
            assert [response.body for response in process.map(worker, range(10))] == list(range(10))
    check(worker, tasks, 40, alone=processes == 1)


class Failing(Noting):
    """Each job fails once."""

    def process(self, argument: Any) -> Any:
        super().process(argument)
        if self.attempt == 1:
            raise ValueError(argument)
        return argument


@pytest.mark.parametrize("tasks", [1, 2, 7])
@pytest.mark.parametrize("retry_type", RetryType)
@pytest.mark.parametrize("listens", [False, True])
def test_jobs_that_are_run_again(tasks: int, retry_type: RetryType, listens: bool, tmp_path: Path) -> None:
    """A requeued job counts each time that a child is given it."""
    worker = Failing(tmp_path / "notes", RetryStrategy(1, retry_type))
    process = Process(2, max_tasks_per_child=tasks)
    heard: Counter[object] = Counter()
    if listens:
        process.on(JobEvent.JOB_RETRY, lambda _, argument: heard.update([argument]))
    responses = in_order(process, worker, range(40))
    assert [(response.body, response.attempts) for response in responses] == [(n, 2) for n in range(40)]
    processed = worker.noted("process")
    assert sum(processed.values()) == 80
    assert max(processed.values()) <= tasks * (2 if retry_type is RetryType.IMMEDIATE else 1)
    worker.check_ends(unused=1)
    assert not listens or heard == Counter(range(40))


def test_jobs_that_crash_among_them(tmp_path: Path) -> None:
    class Crashing(Noting):
        def process(self, argument: Any) -> Any:
            super().process(argument)
            if argument % 10 == 3:
                os._exit(3)
            return argument

    worker = Crashing(tmp_path / "notes")
    responses = in_order(Process(2, max_tasks_per_child=4), worker, range(60))
    for number, response in enumerate(responses):
        if number % 10 == 3:
            assert type(response.exception) is WorkerLostError
            assert response.attempts == 3
        else:
            assert response.body == number
    assert max(worker.noted("process").values()) <= 4


def test_a_teardown_that_fails_or_takes_its_child_with_it(tmp_path: Path) -> None:
    """The answers are there already."""

    class Bad(Noting):
        def teardown(self) -> None:
            if len(self.noted("setup")) % 2:
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)

    worker = Bad(tmp_path / "notes")
    responses = in_order(Process(2, max_tasks_per_child=2), worker, range(40))
    assert [(response.body, response.attempts) for response in responses] == [(n, 1) for n in range(40)]


@pytest.mark.parametrize("why", ["jobs", "memory"])
def test_a_teardown_that_hangs(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is given the time that it has at the end of a run, and another one goes on."""

    class Hanging(Leaking):
        def teardown(self) -> None:
            super().teardown()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()

    for place in (crew, stream):
        monkeypatch.setattr(place, "IN_ORDER", StopSteps(asked=0.2, terminated=0.1))
    options: dict[str, Any] = (
        {"max_tasks_per_child": 2} if why == "jobs" else {"max_memory_per_child": base() + 100 * MB}
    )
    worker = Hanging(tmp_path / "notes")
    responses = in_order(Process(1, **options), worker, range(8))
    assert [(response.body, response.attempts) for response in responses] == [(n, 1) for n in range(8)]
    assert len(worker.noted("teardown")) > 1


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


def base() -> int:
    """What a child has from its parent when it starts."""
    return own_memory(os.getpid())


class Leaking(Noting):
    def process(self, argument: Any) -> Any:
        self.leaked = [*getattr(self, "leaked", []), b"." * (32 * MB)]
        return super().process(argument)


@batches
@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_a_child_that_has_grown_is_replaced_before_its_next_job(
    batch_size: Any, resident: bool, tmp_path: Path
) -> None:
    worker = Leaking(tmp_path / "notes")
    process = Process(2, max_memory_per_child=base() + 100 * MB, batch_size=batch_size)
    with process if resident else contextlib.nullcontext():
        responses = in_order(process, worker, range(30))
        if resident:
            responses += in_order(process, worker, range(30))
    assert [response.body for response in responses] == [*range(30)] * (2 if resident else 1)
    assert {response.attempts for response in responses} == {1}
    processed = worker.noted("process")
    assert max(processed.values()) <= 6, "with 32 MB each"
    assert len(processed) >= 5
    worker.check_ends(unused=1)


def test_a_job_that_takes_too_much_is_killed(tmp_path: Path) -> None:
    limit = base() + 50 * MB

    class Greedy(Noting):
        def process(self, argument: Any) -> Any:
            if argument == "greedy":
                super().process(argument)
                block = b"." * (2 * limit)
                while block:
                    signal.pause()
            return argument

    worker = Greedy(tmp_path / "notes")
    process = Process(2, max_memory_per_child=limit, crash_retries=1)
    retried: list[object] = []
    process.on(JobEvent.JOB_RETRY, lambda _, argument, attempt: retried.append((argument, attempt)))
    responses = in_order(process, worker, [*range(20), "greedy", *range(20)])
    bad = responses.pop(20)
    assert [response.body for response in responses] == [*range(20)] * 2
    assert {response.attempts for response in responses} == {1}
    error = bad.exception
    assert isinstance(error, WorkerLostError)
    assert (error.exitcode, error.signal_name, error.attempts) == (-signal.SIGKILL, "SIGKILL", 2)
    assert "over twice the max_memory_per_child" in str(error)
    assert error.peak_memory > 2 * limit
    assert retried == [("greedy", 1)]
    assert sum(worker.noted("process").values()) == 2


def test_memory_that_jobs_give_back_costs_no_child() -> None:
    def job(_: object) -> int:
        return len(b"." * (60 * MB))

    responses = in_order(Process(2, max_memory_per_child=base() + 100 * MB), job, range(30))
    assert {response.body for response in responses} == {60 * MB}
    assert len({response.pid for response in responses}) <= 2


def test_all_limits_at_once(tmp_path: Path) -> None:
    """A job for each, and good ones between them."""

    class Bad(Noting):
        def process(self, argument: Any) -> Any:
            super().process(argument)
            if argument % 50 == 7:
                os._exit(3)
            if argument % 50 == 9:
                loop()
            return argument

    worker = Bad(tmp_path / "notes")
    limits: dict[str, Any] = {"timeout": 1.0, "crash_retries": 1, "max_tasks_per_child": 20}
    process = Process(3, max_memory_per_child=base() + 100 * MB, **limits)
    responses = in_order(process, worker, range(300))
    kinds = Counter(type(response.exception).__name__ for response in responses)
    assert kinds == {"NoneType": 288, "WorkerLostError": 6, "JobTimeoutError": 6}
    assert max(worker.noted("process").values()) <= 20
