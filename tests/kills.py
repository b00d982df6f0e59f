"""Children that are killed at one instant after the other of what they do, for tests of what they leave."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import FrameType, ModuleType
from typing import Any, TypeVar

from tests.forks import die, in_child

__all__ = ["Instants", "killed_one_after_the_other"]

T = TypeVar("T")


def killed_one_after_the_other(
    prepare: Callable[[], AbstractContextManager[T]],
    act: Callable[[int, T], object],
    *,
    stride: int = 1,
    least: int = 1,
) -> Iterator[T]:
    """What was used by a child that was killed at its instant 0, `stride`, …; at last, by one that was not.

    Args:
        prepare: Makes it, anew for each child. The block is left before the next one is made.
        act: What a child does: given the instant at which it is to kill itself, and what was made.
        stride: Instants from one kill to the next.
        least: There must be more instants than these, or the test saw too little.

    Yields:
        What `prepare` made, after the child has ended.
    """
    for instant in itertools.count(step=stride):
        with prepare() as used:
            outcome = in_child(lambda: act(instant, used))  # noqa: B023  # runs at once
            yield used
        if outcome != -signal.SIGKILL:
            assert outcome == 0
            assert instant > least, "few instants were seen"
            return


class Instants:
    """Where a child may be killed: before any instruction of some modules, and any line of others."""

    def __init__(self, by_instruction: Iterable[ModuleType] = (), by_line: Iterable[ModuleType] = ()) -> None:
        self._instructions = {module.__file__: True for module in by_instruction}
        self._files = self._instructions | {module.__file__: False for module in by_line}

    def killed(
        self,
        prepare: Callable[[], AbstractContextManager[T]],
        action: Callable[[T], object],
        *,
        stride: int = 1,
        least: int = 10,
    ) -> Iterator[T]:
        """As `killed_one_after_the_other`, at these instants of `action`."""

        def act(instant: int, used: T) -> None:
            self.die_at(instant, lambda: action(used))

        return killed_one_after_the_other(prepare, act, stride=stride, least=least)

    def die_at(self, instant: int, action: Callable[[], object]) -> None:
        """Run `action` up to one of its instants; to its end, if it has fewer."""
        left = itertools.count(instant, -1)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            by_instruction = self._files.get(frame.f_code.co_filename)
            if by_instruction is None:
                return None
            frame.f_trace_opcodes = by_instruction
            if event == ("opcode" if by_instruction else "line") and next(left) == 0:
                die()
            return trace

        if self._instructions:
            sys._getframe().f_trace_opcodes = True  # before settrace, or Python 3.12 never tells of opcodes
        sys.settrace(trace)
        try:
            action()
        finally:
            sys.settrace(None)
