"""A memory barrier that one process executes for others, so that they need none of their own.

    often, in process A:   store mine; load theirs              (no fence)
    rarely, in process B:  store theirs; barrier(); load mine

`barrier()` makes every processor that runs a registered process pass a full fence before it returns. So
either A's load comes after it and sees what B stored, or A's store comes before it and B sees that: Dekker's
argument, with the whole price on the side that seldom asks. (Linux 4.16, membarrier(2),
MEMBARRIER_CMD_GLOBAL_EXPEDITED; other systems and old kernels have no such thing.)
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["barrier", "is_available", "register"]

_NUMBERS = {"x86_64": 324, "aarch64": 283, "riscv64": 283}
_QUERY, _GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 0, 1 << 1, 1 << 2

_number = _NUMBERS.get(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None
_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long


def _membarrier(command: int) -> int:
    return -1 if _number is None else int(_syscall(ctypes.c_long(_number), command, 0, 0))


def is_available() -> bool:
    """Whether this system has it."""
    commands = _membarrier(_QUERY)
    return commands > 0 and bool(commands & _REGISTER_GLOBAL_EXPEDITED)


def register() -> bool:
    """Have `barrier` of other processes reach this one; False where it will not."""
    return _membarrier(_REGISTER_GLOBAL_EXPEDITED) == 0


def barrier() -> None:
    """A full fence here and in every process for which `register` was true."""
    _membarrier(_GLOBAL_EXPEDITED)
