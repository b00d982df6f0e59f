"""Wait until another process says that something has changed, as `threading.Condition`.

    for each of some groups:
    S  sleepers        wait     under the lock   in a group whose W is 0: S +1 undo
    W  wake-ups                 without it       W -1 and S -1 undo, in one operation; then the lock again
                       notify   under the lock   W + as many as are wanted, at most S - W, from group to group

S counts the living: the kernel takes back the 1 of a sleeper that dies, so no wake-up is kept for it; one
that it was sent goes to another sleeper of its group. While the lock is had nobody new sleeps, so what was
sent for the dead is found by counting, and taken back.

A wake-up waits for a sleeper that has not fallen asleep yet. Whoever comes after it was sent must not take it
away from him, so nobody joins a group in which one is under way. Sleepers take their wake-ups without the
lock, at once, so one of the groups is soon quiet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.semaphore import MAX_VALUE, SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import NOW, UNDO, SemaphoreSet
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.lockers.base import LockOwner, Removed, destroyed, open_segment
from multiprocessing_kit.lockers.mutex import MutexLocker
from multiprocessing_kit.lockers.reentrant import ReentrantLocker

__all__ = ["ConditionLocker"]

T = TypeVar("T")

GROUPS: Final = 8
_PAUSE: Final = 0.001  # seconds to wait for one group to be quiet before the next is looked at


class _Group:
    """The operations of one group; `number` is its place."""

    def __init__(self, semaphores: SemaphoreSet, number: int) -> None:
        sleepers, self._wake_ups = 2 * number, 2 * number + 1
        self._set = semaphores
        self.number = number
        self.join = semaphores.operation((sleepers, 1, UNDO))
        self.leave = semaphores.operation((sleepers, -1, UNDO))
        self.woken = semaphores.operation((self._wake_ups, -1, 0), (sleepers, -1, UNDO))
        self.quiet = semaphores.operation((self._wake_ups, 0, 0))

    def count(self) -> tuple[int, int]:
        """Its sleepers, and wake-ups that they have not taken yet. Under the lock both only become fewer."""
        values = self._set.values(2 * GROUPS)
        return values[2 * self.number], values[2 * self.number + 1]

    def send(self, number: int) -> None:
        """Send more wake-ups; take some back if it is negative, as far as they are still there."""
        for _ in self._set.operation((self._wake_ups, number, 0)).done(NOW):
            pass


class ConditionLocker:
    """A condition variable for processes.

    Args:
        locker: The lock that it goes with, which all its users share; None: a `ReentrantLocker` of its own,
            with the same name.
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
        TypeError: `locker` is of another kind.
    """

    def __init__(self, locker: MutexLocker | ReentrantLocker | None = None, name: str = "") -> None:
        if locker is not None and not isinstance(locker, (MutexLocker, ReentrantLocker)):
            raise TypeError(f"a ConditionLocker needs a MutexLocker or a ReentrantLocker, not {locker!r}")
        self.name = name
        self._own = ReentrantLocker(name) if locker is None else None
        self._locker: Any = locker or self._own
        segment, self._words = open_segment("condition", name, [0], sets=[(0, 0) * GROUPS])
        self._segment: StampedSegment | NamedSegment | Removed = segment
        self._set = segment.sets[0]
        self._groups: dict[int, _Group] = {}

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take its lock."""
        return bool(self._locker.acquire(blocking, timeout))

    def release(self) -> None:
        """Give its lock back."""
        self._locker.release()

    def locked(self) -> bool:
        """Whether somebody has its lock."""
        return bool(self._locker.locked())

    @property
    def owner(self) -> LockOwner | None:
        """Who has its lock."""
        owner: LockOwner | None = self._locker.owner
        return owner

    @property
    def owner_died(self) -> bool:
        """Whether the owner before this one died with its lock."""
        return bool(self._locker.owner_died)

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, sleep until `notify`, and take it again.

        Args:
            timeout: Seconds to sleep at most; None: as long as it takes. To take the lock again takes as long
                as it takes.

        Returns:
            False if the time ran out.

        Raises:
            LockerError: The lock is not had here, or this was destroyed.
        """
        self._check_owned("wait")
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        try:
            group = self._quiet_group()
            for _ in group.join.done(NOW):
                woken: list[bool] = []
                try:
                    self._sleep(group, deadline, woken)
                finally:
                    if not woken:
                        group.leave.do()
                return bool(woken)
        except SemaphoreRemovedError:
            pass
        raise destroyed(self)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate`, called with the lock, returns something true.

        Args:
            predicate: What is waited for.
            timeout: Seconds to wait at most, in all; None: as long as it takes.

        Returns:
            Its last result, which is not true if the time ran out.

        Raises:
            LockerError: It is not true at once, and the lock is not had here; or this was destroyed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            self._check_owned("wait_for")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait; all if there are fewer.

        Raises:
            LockerError: The lock is not had here, or this was destroyed.
        """
        self._check_owned("notify")
        try:
            values = self._set.values(2 * GROUPS)
            first = self._words[0] % GROUPS
            for number in (*range(first, GROUPS), *range(first)):
                more = min(n, values[2 * number] - values[2 * number + 1])
                if more > 0:
                    self._group(number).send(more)
                    # The others first, next time: nobody sleeps for ever beside a group that is never empty.
                    self._words[0] = number + 1
                    n -= more
        except SemaphoreRemovedError:
            raise destroyed(self) from None

    def notify_all(self) -> None:
        """Wake everybody who waits."""
        self.notify(MAX_VALUE)

    def destroy(self) -> None:
        """Remove it from the system, for every process, and its lock if it was not given one.

        Raises:
            LockerError: Somebody waits, or has the lock that it made.
        """
        segment = self._segment
        if isinstance(segment, Removed):
            return
        try:
            sleepers = sum(self._set.values(2 * GROUPS)[::2])
        except SemaphoreRemovedError:
            sleepers = 0
        if sleepers:
            raise LockerError(f"{self!r} cannot be destroyed: {sleepers} wait for it", reason="held")
        if self._own is not None:
            self._own.destroy()
        segment.remove()
        self._segment = Removed(segment.key, 1)
        self._words = self._segment.words

    def _sleep(self, group: _Group, deadline: float | None, woken: list[bool]) -> None:
        """Counted among the sleepers, with the lock; says in `woken` that it was, and is not counted then."""
        state = self._locker._release_save()
        try:
            # Up to the end of the first call no signal handler raises: being woken is not forgotten.
            for _ in group.woken.done(deadline):
                woken.append(True)
        finally:
            self._locker._acquire_restore(state)
        if not woken:
            sleepers, wake_ups = group.count()
            if wake_ups >= sleepers:  # one of them was for this one, which was late
                for _ in group.woken.done(NOW):
                    woken.append(True)

    def _quiet_group(self) -> _Group:
        """One in which no wake-up is under way. Under the lock, so none will be."""
        while True:
            values = self._set.values(2 * GROUPS)
            for number in range(GROUPS):
                sleepers, wake_ups = values[2 * number : 2 * number + 2]
                group = self._group(number)
                if wake_ups > sleepers:  # sent to sleepers who died before they took them
                    group.send(sleepers - wake_ups)
                if wake_ups == 0 or sleepers == 0:
                    return group
            # It is for sleepers that live, and do not need the lock to take it.
            for _ in self._group(0).quiet.done(time.monotonic() + _PAUSE):
                pass

    def _group(self, number: int) -> _Group:
        group = self._groups.get(number)
        if group is None:
            group = self._groups[number] = _Group(self._set, number)
        return group

    def _check_owned(self, verb: str) -> None:
        if not self._locker._is_owned():
            raise LockerError(f"cannot {verb} on un-acquired lock {self._locker!r}", reason="not acquired")

    def __enter__(self) -> bool:
        return bool(self._locker.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locker.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ConditionLocker cannot be pickled: children inherit it by fork")

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<ConditionLocker{name} at {self._segment.key:#x}: {self._locker!r}>"
