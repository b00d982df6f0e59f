"""`Process.map`: one response for each input, in their order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import psutil
import pytest

from multiprocessing_kit import JobResponse, Process, Worker

LARGE = 5_000_000
"""Bytes: many times what a ring holds."""


class Times(Worker):
    def __init__(self, factor: int) -> None:
        super().__init__(f"times {factor}")
        self.factor = factor

    def process(self, argument: int) -> int:
        return argument * self.factor


def run(process: Process, worker: Worker | Callable[[Any], Any], inputs: Iterable[Any]) -> list[JobResponse]:
    return cast("list[JobResponse]", process.map(worker, inputs))


def pids(responses: list[JobResponse]) -> set[int]:
    return {response.pid for response in responses}


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 7, 500])
@pytest.mark.parametrize("make", [list, iter, tuple, lambda numbers: (n for n in numbers)])
def test_one_response_for_each_input_in_order(
    processes: int, count: int, make: Callable[[range], Iterable[int]]
) -> None:
    responses = run(Process(processes), Times(3), make(range(count)))
    assert [response.body for response in responses] == [3 * number for number in range(count)]
    assert [response.argument_index for response in responses] == list(range(count))
    assert len({response.job_id for response in responses}) == count
    assert all(response.ok and response.attempts == 1 for response in responses)
    assert 1 <= len(pids(responses)) <= min(processes, count)
    assert os.getpid() not in pids(responses)


@pytest.mark.parametrize("inputs", [[], (), iter([]), {}])
def test_no_inputs_no_children(inputs: Iterable[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    assert Process(2).map(Times(3), inputs) == []


def test_failures_keep_their_places() -> None:
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    responses = run(Process(2), halve, range(40))
    assert [response.ok for response in responses] == [True, False] * 20
    assert [str(response.exception) for response in responses[1::2]] == [str(n) for n in range(1, 40, 2)]
    with pytest.raises(ValueError, match="7"):
        responses[7].result()


@pytest.mark.parametrize("worker", [str, len, lambda text: text.upper(), "x".join])
def test_plain_functions(worker: Callable[[str], object]) -> None:
    assert [response.body for response in run(Process(2), worker, ["a", "bc"])] == [worker("a"), worker("bc")]


@dataclass
class Page:
    """A response of the user's own class."""

    body: str
    ok: bool
    exception: BaseException | None = None
    exit_code: int = 0


def test_responses_of_another_class() -> None:
    pages = [Page("text", True), Page("", False, ValueError("no"), 404)]
    text, empty = Process(2).map(lambda page: page, pages)
    assert text == pages[0]
    assert isinstance(empty, Page)
    assert (empty.ok, empty.exit_code, repr(empty.exception)) == (False, 404, "ValueError('no')")


class BrokenInputsError(Exception):
    pass


@pytest.mark.parametrize("answered", [0, 1, 50])
@pytest.mark.parametrize("processes", [1, 3])
def test_inputs_that_raise_half_way(answered: int, processes: int) -> None:
    def inputs() -> Iterator[int]:
        yield from range(answered)
        raise BrokenInputsError("line 3 is not a number")

    with pytest.raises(BrokenInputsError, match="line 3") as caught:
        Process(processes).map(Times(2), inputs())
    responses = caught.value.responses  # type: ignore[attr-defined]
    assert [response.body for response in responses] == [2 * number for number in range(answered)]


@pytest.mark.parametrize("size", [LARGE, 256 * 1024, 128 * 1024 + 1])
def test_arguments_and_results_larger_than_the_ring(size: int) -> None:
    inputs = [bytes([number]) * size for number in range(4)]
    responses = run(Process(2), lambda data: data[::-1] + b"!", inputs)
    assert [response.body == data + b"!" for response, data in zip(responses, inputs, strict=True)] == [
        True
    ] * 4


def test_more_inputs_than_the_ring_holds() -> None:
    inputs = [bytes([number % 256]) * 2000 for number in range(2000)]
    assert [response.body for response in run(Process(2), lambda data: data, inputs)] == inputs


def test_what_cannot_be_pickled_concerns_its_own_job() -> None:
    inputs: list[Any] = [1, lambda: None, 2, threading.Lock(), 3]
    responses = run(Process(2), lambda value: value, inputs)
    assert [response.ok for response in responses] == [True, False, True, False, True]
    assert [type(response.exception).__name__ for response in responses[1::2]] == ["SerializationError"] * 2


def test_maps_in_a_job() -> None:
    def inner(number: int) -> int:
        return sum(response.body for response in Process(2).map(Times(number), range(4)))

    def outer(number: int) -> list[int]:
        return [response.body for response in Process(2).imap(inner, [number, number + 1])]

    bodies = [response.body for response in run(Process(2), outer, range(3))]
    assert bodies == [[0, 6], [6, 12], [12, 18]]


def test_a_map_in_a_job_of_the_same_process() -> None:
    with Process(2) as process:

        def outer(number: int) -> list[int]:
            return [response.body for response in process.map(Times(number), range(3))]

        for _ in range(2):
            assert [response.body for response in process.map(outer, [1, 2])] == [[0, 1, 2], [0, 2, 4]]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_maps_in_threads() -> None:
    found: dict[int, list[int]] = {}

    def target(factor: int) -> None:
        found[factor] = [response.body for response in process.map(Times(factor), range(100))]

    with Process(2) as process:
        threads = [threading.Thread(target=target, args=(factor,)) for factor in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {factor: [factor * number for number in range(100)] for factor in (2, 3)}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"processes": 1.5}, TypeError),
        ({"processes": True}, TypeError),
        ({"window": 0}, ValueError),
        ({"window": "64"}, TypeError),
        ({"queue": []}, TypeError),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        Process(**arguments)


@pytest.mark.parametrize(
    ("worker", "inputs", "message"),
    [
        (Worker, [1], r"an instance: Worker\(\)"),
        (None, [1], "worker must be"),
        (Times(1), 7, "inputs must be an iterable, not int"),
    ],
)
def test_calls_that_make_no_sense(worker: Any, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Process(1).map(worker, inputs)


def test_no_child_outlives_its_map() -> None:
    used = pids(run(Process(3), Times(1), range(10)))
    assert not psutil.Process().children()
    assert not any(psutil.pid_exists(pid) for pid in used)
