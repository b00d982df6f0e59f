"""One System V semaphore, with timed waits.

`sysv_ipc` from PyPI is built without `semtimedop`: its timeouts are silently infinite. So waits go
through ctypes to the C library. Only `guard` stays with `sysv_ipc`, because `with` on an object
written in C leaves no gap between taking and the `with` block in which a signal handler could raise.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from typing import Any

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.limits import semaphore_refused
from multiprocessing_kit.ipc.sysv import require_sysv

__all__ = ["MAX_VALUE", "Semaphore", "SemaphoreRemovedError", "removed"]

MAX_VALUE = 32767  # SEMVMX

_NOWAIT = 0o4000
_POLL = 0.01  # seconds between tries where there is no semtimedop (macOS)


class SemaphoreRemovedError(IpcError):
    """The semaphore has been removed, here or by another process."""


class Semaphore:
    """A semaphore of its own set, created with `key`, which must be free, and mode 0600.

    Attributes:
        key, id: Its System V key and id.
        guard: Context manager that takes it (never waiting: `sysv_ipc.BusyError`) and gives it back,
            with undo: if the process dies inside, the kernel gives it back.

    Raises:
        IpcError: The system refused; names the limit that was hit.
        FileExistsError: The key is taken.
    """

    def __init__(self, key: int, value: int = 0) -> None:
        sysv = require_sysv()
        try:
            guard = sysv.Semaphore(key, sysv.IPC_CREX, mode=0o600, initial_value=value)
        except sysv.ExistentialError as error:
            raise FileExistsError(errno.EEXIST, f"semaphore key {key:#x} is taken") from error
        except (sysv.Error, OSError, MemoryError, ValueError) as error:
            raise semaphore_refused(error) from error
        self._hold(guard)

    @classmethod
    def attach(cls, key: int, number: int) -> Semaphore:
        """The one with this key and id, which another process made.

        Raises:
            SemaphoreRemovedError: It is not there any more.
        """
        sysv = require_sysv()
        try:
            guard = sysv.Semaphore(key)
        except (sysv.Error, OSError) as error:
            raise removed(number) from error
        if guard.id != number:
            raise removed(number)
        semaphore = cls.__new__(cls)
        semaphore._hold(guard)
        return semaphore

    def _hold(self, guard: Any) -> None:
        guard.undo = True
        guard.block = False
        self.guard = guard
        self.key: int = guard.key
        self.id: int = guard.id

    @property
    def value(self) -> int:
        """Its value now."""
        try:
            value: int = self.guard.value
        except require_sysv().ExistentialError as error:
            raise removed(self.id) from error
        return value

    def set(self, value: int) -> None:
        """Give it `value`. Waiters see it; what processes would undo at their death is forgotten."""
        try:
            self.guard.value = value
        except require_sysv().ExistentialError as error:
            raise removed(self.id) from error

    def release(self) -> None:
        """Add 1, which stays when this process dies."""
        self._operate(None, (1, 0))

    def wait_for(self, value: int, timeout: float | None = None) -> bool:
        """Wait until it is `value` or more, at most `timeout` seconds, and take nothing.

        Taking and giving back are one atomic operation for the kernel, so there is no moment
        at which a killed waiter could have taken something.
        """
        return self._operate(timeout, (-value, 0), (value, 0))

    def remove(self) -> None:
        """Remove it from the system. Every waiter gets `SemaphoreRemovedError`. May be called again."""
        try:
            self.guard.remove()
        except require_sysv().ExistentialError:
            pass  # somebody else was faster

    def _operate(self, timeout: float | None, *operations: tuple[int, int]) -> bool:
        ops, count = _sembufs(operations), len(operations)
        if timeout is None:
            return self._repeat(lambda: _libc().semop(self.id, ops, count))
        deadline = time.monotonic() + timeout
        if _libc().timed:
            return self._repeat(lambda: _libc().semtimedop(self.id, ops, count, deadline))
        ops = _sembufs(tuple((op, flags | _NOWAIT) for op, flags in operations))
        while not self._repeat(lambda: _libc().semop(self.id, ops, count)):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL, left))
        return True

    def _repeat(self, call: Any) -> bool:
        """Run `call` until no signal interrupts it. Python runs its handlers between two tries."""
        while True:
            number = call()
            if number == 0:
                return True
            if number == errno.EAGAIN:
                return False
            if number in (errno.EIDRM, errno.EINVAL):
                raise removed(self.id)
            if number != errno.EINTR:
                raise IpcError(number, f"semaphore {self.id}: {os.strerror(number)}")


def removed(number: int) -> SemaphoreRemovedError:
    """The error for a semaphore, or a set of them, that is not there any more."""
    return SemaphoreRemovedError(errno.EIDRM, f"semaphore {number} was removed")


@functools.lru_cache(maxsize=256)
def _sembufs(operations: tuple[tuple[int, int], ...]) -> Any:
    """The C array of `struct sembuf` for (operation, flags) pairs. Never written to, so shared."""
    return _libc().sembufs(operations)


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    from multiprocessing_kit.ipc import libc  # noqa: PLC0415  # ctypes is slow to import, and many never wait

    return libc
