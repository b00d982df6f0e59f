"""Signals that wait while a child is made."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiprocessing_kit.supervise.held_signals import HeldSignals

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

    def hold() -> None:
        with HeldSignals():
            pass

    for _ in _at_every_instruction(hold):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is holds
        assert len(heard) == 2
        heard.clear()


def test_one_that_comes_while_others_are_noted_or_called() -> None:
    heard: list[int] = []
    for number in _THREE:
        signal.signal(number, lambda number, _: heard.append(number))

    def hold() -> None:
        with HeldSignals():
            for number in _THREE[1:]:
                os.kill(os.getpid(), number)

    for _ in _at_every_instruction(hold):
        assert sorted(heard) == _THREE
        heard.clear()


def _at_every_instruction(hold: Callable[[], None]) -> Iterator[None]:
    """Run it again and again: SIGUSR1 comes at its first instruction in the module, then at its second …"""
    for place in itertools.count():
        left = place

        def trace(frame: Any, event: str, _argument: object) -> Any:
            nonlocal left
            frame.f_trace_opcodes = frame.f_code.co_filename.endswith("held_signals.py")
            if event == "opcode":
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGUSR1)
            return trace

        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one in `settrace`
        sys.settrace(trace)
        try:
            hold()
        finally:
            sys.settrace(None)
        if left >= 0:
            assert place > 500
            return
        yield
