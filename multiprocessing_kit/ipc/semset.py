"""Several System V semaphores that one operation changes together, all or none.

That is what the kernel offers and no module in pure Python does: "wait until nobody writes, and count
me among the readers" is one step, so there is no instant in between at which a process could die.
A change made with `UNDO` is taken back by the kernel when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.limits import semaphore_refused
from multiprocessing_kit.ipc.semaphore import removed
from multiprocessing_kit.ipc.sysv import require_sysv

__all__ = ["NOW", "UNDO", "Operation", "SemaphoreSet", "Step"]

UNDO: Final = 0o10000
"""The flag of a step that the kernel takes back at the end of its process."""

NOW: Final = -math.inf
"""The deadline of who does not wait."""

Step = tuple[int, int, int]
"""Which semaphore of the set, what to add (0: wait until it is 0), flags (0 or `UNDO`)."""

_NOWAIT = 0o4000
_FIND_OR_CREATE = 0o1000 | 0o600  # IPC_CREAT and the mode
_CREATE = _FIND_OR_CREATE | 0o2000  # and IPC_EXCL
_POLL = 0.01  # seconds between tries where there is no semtimedop (macOS)


class Operation:
    """Steps that are done all at once, or not at all.

    Args:
        number: Id of the set.
        steps: In their order; one semaphore may come up more than once.

    Attributes:
        now: The C function that does it without waiting; not 0 if it could not be done, and `failed()` why.
    """

    __slots__ = ("_count", "_number", "_patient", "_trying", "now")

    def __init__(self, number: int, *steps: Step) -> None:
        libc = _libc()
        self._number = number
        self._count = len(steps)
        self._patient = libc.sembufs(steps)
        self._trying = libc.sembufs(tuple((which, change, flags | _NOWAIT) for which, change, flags in steps))
        self.now: Callable[[], int] = partial(libc.try_semop, number, self._trying, self._count)

    def done(self, deadline: float | None) -> Iterator[None]:
        """Do it, waiting until it can be done; yields once when it is.

        A signal handler may raise after any call, so also between one that has done the steps and
        whatever would take note of it. None runs between that and the first line inside of

            for _ in operation.done(deadline):
                ...

        Args:
            deadline: On the monotonic clock; `NOW`: do not wait; None: wait as long as it takes.

        Yields:
            None, once. Nothing if the time ran out.

        Raises:
            SemaphoreRemovedError: The set was removed.
        """
        libc = _libc()
        while True:
            for _ in iter(self._call(libc, deadline), -1):
                yield
                return
            number = libc.last_error()
            if number == errno.EAGAIN:
                if libc.timed or deadline is None or time.monotonic() >= deadline:
                    return
                time.sleep(min(_POLL, deadline - time.monotonic()))
            elif number != errno.EINTR:  # Python runs its handlers between two tries
                raise self.failed()

    def do(self) -> None:
        """Do it now; it must be one that never waits, such as giving back."""
        if self.now():
            raise self.failed()

    def failed(self) -> IpcError:
        """Why the last try failed, in this thread."""
        number = _libc().last_error()
        if number in (errno.EIDRM, errno.EINVAL):
            return removed(self._number)
        return IpcError(number, f"semaphores {self._number}: {os.strerror(number)}")

    def _call(self, libc: Any, deadline: float | None) -> Any:
        if deadline is None:
            return partial(libc.try_semop, self._number, self._patient, self._count)
        if deadline == NOW or not libc.timed:
            return self.now
        span = libc.timespec(deadline - time.monotonic())
        return partial(libc.try_semtimedop, self._number, self._patient, self._count, span)


class SemaphoreSet:
    """A set of semaphores, created with `key`, which must be free, and mode 0600.

    Attributes:
        key, id: Its System V key and id.

    Raises:
        IpcError: The system refused; names the limit that was hit.
        FileExistsError: The key is taken.
    """

    __slots__ = ("id", "key")

    def __init__(self, key: int, values: Sequence[int]) -> None:
        self.key = key
        try:
            self.id = _libc().semget(key, len(values), _CREATE)
        except FileExistsError:
            raise
        except OSError as error:
            raise semaphore_refused(error) from error
        for which, value in enumerate(values):
            if value:
                self.set(which, value)

    @classmethod
    def attach(cls, key: int, number: int, count: int) -> SemaphoreSet:
        """The set with this key and id, of `count` semaphores or more, which another process made.

        Raises:
            SemaphoreRemovedError: It is not there any more.
        """
        try:
            found = _libc().semget(key, count, 0)
        except OSError as error:
            raise removed(number) from error
        if found != number:
            raise removed(number)
        return cls._of(key, number)

    @classmethod
    def find(cls, key: int, *, create: bool = False) -> SemaphoreSet:
        """The one semaphore with this key, whoever made it; made here, with 0, if there is none and `create`.

        Raises:
            FileNotFoundError: There is none.
            PermissionError: It belongs to another user.
            IpcError: The system refused to create it.
        """
        try:
            return cls._of(key, _libc().semget(key, 1, _FIND_OR_CREATE if create else 0))
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise semaphore_refused(error) from error

    @classmethod
    def _of(cls, key: int, number: int) -> SemaphoreSet:
        semaphores = cls.__new__(cls)
        semaphores.key, semaphores.id = key, number
        return semaphores

    def operation(self, *steps: Step) -> Operation:
        """Prepare an operation on this set."""
        return Operation(self.id, *steps)

    def value(self, which: int) -> int:
        """The value of one of them now."""
        return self._control(which, _libc().GETVAL)

    def values(self, count: int) -> list[int]:
        """The values of all `count` of them, at one instant."""
        try:
            values: list[int] = _libc().values(self.id, count)
        except OSError as error:
            raise self._gone_or(error) from error
        return values

    def last_pid(self, which: int) -> int:
        """Who did the last operation on one of them; 0 if this pid namespace does not know the process."""
        return self._control(which, _libc().LAST_PID)

    def set(self, which: int, value: int) -> None:
        """Give one of them this value. What processes would undo of it at their end is forgotten."""
        self._control(which, _libc().SETVAL, value)

    def remove(self) -> None:
        """Remove all of it. Every waiter gets `SemaphoreRemovedError`. May be called again."""
        sysv = require_sysv()
        with contextlib.suppress(sysv.ExistentialError):  # somebody else was faster
            sysv.remove_semaphore(self.id)

    def _control(self, which: int, command: int, value: int = 0) -> int:
        try:
            answer: int = _libc().semctl(self.id, which, command, value)
        except OSError as error:
            raise self._gone_or(error) from error
        return answer

    def _gone_or(self, error: OSError) -> OSError:
        return removed(self.id) if error.errno in (errno.EIDRM, errno.EINVAL) else error


def _libc() -> Any:
    from multiprocessing_kit.ipc import libc  # noqa: PLC0415  # ctypes is slow to import

    return libc
