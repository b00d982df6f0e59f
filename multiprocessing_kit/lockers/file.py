"""A lock on a file, for programs of any language: `flock(2)`, which the kernel ends with its owner.

    acquire   open ▸ flock ▸ is the path still this file? ▸ our line in it        release   empty it ▸ close

The lock belongs to the open file, so a forked child that inherits it would keep it after its parent's
death. Each child therefore closes its copies at once, which takes nothing from the parent.

While it is had the file contains one line, "locked by PID", as lock files do. Left by an owner that died,
the line tells the next one. A file with other content is somebody's data: it is locked all the same, but
never written to, and then nobody is told of deaths.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import threading
import time
from typing import Final
from weakref import WeakSet

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.ipc.semset import NOW
from multiprocessing_kit.lockers.base import Locker, LockOwner, deadline_of, held, not_ours
from multiprocessing_kit.lockers.holder import owner_of

__all__ = ["FileLocker"]

_MARK: Final = b"locked by "
_LINE_BYTES: Final = 40
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01  # seconds between tries; flock has no time-out

_opening = threading.RLock()  # had from the opening of a file until its locker knows of it, and over a fork
_lockers: WeakSet[FileLocker] = WeakSet()


class FileLocker(Locker):
    """A lock on a file, for threads, processes, and other programs such as `flock(1)`.

    The owner is a process: any thread of it may release what another one took. A second `acquire` by its
    owner waits, as for `threading.Lock`, for itself. On network file systems it is as good as their `flock`.

    Args:
        path: The file; created with mode 0600 if it is not there. A symbolic link is not followed.

    Attributes:
        path: As given, absolute; also its name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self.name = self.path
        self._file: io.FileIO | None = None  # open while this process has the lock
        self._opened: set[io.FileIO] = set()  # all that are open here, also those that wait
        self._owner_died = False
        self._destroyed = False
        _lockers.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `Locker.acquire`. With a time-out it looks again every 10 ms at most.

        Raises:
            OSError: The file cannot be opened, is a symbolic link, or the file system has no locks.
        """
        deadline = deadline_of(blocking, timeout)
        while True:
            if self._destroyed:
                raise LockerError(f"{self!r} was destroyed", reason="destroyed")
            file = self._open()
            try:
                if not _lock(file, deadline):
                    file.close()
                    return False
                if self._is_current(file):
                    self._owner_died = _leave_line(file)
                    self._file = file
                    return True
            except BaseException:
                self._file = None
                file.close()
                raise
            file.close()  # removed while we waited: there is another one now, or none

    def release(self) -> None:
        """As `Locker.release`."""
        file = self._file
        if file is None:
            raise not_ours(self)
        self._file = None
        try:
            _remove_line(file)
        finally:
            file.close()

    def destroy(self) -> None:
        """Remove the file. Who waits for it, or comes later, creates it anew."""
        if self._destroyed:
            return
        if not self.acquire(blocking=False):
            raise held(self)
        try:
            os.unlink(self.path)
            self._destroyed = True
        finally:
            self.release()

    def locked(self) -> bool:
        """Whether some process has it. To see that, it is taken for an instant if it is free."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with _opening, io.FileIO(os.open(self.path, flags)) as file:
                return not _try(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @property
    def owner(self) -> LockOwner | None:
        """As `Locker.owner`. Of other programs the pid is known on Linux only."""
        pid = _holder(self.path)
        if pid is None and self.locked():
            pid = _in_line(self.path)
        return None if pid is None else owner_of(pid)

    @property
    def owner_died(self) -> bool:
        """As `Locker.owner_died`; never if the file has other content, or its owner was no locker of ours."""
        return self._owner_died

    def _open(self) -> io.FileIO:
        with _opening:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = io.FileIO(self.path, "r+", opener=lambda path, _: os.open(path, flags, 0o600))
            self._opened = {file, *(each for each in self._opened if not each.closed)}
        return file

    def _is_current(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def _forget_parents(self) -> None:
        """In a forked child: what is open is the parent's."""
        self._file = None
        for file in self._opened:
            file.close()
        self._opened.clear()

    def __del__(self) -> None:
        for file in tuple(self._opened):
            file.close()

    def __repr__(self) -> str:
        state = "locked" if self._file is not None else "unlocked"
        return f"<{state} FileLocker object at {self.name}>"


def _lock(file: io.FileIO, deadline: float | None) -> bool:
    """Whether the file is locked before the time runs out."""
    if deadline is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    pause = _FIRST_PAUSE
    while not _try(file, fcntl.LOCK_EX):
        left = deadline - time.monotonic()
        if deadline == NOW or left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


def _try(file: io.FileIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leave_line(file: io.FileIO) -> bool:
    """Write who has it now; returns whether the one before has left his line."""
    content = os.pread(file.fileno(), _LINE_BYTES + 1, 0)
    ours = content.startswith(_MARK) and len(content) <= _LINE_BYTES
    if not content or ours:
        # In one piece and always as long: whoever is killed leaves one whole line, the old or the new one.
        os.pwrite(file.fileno(), b"%s%-10d\n" % (_MARK, os.getpid()), 0)
    return ours


def _remove_line(file: io.FileIO) -> None:
    if os.pread(file.fileno(), len(_MARK), 0) == _MARK:
        os.ftruncate(file.fileno(), 0)


def _in_line(path: str) -> int | None:
    """The pid that our line in the file says."""
    with contextlib.suppress(OSError, ValueError):
        with open(path, "rb") as file:
            content = file.read(_LINE_BYTES + 1)
        return int(content.removeprefix(_MARK)) if content.startswith(_MARK) else None
    return None


def _holder(path: str) -> int | None:
    """The pid of the process that has the file locked; None if there is none, or it cannot be told."""
    with contextlib.suppress(OSError, ValueError):
        status = os.lstat(path)
        where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks") as table:
            for line in table:
                fields = line.split()
                if fields[1:2] == ["FLOCK"] and fields[5] == where:
                    return int(fields[4])
    return None


def _after_fork() -> None:
    for locker in _lockers:
        locker._forget_parents()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_after_fork)
