"""A signal at every instruction of some modules, for tests of handlers that come in between."""

from __future__ import annotations

import dis
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["at_every_instruction"]

_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
"""Instructions at whose end Python looks for signals; at others a handler runs under a tracer alone."""


def at_every_instruction(
    action: Callable[[], object],
    *modules: str,
    only_looks: bool = False,
    strike: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Do `action` again and again: SIGUSR1 comes at its first instruction in the modules, at its second …

    Args:
        action: Must not let through what the handler raises.
        *modules: Ends of their file names.
        only_looks: Only where Python itself would run a handler: for handlers that raise.

    Yields:
        After each.
    """
    for place in itertools.count():
        left = place
        before: dict[int, str] = {}

        def trace(frame: Any, event: str, _argument: object) -> Any:
            nonlocal left
            frame.f_trace_opcodes = frame.f_code.co_filename.endswith(modules)
            if event == "return":
                before.pop(id(frame), None)  # noqa: B023  # used up before the next one is made
            elif event == "opcode":
                last = before.get(id(frame), "RESUME")  # noqa: B023
                before[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]  # noqa: B023
                left -= not only_looks or last.startswith(_LOOKS)
                if left == -1:
                    left -= 1
                    os.kill(os.getpid(), signal.SIGUSR1)
            return trace

        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one in `settrace`
        sys.settrace(trace)
        try:
            action()
        finally:
            sys.settrace(None)
        if left >= 0:
            assert place > 20
            return
        yield
