"""What a job starts goes with its child, however that ends; unless it has a session of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from multiprocessing_kit import JobEvent, JobResponse, Process, Worker
from tests.process.test_caller_death import LONG, Program
from tests.process.test_crashes import in_order, loop, quietly

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits through pidfds")


class Watched:
    """Processes that are none of ours, by pidfds; those that are left are killed."""

    def __init__(self) -> None:
        self._pidfds: list[int] = []

    def add(self, pid: int) -> None:
        self._pidfds.append(os.pidfd_open(pid))

    def all_end(self, patience: float = LONG) -> bool:
        return all(select.select([pidfd], [], [], patience)[0] for pidfd in self._pidfds)

    @property
    def count(self) -> int:
        return len(self._pidfds)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_exc: object) -> None:
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


def start(**options: Any) -> int:
    return subprocess.Popen(["sleep", "1000"], **options).pid


def start_a_tree() -> int:
    """A shell that starts others."""
    return subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"]).pid


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            signal.pause()
    return pid


STARTS = {"a program": start, "a shell": start_a_tree, "a copy": fork}


class Starting(Worker):
    """Starts something, tells of it, and ends as it is told."""

    def __init__(self, begin: Callable[[], int], end: Callable[[], object]) -> None:
        super().__init__()
        self.begin = begin
        self.end = end

    def process(self, argument: object) -> object:
        if argument == "starts":
            self.running(pid=self.begin())
            self.end()
        return argument


def crash() -> None:
    quietly()
    os.kill(os.getpid(), signal.SIGSEGV)


ENDS = {
    "normal": (lambda: None, {}),
    "exit": (lambda: os._exit(0), {}),
    "crash": (crash, {}),
    "timeout": (loop, {"timeout": 0.2}),
    "replaced": (lambda: None, {"max_tasks_per_child": 1}),
    "canceled": (loop, {}),
}


@pytest.mark.parametrize("begin", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("name", ENDS)
def test_it_ends_with_its_child(begin: Callable[[], int], name: str, watched: Watched) -> None:
    end, options = ENDS[name]
    process = Process(2, crash_retries=1, **cast(Any, options))

    def note(process: Process, info: dict[str, Any], job_id: str) -> None:
        watched.add(info["pid"])
        for child in psutil.Process(info["pid"]).children(recursive=True):
            watched.add(child.pid)
        if name == "canceled":
            process.cancel(job_id)

    process.on(JobEvent.JOB_RUNNING, note)
    # The listener has to see it alive, and a child may be gone at once: it waits for what comes next.
    worker = Starting(begin, wait_for_the_listener(process, end))
    responses = in_order(process, worker, [*range(10), "starts", *range(10)])
    assert [response.body for response in responses if response.argument_index != 10] == [*range(10)] * 2
    assert watched.count >= (2 if name in ("exit", "crash") else 1)
    assert watched.all_end()


def wait_for_the_listener(process: Process, end: Callable[[], object]) -> Callable[[], object]:
    reading, writing = os.pipe()
    process.on(JobEvent.JOB_RUNNING, lambda _: os.write(writing, b"."))
    _pipes.extend((reading, writing))

    def wait_and_end() -> object:
        os.read(reading, 1)
        return end()

    return wait_and_end


_pipes: list[int] = []


@pytest.fixture(autouse=True)
def pipes() -> Iterator[None]:
    yield
    while _pipes:
        os.close(_pipes.pop())


def start_or_return(argument: object) -> object:
    """Can be pickled, so that a resident child goes on with it."""
    return start() if argument == "starts" else argument


def test_it_lives_as_long_as_its_child(watched: Watched) -> None:
    """Other jobs and other maps may use it."""
    with Process(1) as process:
        watched.add(cast(int, process.map(start_or_return, ["starts"])[0].body))
        assert [response.body for response in process.map(start_or_return, range(10))] == list(range(10))
        assert not watched.all_end(patience=0.05)
    assert watched.all_end()


def test_a_map_in_a_job(watched: Watched) -> None:
    """Its children have groups of their own; they end when their caller does."""
    reading, writing = os.pipe()

    def inner(argument: int) -> None:
        os.write(writing, f"{os.getpid()}\n".encode())
        loop()

    def job(argument: int) -> object:
        return Process(2).map(inner, range(2))

    def killer(process: Process, pid: int) -> None:
        told = b""
        while told.count(b"\n") < 2:
            told += os.read(reading, 100)
        for line in told.split():
            watched.add(int(line))
        os.kill(pid, signal.SIGKILL)

    try:
        process = Process(1, crash_retries=0).on(JobEvent.JOB_START, killer)
        (response,) = in_order(process, job, [0])
    finally:
        os.close(reading)
        os.close(writing)
    assert not response.ok
    assert watched.count == 2
    assert watched.all_end()


def test_a_session_of_its_own_is_left_alone(watched: Watched) -> None:
    """After a normal end; it is how a job starts something that is to stay."""
    response = cast(JobResponse, Process(1).map(lambda _: start(start_new_session=True), [0])[0])
    watched.add(response.body)
    assert not watched.all_end(patience=0.05)
    assert psutil.Process(response.body).is_running()


@pytest.mark.parametrize("by", ["main", "other"])
@pytest.mark.parametrize("state", ["running", "done"])
def test_the_caller_is_killed(by: str, state: str, tmp_path: Path) -> None:
    """Also where another thread has forked the child, and where the job is long done."""
    code = f"""
        import subprocess
        def job(n):
            started = subprocess.Popen(["sleep", "1000"])
            copy = os.fork()
            if copy == 0:
                while True:
                    signal.pause()
            if {state == "running"}:
                say("busy")
                time.sleep(1000)
        def main():
            with Process(2) as process:
                process.map(job, range(4))
                say("busy")
                signal.pause() if {by == "main"} else time.sleep(1000)
        if {by == "main"}:
            main()
        else:
            thread = threading.Thread(target=main)
            thread.start()
            thread.join()
    """
    with Program(code) as program:
        program.wait_for("busy")
        program.watch_children()
        assert len(program._watched) >= 3
        program.signal(signal.SIGKILL)
        assert program.exitcode == -signal.SIGKILL
        assert program.left() == []
