"""Inputs: any iterable, taken some at a time, and no longer waited for than it pays."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from multiprocessing_kit import PoolError
from multiprocessing_kit.runner.source import Source
from multiprocessing_kit.supervise.interrupts import Interrupts


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class BrokenError(Exception):
    pass


class OnlyNext:
    """An iterator as old code has it, without `__iter__`."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __next__(self) -> int:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._left


def make(inputs: Any) -> Source:
    return Source(inputs, Interrupts(lambda: None))


def source_of(inputs: Iterable[Any]) -> Source:
    """As the runner makes it: a range stays one."""
    return make(inputs if isinstance(inputs, range) else iter(inputs))


def generated(count: int) -> Iterator[int]:
    yield from range(count)


KINDS: dict[str, Callable[[int], Iterable[int]]] = {
    "list": lambda count: list(range(count)),
    "tuple": lambda count: tuple(range(count)),
    "range": range,
    "generator": generated,
    "dict": lambda count: dict.fromkeys(range(count)),
    "map": lambda count: map(int, range(count)),
    "own": lambda count: iter_once(generated(count)),
}


def iter_once(inputs: Iterator[int]) -> Iterable[int]:
    class Once:
        def __iter__(self) -> Iterator[int]:
            return inputs

    return Once()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_all_inputs_in_order(kind: Callable[[int], Iterable[int]], size: int, count: int) -> None:
    source = source_of(kind(count))
    taken: list[int] = []
    while not source.exhausted:
        some = source.take(size)[0]
        assert len(some) <= size
        assert len(some) == size or source.exhausted
        taken += some
    assert taken == list(range(count))
    assert (source.error, source.slow) == (None, False)
    assert not source.take(size)[0]


@pytest.mark.parametrize("kind", ["list", "tuple", "range"])
def test_what_is_left_where_it_is_known(kind: str) -> None:
    source = source_of(KINDS[kind](10))
    left = [source.left]
    for size in (1, 4, 100):
        source.take(size)[0]
        left.append(source.left)
    assert left == [10, 9, 5, 0]


def test_a_range_that_len_cannot_tell_the_length_of() -> None:
    source = source_of(range(10**30))
    assert source.left is None or source.left > 10**9
    assert list(source.take(2)[0]) == [0, 1]


@pytest.mark.parametrize("kind", ["generator", "dict", "map", "own"])
def test_users_code_is_not_asked_for_a_length(kind: str) -> None:
    assert source_of(KINDS[kind](10)).left is None


@pytest.mark.usefixtures("clock")
def test_a_large_range() -> None:
    source = source_of(range(10**30, 10**30 + 3))
    assert [*source.take(2)[0], *source.take(2)[0]] == [10**30, 10**30 + 1, 10**30 + 2]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("size", [1, 2, 10])
def test_an_iterator_without_iter(size: int) -> None:
    source = make(OnlyNext(5))
    taken = list(itertools.chain.from_iterable(source.take(size)[0] for _ in range(6)))
    assert (taken, source.exhausted, source.error) == ([4, 3, 2, 1, 0], True, None)


# ── slow ones ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("delays", "taken", "slow"),
    [
        ([0.0] * 9, 8, False),
        ([1e-5] * 9, 8, False),
        ([3600.0] * 9, 1, True),  # the first is waited for, whatever it takes
        ([0.0, 0.0, 3600.0, 0.0], 3, True),
        ([0.0006] * 9, 2, True),
        ([0.0003] * 9, 4, True),
        ([0.0011, 0.0], 1, True),
    ],
)
def test_inputs_that_come_slowly_are_passed_on(
    clock: Clock, delays: list[float], taken: int, slow: bool
) -> None:
    def inputs() -> Iterator[int]:
        for number, delay in enumerate(delays):
            clock.now += delay
            yield number

    source = source_of(inputs())
    assert (source.take(8)[0], source.slow) == (list(range(taken)), slow)
    assert not source.exhausted


def test_slow_is_said_of_the_last_ones_only(clock: Clock) -> None:
    def inputs() -> Iterator[int]:
        clock.now += 1
        yield from range(10)

    source = source_of(inputs())
    said = []
    for size in (4, 4, 1):
        source.take(size)[0]
        said.append(source.slow)
    assert said == [True, False, False]


# ── errors ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("error", [BrokenError("oh"), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_error_half_way_comes_behind_the_inputs_before_it(
    error: BaseException, size: int, count: int
) -> None:
    class Inputs(Iterator[int]):
        taken = 0

        def __next__(self) -> int:
            if self.taken == count:
                raise error
            self.taken += 1
            return self.taken - 1

    source = source_of(Inputs())
    taken: list[int] = []
    while not source.exhausted:
        taken += source.take(size)[0]
    assert taken == list(range(count))
    assert source.error is error


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("size", [1, 10])
def test_ctrl_c_is_no_fault_of_the_inputs(size: int) -> None:
    def inputs() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    source = source_of(inputs())
    with pytest.raises(KeyboardInterrupt):
        list(map(source.take, [size, size]))
    assert source.error is None


@pytest.mark.usefixtures("clock")
def test_signals_may_strike_in_users_code_only() -> None:
    seen = []

    def inputs() -> Iterator[int]:
        seen.append(interrupts.in_user_code)
        yield 0
        seen.append(interrupts.in_user_code)

    interrupts = Interrupts(lambda: None)
    source = Source(inputs(), interrupts)
    source.take(1)[0]
    assert not interrupts.in_user_code
    source.take(10)[0]
    assert (seen, interrupts.in_user_code) == ([True, True], False)


def test_inputs_that_fork_and_come_back() -> None:
    """The copy is told so; the original goes on."""

    def inputs() -> Iterator[int]:
        yield 0
        forked.append(os.fork())
        yield 1

    forked: list[int] = []
    source = source_of(inputs())
    here = os.getpid()
    try:
        assert [*source.take(1)[0], *source.take(1)[0]] == [0, 1]
    except PoolError:
        assert os.getpid() != here
        os._exit(7)
    finally:
        if os.getpid() != here:
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 7
