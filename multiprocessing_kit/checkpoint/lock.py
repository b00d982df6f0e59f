"""One program at a time on a file."""

from __future__ import annotations

import fcntl
import os
import threading

from multiprocessing_kit.errors import CheckpointError

__all__ = ["Lock"]

_held: set[tuple[int, str]] = set()
_guard = threading.Lock()


class Lock:
    """Held from the start until `release`, or the end of this process, however it comes.

    It is a record lock on `FILE-lock`. A forked child does not inherit those, so one that outlives its
    caller for a moment holds up nobody. They count for a process as a whole: threads are told apart here.

    Args:
        path: Of the file that is locked, absolute.

    Raises:
        CheckpointError: Somebody else has it.
        OSError: The lock's file cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-lock"
        self._key = (os.getpid(), path)
        with _guard:
            # Before the file is opened: to close it would drop the lock that this process has on it.
            if self._key in _held:
                raise CheckpointError(f"{path} is in use: this program maps with it already", path=path)
            self._descriptor = self._take(path)
            _held.add(self._key)

    def _take(self, path: str) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self._path):
                    return descriptor
            except (BlockingIOError, PermissionError) as error:  # which one, systems differ in
                os.close(descriptor)
                raise CheckpointError(
                    f"{path} is in use by another program; wait for its end, or give another file", path=path
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its owner removed it after it was opened here

    def release(self) -> None:
        """Let others have it."""
        with _guard:
            if self._key not in _held or self._key[0] != os.getpid():
                return
            _held.discard(self._key)
            os.unlink(self._path)
            os.close(self._descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is the one of this name."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)
