"""Many jobs in one lease: each is still a job of its own."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import tenacity

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    JobStatus,
    Process,
    Response,
    RetriesExhaustedError,
    RetryStrategy,
    RetryType,
    SerializationError,
    Worker,
    WorkerLostError,
)

COUNT = 3000
BAD = (0, 1, 2, 700, 1501, 1502, 2998, 2999)
"""Jobs at the start, where leases are small; in the middle of large ones; neighbours; and the last."""


def _sizes(*sizes: object) -> pytest.MarkDecorator:
    """By default, and of these sizes."""
    rarer = (pytest.param(size, marks=pytest.mark.thorough) for size in sizes)
    return pytest.mark.parametrize("batch_size", ["auto", *rarer])


ALL_SIZES = _sizes(1, 7, 1000)
SIZES = _sizes(50)


def double(number: int) -> int:
    return 2 * number


def bodies(responses: Iterable[Response]) -> list[Any]:
    return [response.body for response in responses]


def plain(number: int) -> int:
    return number


def in_list(number: int) -> list[int]:
    """As `plain`, but not of the kind that travels together with others."""
    return [number]


BOTH_KINDS = pytest.mark.parametrize("make", [plain, in_list])


def number_of(argument: Any) -> int:
    return cast(int, argument[0] if isinstance(argument, list) else argument)


class Log:
    """Lines that children write and the caller reads, in whichever order they came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def write(self, *words: object) -> None:
        line = " ".join(map(str, words)) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def read(self) -> list[list[str]]:
        return [line.split() for line in self._path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def check_others(responses: Iterable[Response], count: int = COUNT, bad: Iterable[int] = BAD) -> None:
    """All that are not bad are answered as `number_of` would."""
    found = cast("list[JobResponse]", list(responses))
    assert [response.argument_index for response in found] == list(range(count))
    assert len({response.job_id for response in found}) == count
    assert [r.argument_index for r in found if r.body != r.argument_index] == list(bad)


# ── good jobs ─────────────────────────────────────────────────────────────────────────────────────


def test_a_hundred_thousand_tiny_jobs() -> None:
    responses = cast("list[JobResponse]", Process(2).map(double, range(100_000)))
    assert bodies(responses) == list(range(0, 200_000, 2))
    assert [response.argument_index for response in responses] == list(range(100_000))
    run_id, _ = responses[0].job_id.split("-")
    assert [response.job_id for response in responses] == [f"{run_id}-{index}" for index in range(100_000)]
    assert {(r.ok, r.attempts, r.exit_code, r.exception) for r in responses} == {(True, 1, 0, None)}
    assert len({response.pid for response in responses}) <= 2
    assert all(response.duration > 0 for response in responses)


INPUTS: dict[str, Callable[[int], Iterable[Any]]] = {
    "range": range,
    "list": lambda count: list(range(count)),
    "generator": lambda count: (number for number in range(count)),
    "text": lambda count: list(map(str, range(count))),
    "bytes": lambda count: [str(number).encode() for number in range(count)],
    "floats": lambda count: [number / 3 for number in range(count)],
    "mixed numbers": lambda count: [
        (number, number / 3, number % 2 == 0, None)[number % 4] for number in range(count)
    ],
    "mixed": lambda count: [(number, str(number), None, [number])[number % 4] for number in range(count)],
    "tuples": lambda count: [(number, str(number)) for number in range(count)],
    "lists": lambda count: [[number, [number]] for number in range(count)],
    "large": lambda count: [bytes([number % 256]) * (1 << 14) for number in range(count // 10)],
    "of all sizes": lambda count: [bytes(1 << number % 18) for number in range(count // 10)],
}


@ALL_SIZES
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_each_input_is_answered_once(batch_size: Any, inputs: Callable[[int], Iterable[Any]]) -> None:
    expected = [(type(argument), argument) for argument in inputs(COUNT)]
    process = Process(2, batch_size=batch_size)

    def job(argument: Any) -> Any:
        return argument

    responses = process.map(job, inputs(COUNT))
    assert [(type(body), body) for body in bodies(responses)] == expected
    ordered = list(process.imap(job, inputs(COUNT)))
    assert [(type(body), body) for body in bodies(ordered)] == expected
    unordered = cast("list[JobResponse]", list(process.imap(job, inputs(COUNT), ordered=False)))
    unordered.sort(key=lambda response: response.argument_index)
    assert [(type(body), body) for body in bodies(unordered)] == expected
    assert [response.argument_index for response in unordered] == list(range(len(expected)))


@ALL_SIZES
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("window", [1, 10, None])
def test_imap_with_a_window(batch_size: Any, processes: int, window: int | None) -> None:
    process = Process(processes, batch_size=batch_size, window=window)
    assert bodies(process.imap(double, range(1000))) == list(range(0, 2000, 2))
    assert sorted(bodies(process.imap(double, iter(range(1000)), ordered=False))) == list(range(0, 2000, 2))


@pytest.mark.parametrize(
    ("batch_size", "error"),
    [
        (0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError),
        ("1", TypeError), ("AUTO", TypeError), ("", TypeError),
    ],
)  # fmt: skip
def test_bad_sizes(batch_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="batch_size must be"):
        Process(2, batch_size=batch_size)


@pytest.mark.parametrize("start", [0, 10**30])
def test_a_range_of_any_length(start: int) -> None:
    stream = Process(2).imap(plain, range(start, 10**40, 3))
    assert bodies(itertools.islice(stream, 1000)) == list(range(start, start + 3000, 3))
    cast(Any, stream).close()


def test_leases_in_a_resident_crew() -> None:
    with Process(2) as process:
        for count in (COUNT, 1, 0, 17, COUNT):
            assert bodies(process.map(double, range(count))) == [2 * number for number in range(count)]
            assert bodies(process.map(in_list, range(count))) == [[number] for number in range(count)]


# ── arguments and results that may change ─────────────────────────────────────────────────────────


@SIZES
def test_each_job_has_a_fresh_copy_of_its_argument(batch_size: Any) -> None:
    def job(argument: list[Any]) -> tuple[int, int, bool]:
        argument.append(1)
        argument[0].append(2)
        return len(argument), len(argument[0]), argument[0] is argument[1]

    inner = [0]
    shared = [inner, inner]
    responses = Process(2, batch_size=batch_size).map(job, [shared] * 1000)
    assert bodies(responses) == [(3, 2, True)] * 1000, "what is shared inside of one stays so"
    assert shared == [[0], [0]]


@SIZES
def test_arguments_that_share_a_part(batch_size: Any) -> None:
    def job(argument: tuple[int, dict[str, int]]) -> int:
        argument[1]["seen"] = argument[1].get("seen", 0) + 1
        return argument[1]["seen"]

    shared: dict[str, int] = {}
    inputs = [(number, shared) for number in range(1000)]
    assert bodies(Process(2, batch_size=batch_size).map(job, inputs)) == [1] * 1000


def test_inputs_that_the_caller_changes_as_it_makes_them() -> None:
    """Each is taken as it was when its lease was made, at the latest when the next one is taken."""

    def inputs() -> Iterator[list[int]]:
        for number in range(COUNT):
            yield [number]

    assert bodies(Process(2).map(list, inputs())) == [[number] for number in range(COUNT)]


@SIZES
@pytest.mark.parametrize("in_argument", [False, True])
def test_results_that_are_the_same_object_each_time(batch_size: Any, in_argument: bool) -> None:
    class Logs(Worker):
        def setup(self) -> None:
            self.log: list[int] = []

        def process(self, number: Any) -> Any:
            self.log.append(number_of(number))
            return {"log": self.log} if in_argument else self.log

    inputs = [[number] if in_argument else number for number in range(500)]
    responses = Process(2, batch_size=batch_size).map(Logs(), inputs)
    logs = [response.body["log"] if in_argument else response.body for response in responses]
    assert [log[-1] for log in logs] == list(range(500))
    assert len({id(log) for log in logs}) == 500
    children: dict[int, list[list[int]]] = {}
    for response, log in zip(responses, logs, strict=True):
        children.setdefault(cast(JobResponse, response).pid, []).append(log)
    for own in children.values():
        longest = max(own, key=len)
        assert sorted(own, key=len) == [longest[: place + 1] for place in range(len(own))]


class Own:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


class OwnResponse:
    """Any class with these is a response."""

    exception = None

    def __init__(self, number: int, exit_code: int = 0) -> None:
        self.body, self.exit_code = number, exit_code

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Flag(int):
    pass


KINDS: list[Callable[[int], Any]] = [
    lambda number: None,
    lambda number: number,
    lambda number: number,
    str,
    lambda number: number % 2 == 0,
    lambda number: [number],
    lambda number: {number: str(number)},
    Own,
    Flag,
    lambda number: bytes([number % 256]) * 3,
    lambda number: number / 7,
]


def mixed(number: int) -> Any:
    kind = number % 17 if number > 60 else number // 6
    if kind < len(KINDS):
        return KINDS[kind](number)
    if kind == 11:
        return JobResponse(number)
    if kind == 12:
        return JobResponse(number, exit_code=4)
    if kind == 13:
        return OwnResponse(number)
    if kind == 14:
        return OwnResponse(number, 5)
    if kind == 15:
        raise KeyError(number)
    return number


@ALL_SIZES
def test_results_of_all_kinds_in_one_map(batch_size: Any) -> None:
    responses = Process(2, batch_size=batch_size).map(mixed, range(COUNT))
    assert len(responses) == COUNT
    for number, response in enumerate(responses):
        kind = number % 17 if number > 60 else number // 6
        if kind < len(KINDS):
            expected = KINDS[kind](number)
            assert (response.ok, type(response.body), response.body) == (True, type(expected), expected)
        elif kind == 15:
            assert isinstance(response.exception, KeyError)
            assert response.exception.args == (number,)
        else:
            code = {12: 4, 14: 5}.get(kind, 0)
            assert (response.body, response.exit_code, response.ok) == (number, code, not code)
            assert isinstance(response, OwnResponse if kind in (13, 14) else JobResponse)
        if isinstance(response, JobResponse):
            assert (response.argument_index, response.job_id.split("-")[1]) == (number, str(number))
            assert (response.attempts, response.pid > 0) == (1, True)
        assert responses[number] is response  # noqa: PLR1736


# ── bad jobs in the middle ────────────────────────────────────────────────────────────────────────


class Fails:
    """Does not pickle, or (`late`) not unpickle."""

    def __init__(self, *, late: bool) -> None:
        self.late = late

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.late:
            raise ValueError("oh")
        return int, ("oh",)


@SIZES
@pytest.mark.parametrize("late", [False, True], ids=["pickle", "unpickle"])
@BOTH_KINDS
def test_arguments_that_do_not_travel(
    batch_size: Any, late: bool, make: Callable[[int], Any], log: Log
) -> None:
    def job(argument: Any) -> int:
        log.write(number_of(argument))
        return number_of(argument)

    inputs = [Fails(late=late) if number in BAD else make(number) for number in range(COUNT)]
    responses = Process(2, batch_size=batch_size).map(job, inputs)
    check_others(responses)
    for number in BAD:
        assert isinstance(responses[number].exception, SerializationError)
        assert f"-{number}: the argument" in str(responses[number].exception)
    assert sorted(int(line[0]) for line in log.read()) == [n for n in range(COUNT) if n not in BAD]


@SIZES
@pytest.mark.parametrize("late", [False, True], ids=["pickle", "unpickle"])
@pytest.mark.parametrize("looked", [False, True])
def test_results_that_do_not_travel(batch_size: Any, late: bool, looked: bool) -> None:
    def job(number: int) -> Any:
        return Fails(late=late) if number in BAD else number

    process = Process(2, batch_size=batch_size)
    events: Counter[str] = Counter()
    if looked:
        process.on("job_success", lambda _, event: events.update([event.name]))
        process.on("job_failed", lambda _, event: events.update([event.name]))
    responses = process.map(job, range(COUNT))
    check_others(responses)
    for number in BAD:
        assert isinstance(responses[number].exception, SerializationError)
        assert f"-{number}: the result" in str(responses[number].exception)
    if looked:
        assert events == {"JOB_SUCCESS": COUNT - len(BAD), "JOB_FAILED": len(BAD)}


@SIZES
@BOTH_KINDS
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("retry_type", RetryType)
def test_exceptions(
    batch_size: Any, make: Callable[[int], Any], retries: int, retry_type: RetryType, log: Log
) -> None:
    """Each bad one fails at its first two attempts."""

    class Raises(Worker):
        def process(self, argument: Any) -> int:
            number = number_of(argument)
            if number in BAD:
                log.write(number, self.attempt, self.job_id.split("-")[1])
                if self.attempt <= 2:
                    raise LookupError(number)
            return number

    worker = Raises(retry=RetryStrategy(retries, retry_type) if retries else None)
    responses = Process(2, batch_size=batch_size).map(worker, map(make, range(COUNT)))
    check_others(responses, bad=() if retries else BAD)
    for number in BAD:
        response = cast(JobResponse, responses[number])
        assert response.attempts == 1 + retries
        if not retries:
            assert isinstance(response.exception, LookupError)
            assert response.exception.args == (number,)
    expected = [[str(n), str(attempt), str(n)] for n in BAD for attempt in range(1, 2 + retries)]
    assert sorted(log.read()) == sorted(expected)


@pytest.mark.parametrize("retry_type", RetryType)
def test_failures_and_retries_among_many_successes(retry_type: RetryType) -> None:
    class Raises(Worker):
        def process(self, number: int) -> int:
            if self.attempt <= number % 7 - 3:
                raise ValueError(self.attempt)
            return number

    responses = Process(3).map(Raises(retry=RetryStrategy(2, retry_type)), range(10_000))
    for number in (9999, 0, 5000, *range(10_000)):
        response = cast(JobResponse, responses[number])
        failures = max(0, number % 7 - 3)
        assert (response.argument_index, response.attempts) == (number, min(3, failures + 1))
        assert (response.ok, response.body) == ((True, number) if failures < 3 else (False, None))


class Plain(Worker):
    def process(self, argument: int) -> int:
        return argument


def test_results_that_are_not_accepted() -> None:
    retry = tenacity.retry_if_result(lambda body: body in BAD)
    worker = Plain(retry=RetryStrategy(1, retry=retry))
    responses = cast("list[JobResponse]", Process(2).map(worker, range(COUNT)))
    assert [r.argument_index for r in responses if not r.ok] == list(BAD)
    assert [r.argument_index for r in responses if r.attempts == 2] == list(BAD)
    assert all(isinstance(responses[number].exception, RetriesExhaustedError) for number in BAD)


# ── what a job may do about itself ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batch_size", ["auto", 50, 100, 1000])
@BOTH_KINDS
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("result", [int, str, list], ids=["same kind", "other kind", "no plain kind"])
def test_cancel(
    batch_size: Any, make: Callable[[int], Any], raises: bool, result: Callable[..., Any], log: Log
) -> None:
    class Cancels(Worker):
        def process(self, argument: Any) -> Any:
            number = number_of(argument)
            if number not in BAD:
                return number
            log.write(number)
            self.cancel()
            if raises:
                raise ValueError
            return result()

    process = Process(2, batch_size=batch_size)
    responses = process.map(Cancels(), map(make, range(COUNT)))
    check_others(responses)
    for number in BAD:
        assert isinstance(responses[number].exception, JobCanceledError)
        assert f"-{number} was canceled" in str(responses[number].exception)
    assert sorted(int(line[0]) for line in log.read()) == list(BAD), "each once"


@SIZES
@BOTH_KINDS
@pytest.mark.parametrize("event", list(JobEvent))
def test_a_listener_added_by_a_job(
    batch_size: Any, make: Callable[[int], Any], event: JobEvent, log: Log
) -> None:
    """It hears of this job, too, and then of all others in this child."""

    class Listens(Worker):
        ran = 0

        def process(self, argument: Any) -> int:
            number = number_of(argument)
            self.ran += 1
            log.write("ran" if self.ran != 250 else "begin", os.getpid(), number)
            if self.ran == 250:
                self.on(event, self.hear)
            self.running()
            if number % 10 == 0 and self.attempt == 1:
                raise ValueError
            if number % 10 == 1:
                self.cancel()
            return number

        def hear(self, _worker: Worker, event: JobEvent, job_id: str, argument: Any) -> None:
            assert self.job_id == job_id
            log.write(event.name, os.getpid(), number_of(argument), job_id.split("-")[1])

    worker = Listens(retry=RetryStrategy(1))
    responses = Process(2, batch_size=batch_size).map(worker, map(make, range(COUNT)))
    check_others(responses, bad=range(1, COUNT, 10))
    began: dict[str, int] = {}
    heard: Counter[int] = Counter()
    later: set[int] = set()
    for kind, pid, said, *index in log.read():  # in each child as it went; jobs taken back are out of order
        number = int(said)
        if kind == "begin":
            began[pid] = number
        elif kind == "ran":
            if pid in began and number != began[pid]:
                later.add(number)
        else:
            assert (kind, [said]) == (event.name, index)
            heard[number] += 1
    assert began
    expected: Counter[int] = Counter()
    for number in later | set(began.values()):
        retried = number % 10 == 0
        expected[number] = {
            JobEvent.JOB_START: 1 + retried,
            JobEvent.JOB_RUNNING: 1 + retried,
            JobEvent.JOB_RETRY: int(retried),
            JobEvent.JOB_SUCCESS: int(number % 10 != 1),
            JobEvent.JOB_FAILED: 0,
            JobEvent.JOB_CANCELED: int(number % 10 == 1),
        }[event]
    for number in began.values():
        first_heard = heard.pop(number, 0)
        most = expected.pop(number)
        if number % 10:  # at its first attempt, whose start is over
            assert first_heard == (0 if event is JobEvent.JOB_START else most)
    assert heard == +expected


@SIZES
def test_the_success_of_the_job_that_asks_for_it(batch_size: Any, log: Log) -> None:
    class Listens(Worker):
        def process(self, number: int) -> int:
            if number == 777:
                self.on("job_success", lambda worker, response: log.write(worker.job_id, response.body))
            return number

    responses = Process(1, batch_size=batch_size).map(Listens(), range(800))
    assert log.read() == [[cast(JobResponse, r).job_id, str(r.body)] for r in responses[777:]]


@SIZES
@BOTH_KINDS
def test_what_a_worker_knows_inside_process(batch_size: Any, make: Callable[[int], Any]) -> None:
    class Knows(Worker):
        def process(self, argument: Any) -> Any:
            number = number_of(argument)
            if number in BAD and self.attempt == 1:
                raise ValueError
            index = int(self.job_id.split("-")[1])
            right = index == number and self.status is JobStatus.RUNNING
            right = right and (self.response is None) is (self.attempt == 1)
            return self.attempt if right else [number, self.job_id, self.status, self.response]

    worker = Knows(retry=RetryStrategy(1))
    responses = cast(
        "list[JobResponse]", Process(2, batch_size=batch_size).map(worker, map(make, range(COUNT)))
    )
    assert bodies(responses) == [2 if number in BAD else 1 for number in range(COUNT)]


@SIZES
@BOTH_KINDS
def test_running_says_of_which_job(batch_size: Any, make: Callable[[int], Any]) -> None:
    class Reports(Worker):
        def process(self, argument: Any) -> int:
            self.running(at=number_of(argument))
            self.running(at=number_of(argument), own=self.job_id)
            return number_of(argument)

    heard: list[tuple[str, Any, dict[str, Any], int]] = []
    process = Process(2, batch_size=batch_size).on(
        "job_running",
        lambda _, job_id, argument, info, attempt: heard.append((job_id, argument, info, attempt)),
    )
    responses = cast("list[JobResponse]", process.map(Reports(), [make(number) for number in range(COUNT)]))
    assert len(heard) == 2 * COUNT
    for job_id, argument, info, attempt in heard:
        number = info["at"]
        assert (job_id, argument, attempt) == (responses[number].job_id, make(number), 1)
        assert info.get("own", job_id) == job_id
    order = [info["at"] for _, _, info, _ in heard if "own" in info]
    assert sorted(order) == list(range(COUNT))


def test_the_callers_events_of_many_jobs() -> None:
    heard: dict[JobEvent, list[Any]] = {event: [] for event in JobEvent}
    process = Process(2)
    for event in (JobEvent.JOB_RETRY, JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED):
        process.on(event, lambda _, event, argument, response: heard[event].append((argument, response)))

    class Raises(Worker):
        def process(self, number: int) -> int:
            if number % 10 == 3 or (number % 10 == 4 and self.attempt == 1):
                raise ValueError
            return number

    responses = process.map(Raises(retry=RetryStrategy(1)), range(COUNT))
    for number, response in heard[JobEvent.JOB_SUCCESS]:
        assert (response.body, responses[number]) == (number, response)
    threes = [number for number in range(COUNT) if number % 10 == 3]
    fours = [number for number in range(COUNT) if number % 10 == 4]
    assert sorted(number for number, _ in heard[JobEvent.JOB_SUCCESS]) == [
        number for number in range(COUNT) if number % 10 != 3
    ]
    assert sorted(number for number, _ in heard[JobEvent.JOB_FAILED]) == threes
    assert sorted(number for number, _ in heard[JobEvent.JOB_RETRY]) == sorted(threes + fours)


# ── jobs that do worse ────────────────────────────────────────────────────────────────────────────


@SIZES
@BOTH_KINDS
@pytest.mark.parametrize("ending", ["returns", "raises", "exits", "returns another kind", "runs on"])
def test_a_job_that_forks_and_comes_back(
    batch_size: Any, make: Callable[[int], Any], ending: str, log: Log
) -> None:
    class Forks(Worker):
        def process(self, argument: Any) -> Any:
            number = number_of(argument)
            log.write(number)
            if number not in BAD:
                return number
            pid = os.fork()
            if pid:
                _, status = os.waitpid(pid, 0)
                return -status - 1
            if ending == "raises":
                raise SystemExit(0)
            if ending == "exits":
                os._exit(0)
            if ending == "runs on":
                self.running(at=number)
            return [number] if ending == "returns another kind" else number

    heard = []
    process = Process(2, batch_size=batch_size)
    if ending == "runs on":
        process.on("job_running", lambda _, info: heard.append(info))
    responses = process.map(Forks(), map(make, range(COUNT)))
    check_others(responses)
    assert [responses[number].body for number in BAD] == [-1] * len(BAD)
    assert sorted(int(line[0]) for line in log.read()) == list(range(COUNT)), "no copy went on"
    assert heard == []


@SIZES
@BOTH_KINDS
@pytest.mark.parametrize("ending", ["SIGKILL", "_exit"])
def test_a_child_killed_among_many_jobs(batch_size: Any, make: Callable[[int], Any], ending: str) -> None:
    def job(argument: Any) -> int:
        number = number_of(argument)
        if number in BAD:
            if ending == "_exit":
                os._exit(5)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        return number

    responses = Process(2, batch_size=batch_size).map(job, map(make, range(COUNT)))
    check_others(responses)
    for number in BAD:
        error = responses[number].exception
        assert isinstance(error, WorkerLostError)
        assert f"-{number}" in str(error)
        assert ("exited with 5" if ending == "_exit" else "SIGKILL") in str(error)


def test_jobs_one_at_a_time_are_not_repeated_when_a_child_is_killed(log: Log) -> None:
    def job(number: int) -> int:
        log.write(number)
        if number % 50 == 7:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        return number

    responses = Process(2, batch_size=1, crash_retries=0).map(job, range(400))
    check_others(responses, 400, range(7, 400, 50))
    assert sorted(int(line[0]) for line in log.read()) == list(range(400))


class SecondTry:
    """Unpickles, but not at the first attempt in each process."""

    tried: ClassVar[set[int]] = set()

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return SecondTry.unpickle, (self.number,)

    @staticmethod
    def unpickle(number: int) -> int:
        if number not in SecondTry.tried:
            SecondTry.tried.add(number)
            raise ValueError("not yet")
        return number


@SIZES
def test_an_argument_that_unpickles_at_the_second_attempt(batch_size: Any) -> None:
    """Whether it is tried again or not, it is answered once, and so are its neighbours."""
    inputs = [SecondTry(number) if number in BAD else [number] for number in range(COUNT)]
    responses = Process(2, batch_size=batch_size).map(number_of, inputs)
    failed = [number for number in BAD if not responses[number].ok]
    check_others(responses, bad=failed)
    assert all(isinstance(responses[number].exception, SerializationError) for number in failed)


class Dies:
    """Unpickling it ends the child."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (5,)


@SIZES
def test_an_argument_that_kills_whoever_unpickles_it(batch_size: Any) -> None:
    inputs = [Dies() if number in BAD else [number] for number in range(COUNT)]
    responses = Process(2, batch_size=batch_size).map(number_of, inputs)
    check_others(responses)
    assert all(isinstance(responses[number].exception, WorkerLostError) for number in BAD)


def busy_until(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_surroundings_after_jobs_that_are_not_tiny(tmp_path: Path) -> None:
    """What a job does to the directory and the handlers of its child is undone before the next one."""

    def job(number: int) -> Any:
        here = os.getcwd(), str(signal.getsignal(signal.SIGUSR1)), signal.getitimer(signal.ITIMER_REAL)
        if number % 5 == 0:
            os.chdir(tmp_path)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 1000)
        busy_until(1e-4)
        return here

    expected = os.getcwd(), str(signal.getsignal(signal.SIGUSR1)), (0.0, 0.0)
    responses = Process(2).map(job, range(500))
    assert [number for number, body in enumerate(bodies(responses)) if body != expected] == []


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 1e-3])
def test_durations_add_up(seconds: float) -> None:
    """To about what the jobs say they took; a tiny job's is the mean of some of them."""

    class Timed(Worker):
        spent = 0.0
        began = 0.0

        def process(self, number: int) -> float:
            began = time.perf_counter()
            busy_until(seconds)
            took = time.perf_counter() - began
            self.began = self.began or began
            return took if number % 2 else -took

    for _ in range(5):
        responses = cast("list[JobResponse]", Process(1).map(Timed(), range(500)))
        assert all(response.duration > 0 for response in responses)
        inside = sum(abs(body) for body in bodies(responses))
        told = sum(response.duration for response in responses)
        assert told >= 0.99 * inside
        if told < inside + 500 * 1e-4:
            break
    else:
        pytest.fail(f"told {told} s of {inside} s")
