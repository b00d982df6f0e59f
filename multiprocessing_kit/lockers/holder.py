"""Who has a locker: a number for each process that no other one ever has, and what a pid is in words."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["ME", "LockOwner", "owner_of", "pid_in"]

_PID_BITS = 32


class LockOwner(NamedTuple):
    """The process that has a locker.

    Attributes:
        pid: Its process id.
        title: Its command line, or what it has made its title; "?" if it has just ended or cannot be looked
            at.
    """

    pid: int
    title: str


class _Me:
    """This process.

    Attributes:
        token: Its pid, and above it 31 random bits, since pids are used again. Another one in each forked
            child, which so does not take itself for the owner of what its parent has.
    """

    __slots__ = ("token",)

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """A token for the process that calls."""
        random = int.from_bytes(os.urandom(4), "big") >> 1
        self.token = random << _PID_BITS | os.getpid()


ME = _Me()
os.register_at_fork(after_in_child=ME.renew)


def pid_in(token: int) -> int:
    """The pid in a token."""
    return token & (1 << _PID_BITS) - 1


def owner_of(pid: int) -> LockOwner:
    """This process, with its title."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(4096)
    except OSError:
        return LockOwner(pid, "?" if os.path.exists("/proc/self/cmdline") else _title_elsewhere(pid))
    return LockOwner(pid, line.replace(b"\0", b" ").strip().decode("utf-8", "replace") or "?")


def _title_elsewhere(pid: int) -> str:
    import psutil  # noqa: PLC0415  # slow to import, and only needed where there is no /proc

    try:
        return " ".join(psutil.Process(pid).cmdline()) or "?"
    except psutil.Error:
        return "?"
