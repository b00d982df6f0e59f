"""A job that treats its child badly: neither its own answer nor other jobs suffer, unless the child dies."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import Process, Worker, WorkerLostError
from tests.process.test_bad_jobs import HANDLED, Case, Jobs, check_map

BEAT = 50_000
BIG = bytes(1 << 20)  # more than a lane's ring


class Child(Jobs):
    """What its bad jobs may call."""

    def __init__(self, do: Callable[[Any], object], folder: Path) -> None:
        super().__init__(do)
        self.folder = folder
        self.opened: list[Any] = []

    def fork(self, in_copy: Callable[[], object]) -> object:
        """The exit status of a copy that does `in_copy` and comes back from `process()`, too."""
        pid = os.fork()
        return in_copy() if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def thread(self, target: Callable[[], object], *, daemon: bool = True) -> None:
        begun = threading.Event()

        def run() -> None:
            begun.set()
            target()

        threading.Thread(target=run, daemon=daemon).start()
        begun.wait()

    def stay(self) -> None:
        threading.Event().wait()

    def beat(self) -> None:
        while True:
            self.running(beat=bytes(BEAT))

    def close_descriptors(self, low: int, high: int, result: object = None) -> object:
        os.closerange(low, high)
        self.opened += [(self.folder / str(number)).open("w") for number in range(20)]
        self.running(beat=bytes(BEAT))
        return result

    def move(self, *, remove: bool = False) -> None:
        folder = self.folder / "elsewhere"
        folder.mkdir()
        os.chdir(folder)
        if remove:
            folder.rmdir()

    def ignore_signals(self) -> None:
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)

    def leave_an_alarm(self) -> None:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 1000)

    def leave_copy(self) -> None:
        """A copy that outlives the job and its child."""
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        self.opened.append(writing)

    def kill(self, number: int) -> None:
        faulthandler.disable()  # pytest's, which would write a page
        os.kill(os.getpid(), number)
        signal.pause()


def forks(in_copy: Callable[[], object], status: int) -> Case:
    return Case(lambda child: child.fork(in_copy), body=status)


CASES = {
    "copy exits": forks(lambda: os._exit(7), 7),
    "copy returns": forks(lambda: BIG, 0),
    "copy raises": forks(lambda: 1 // 0, 1),
    "copy raises SystemExit": forks(lambda: sys.exit(5), 5),
    "copy raises SystemExit with text": forks(lambda: sys.exit("bye"), 1),
    "copy calls running": Case(lambda child: child.fork(lambda: child.running(beat=b"")), body=0),
    "copy stays": Case(lambda child: child.leave_copy()),
    "daemon thread": Case(lambda child: child.thread(child.stay)),
    "thread": Case(lambda child: child.thread(child.stay, daemon=False)),
    "thread calls running": Case(lambda child: child.thread(child.beat)),
    "thread raises": Case(lambda child: child.thread(lambda: 1 // 0)),
    "closes some descriptors": Case(lambda child: child.close_descriptors(3, 256)),
    "closes descriptors": Case(lambda child: child.close_descriptors(3, 1024)),
    "closes descriptors, big result": Case(
        lambda child: child.close_descriptors(3, 1024, BIG), WorkerLostError
    ),
    "closes all descriptors": Case(lambda child: child.close_descriptors(0, 1024)),
    "changes directory": Case(lambda child: child.move()),
    "removes its directory": Case(lambda child: child.move(remove=True)),
    "ignores signals": Case(lambda child: child.ignore_signals()),
    "leaves an alarm": Case(lambda child: child.leave_an_alarm()),
    "_exit": Case(lambda child: os._exit(3), WorkerLostError, "exited with 3"),
    "SIGKILL": Case(lambda child: child.kill(9), WorkerLostError, "killed by SIGKILL.*memory"),
    "SIGSEGV": Case(lambda child: child.kill(11), WorkerLostError, "killed by SIGSEGV"),
    "writes to stderr": Case(lambda child: print("oh", file=sys.stderr)),
    "closes stdout": Case(lambda child: sys.stdout.close()),
    "closes stderr": Case(lambda child: sys.stderr.close()),
}


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_bad_job_among_good_ones(case: Case, resident: bool, tmp_path: Path) -> None:
    beats = set()
    process = Process(2).on("job_running", lambda process, info: beats.add(len(info["beat"])))
    with process if resident else contextlib.nullcontext():
        check_map(Child(case.do, tmp_path), case, process)
    assert beats <= {BEAT}, "the copy's"
    assert not any(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()), (
        "written by the lane"
    )


def test_threads_that_stay_behind_and_call_running() -> None:
    """They send while their child waits for its next job, and beside the jobs that come."""

    class Beats(Worker):
        def beat(self) -> None:
            while True:
                self.running(beat=bytes(BEAT))

        def process(self, argument: int) -> int:
            if argument == 0:
                for _ in range(3):
                    threading.Thread(target=self.beat, daemon=True).start()
            return argument

    def inputs() -> Iterator[int]:
        for number in range(300):
            yield number
            if number % 10 == 0:
                beaten.clear()
                beaten.wait(0.001)

    beaten = threading.Event()
    for _ in range(5):
        process = Process(2).on("job_running", lambda process: beaten.set())
        assert [response.body for response in process.map(Beats(), inputs())] == list(range(300))
