"""Signals that wait while a child is made."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from multiprocessing_kit.supervise.held_signals import HeldSignals
from tests.forks import in_child
from tests.instants import at_every_instruction
from tests.interrupts import Interrupted

_THREE = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _THREE}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_that_comes_again_and_again_is_one() -> None:
    """As the system has it with signals that wait."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    with HeldSignals():
        for _ in range(3000):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == []
    assert heard == [signal.SIGUSR1, signal.SIGUSR2]


def test_all_are_heard_where_one_raises() -> None:
    heard: list[int] = []

    def raises(_number: int, _frame: object) -> None:
        raise ValueError("heard")

    signal.signal(signal.SIGUSR1, raises)
    signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))

    def hold() -> None:
        with HeldSignals():
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.raises(ValueError, match="heard"):
        hold()
    assert heard == [signal.SIGUSR2]


def test_a_handler_that_holds_signals_itself() -> None:
    """At every instant, also while handlers are exchanged and put back."""
    heard: list[int] = []

    def holds(number: int, _frame: object) -> None:
        with HeldSignals():
            heard.append(number)

    signal.signal(signal.SIGUSR1, holds)
    signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))

    def hold() -> None:
        with HeldSignals():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert signal.SIGUSR2 not in heard

    for _ in at_every_instruction(hold, "/held_signals.py"):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is holds
        assert sorted(heard) == [signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2]
        heard.clear()


def test_a_handler_that_sets_another() -> None:
    """That stays, whenever it comes."""

    def sets(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)

    def hold() -> None:
        signal.signal(signal.SIGUSR1, sets)
        with HeldSignals():
            pass

    for _ in at_every_instruction(hold, "/held_signals.py"):
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_a_handler_that_raises_at_any_instant() -> None:
    """All others are heard once, and all are put back."""
    heard: list[int] = []
    entered = False

    def raises(number: int, _frame: object) -> None:
        heard.append(number)
        raise Interrupted

    handlers = [raises, *[lambda number, _: heard.append(number)] * 2]
    for number, handler in zip(_THREE, handlers, strict=True):
        signal.signal(number, handler)

    def hold() -> None:
        nonlocal entered
        entered = False
        with contextlib.suppress(Interrupted), HeldSignals():
            entered = True
            for number in _THREE[1:]:
                os.kill(os.getpid(), number)

    for _ in at_every_instruction(hold, "/held_signals.py", only_looks=True):
        assert sorted(heard) == (_THREE if entered else _THREE[:1])
        assert [signal.getsignal(number) for number in _THREE] == handlers
        heard.clear()


def test_a_child_that_another_thread_forks_hears() -> None:
    """It has no part in what the main thread is in."""
    heard: list[int] = []
    statuses: list[int] = []
    for number in _THREE:
        signal.signal(number, lambda number, _: heard.append(number))

    def hears() -> None:
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
        with HeldSignals():
            signal.raise_signal(signal.SIGUSR2)
            assert heard == [signal.SIGUSR1]
        assert heard == [signal.SIGUSR1, signal.SIGUSR2]

    with HeldSignals():
        thread = threading.Thread(target=lambda: statuses.append(in_child(hears)))
        thread.start()
        thread.join()
    assert statuses == [0]


def test_one_that_comes_while_others_are_noted_or_called() -> None:
    heard: list[int] = []
    for number in _THREE:
        signal.signal(number, lambda number, _: heard.append(number))

    def hold() -> None:
        with HeldSignals():
            for number in _THREE[1:]:
                os.kill(os.getpid(), number)

    for _ in at_every_instruction(hold, "/held_signals.py"):
        assert sorted(heard) == _THREE
        heard.clear()
