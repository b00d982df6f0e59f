"""`Process.imap`: lazy on both sides."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, cast

import psutil
import pytest

from multiprocessing_kit import JobResponse, NullQueue, Process, Response
from tests.gates import Gate


class BrokenInputsError(Exception):
    pass


def double(number: int) -> int:
    return 2 * number


def bodies(responses: Iterable[Response]) -> list[Any]:
    return [response.body for response in responses]


class Counted(Iterator[int]):
    """Numbers without an end, or an error after `count` of them; knows how many were taken."""

    def __init__(self, count: int | None = None) -> None:
        self.taken = 0
        self._count = count

    def __next__(self) -> int:
        if self.taken == self._count:
            raise BrokenInputsError(f"after {self.taken}")
        self.taken += 1
        return self.taken - 1


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("window", [1, 3, None])
def test_every_input_is_answered_once(ordered: bool, processes: int, window: int | None) -> None:
    found = bodies(Process(processes, window=window).imap(double, range(200), ordered=ordered))
    assert (found if ordered else sorted(found)) == [2 * number for number in range(200)]


@pytest.mark.parametrize(("ordered", "expected"), [(True, ["slow", "quick"]), (False, ["quick", "slow"])])
def test_the_order_of_two_jobs(ordered: bool, expected: list[str]) -> None:
    """The slow one waits until the quick one has ended, and its child has taken yet another job."""

    def job(name: str) -> str:
        if name == "slow":
            gate.wait()
        if name == "opens":
            gate.open()
        return name

    with Gate() as gate:
        found = bodies(Process(2).imap(job, ["slow", "quick", "opens"], ordered=ordered))
    assert [name for name in found if name != "opens"] == expected


@pytest.mark.parametrize("ordered", [True, False])
def test_endless_inputs_are_taken_as_far_as_the_window_allows(ordered: bool) -> None:
    inputs = Counted()
    stream = Process(2, window=5).imap(double, inputs, ordered=ordered)
    assert inputs.taken == 0
    for answered, _ in zip(range(100), stream, strict=False):
        assert answered < inputs.taken <= answered + 5
    cast(Any, stream).close()


def test_responses_that_wait_for_an_earlier_one_count_in_the_window() -> None:
    def job(number: int) -> int:
        if number == 0:
            gate.wait()
        if number == 3:
            gate.open()
        return number

    inputs = Counted()
    with Gate() as gate:
        stream = Process(2, window=4).imap(job, inputs)
        assert next(stream).body == 0
        assert inputs.taken == 4
        cast(Any, stream).close()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_inputs_that_raise_half_way(ordered: bool, count: int) -> None:
    stream = Process(2).imap(double, Counted(count), ordered=ordered)
    found: list[int] = []
    with pytest.raises(BrokenInputsError, match=f"after {count}"):
        found.extend(response.body for response in stream)
    assert sorted(found) == [2 * number for number in range(count)]
    assert list(stream) == [], "it has ended"


@pytest.mark.parametrize("ending", ["close", "drop", "break"])
def test_stopping_early_ends_the_children(ending: str) -> None:
    def take_some(stream: Iterator[Response]) -> set[int]:
        used = {cast(JobResponse, response).pid for response in itertools.islice(stream, 20)}
        if ending == "close":
            cast(Any, stream).close()
            assert not psutil.Process().children()
            assert list(stream) == []
            cast(Any, stream).close()
        elif ending == "break":
            for _ in stream:
                break
        return used

    used = take_some(Process(2).imap(double, Counted()))
    assert not psutil.Process().children()
    assert not any(psutil.pid_exists(pid) for pid in used)


def test_an_iterator_that_nobody_asked_forks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    stream = Process(2).imap(double, Counted())
    del stream


@pytest.mark.parametrize("resident", [True, False])
def test_two_at_once(resident: bool) -> None:
    process = Process(2, window=3)
    if resident:
        process.__enter__()
    one = process.imap(double, itertools.count())
    other = process.imap(str, itertools.count(), ordered=True)
    for number in range(50):
        assert (next(one).body, next(other).body) == (2 * number, str(number))
    if resident:
        process.__exit__(None, None, None)
        assert (list(one), list(other)) == ([], [])
    else:
        cast(Any, one).close()
        assert next(other).body == "50"
        cast(Any, other).close()


def test_an_imap_inside_an_imap() -> None:
    process = Process(2)
    pairs = [
        (outer.body, bodies(process.imap(double, range(outer.body))))
        for outer in process.imap(double, range(4))
    ]
    assert pairs == [(2 * n, [2 * k for k in range(2 * n)]) for n in range(4)]


def test_the_block_ends_what_is_still_open() -> None:
    with Process(2) as process:
        stream = process.imap(double, Counted())
        assert bodies(itertools.islice(stream, 3)) == [0, 2, 4]
    assert not psutil.Process().children()
    assert list(stream) == []


def test_children_are_kept_for_the_next_one() -> None:
    with Process(1) as process:
        used = {
            cast(JobResponse, response).pid for _ in range(3) for response in process.imap(double, range(10))
        }
    assert len(used) == 1


def test_shutdown_lets_an_open_one_go_on() -> None:
    process = Process(2)
    stream = process.imap(double, range(10))
    assert next(stream).body == 0
    process.shutdown()
    assert bodies(stream) == [2 * number for number in range(1, 10)]


def test_responses_go_to_the_iterator_and_not_to_the_queue() -> None:
    assert bodies(Process(2, NullQueue()).imap(double, range(10))) == [2 * n for n in range(10)]


def test_inputs_made_from_earlier_responses() -> None:
    """A search that grows as it goes: the window of 1 lets each response come before the next input."""
    found = [1]

    def inputs() -> Iterator[int]:
        while found[-1] < 1000:
            yield found[-1]

    for response in Process(2, window=1).imap(double, inputs()):
        found.append(response.body)
    assert found == [2**power for power in range(11)]
