"""What goes wrong in one of a hundred jobs."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BAD", "FAULTS", "JOBS", "TIMEOUT", "Fault", "job"]

JOBS = range(100)
BAD = 7
TIMEOUT = 1.0
"""Seconds for each job, where a pool takes such a limit, and where the fault calls for one."""


@dataclass(frozen=True)
class Fault:
    """What a job does instead of returning its number.

    Attributes:
        title: For the table.
        act: Does it.
        once: Only the first time that the job is run.
        timed: Jobs have a time limit, in pools that can set one for each.
    """

    title: str
    act: Callable[[], object]
    once: bool = False
    timed: bool = False


def _signal(signum: signal.Signals) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), signum)


def _crash() -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return ctypes.string_at(0)


def _loop() -> object:
    while True:
        pass


FAULTS = {
    "killed": Fault("a child is killed (SIGKILL) while it runs a job", _signal(signal.SIGKILL), once=True),
    "exits": Fault("a job calls os._exit(3)", lambda: os._exit(3)),
    "segfault": Fault("a job segfaults", _crash),
    "endless": Fault("a job loops for ever", _loop, timed=True),
    "unpicklable": Fault("a result cannot be pickled", threading.Lock),
    "stopped": Fault(
        "a child is stopped (SIGSTOP) while it runs a job", _signal(signal.SIGSTOP), once=True, timed=True
    ),
}


def job(name: str, mark: str, number: int) -> object:
    """Returns its number, but for one.

    Args:
        name: Of the fault.
        mark: A file that says that it has happened already.
        number: Of the job.
    """
    if number == BAD:
        fault = FAULTS[name]
        if not (fault.once and Path(mark).exists()):
            Path(mark).touch()
            return fault.act()
    return number
