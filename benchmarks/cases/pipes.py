"""What a message costs that goes through a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, Scale
from multiprocessing_kit import Pipe

__all__ = ["CASE"]

_MESSAGES = 20_000
_MESSAGE = ("name", 1, 2.5)

_FORK = multiprocessing.get_context("fork")

_Make = Callable[[], tuple[Any, Any]]


def _within(make: _Make) -> Callable[[Scale], float]:
    """Microseconds to send a message and receive it in the same process: what the calls take."""

    def measure(scale: Scale) -> float:
        repeated = scale.jobs(_MESSAGES)
        ours, theirs = make()

        def work() -> None:
            for _ in range(repeated):
                ours.send(_MESSAGE)
                theirs.recv()

        with ours, theirs:
            return milliseconds(work) * 1000 / repeated

    return measure


def _there_and_back(make: _Make) -> Callable[[Scale], float]:
    """Microseconds until a child has sent a message back."""

    def measure(scale: Scale) -> float:
        repeated = scale.jobs(_MESSAGES)
        ours, theirs = make()

        def work() -> None:
            for _ in range(repeated):
                ours.send(_MESSAGE)
                ours.recv()

        with ours, theirs:
            child = _FORK.Process(target=_echo, args=(theirs, repeated))
            child.start()
            taken = milliseconds(work) * 1000 / repeated
            child.join()
            return taken

    return measure


def _echo(end: Any, messages: int) -> None:
    for _ in range(messages):
        end.send(end.recv())


CASE = Case(
    name="pipe",
    title=f"{_MESSAGES:,} messages, one at a time",
    unit="us",
    contenders=(
        Contender("Pipe, within one process", _within(Pipe), ours=True),
        Contender("multiprocessing.Pipe, within one process", _within(_FORK.Pipe)),
        Contender("Pipe, to a child and back", _there_and_back(Pipe), ours=True),
        Contender("multiprocessing.Pipe, to a child and back", _there_and_back(_FORK.Pipe)),
    ),
)
