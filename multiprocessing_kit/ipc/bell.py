"""A bell wakes everybody who waits for it, and none of them can miss it or steal it.

    sleeper                                     ringer
    ── mutex ──────────────────────────         ── mutex ──────────────────────────
    finds nothing to do                         ring():  count += 1
    note():  remembers the count, say 7         changes the shared state
    ───────────────────────────────────         ───────────────────────────────────
    wait(): until the count is 8 or more

The count is the value of a semaphore and only goes up, so a ring between `note` and `wait` is still
there to be seen. Waiting takes nothing, so a sleeper that is killed takes nothing along. The ringer
rings before it changes the state: killed in between, it has woken the others for nothing (they look
under the mutex and go back to sleep), but never left one asleep beside what it waits for.

A semaphore counts to 32767. Near that the count goes on from 0 on a second semaphore, and the first
stays full, so that whoever noted it and is late to wait on it wakes at once.
"""

from __future__ import annotations

import errno

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.semaphore import MAX_VALUE, Semaphore

__all__ = ["Bell"]

_LAST = MAX_VALUE - 1  # a sleeper waits for one more than it noted, which must still be a value


class Bell:
    """Two semaphores, and one item of shared memory that says which of them counts.

    Args:
        semaphores: Both, created with 0.
        turn: A view of that one item.
    """

    def __init__(self, semaphores: tuple[Semaphore, Semaphore], turn: memoryview) -> None:
        self._semaphores = semaphores
        self._turn = turn

    def note(self) -> tuple[Semaphore, int]:
        """What `wait` needs. Call under the mutex, after finding that there is reason to wait."""
        semaphore = self._semaphores[self._turn[0]]
        count = semaphore.value
        if count >= _LAST:
            turn = 1 - self._turn[0]
            semaphore, count = self._semaphores[turn], 0
            semaphore.set(0)
            self._turn[0] = turn
        return semaphore, count

    def ring(self) -> None:
        """Wake everybody. Call under the mutex, before the change they wait for."""
        try:
            self._semaphores[self._turn[0]].release()
        except IpcError as error:
            # Full: everybody who noted it waits for a lower count, and so is awake already.
            if error.errno != errno.ERANGE:
                raise

    @staticmethod
    def wait(noted: tuple[Semaphore, int], timeout: float | None) -> bool:
        """Wait for a ring since `note`, at most `timeout` seconds. False if the time ran out."""
        semaphore, count = noted
        return semaphore.wait_for(count + 1, timeout)
