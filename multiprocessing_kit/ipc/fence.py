"""A full memory barrier from pure Python.

Two processes that share memory without a lock rely on the order of their stores and loads:

    writer: payload, FENCE, head counter          a reader who sees the counter sees the payload
    writer: head counter, FENCE, read peer's flag   \\ one of the two sees what the other wrote,
    reader: write own flag, FENCE, read the counter /  so nobody sleeps beside a waiting record

x86 keeps stores in order but lets a load pass an earlier store; aarch64 keeps neither. Releasing a
lock orders all that came before it, and taking one orders all that comes after; an acquire also stays
behind an earlier release (both are sequentially consistent in the C11 mapping of either processor).
So a lock that is always held is released and taken again. The other way round, taken and then
released, would let both neighbours move into the middle and pass each other there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["KEEPS_STORES_IN_ORDER", "make_fence"]


KEEPS_STORES_IN_ORDER = os.uname().machine in {"x86_64", "AMD64", "i386", "i686"}
"""Whether stores are seen in the order they are made, and loads done in theirs: x86's total store order.

There a counter may follow its payload without a fence; a load that must not pass an earlier store still
needs one."""


def make_fence() -> Callable[[], None]:
    """A barrier for one thread at a time (two threads would contend for its lock)."""
    lock = threading.Lock()
    lock.acquire()
    release, acquire = lock.release, lock.acquire

    def fence() -> None:
        release()
        acquire()

    return fence
