"""Children that die: their job is run again, or answered for it; nobody else pays."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import os
import pickle
import random
import resource
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import psutil
import pytest

from multiprocessing_kit import (
    JobEvent,
    JobResponse,
    JobTimeoutError,
    PoolError,
    Process,
    RetryStrategy,
    RetryType,
    Worker,
    WorkerLostError,
)
from tests.process.test_uneven import Ran, spin

TIMEOUT = 0.2
PATIENCE = 20.0  # seconds, where the right answer takes a fraction of one and a wrong one for ever

both_types = pytest.mark.parametrize("retry_type", RetryType)


def quietly() -> None:
    """Neither pytest's faulthandler nor the system writes pages about the death to come."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def kill(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def overflow_the_stack() -> None:
    """Calls in C, which no limit of Python's counts."""
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    nested: Iterator[int] = iter([1])
    for _ in range(60_000):
        nested = itertools.chain(nested, ())
    next(nested)


def run_out_of_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def loop() -> None:
    while True:
        pass


class Case(NamedTuple):
    """What the bad job does, what it is answered with, and how often it is run."""

    do: Callable[[], object]
    raises: type[BaseException] = WorkerLostError
    exitcode: int = 0
    attempts: int = 3


CASES = {
    "SIGKILL": Case(lambda: kill(signal.SIGKILL), exitcode=-signal.SIGKILL),
    "SIGTERM": Case(lambda: kill(signal.SIGTERM), exitcode=-signal.SIGTERM),
    "abort": Case(os.abort, exitcode=-signal.SIGABRT),
    "segfault": Case(lambda: ctypes.string_at(0), exitcode=-signal.SIGSEGV),
    "_exit 3": Case(lambda: os._exit(3), exitcode=3),
    "_exit 0": Case(lambda: os._exit(0), exitcode=0),
    "C stack overflow": Case(overflow_the_stack, exitcode=-signal.SIGSEGV),
    "out of memory": Case(run_out_of_memory, MemoryError, attempts=1),
    "SIGSTOP": Case(lambda: kill(signal.SIGSTOP), JobTimeoutError, attempts=1),
    "for ever": Case(loop, JobTimeoutError, attempts=1),
}


def unordered(process: Process, job: Any, inputs: Any) -> list[JobResponse]:
    responses = cast("Iterator[JobResponse]", process.imap(job, inputs, ordered=False))
    return sorted(responses, key=lambda response: response.argument_index)


def in_order(process: Process, job: Any, inputs: Any) -> list[JobResponse]:
    return cast("list[JobResponse]", list(process.map(job, inputs)))


ways = pytest.mark.parametrize("run", [in_order, unordered])
batches = pytest.mark.parametrize("batch_size", ["auto", 1])


def check(response: JobResponse, case: Case) -> None:
    """It is the answer of a bad job."""
    error = response.exception
    assert type(error) is case.raises
    assert response.attempts == case.attempts
    if isinstance(error, WorkerLostError):
        assert (error.exitcode, error.attempts) == (case.exitcode, case.attempts)
        assert error.signal_name == (signal.Signals(-case.exitcode).name if case.exitcode < 0 else "")
        assert error.peak_memory > 1 << 20
    if isinstance(error, (WorkerLostError, JobTimeoutError)):
        assert response.pid == error.pid > 0
        assert response.job_id == error.job_id != ""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@ways
@batches
def test_a_bad_job_alone(case: Case, run: Any, batch_size: Any) -> None:
    def job(_: object) -> object:
        quietly()
        return case.do()

    timeout = TIMEOUT if case.raises is JobTimeoutError else None
    (response,) = run(Process(2, batch_size=batch_size, timeout=timeout), job, [0])
    check(response, case)


@pytest.mark.parametrize(
    ("name", "run", "batch_size"),
    [
        pytest.param(
            name,
            run,
            batch_size,
            marks=[] if (run is in_order) == (batch_size == 1) and at % 2 else [pytest.mark.thorough],
            id=f"{name}-{run.__name__}-{batch_size}",
        )
        for at, name in enumerate([*CASES][::-1])
        for run in (in_order, unordered)
        for batch_size in ("auto", 1)
    ],
)
def test_twenty_bad_jobs_among_good_ones(name: str, run: Any, batch_size: Any) -> None:
    check_among_good_ones(name, run, batch_size, bad=20, count=2000)


def check_among_good_ones(name: str, run: Any, batch_size: Any, *, bad: int, count: int) -> None:
    """Bad jobs are answered as they should, and good ones are."""
    case = CASES[name]
    bad_ones = set(random.Random(name).sample(range(count), bad))

    def job(number: int) -> object:
        if number in bad_ones:
            quietly()
            return case.do()
        return number * 3

    timeout = TIMEOUT if case.raises is JobTimeoutError else None
    responses = run(Process(4, batch_size=batch_size, timeout=timeout), job, range(count))
    assert [response.argument_index for response in responses] == list(range(count))
    for number, response in enumerate(responses):
        if number in bad_ones:
            check(response, case)
        else:
            assert (response.body, response.attempts) == (number * 3, 1)


# ── run again ─────────────────────────────────────────────────────────────────────────────────────


class Scripted(Worker):
    """Each attempt does the next thing of a script: "crash", "raise", "hang" or "ok"."""

    def __init__(self, path: Path, script: str, retry: RetryStrategy | None = None) -> None:
        super().__init__(retry=retry)
        self.path = path
        self.script = script.split()
        self.mirrors = ["first", "second", "third"]

    def process(self, argument: object) -> object:
        if argument != "bad":
            return argument
        with self.path.open("a") as file:
            file.write(f"{self.attempt}\n")
        does = self.script[len(self.attempts()) - 1]
        if does == "crash":
            os._exit(3)
        if does == "hang":
            loop()
        if does == "raise":
            raise ValueError(self.attempt)
        return self.mirrors

    def attempts(self) -> list[int]:
        """What was begun so far."""
        return [int(line) for line in self.path.read_text().split()]


def listen(process: Process) -> list[tuple[str, int, object, object, str]]:
    """(event, attempt, argument, delay, exception) of all retries and ends of the bad job."""
    heard: list[tuple[str, int, object, object, str]] = []

    def listener(
        _: Process, event: JobEvent, attempt: int, argument: object, delay: object, exception: object
    ) -> None:
        if argument == "bad":
            error = "" if exception is None else type(exception).__name__
            heard.append((event.name[4:], attempt, argument, delay, error))

    for event in (JobEvent.JOB_RETRY, JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED):
        process.on(event, listener)
    return heard


INPUTS = [*range(40), "bad", *range(40)]
LOST, TIMED_OUT, RAISED = "WorkerLostError", "JobTimeoutError", "ValueError"
ERRORS = {"crash": LOST, "hang": TIMED_OUT, "raise": RAISED}


def check_script(worker: Scripted, *, raises: str = "", delay: float = 0.0, **options: Any) -> JobResponse:
    """All of its script is run, and told of."""
    count = len(worker.script)
    process = Process(2, **options)
    heard = listen(process)
    responses = in_order(process, worker, INPUTS)
    assert [response.body for response in responses if response.argument_index != 40] == [*range(40)] * 2
    assert worker.attempts() == list(range(1, count + 1))
    *retries, last = heard
    assert retries == [
        ("RETRY", number, "bad", 0.0 if does == "crash" else delay, ERRORS[does])
        for number, does in enumerate(worker.script[:-1], 1)
    ]
    assert last == ("FAILED" if raises else "SUCCESS", count, "bad", None, raises)
    response = responses[40]
    assert (response.attempts, type(response.exception).__name__ if raises else "") == (count, raises)
    return response


@batches
@pytest.mark.parametrize("script", ["crash ok", "crash crash ok"])
def test_a_job_that_crashes_and_then_succeeds(script: str, batch_size: Any, tmp_path: Path) -> None:
    response = check_script(Scripted(tmp_path / "ran", script), batch_size=batch_size)
    assert response.ok
    assert response.pid > 0


@pytest.mark.parametrize("crash_retries", [0, 1, 2, 5])
@pytest.mark.parametrize("events", [True, False])
def test_how_often_a_job_may_crash(crash_retries: int, events: bool, tmp_path: Path) -> None:
    worker = Scripted(tmp_path / "ran", " ".join(["crash"] * (crash_retries + 1)))
    if events:
        check_script(worker, raises=LOST, crash_retries=crash_retries)
        return
    response = in_order(Process(2, crash_retries=crash_retries), worker, INPUTS)[40]
    assert (type(response.exception), response.attempts) == (WorkerLostError, crash_retries + 1)
    assert worker.attempts() == list(range(1, crash_retries + 2))


@both_types
@pytest.mark.parametrize(
    ("script", "raises"),
    [
        ("raise crash ok", ""),  # in IMMEDIATE: in the second attempt of a child
        ("crash raise ok", ""),
        ("raise crash raise crash ok", ""),
        ("raise crash raise raise", RAISED),  # two retries, and no more for its crash
        ("crash crash raise raise raise", RAISED),
        ("raise crash crash crash", LOST),
        ("crash raise crash raise crash", LOST),
    ],
)
def test_crashes_and_failures_have_limits_of_their_own(
    retry_type: RetryType, script: str, raises: str, tmp_path: Path
) -> None:
    check_script(Scripted(tmp_path / "ran", script, RetryStrategy(2, retry_type)), raises=raises)


@pytest.mark.parametrize("script", ["raise crash ok", "crash raise ok", "raise crash crash ok"])
def test_changes_of_a_job_outlive_a_crash(script: str, tmp_path: Path) -> None:
    """What a listener of JOB_RETRY changes in a child travels with the job."""
    worker = Scripted(tmp_path / "ran", script, RetryStrategy(2, RetryType.REQUEUE))
    worker.on(JobEvent.JOB_RETRY, lambda worker: worker.mirrors.pop(0))
    assert check_script(worker).body == ["second", "third"]


def test_only_the_job_under_way_is_charged(tmp_path: Path) -> None:
    """Those before it in its lease may run once more, those behind it have not begun."""

    def job(number: int) -> int:
        ran.note(number)
        if number == 520:
            os._exit(3)
        return number

    with Ran(tmp_path / "ran") as ran:
        responses = in_order(Process(1, batch_size=50), job, range(1000))
        counts = ran.counts()
    assert {response.attempts for response in responses if response.argument_index != 520} == {1}
    assert counts[520] == responses[520].attempts == 3
    assert {counts[number] for number in range(1000) if not 500 <= number < 520} - {3} == {1}


def test_work_that_must_not_be_repeated_is_not(tmp_path: Path) -> None:
    deadly = set(range(7, 300, 13))

    def job(number: int) -> int:
        ran.note(number)
        if number in deadly:
            os._exit(3)
        return number

    with Ran(tmp_path / "ran") as ran:
        responses = in_order(Process(3, batch_size=1, crash_retries=0), job, range(300))
        assert ran.counts() == Counter(range(300))
    assert {number for number in range(300) if not responses[number].ok} == deadly


def test_what_the_error_tells() -> None:
    def job(_: object) -> None:
        block = bytearray(100 << 20)
        block[::4096] = b"." * len(block[::4096])
        kill(signal.SIGKILL)

    (response,) = in_order(Process(1), job, [0])
    error = response.exception
    assert isinstance(error, WorkerLostError)
    assert 100 << 20 < error.peak_memory < 10 << 30
    assert f"child {error.pid} was killed by SIGKILL while it ran this job (attempt 3)" in str(error)
    assert f"it had {error.peak_memory / 1e6:.0f} MB resident" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


# ── setup() ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "do",
    [lambda: 1 // 0, lambda: sys.exit(3), *(CASES[name].do for name in ("segfault", "SIGKILL", "_exit 0"))],
    ids=["raises", "exits", "segfaults", "SIGKILL", "_exit 0"],
)
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_setup_that_ends_its_child(
    do: Callable[[], object], processes: int, resident: bool, tmp_path: Path
) -> None:
    """The run ends, soon, and not after forking for ever."""

    class Bad(Worker):
        def setup(self) -> None:
            ran.note(0)
            quietly()
            do()

        def process(self, argument: object) -> None:
            pass

    began = time.monotonic()
    process = Process(processes)
    with Ran(tmp_path / "ran") as ran, process if resident else contextlib.nullcontext():
        with pytest.raises(PoolError):
            process.map(Bad(), range(1000))
        assert 0 < ran.counts()[0] <= 3 * max(3, 2 * processes)
    assert time.monotonic() - began < 5


@ways
def test_what_was_done_long_before_a_crash_is_not_run_again(run: Any, tmp_path: Path) -> None:
    """Its answers do not wait behind the job that is under way, whether anybody waits for them or not."""
    with Ran(tmp_path / "ran") as ran:

        def job(number: int) -> int:
            ran.note(number)
            if number == 40:
                time.sleep(0.5)  # fifty times as long as answers may wait
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        responses = list(run(Process(1, crash_retries=0), job, range(500)))
        counts = ran.counts()
    assert len(responses) == 500
    assert {number for number, count in counts.items() if count > 1} <= {*range(41, 500)}


# ── storms ────────────────────────────────────────────────────────────────────────────────────────


# Where jobs travel together, those that were done in the last 10 ms. Theirs are 20 µs, and more.
AGAIN: dict[object, int] = {1: 1, "auto": 500}


class Killer:
    """A process that kills a random child of ours for each time that it is asked to.

    Args:
        kills: How many it is asked for.
        seed: Of its choice.
    """

    def __init__(self, kills: int, seed: int) -> None:
        self._asked = os.pipe()
        self._done = os.pipe()
        self._caller = psutil.Process()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._asked[1])
                self._work(kills, random.Random(seed))
                os._exit(0)
            finally:
                os._exit(1)

    def _work(self, kills: int, rng: random.Random) -> None:
        for _ in range(kills):
            while os.read(self._asked[0], 1):
                children = [child.pid for child in self._caller.children() if child.pid != os.getpid()]
                if children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rng.choice(children), signal.SIGKILL)
                    break
            os.write(self._done[1], b".")

    def kill_one(self) -> None:
        """In a job: returns when it has happened, perhaps to another child."""
        os.write(self._asked[1], b".")
        select.select([self._done[0]], [], [], PATIENCE)
        os.read(self._done[0], 1)

    def close(self) -> None:
        """One who was to ask may have been killed before it did; so it is not waited for."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        for descriptor in (*self._asked, *self._done):
            os.close(descriptor)


def check_storm(
    run: Any, process: Process, path: Path, *, count: int, kills: int, seed: int, again: int
) -> None:
    """Each job is answered once, whoever is killed, and at most `again` are run again for each kill."""
    rng = random.Random(seed)
    calls = set(rng.sample(range(count), kills))
    killer = Killer(kills, seed)
    try:
        with Ran(path) as called, Ran(path.with_suffix(".begun")) as begun:

            def job(number: int) -> object:
                begun.note(number)
                spin(300)
                if number in calls and not called.counts()[number]:
                    called.note(number)
                    killer.kill_one()
                return [number] if number % 1000 == 1 else number * 7

            responses = run(process, job, range(count))
            assert called.counts() == Counter(calls)
            assert begun.counts().total() <= count + again * kills
    finally:
        killer.close()
    assert [response.argument_index for response in responses] == list(range(count))
    bodies = [[number] if number % 1000 == 1 else number * 7 for number in range(count)]
    assert [response.body for response in responses] == bodies


@ways
@batches
@pytest.mark.parametrize("resident", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_storm(run: Any, batch_size: Any, resident: bool, tmp_path: Path) -> None:
    process = Process(3, batch_size=batch_size, crash_retries=100)
    again = AGAIN[batch_size]
    with process if resident else contextlib.nullcontext():
        check_storm(run, process, tmp_path / "called", count=20_000, kills=50, seed=1, again=again)
        if resident:
            check_storm(run, process, tmp_path / "again", count=2000, kills=10, seed=2, again=again)


@pytest.mark.parametrize("size", [20_000, 300_000], ids=["ring full", "arena"])
@ways
@batches
def test_a_storm_of_large_data(size: int, run: Any, batch_size: Any, tmp_path: Path) -> None:
    """Children wait for room, or for memory, with the caller slow to make any, when they are killed."""
    count, kills = 600, 30
    calls = set(random.Random(4).sample(range(count), kills))
    pause = threading.Event()
    killer = Killer(kills, 5)
    process = Process(3, batch_size=batch_size, crash_retries=100)
    process.on(JobEvent.JOB_SUCCESS, lambda _, argument: pause.wait(0.05 if argument[0] % 50 == 0 else 0))
    try:
        with Ran(tmp_path / "called") as called:

            def job(argument: tuple[int, bytes]) -> bytes:
                number, data = argument
                if number in calls and not called.counts()[number]:
                    called.note(number)
                    killer.kill_one()
                return data

            inputs = [(number, number.to_bytes(2, "little") * (size // 2)) for number in range(count)]
            responses = run(process, job, inputs)
            assert called.counts() == Counter(calls)
    finally:
        killer.close()
    assert [response.argument_index for response in responses] == list(range(count))
    assert [response.body for response in responses] == [data for _, data in inputs]


@pytest.mark.parametrize("ordered", [True, False])
@batches
def test_the_caller_kills_its_children_as_answers_come(ordered: bool, batch_size: Any) -> None:
    rng = random.Random(3)
    moments = set(rng.sample(range(5000), 50))
    process = Process(3, batch_size=batch_size, crash_retries=100)
    answered: Counter[int] = Counter()
    heard: Counter[object] = Counter()
    process.on(JobEvent.JOB_SUCCESS, lambda _, argument: heard.update([argument]))

    def job(number: int) -> int:
        spin(300)
        return -number

    stream = cast("Iterator[JobResponse]", process.imap(job, range(5000), ordered=ordered))
    for place, response in enumerate(stream):
        assert response.body == -response.argument_index
        answered[response.argument_index] += 1
        if place in moments:
            children = psutil.Process().children()
            if children:
                rng.choice(children).kill()
    assert answered == heard == Counter(range(5000))
