"""A child that does not outlive its parent, also while it is busy in C code.

Linux has a death signal (`PR_SET_PDEATHSIG`), with two catches: it comes when the *thread* that
forked ends, so it is set only by children of the main thread; and a parent that dies before the
child has asked for it is missed, so the child looks at its parent afterwards.

A liveness pipe works for any thread and any system: the parent alone holds its write end, so the read
end tells of its death. Linux can be asked to send a signal of choice when a descriptor becomes
readable (`F_SETSIG`): SIGKILL too, which reaches a busy child, and to a whole process group. So each child
has one, for itself and for what its jobs start, and none of it is left behind. Elsewhere a child sees the end
of the pipe when it next waits for a job.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
from typing import Any

__all__ = ["PARENT_GONE", "die_with_parent", "end_group", "prepare"]

PARENT_GONE = 113
"""Exit status of a child that found its parent dead; nobody is left to read it."""

_PR_SET_PDEATHSIG = 1
_libc: Any = None


def prepare() -> None:
    """Load, in the parent, what the child needs: dlopen in a fresh fork is asking for trouble."""
    global _libc  # noqa: PLW0603
    if _libc is None and sys.platform == "linux":
        import ctypes  # noqa: PLC0415  # slow to import, and only those who fork need it

        _libc = ctypes.CDLL(None, use_errno=True)


def forked_by_main_thread() -> bool:
    """Whether a child forked now is a child of the thread that lives as long as the process."""
    return threading.get_native_id() == os.getpid() or threading.current_thread() is threading.main_thread()


def die_with_parent(parent: int, liveness: int, by_main_thread: bool) -> None:
    """Tie this new child, and a process group of its own, to its parent; ends it at once if that is dead.

    Args:
        parent: Process id of the parent.
        liveness: Read end of the liveness pipe.
        by_main_thread: What `forked_by_main_thread` said before the fork.
    """
    os.setpgid(0, 0)
    if _libc is not None and by_main_thread:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(liveness, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(liveness, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(liveness, fcntl.F_GETFL)
        fcntl.fcntl(liveness, fcntl.F_SETFL, flags | os.O_ASYNC)
    # Both are armed: a death before this line shows here, a later one sends the signal.
    if os.getppid() != parent or _readable(liveness):
        os._exit(PARENT_GONE)


def end_group(parent: int) -> None:
    """Kill what is left of this child's group, at its own end: its parent, which does so, may just have died.

    The child itself goes over to its parent's group before, so that it can end with a status of its own.
    """
    with contextlib.suppress(OSError):  # the parent is dead, or in another session: then it kills the group
        os.setpgid(0, os.getpgid(os.getppid()))
    if os.getpgid(0) != os.getpid() or os.getppid() != parent:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(os.getpid(), signal.SIGKILL)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
