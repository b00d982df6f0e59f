"""A mutex that its owner, one thread, may take again. Its words: the process's token, thread, how often."""

from __future__ import annotations

from threading import get_ident

from multiprocessing_kit.lockers.base import deadline_of, destroyed, not_ours
from multiprocessing_kit.lockers.holder import ME
from multiprocessing_kit.lockers.mutex import SemaphoreOwned

__all__ = ["ReentrantLocker"]

_PROCESS, _THREAD, _COUNT = range(3)


class ReentrantLocker(SemaphoreOwned):
    """A reentrant lock for processes, as `threading.RLock` is for threads.

    The owner is a thread of a process, and only that thread may release it, as often as it took it.

    Args:
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__("reentrant", name, 3)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `Locker.acquire`; at once if this thread has it."""
        deadline = None if blocking and timeout == -1 else deadline_of(blocking, timeout)
        words, thread = self._words, get_ident()
        if words[_PROCESS] == ME.token and words[_THREAD] == thread:
            words[_COUNT] += 1
            return True
        try:
            # Nothing in here is a call, so no signal handler raises between taking and taking note.
            for _ in self._takes:
                self._owner_died = words[_PROCESS] != 0
                words[_THREAD] = thread
                words[_COUNT] = 1
                words[_PROCESS] = ME.token
                return True
        except self._busy:
            pass
        except self._gone:
            raise destroyed(self) from None
        for _ in self._later(deadline):
            self._owner_died = words[_PROCESS] != 0
            words[_THREAD] = thread
            words[_COUNT] = 1
            words[_PROCESS] = ME.token
            return True
        return False

    __enter__ = acquire

    def release(self) -> None:
        """As `Locker.release`; others get it when this was called as often as `acquire`."""
        words = self._words
        if words[_PROCESS] != ME.token or words[_THREAD] != get_ident():
            raise not_ours(self)
        if words[_COUNT] > 1:
            words[_COUNT] -= 1
            return
        words[_PROCESS] = 0
        try:
            self._give()
        except self._gone:
            raise destroyed(self) from None

    def _is_owned(self) -> bool:
        return self._words[_PROCESS] == ME.token and self._words[_THREAD] == get_ident()

    def _release_save(self) -> int:
        count: int = self._words[_COUNT]
        self._words[_COUNT] = 1
        self.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self.acquire()
        self._words[_COUNT] = count
