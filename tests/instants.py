"""A signal at every instruction of some modules, for tests of handlers that come in between."""

from __future__ import annotations

import dis
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["at_every_instruction", "at_instruction"]

_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
"""Instructions at whose end Python looks for signals; at others a handler runs under a tracer alone."""


def at_every_instruction(
    action: Callable[[], object], *modules: str, only_looks: bool = False
) -> Iterator[None]:
    """Do `action` again and again: the signal comes at its first instruction, at its second …

    Arguments are those of `at_instruction`. Yields after each.
    """
    for place in itertools.count():
        if not at_instruction(place, action, *modules, only_looks=only_looks):
            assert place > 10
            return
        yield


def at_instruction(place: int, action: Callable[[], object], *modules: str, only_looks: bool = False) -> bool:
    """Do `action`; SIGUSR1 comes before one of its instructions.

    Args:
        place: Which one.
        action: What to do.
        *modules: Ends of the names of the files whose instructions count.
        only_looks: Only those count at which Python itself would run a handler. For handlers that raise.

    Returns:
        Whether there were so many.
    """
    left = place
    before: dict[int, str] = {}

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = frame.f_code.co_filename.endswith(modules)
        if event == "return":
            before.pop(id(frame), None)
        elif event == "opcode":
            last = before.get(id(frame), "RESUME")
            before[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if not only_looks or last.startswith(_LOOKS):
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGUSR1)
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one in `settrace`
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return left < 0
