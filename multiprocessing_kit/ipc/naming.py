"""The lock under which a user's named objects are looked up, made and removed.

    first to come      semget ▸ takes it ▸ … ▸ removes it         nothing stays in the system
    the others         semget ▸ wait ▸ "it was removed" ▸ from the start

It is a semaphore that is free at 0, as the system creates it, so there is no instant at which it is
there but not yet set. Taking it is one operation, "wait for 0 and add 1", which the kernel takes back when
the holder dies: then the next one has it, and knows that whatever half-made object it finds was left by
somebody dead. Only the holder removes it, so two processes never hold two locks of one user.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.semaphore import SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import NOW, UNDO, SemaphoreSet
from multiprocessing_kit.ipc.sysv import lock_key

__all__ = ["clear_lock", "lock_is_held", "run_alone", "user_lock_key"]

PATIENCE: Final = 20.0
"""Seconds. A name is looked up in microseconds, so whoever has the lock for so long has been stopped."""

_POLL: Final = 0.01  # seconds between looks at a lock that belongs to another user
_TAKE: Final = ((0, 0, 0), (0, 1, UNDO))

R = TypeVar("R")


def run_alone(action: Callable[[], R]) -> R:
    """Run `action` while no other process of this user runs one.

    Raises:
        IpcError: Another one has been at it for `PATIENCE` seconds.
    """
    for lock in _taken(time.monotonic() + PATIENCE):
        try:
            return action()
        finally:
            lock.remove()
    raise IpcError(
        errno.ETIMEDOUT,
        f"another process has been looking up a name for {PATIENCE:g} s: it has been stopped, so let it go "
        f"on or kill it (its lock has the key {user_lock_key():#x})",
    )


def user_lock_key() -> int:
    """The System V key of this user's lock."""
    return lock_key(os.geteuid())


def lock_is_held() -> bool:
    """Whether a process that lives has this user's lock."""
    try:
        return SemaphoreSet.find(user_lock_key()).value(0) != 0
    except (OSError, SemaphoreRemovedError):
        return False


def clear_lock() -> bool:
    """Remove the lock that a killed process left. False if there is none, or it is in use."""
    try:
        lock = SemaphoreSet.find(user_lock_key())
        for _ in lock.operation(*_TAKE).done(NOW):
            lock.remove()
            return True
    except (OSError, SemaphoreRemovedError):
        pass
    return False


def _taken(deadline: float) -> Iterator[SemaphoreSet]:
    """Yields the lock once it is ours; nothing if the time ran out."""
    while True:
        try:
            lock = SemaphoreSet.find(user_lock_key(), create=True)
            for _ in lock.operation(*_TAKE).done(deadline):
                yield lock
            return
        except SemaphoreRemovedError:
            continue  # by the one before us, when it was done
        except PermissionError:
            # Two users share a key if their ids differ by a multiple of 4096.
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL)
