"""Jobs that take too long: their child is killed, whatever it is at, and no other one is."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import tenacity

from multiprocessing_kit import (
    JobEvent,
    JobResponse,
    JobTimeoutError,
    Process,
    RetryStrategy,
    RetryType,
    Worker,
)
from multiprocessing_kit.runner.child_end import ChildEnd
from tests.process.test_crashes import (
    INPUTS,
    LOST,
    RAISED,
    TIMED_OUT,
    Scripted,
    batches,
    both_types,
    check_script,
    in_order,
    listen,
    loop,
    ways,
)
from tests.process.test_uneven import spin

TIMEOUT = 0.15


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def block_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    threading.Event().wait()


def ignore_all_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    loop()


def swallow_exceptions() -> None:
    while True:
        try:  # noqa: SIM105
            loop()
        except BaseException:
            pass


def match_for_ever() -> None:
    re.match("(a|a)*b", "a" * 60)


def sum_for_ever() -> None:
    sum(range(10**13))


class LoopsIn:
    """Loops when it is unpickled, or when it is pickled."""

    def __init__(self, *, pickling: bool = False) -> None:
        self.pickling = pickling

    def __reduce__(self) -> tuple[Any, ...]:
        if self.pickling:
            loop()
        return loop, ()


class Case(NamedTuple):
    """What the bad job does, and a function that its stacks name, if they can tell."""

    do: Callable[[], object]
    where: str = ""
    argument: object = "bad"


CASES = {
    "Python": Case(loop, "in loop"),
    "Python that catches all": Case(swallow_exceptions, "in loop"),
    "waiting": Case(lambda: threading.Event().wait(), "in wait"),
    "C, holding the GIL": Case(match_for_ever, "in match_for_ever"),
    "C, a sum": Case(sum_for_ever, "in sum_for_ever"),
    "stopped": Case(stop),
    "signals blocked": Case(block_all_signals),
    "signals ignored": Case(ignore_all_signals),
    "unpickling the argument": Case(lambda: None, "in loop", LoopsIn()),
    "pickling the result": Case(lambda: LoopsIn(pickling=True), "in __reduce__"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    "batch_size",
    ["auto", pytest.param(1, marks=pytest.mark.thorough), pytest.param(9, marks=pytest.mark.thorough)],
)
@pytest.mark.parametrize("listens", [False, True], ids=["", "listeners"])
def test_one_long_job(case: Case, batch_size: Any, listens: bool) -> None:
    def job(argument: Any) -> object:
        return argument if isinstance(argument, (int, list)) else case.do()

    process = Process(2, timeout=TIMEOUT, batch_size=batch_size)
    heard: list[tuple[int, str]] = []
    if listens:
        process.on(JobEvent.JOB_START, lambda _: None)
        process.on(
            JobEvent.JOB_FAILED, lambda _, pid, exception: heard.append((pid, type(exception).__name__))
        )
    inputs = [*range(30), [1], case.argument, [2], *range(30)]
    responses = in_order(process, job, inputs)
    bad = responses.pop(31)
    assert [response.body for response in responses] == [*range(30), [1], [2], *range(30)]
    assert {response.attempts for response in responses} == {1}
    error = bad.exception
    assert type(error) is JobTimeoutError
    assert isinstance(error, TimeoutError)
    assert (error.timeout, error.pid, error.job_id) == (TIMEOUT, bad.pid, bad.job_id)
    assert bad.attempts == 1
    assert bad.pid > 0
    assert (case.where in error.stacks) if case.where else error.stacks == ""
    assert f"not done after {TIMEOUT:g} s" in str(error)
    assert error.stacks in str(error)
    assert not listens or heard == [(bad.pid, TIMED_OUT)]


# ── retries ───────────────────────────────────────────────────────────────────────────────────────


@both_types
@pytest.mark.parametrize(
    ("script", "raises"),
    [
        ("hang ok", ""),
        ("hang hang ok", ""),
        ("hang hang hang", TIMED_OUT),
        ("raise hang ok", ""),  # in IMMEDIATE: in the second attempt of a child
        ("hang raise ok", ""),
        ("raise hang raise", RAISED),
        ("raise raise hang", TIMED_OUT),
        ("hang crash hang crash ok", ""),
        ("crash hang crash crash", LOST),
        ("crash hang crash raise hang", TIMED_OUT),
    ],
)
def test_retries(retry_type: RetryType, script: str, raises: str, tmp_path: Path) -> None:
    worker = Scripted(tmp_path / "ran", script, RetryStrategy(2, retry_type))
    check_script(worker, raises=raises, timeout=TIMEOUT)


def test_without_a_strategy_there_is_no_retry(tmp_path: Path) -> None:
    check_script(Scripted(tmp_path / "ran", "hang"), raises=TIMED_OUT, timeout=TIMEOUT)


def test_a_crash_after_which_it_hangs(tmp_path: Path) -> None:
    check_script(Scripted(tmp_path / "ran", "crash crash hang"), raises=TIMED_OUT, timeout=TIMEOUT)


def test_changes_of_a_job_outlive_a_timeout(tmp_path: Path) -> None:
    worker = Scripted(tmp_path / "ran", "raise hang crash ok", RetryStrategy(2, RetryType.REQUEUE))
    worker.on(JobEvent.JOB_RETRY, lambda worker: worker.mirrors.pop(0))
    assert check_script(worker, timeout=TIMEOUT).body == ["second", "third"]


@both_types
def test_the_wait_of_a_strategy_is_kept_to(retry_type: RetryType, tmp_path: Path) -> None:
    strategy = RetryStrategy(2, retry_type, wait=tenacity.wait_fixed(0.05))
    check_script(Scripted(tmp_path / "ran", "hang raise ok", strategy), timeout=TIMEOUT, delay=0.05)


def test_the_wait_between_two_attempts_in_a_child_is_not_held_against_it(tmp_path: Path) -> None:
    strategy = RetryStrategy(2, wait=tenacity.wait_fixed(3 * TIMEOUT))
    worker = Scripted(tmp_path / "ran", "raise raise ok", strategy)
    check_script(worker, timeout=TIMEOUT, delay=3 * TIMEOUT)


def test_each_attempt_has_its_own_time(tmp_path: Path) -> None:
    """Three attempts in one child that take, together, longer than one may."""

    class Slow(Worker):
        def process(self, argument: object) -> int:
            threading.Event().wait(0.25)
            if self.attempt < 4:
                raise ValueError
            return os.getpid()

    (response,) = in_order(Process(1, timeout=0.8), Slow(retry=RetryStrategy(3)), [0])
    assert (response.ok, response.attempts) == (True, 4)


@pytest.mark.parametrize(
    ("refuses", "attempts"), [(TimeoutError, 1), (ValueError, 2)], ids=["not a timeout", "not others"]
)
def test_a_strategy_sees_the_error(refuses: type[Exception], attempts: int, tmp_path: Path) -> None:
    strategy = RetryStrategy(1, retry=tenacity.retry_if_not_exception_type(refuses))
    worker = Scripted(tmp_path / "ran", " ".join(["hang"] * attempts), strategy)
    check_script(worker, raises=TIMED_OUT, timeout=TIMEOUT)


def test_a_strategy_that_raises_is_the_answer_of_its_job_alone(tmp_path: Path) -> None:
    def mistaken(_: object) -> float:
        raise ZeroDivisionError("mistaken")

    worker = Scripted(tmp_path / "ran", "hang", RetryStrategy(2, wait=mistaken))
    responses = in_order(Process(2, timeout=TIMEOUT), worker, INPUTS)
    assert str(responses[40].exception) == "mistaken"
    assert sum(response.ok for response in responses) == len(INPUTS) - 1


# ── who is not too late ───────────────────────────────────────────────────────────────────────────


@ways
@batches
@pytest.mark.parametrize("events", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_tiny_jobs_that_take_longer_all_together(run: Any, batch_size: Any, events: bool) -> None:
    """A limit far beyond each of them never strikes: the children stay the same."""
    count = 100_000 if batch_size == "auto" and not events else 10_000
    turns = 500 if batch_size == "auto" else 3000
    process = Process(2, timeout=1.0, batch_size=batch_size)
    heard: list[object] = []
    if events:
        process.on(JobEvent.JOB_SUCCESS, lambda _, argument: heard.append(argument))

    def job(number: int) -> int:
        spin(turns)
        return number

    responses = run(process, job, range(count))
    assert [response.body for response in responses] == list(range(count))
    assert len({response.pid for response in responses}) <= 2
    assert len(heard) == (count if events else 0)


@pytest.mark.parametrize("resident", [False, True], ids=["inputs", "maps"])
def test_a_child_that_has_nothing_to_do_is_not_late(resident: bool) -> None:
    """Inputs come slower than a job may last, or there is no map for so long."""
    pause = threading.Event()

    def inputs() -> Iterator[int]:
        for number in range(6):
            yield number
            pause.wait(2.5 * TIMEOUT)

    process = Process(1, timeout=TIMEOUT)
    if resident:
        with process:
            pids = set()
            for number in inputs():
                pids |= {response.pid for response in in_order(process, str, [number, -number])}
    else:
        pids = {cast(JobResponse, response).pid for response in process.imap(str, inputs())}
    assert len(pids) == 1


@pytest.mark.parametrize("size", [0, 1 << 17, 1 << 22])
def test_a_caller_that_looks_seldom_kills_nobody(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has listeners that take longer than a job may, or does other things between two responses.

    Not even where there is no time between finding a job late and killing it.
    """
    monkeypatch.setattr("multiprocessing_kit.runner.watch._DUMP_SECONDS", 0.0)
    pause = threading.Event()
    process = Process(2, timeout=TIMEOUT).on(
        JobEvent.JOB_SUCCESS, lambda _, argument: pause.wait(2 * TIMEOUT if argument % 100 == 50 else 0)
    )
    responses = []
    for response in process.imap(lambda number: bytes(size), range(400)):
        responses.append(cast(JobResponse, response))
        if len(responses) % 100 == 0:
            pause.wait(2 * TIMEOUT)
    assert [response.exception for response in responses] == [None] * 400
    assert len({response.pid for response in responses}) <= 2


# ── a child that is stopped between two jobs ──────────────────────────────────────────────────────


class Stop:
    """Stops a child once, between two jobs."""

    def __init__(self, folder: Path) -> None:
        self._wanted, self._done = folder / "wanted", folder / "done"

    def want(self) -> None:
        """In a job: when it is over; also where it is run again because its answer was not sent yet."""
        if not self.done:
            self._wanted.touch()

    @property
    def done(self) -> bool:
        return self._done.exists()

    def do(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._wanted.rename(self._done)
            os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stop:
    stopping, end = Stop(tmp_path), ChildEnd.end

    def end_and_stop(self: ChildEnd) -> None:
        end(self)
        stopping.do()

    monkeypatch.setattr(ChildEnd, "end", end_and_stop)
    return stopping


@batches
@pytest.mark.parametrize("processes", [1, 3])
def test_a_child_that_is_stopped_between_two_jobs(processes: int, batch_size: Any, stopping: Stop) -> None:
    def job(number: int) -> int:
        spin(1000)
        if number == 500:
            stopping.want()
        return number

    responses = in_order(Process(processes, timeout=TIMEOUT, batch_size=batch_size), job, range(1000))
    assert [response.body for response in responses] == list(range(1000))
    assert {response.attempts for response in responses} == {1}
    assert len({response.pid for response in responses}) > 1
    assert stopping.done


# The worker does not pickle: between two maps its child is asked to end, which a stopped one does not hear.
@pytest.mark.parametrize(
    "resident", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["inputs", "maps"]
)
def test_a_child_that_is_stopped_while_it_waits(resident: bool, tmp_path: Path) -> None:
    """It does not even take what it is sent then."""
    reading, writing = os.pipe()

    class Stopped(Worker):
        """Its first child stops before it sleeps."""

        def setup(self) -> None:
            if not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                threading.Thread(target=self.stop, daemon=True).start()

        def stop(self) -> None:
            os.read(reading, 1)
            os.kill(os.getpid(), signal.SIGSTOP)

        def process(self, argument: int) -> int:
            return argument

    process = Process(1, timeout=TIMEOUT, window=1)

    def stop_it(pid: int) -> None:
        os.write(writing, b".")
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

    try:
        if resident:
            with process:
                responses = in_order(process, Stopped(), [0])
                stop_it(responses[0].pid)
                responses += in_order(process, Stopped(), [1, 2])
        else:
            stream = cast("Iterator[JobResponse]", process.imap(Stopped(), range(3)))
            responses = [next(stream)]
            stop_it(responses[0].pid)
            responses += list(stream)
    finally:
        os.close(reading)
        os.close(writing)
    assert [response.body for response in responses] == [0, 1, 2]
    assert {response.attempts for response in responses} == {1}
    assert responses[0].pid != responses[1].pid == responses[2].pid


def test_nobody_hears_of_a_retry_of_what_had_not_begun(stopping: Stop) -> None:
    def job(argument: object) -> object:
        if argument == 3:
            stopping.want()
        return argument

    process = Process(1, timeout=TIMEOUT)
    heard = listen(process)
    responses = in_order(process, job, [*range(5), "bad", *range(5)])
    assert [response.body for response in responses] == [*range(5), "bad", *range(5)]
    assert heard == [("SUCCESS", 1, "bad", None, "")]
