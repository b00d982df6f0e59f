"""A mutex that looks again for a while before it sleeps, for sections of a few microseconds.

    taken?  ▸ look at the owner's word, in memory       `LOOKS` times, 40 ns each: no system call
            ▸ let others run, then try                  `YIELDS` times
            ▸ sleep until it is handed over             as a mutex

A spin lock proper takes a word of memory with an atomic compare-and-swap. Python has none, nor has any
module that needs no compiler; what can be had without (Lamport's bakery, Peterson's algorithm) needs fences,
a slot for each process and a way to find the dead. So the word is only looked at, and what is taken is the
semaphore, by one system call that does not wait: atomic, and given back by the kernel when its owner dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from multiprocessing_kit.ipc.semset import NOW
from multiprocessing_kit.lockers.base import destroyed
from multiprocessing_kit.lockers.mutex import MutexLocker, SemaphoreOwned

__all__ = ["SpinLocker"]

LOOKS: Final = 50
YIELDS: Final = 10

_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class SpinLocker(MutexLocker):
    """A `MutexLocker` that spins, for a bounded time, before it sleeps.

    Worth it where the lock is had for a few microseconds only, and there are processors to spare. Who spins
    may overtake who sleeps: for fairness take `MutexLocker`.

    Args:
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
    """

    def __init__(self, name: str = "") -> None:
        SemaphoreOwned.__init__(self, "spin", name, 1)

    def _later(self, deadline: float | None) -> Iterator[None]:
        if deadline == NOW:
            return
        words = self._words
        for attempt in range(LOOKS + YIELDS):
            if attempt < LOOKS:
                if words[0]:
                    continue
            else:
                _let_others_run()
            try:
                for _ in self._takes:
                    yield
                    return
            except self._busy:
                continue
            except self._gone:
                raise destroyed(self) from None
        yield from super()._later(deadline)
