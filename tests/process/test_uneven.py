"""Long jobs among short ones: nobody waits behind them, and nothing is run twice or lost on the way."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from multiprocessing_kit import JobResponse, Process, RetryStrategy, RetryType, Worker, WorkerLostError
from multiprocessing_kit.ipc import membarrier
from tests.gates import Gate

COUNT = 4000
SIZES = pytest.mark.parametrize(
    "batch_size", ["auto", *(pytest.param(size, marks=pytest.mark.thorough) for size in (1, 50))]
)


@pytest.fixture(params=[True, False], ids=["membarrier", "fences"])
def fences(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's barrier, where it has one, and without."""
    if not request.param:
        monkeypatch.setattr(membarrier, "register", lambda: False)
        monkeypatch.setattr(membarrier, "barrier", lambda: None)
    elif not membarrier.is_available():
        pytest.skip("this system has no membarrier")


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Ran]:
    with Ran(tmp_path / "ran") as ran:
        yield ran


class Ran:
    """Which jobs were run, and how often: children add to a file that they have inherited."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, number: int) -> None:
        os.write(self._descriptor, number.to_bytes(4, "little"))

    def counts(self) -> Counter[int]:
        data = self._path.read_bytes()
        return Counter(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))

    def __enter__(self) -> Ran:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._descriptor)


def number_of(argument: Any) -> int:
    return cast(int, argument[0] if isinstance(argument, (list, tuple)) else argument)


def spin(turns: int) -> None:
    for _ in range(turns):
        pass


def unordered(process: Process, job: Callable[[Any], Any], inputs: Any) -> Iterator[JobResponse]:
    return cast("Iterator[JobResponse]", process.imap(job, inputs, ordered=False))


# ── a job that waits for others ───────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("fences")
@SIZES
@pytest.mark.parametrize("blocked", [0, 7, 2000, COUNT - 1])
@pytest.mark.parametrize("kind", [int, list])
def test_a_job_that_ends_once_all_behind_it_are_answered(
    batch_size: Any, blocked: int, kind: type, gate: Gate, ran: Ran
) -> None:
    def job(argument: Any) -> Any:
        number = number_of(argument)
        ran.note(number)
        if number == blocked:
            return gate.wait()
        return number

    inputs = [[number] for number in range(COUNT)] if kind is list else range(COUNT)
    process = Process(2, batch_size=batch_size)
    behind = set(range(blocked + 1, COUNT))
    if not behind:
        gate.open()
    answered: Counter[int] = Counter()
    for response in unordered(process, job, inputs):
        answered[response.argument_index] += 1
        assert response.body is True if response.argument_index == blocked else response.ok
        if behind:
            behind.discard(response.argument_index)
            if not behind:
                gate.open()
    assert answered == Counter(range(COUNT))
    assert ran.counts() == Counter(range(COUNT))


@SIZES
@pytest.mark.parametrize("blocked", [0, 7, 2000, COUNT - 1])
@pytest.mark.parametrize("kind", [int, list])
def test_a_job_that_ends_once_all_others_are_answered(
    batch_size: Any, blocked: int, kind: type, gate: Gate
) -> None:
    """Also those before it in its lease: their answers do not wait for it."""

    def job(argument: Any) -> Any:
        return gate.wait() if number_of(argument) == blocked else number_of(argument)

    inputs = [[number] for number in range(COUNT)] if kind is list else range(COUNT)
    answered: dict[int, Any] = {}
    for response in unordered(Process(2, batch_size=batch_size), job, inputs):
        answered[response.argument_index] = response.body
        if len(answered) == COUNT - 1:
            gate.open()
    assert answered == {number: number for number in range(COUNT)} | {blocked: True}


@pytest.mark.usefixtures("fences")
@SIZES
@pytest.mark.parametrize("blocked", [(0, 1), (1000, 1001), (1000, 2500), (COUNT - 2, COUNT - 1)])
def test_two_of_three_children_are_blocked(
    batch_size: Any, blocked: tuple[int, int], gate: Gate, ran: Ran
) -> None:
    """Both wait until all behind the second one are answered; neighbours, too, get a child each."""

    def job(number: int) -> Any:
        ran.note(number)
        return gate.wait() if number in blocked else number

    behind = set(range(blocked[1] + 1, COUNT))
    if not behind:
        gate.open()
    answered = {}
    for response in unordered(Process(3, batch_size=batch_size), job, range(COUNT)):
        answered[response.argument_index] = response.body
        if behind:
            behind.discard(response.argument_index)
            if not behind:
                gate.open()
    assert answered == {number: number for number in range(COUNT)} | dict.fromkeys(blocked, True)
    assert ran.counts() == Counter(range(COUNT))


@pytest.mark.parametrize("behind", [1, 2, 3, 10, 24, 25, 49])
def test_a_blocked_job_is_the_last_but_some_of_a_lease(behind: int, gate: Gate, ran: Ran) -> None:
    """Of a hundred leases of fifty, the last but three."""
    blocked = 97 * 50 + 49 - behind

    def job(number: int) -> Any:
        ran.note(number)
        return gate.wait() if number == blocked else number

    wanted = set(range(blocked + 1, 5000))
    for response in unordered(Process(2, batch_size=50), job, range(5000)):
        if wanted:
            wanted.discard(response.argument_index)
            if not wanted:
                gate.open()
        assert response.body is True if response.argument_index == blocked else response.ok
    assert ran.counts() == Counter(range(5000))


def test_a_blocked_job_with_large_ones_behind_it(gate: Gate, ran: Ran) -> None:
    """They do not fit into its lane all at once."""
    large = bytes(1 << 20)

    def job(argument: tuple[int, bytes]) -> Any:
        ran.note(argument[0])
        return gate.wait() if argument[0] == 20 else len(argument[1])

    behind = set(range(21, 40))
    inputs = [(number, large) for number in range(40)]
    for response in unordered(Process(2), job, inputs):
        if behind:
            behind.discard(response.argument_index)
            if not behind:
                gate.open()
        assert response.body == (True if response.argument_index == 20 else 1 << 20)
    assert ran.counts() == Counter(range(40))


@pytest.mark.parametrize("turns", [100, 3000])
def test_jobs_behind_a_blocked_one_are_run_while_there_are_other_inputs(turns: int, gate: Gate) -> None:
    """They have their turn although the other child never runs out of fresh ones, nor is ever idle."""

    def inputs() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    blocked = 2000

    def job(number: int) -> Any:
        if number == blocked:
            return gate.wait()
        spin(turns)
        return number

    waiting = set(range(blocked + 1, blocked + 200))
    stream = unordered(Process(2), job, inputs())
    for response in stream:
        assert response.argument_index != blocked, "they starve"
        waiting.discard(response.argument_index)
        if not waiting:
            break
    gate.open()
    cast(Any, stream).close()


def test_an_endless_job_in_an_ordered_imap(gate: Gate) -> None:
    """The first job ends once all others of the window have been run."""

    def job(number: int) -> Any:
        if number == 0:
            return gate.wait()
        if number == 99:
            gate.open()
        return number

    stream = Process(2, window=100).imap(job, iter(range(1000)))
    assert [response.body for response in stream] == [True, *range(1, 1000)]


# ── any mix ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
@pytest.mark.usefixtures("fences")
@pytest.mark.parametrize("seed", range(12))
def test_each_job_runs_once_in_any_mix(seed: int, ran: Ran) -> None:
    """A few long jobs in many places make for many rounds of taking back."""
    rng = random.Random(seed)
    count = rng.choice([300, 2000, 10_000])
    batch_size: Any = rng.choice(["auto", "auto", 7, 50, 1000])
    turns = {number: rng.choice([20_000, 100_000, 300_000]) for number in rng.sample(range(count), 25)}

    class Mixed(Worker):
        def process(self, argument: Any) -> Any:
            number = number_of(argument)
            ran.note(number)
            spin(turns.get(number, 0))
            return [number] if number % 50 == seed else number

    kind = rng.choice([list, range, "generator", "apart"])
    inputs: Any = range(count)
    if kind is list:
        inputs = list(inputs)
    elif kind == "generator":
        inputs = iter(inputs)
    elif kind == "apart":
        inputs = [(number,) for number in inputs]
    process = Process(rng.choice([2, 3, 5]), batch_size=batch_size)
    responses = [cast(JobResponse, r) for r in process.imap(Mixed(), inputs, ordered=rng.random() < 0.5)]
    assert Counter(response.argument_index for response in responses) == Counter(range(count))
    assert all(number_of(response.body) == response.argument_index for response in responses)
    assert ran.counts() == Counter(range(count))


@pytest.mark.usefixtures("fences")
@pytest.mark.parametrize("seed", range(6))
def test_any_mix_with_failures_and_retries(seed: int, ran: Ran) -> None:
    rng = random.Random(seed)
    count = 2000
    turns = dict.fromkeys(rng.sample(range(count), 15), 200_000)
    failing = set(rng.sample(range(count), 100))

    class Mixed(Worker):
        def process(self, number: int) -> int:
            ran.note(number)
            spin(turns.get(number, 0))
            if number in failing and self.attempt == 1:
                raise ValueError(number)
            return number

    worker = Mixed(retry=RetryStrategy(1, rng.choice(list(RetryType))))
    responses = Process(3).map(worker, range(count))
    assert [response.body for response in responses] == list(range(count))
    assert ran.counts() == Counter(range(count)) + Counter(failing)


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("not a number",)


@pytest.mark.thorough
@pytest.mark.usefixtures("fences")
@pytest.mark.parametrize("seed", range(4))
def test_any_mix_with_arguments_that_cannot_be_unpickled(seed: int, ran: Ran) -> None:
    """Those that were taken back are answered by one child only."""
    rng = random.Random(seed)
    count = 1000
    turns = dict.fromkeys(rng.sample(range(count), 10), 100_000)
    bad = set(range(count)) - turns.keys() if seed % 2 else set(rng.sample(range(count), 300)) - turns.keys()

    def job(number: int) -> int:
        ran.note(number)
        spin(turns.get(number, 0))
        return number

    inputs = [Unreadable() if number in bad else number for number in range(count)]
    for _ in range(3):
        responses = Process(3, batch_size=50).map(job, inputs)
        assert [cast(JobResponse, response).argument_index for response in responses] == list(range(count))
        assert [number for number in range(count) if not responses[number].ok] == sorted(bad)
    assert ran.counts() == Counter(dict.fromkeys(set(range(count)) - bad, 3))


@pytest.mark.usefixtures("fences")
@pytest.mark.parametrize("seed", range(6))
def test_any_mix_with_deaths(seed: int) -> None:
    rng = random.Random(seed)
    count = 2000
    turns = dict.fromkeys(rng.sample(range(count), 15), 200_000)
    deadly = set(rng.sample(range(count), 10))

    def job(number: int) -> int:
        spin(turns.get(number, 0))
        if number in deadly:
            os._exit(9)
        return number

    responses = Process(3).map(job, range(count))
    for number, response in enumerate(responses):
        if number in deadly:
            assert isinstance(response.exception, WorkerLostError)
        else:
            assert response.body == number
    assert len(responses) == count


@pytest.mark.usefixtures("fences")
def test_leftovers_of_one_map_are_none_of_the_next_ones(ran: Ran) -> None:
    """Children may still have to pass jobs that others ran when the next map begins."""

    def job(number: int) -> int:
        ran.note(number)
        spin(200_000 if number % 400 == 399 else 0)
        return number

    with Process(3) as process:
        for _ in range(10):
            assert [response.body for response in process.map(job, range(1200))] == list(range(1200))
    assert ran.counts() == Counter(list(range(1200)) * 10)
