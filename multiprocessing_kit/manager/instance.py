"""One manager of a name: a lock that is held for life.

The lock is the kernel's (`flock`), so it ends with the master, however that dies, and nothing that lies
about from before can hold up a start. The file itself stays; what stands in it is for people and for the
message of a second start.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from multiprocessing_kit.errors import AlreadyRunningError
from multiprocessing_kit.manager.safe_files import open_private
from multiprocessing_kit.supervise.descriptors import close_private, make_private

__all__ = ["InstanceLock"]


class InstanceLock:
    """Held from `acquire` to `release`, or to the end of this process; no child inherits it.

    Args:
        path: Of the file.
        name: Of the manager, for messages.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        self._descriptor = -1

    def acquire(self) -> None:
        """Take it.

        Raises:
            AlreadyRunningError: Another one has it.
            ManagerConfigError: The file cannot be used.
        """
        descriptor = make_private(open_private(self.path, "lock_file", os.O_RDWR | os.O_CREAT))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, started = _read(descriptor)
            close_private(descriptor)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
            who = f"as pid {pid} since {since}" if pid else "and is just starting"
            raise AlreadyRunningError(
                f"manager {self._name!r} is running {who} ({self.path} is locked)", pid=pid, since=started
            ) from None
        except BaseException:
            close_private(descriptor)
            raise
        self._descriptor = descriptor
        self.note()

    def adopt(self, descriptor: int) -> None:
        """Go on with a lock that this process took before it executed itself anew."""
        self._descriptor = make_private(descriptor)

    def note(self) -> None:
        """Write this process into the file."""
        line = json.dumps({"name": self._name, "pid": os.getpid(), "started": time.time()}) + "\n"
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, line.encode(), 0)

    def fileno(self) -> int:
        """The descriptor that is locked."""
        return self._descriptor

    def release(self) -> None:
        """Give it up. Idempotent."""
        if self._descriptor >= 0:
            os.truncate(self._descriptor, 0)
            descriptor, self._descriptor = self._descriptor, -1
            close_private(descriptor)


def _read(descriptor: int) -> tuple[int, float]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return int(found["pid"]), float(found["started"])
    except (ValueError, KeyError, TypeError):  # it has just taken the lock, and not written yet
        return 0, 0.0
