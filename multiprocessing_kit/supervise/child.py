"""One forked child, seen from its parent: is it alive, how did it end, stop it.

Only this pid is ever waited for: `waitpid(-1)` would take the exit status of other people's
children. Its end is a readable descriptor, so that one selector can wait for it beside other things:
a pidfd on Linux, elsewhere the read end of a pipe whose write end the child alone holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

from multiprocessing_kit.supervise.descriptors import close_private, make_private

__all__ = ["ForkedChild", "have_pidfd"]

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

_RECHECK = 1.0
"""Seconds between looks at a child without pidfd: a grandchild may hold its exit pipe open."""


class ForkedChild:
    """Made by `fork_child`.

    Attributes:
        pid: Its process id.
        exitcode: None while it runs; then its exit status, or minus the number of the signal that
            ended it. None also when `ended` but somebody else took the status (SIGCHLD ignored, or
            a `waitpid(-1)` elsewhere in the program).
        ended: Whether it is known to have ended.
        peak_memory: Bytes that it had resident at most; 0 while it runs, or if unknown.
        recheck: Seconds after which to call `poll` though its descriptor stayed silent; None for never.
    """

    def __init__(self, pid: int, liveness: int, exit_pipe: int | None) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self.ended = False
        self.peak_memory = 0
        self._liveness = liveness
        self._sentinel = make_private(os.pidfd_open(pid)) if exit_pipe is None else exit_pipe
        self._pidfd = exit_pipe is None
        self.recheck = None if self._pidfd else _RECHECK

    @classmethod
    def adopted(cls, pid: int, liveness: int, exit_pipe: int | None) -> ForkedChild:
        """A child that this process forked before it executed itself anew; see `descriptors`."""
        return cls(pid, make_private(liveness), None if exit_pipe is None else make_private(exit_pipe))

    def descriptors(self) -> tuple[int, int | None]:
        """Its liveness pipe and, without pidfds, its exit pipe: what must stay open for `adopted`."""
        return self._liveness, None if self._pidfd else self._sentinel

    def fileno(self) -> int:
        """The descriptor that is readable once the child has ended."""
        return self._sentinel

    def poll(self) -> bool:
        """Whether it has ended, without waiting; takes its exit status, and ends what it has started."""
        if not self.ended:
            try:
                found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is not None:
                    # Known before it is taken: others who poll, a thread or a signal handler, then find none.
                    status = found.si_status
                    self.exitcode = status if found.si_code == os.CLD_EXITED else -status
                    self._end_group()
                    _, _, usage = os.wait4(self.pid, 0)
                    self.peak_memory = usage.ru_maxrss * _MAXRSS_UNIT
                    self.ended = True
            except ChildProcessError:
                self.ended = True
            if self.ended:
                self._close_liveness()
        return self.ended

    def _end_group(self) -> None:
        """Kill the rest of its process group. Before its status is taken: after that the number is free."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it died before it had one; macOS
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, `timeout` seconds at most; returns whether it has."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._sentinel, select.POLLIN)
        while not self.poll():
            left = self.recheck if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0.0:
                return False
            if left is not None and self.recheck is not None:
                left = min(left, self.recheck)
            poll.poll(None if left is None else left * 1000)
        return True

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, signum: int) -> None:
        """Send a signal; to nobody else even where the pid was used again."""
        if self.poll():
            return
        with contextlib.suppress(ProcessLookupError):  # it ended since, and somebody reaped it
            if self._pidfd:
                signal.pidfd_send_signal(self._sentinel, signum)
            else:
                os.kill(self.pid, signum)

    def close(self) -> None:
        """Close the parent's descriptors; the child, if alive, dies of it. Idempotent."""
        self._close_liveness()
        sentinel, self._sentinel = self._sentinel, -1
        close_private(sentinel)

    def _close_liveness(self) -> None:
        """Once: a child that is forked later may get its number."""
        liveness, self._liveness = self._liveness, -1
        close_private(liveness)


def have_pidfd() -> bool:
    """Whether this system has pidfds (Linux 5.3, unless a sandbox refuses them)."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
