"""A number of permits, each of which is free again when the process that has it dies.

    V  free permits          acquire   V -1 undo, D +1, D -1 undo        one operation: all or nothing
    D  deaths not yet told   release   V +1 undo, D +1 undo, D -1

Taking changes nothing about D, but leaves 1 for the kernel to undo. So when a process dies with a permit, the
permit is free again and D says so; whoever takes one next takes that 1 along, and knows.
"""

from __future__ import annotations

from typing import Final

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.semaphore import MAX_VALUE, SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import NOW, UNDO, Operation
from multiprocessing_kit.ipc.stamped import StampedSegment
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
from multiprocessing_kit.lockers.holder import ME, owner_of, pid_in

__all__ = ["SemaphoreLocker"]

_FREE: Final = 0
_DEATHS: Final = 1
_LAST_OWNER: Final = 0
_VALUE: Final = 1


class SemaphoreLocker(Locker):
    """Permits for up to `value` owners at a time, as `threading.BoundedSemaphore`, for processes.

    The owner of a permit is a process: any of its threads may release it, another process may not. So this
    is no means to wake others, as a `threading.Semaphore` that is released without being acquired: take a
    `ConditionLocker` for that.

    Args:
        value: How many permits there are, 1 to 32767.
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
        LockerError: The name stands for one with another value.
        ValueError: `value` is out of range.
    """

    def __init__(self, value: int = 1, name: str = "") -> None:
        if not 1 <= value <= MAX_VALUE:
            raise ValueError(f"a semaphore has 1 to {MAX_VALUE} permits, not {value}")
        self.name = name
        segment, self._words = open_segment("semaphore", name, [0, value], sets=[(value, 0)])
        self._segment: StampedSegment | NamedSegment | Removed = segment
        if self._words[_VALUE] != value:
            raise LockerError(
                f"the semaphore {name!r} is there with {self._words[_VALUE]} permits, not {value}",
                reason="another value",
            )
        self._set = segment.sets[0]
        self._value = value
        self._take = self._set.operation((_FREE, -1, UNDO), (_DEATHS, 1, 0), (_DEATHS, -1, UNDO))
        self._give = self._giving(1)
        self._told = self._set.operation((_DEATHS, -1, 0))
        self._token = ME.token
        self._taken = 0  # permits of the process with that token
        self._owner_died = False

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """As `Locker.acquire`, for one permit; `timeout` may also be None: as long as it takes."""
        deadline = deadline_of(blocking, -1 if timeout is None else timeout)
        self._forget_parents()
        words, told = self._words, self._told.now
        try:
            for _ in self._take.done(deadline):
                # Up to the first call no signal handler raises, so what is taken is counted.
                self._taken += 1
                words[_LAST_OWNER] = ME.token
                try:
                    self._owner_died = told() == 0
                except BaseException:
                    self.release()
                    raise
                return True
        except SemaphoreRemovedError:
            raise destroyed(self) from None
        return False

    def release(self, n: int = 1) -> None:
        """Give back `n` permits.

        Raises:
            LockerError: This process does not have so many.
            ValueError: `n` is less than 1.
        """
        if n < 1:
            raise ValueError(f"n must be one or more, not {n}")
        self._forget_parents()
        now = (self._give if n == 1 else self._giving(n)).now
        if n > self._taken:
            raise self._too_many(n)
        self._taken -= n
        if now():
            raise destroyed(self)

    def destroy(self) -> None:
        """As `Locker.destroy`. Those who wait for it get LockerError."""
        segment = self._segment
        if isinstance(segment, Removed):
            return
        try:
            for _ in self._set.operation((_FREE, -self._value, UNDO)).done(NOW):
                segment.remove()
                break
            else:
                raise held(self)
        except SemaphoreRemovedError:
            pass
        self._segment = Removed(segment.key, len(self._words))
        self._words = self._segment.words

    @property
    def owner(self) -> LockOwner | None:
        """The process that took a permit last, while any permit is taken; None if all are free."""
        try:
            token = self._words[_LAST_OWNER]
            return owner_of(pid_in(token)) if token and self._set.value(_FREE) < self._value else None
        except SemaphoreRemovedError:
            return None

    @property
    def owner_died(self) -> bool:
        """Whether a process had died with a permit when this one took its last. Each death is told once."""
        return self._owner_died

    def _giving(self, n: int) -> Operation:
        return self._set.operation((_FREE, n, UNDO), (_DEATHS, n, UNDO), (_DEATHS, -n, 0))

    def _forget_parents(self) -> None:
        """In a forked child: the permits of its parent are not its own."""
        if self._token != ME.token:
            self._token = ME.token
            self._taken = 0

    def _too_many(self, n: int) -> LockerError:
        if self._taken:
            return LockerError(
                f"release({n}) of {self!r}: this process has only {self._taken}", reason="not acquired"
            )
        return not_ours(self)

    def __repr__(self) -> str:
        try:
            state = f"{self._set.value(_FREE)}/{self._value} free"
        except SemaphoreRemovedError:
            state = "destroyed"
        name = f" {self.name!r}" if self.name else ""
        return f"<{state} {type(self).__name__} object{name} at {self._segment.key:#x}>"
