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

__all__ = ["MAX_VALUE", "Semaphore", "SemaphoreRemovedError"]

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
            self.guard = sysv.Semaphore(key, sysv.IPC_CREX, mode=0o600, initial_value=value)
        except sysv.ExistentialError as error:
            raise FileExistsError(errno.EEXIST, f"semaphore key {key:#x} is taken") from error
        except (sysv.Error, OSError, MemoryError, ValueError) as error:
            raise semaphore_refused(error) from error
        self.guard.undo = True
        self.guard.block = False
        self.key = key
        self.id: int = self.guard.id

    @property
    def value(self) -> int:
        """Its value now."""
        try:
            value: int = self.guard.value
        except require_sysv().ExistentialError as error:
            raise self._removed() from error
        return value

    def set(self, value: int) -> None:
        """Give it `value`. Waiters see it; what processes would undo at their death is forgotten."""
        try:
            self.guard.value = value
        except require_sysv().ExistentialError as error:
            raise self._removed() from error

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
                raise self._removed()
            if number != errno.EINTR:
                raise IpcError(number, f"semaphore {self.id}: {os.strerror(number)}")

    def _removed(self) -> SemaphoreRemovedError:
        return SemaphoreRemovedError(errno.EIDRM, f"semaphore {self.id} was removed")


@functools.lru_cache(maxsize=256)
def _sembufs(operations: tuple[tuple[int, int], ...]) -> Any:
    """The C array of `struct sembuf` for (operation, flags) pairs. Never written to, so shared."""
    return _libc().sembufs(operations)


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    from multiprocessing_kit.ipc import libc  # noqa: PLC0415  # ctypes is slow to import, and many never wait

    return libc
