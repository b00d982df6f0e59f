"""A lock that one process has at a time: a semaphore with undo, and a word of memory that says whose it is.

    acquire                                  release
    take the semaphore, or wait for it       word: ours?
    word: not 0?  its last owner died        word = 0
    word = our token                         give the semaphore back

The kernel gives the semaphore back when its owner dies, and hands it to the one that has waited longest. It
does not know the word: left by the dead, it tells the next owner. Killed in `acquire` before the word, or in
`release` behind it, an owner was outside of what the lock protects, and nothing is told.
"""

from __future__ import annotations

from collections.abc import Iterator

from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.semaphore import SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import NOW, UNDO, Operation
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.sysv import require_sysv
from multiprocessing_kit.lockers.base import (
    Locker,
    LockOwner,
    Removed,
    deadline_of,
    destroyed,
    held,
    not_ours,
    open_segment,
)
from multiprocessing_kit.lockers.holder import ME, owner_of

__all__ = ["MutexLocker", "SemaphoreOwned"]


class SemaphoreOwned(Locker):
    """The parts of a locker that is one semaphore and some words, the first of which is the owner's token.

    Args:
        kind: For `clear_ipc.py`.
        name: As for every locker.
        words: How many.
    """

    def __init__(self, kind: str, name: str, words: int) -> None:
        sysv = require_sysv()
        self.name = name
        segment, self._words = open_segment(kind, name, [0] * words, [1])
        self._segment: StampedSegment | NamedSegment | Removed = segment
        self._guard = segment.semaphores[0].guard
        # Each step takes the semaphore once. A signal handler may raise after a call, but not after a step.
        self._takes = iter(self._guard.acquire, 0)
        self._give = self._guard.release
        self._busy: type[Exception] = sysv.BusyError
        self._gone: type[Exception] = sysv.ExistentialError
        self._owner_died = False

    @property
    def owner(self) -> LockOwner | None:
        """As `Locker.owner`."""
        try:
            # As long as it is taken, whoever took it was the last to do anything with it.
            return None if self._guard.value else owner_of(self._guard.last_pid)
        except self._gone:
            return None

    @property
    def owner_died(self) -> bool:
        """As `Locker.owner_died`."""
        return self._owner_died

    def locked(self) -> bool:
        """Whether somebody has it."""
        try:
            return not self._guard.value
        except self._gone:
            raise destroyed(self) from None

    def destroy(self) -> None:
        """As `Locker.destroy`. Those who wait for it get LockerError."""
        segment = self._segment
        if isinstance(segment, Removed):
            return
        try:
            for _ in self._takes:
                try:
                    segment.remove()
                except BaseException:
                    self._give()
                    raise
                break
        except self._busy:
            raise held(self) from None
        except self._gone:
            pass
        self._segment = Removed(segment.key, len(self._words))
        self._words = self._segment.words

    def _later(self, deadline: float | None) -> Iterator[None]:
        """Take the semaphore when it is free; yields once, or not at all if the time ran out."""
        if deadline == NOW:
            return
        try:
            yield from Operation(self._guard.id, (0, -1, UNDO)).done(deadline)
        except SemaphoreRemovedError:
            raise destroyed(self) from None

    def __repr__(self) -> str:
        try:
            state = "unlocked" if self._guard.value else "locked"
        except self._gone:
            state = "destroyed"
        name = f" {self.name!r}" if self.name else ""
        return f"<{state} {type(self).__name__} object{name} at {self._segment.key:#x}>"


class MutexLocker(SemaphoreOwned):
    """A lock for processes, as `threading.Lock` is for threads. It also works between threads.

    The owner is a process: any thread of it may release what another one took, as `threading.Lock` says.
    Another process may not, unlike `multiprocessing.Lock`: it could only do so by mistake, since the lock
    of a dead owner is free by itself. A second `acquire` by its owner waits, as there, for itself.

    Waiters sleep, and get it in the order in which they came.

    Args:
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__("mutex", name, 1)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `Locker.acquire`."""
        deadline = None if blocking and timeout == -1 else deadline_of(blocking, timeout)
        words = self._words
        try:
            # Nothing in here is a call, so no signal handler raises between taking and taking note.
            for _ in self._takes:
                self._owner_died = words[0] != 0
                words[0] = ME.token
                return True
        except self._busy:
            pass
        except self._gone:
            raise destroyed(self) from None
        for _ in self._later(deadline):
            self._owner_died = words[0] != 0
            words[0] = ME.token
            return True
        return False

    __enter__ = acquire

    def release(self) -> None:
        """As `Locker.release`."""
        if self._words[0] != ME.token:
            raise not_ours(self)
        self._words[0] = 0
        try:
            self._give()
        except self._gone:
            raise destroyed(self) from None

    def _is_owned(self) -> bool:
        return self._words[0] == ME.token

    def _release_save(self) -> None:
        self.release()

    def _acquire_restore(self, _: None) -> None:
        self.acquire()
