"""A block of jobs whose outcomes are sent by a signal handler, between any two bytecodes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import pytest

from multiprocessing_kit.runner.block import Block, PickledBlock, run_jobs
from multiprocessing_kit.runner.child_end import ChildEnd
from multiprocessing_kit.runner.lane import BEGUN, TAKEN_BACK

ARGUMENTS = ["a", "b", "c", "d"]


class Lane:
    """What a block needs of a lane. Notes the numbers that are announced."""

    announced = None

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.words = self

    def begin_block(self) -> int:
        return 100

    def is_taken(self, _number: int) -> bool:
        return False

    def __setitem__(self, word: int, value: int) -> None:
        assert word == BEGUN
        self.heard.append(value)

    def __getitem__(self, word: int) -> int:
        assert word == TAKEN_BACK
        return 0


def a_block(kind: type[Block] = Block, arguments: list[Any] = ARGUMENTS) -> Block:
    """Of job 50 on, behind two outcomes of others."""
    return kind("run", 50, list(arguments), ["x", "y"], cast(ChildEnd, Lane()))


def at_opcode(number: int, act: Callable[[], None], call: Callable[[], object]) -> tuple[object, bool]:
    """Call it with `act` in its midst; what it returns, and whether it came to `act`."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
        return trace

    previous = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at this when tracing begins
    sys.settrace(trace)
    try:
        result = call()
    finally:
        sys.settrace(previous)
    return result, left <= 0


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="does not trace the opcodes of so short a call")
@pytest.mark.parametrize("name", ["number", "index", "job_id", "argument", "last", "passed"])
def test_where_it_is_does_not_depend_on_what_was_sent(name: str) -> None:
    struck, number = True, 0
    while struck:
        number += 1
        block = a_block()
        block.outcomes += [1, 2]
        expected = getattr(block, name)
        result, struck = at_opcode(number, block.clear, lambda block=block: getattr(block, name))  # type: ignore[misc]
        assert result == expected
        assert getattr(block, name) == expected
    assert number > 3


@pytest.mark.parametrize("kind", [Block, PickledBlock])
def test_each_number_is_announced(kind: type[Block]) -> None:
    """Wherever outcomes are sent, and also where the loop begins anew behind one of another type."""
    struck, number = True, 0
    arguments = ARGUMENTS if kind is Block else [pickle.dumps(argument) for argument in ARGUMENTS]
    while struck:
        number += 1
        block = a_block(kind, arguments)
        lane = cast(Lane, block.lane)

        def run(block: Block = block) -> list[object]:
            kept: list[object] = []
            rest = iter(block)
            while len(kept) < 2:
                kept.append(run_jobs(block, lambda text: 1.5 if text in "bd" else 1, rest, int))
                block.outcomes.append(kept[-1])
            return kept

        result, struck = at_opcode(number, block.clear, run)
        assert result == [1.5, 1.5]
        assert [heard for at, heard in enumerate(lane.heard) if heard not in lane.heard[:at]] == [
            101,
            102,
            103,
            104,
        ]
        assert lane.heard == sorted(lane.heard)
    assert number > 50
