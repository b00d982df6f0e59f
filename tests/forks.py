"""Forked children that run one function, for tests of what processes have in common."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

__all__ = ["die", "exit_of", "fork", "in_child", "wait_until"]


def fork(body: Callable[[], object]) -> int:
    """Run `body` in a forked child that ends at once; returns its pid.

    It exits with 0, or prints what `body` raised and exits with 1. Nothing else of the test runs in it.
    """
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


def exit_of(pid: int) -> int:
    """Wait until a child has ended; returns its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(body: Callable[[], object]) -> int:
    """Run `body` in a forked child, and wait until it has ended; returns what `exit_of` does."""
    return exit_of(fork(body))


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only the kernel knows and does not announce."""
    while not condition():
        os.sched_yield()


def die(*_: object, **__: object) -> None:
    """Kill this process. Takes any arguments, so that it can stand in for any function."""
    os.kill(os.getpid(), signal.SIGKILL)
