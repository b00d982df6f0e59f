"""What a `Child` does in the child: set-up, target, teardown, and its end of the two pipes.

parent                                                child
──────                                                ─────
send() ── MESSAGE ─────────▶ pipe down ─────────────▶ receive()
receive, listeners ◀──────── pipe up ◀── MESSAGE ──── send()
result() ◀────────────────── pipe up ◀── VALUE, or ── when all else is done, last of all
                                         ERROR
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from multiprocessing_kit.errors import ChildError, ChildTimeoutError
from multiprocessing_kit.ipc.codec import decode, encode, pack_exception
from multiprocessing_kit.ipc.frames import FrameReader, FrameWriter
from multiprocessing_kit.supervise.descriptors import make_private
from multiprocessing_kit.supervise.fork import flush_stdio

__all__ = ["ERROR", "MESSAGE", "VALUE", "ChildSide", "Hooks", "as_hooks", "milliseconds", "time_left"]

MESSAGE, VALUE, ERROR = range(3)
"""Kinds of frames."""

_LONGEST_POLL = 1_000_000.0
"""Seconds; the system takes no more than 31 bits of milliseconds."""


@dataclass(frozen=True)
class Hooks:
    """What runs in the child around its target."""

    setup: Callable[[], object]
    teardown: Callable[[], object]


def as_hooks(item: object) -> Hooks:
    """Both hooks of what has one or both; a plain function is a set-up. `TypeError` for anything else."""
    setup, teardown = getattr(item, "setup", None), getattr(item, "teardown", None)
    if not callable(setup) and not callable(teardown):
        if not callable(item):
            raise TypeError(f"attach something with setup() or teardown(), or a function, not {item!r:.100}")
        setup = item
    return Hooks(setup if callable(setup) else _nothing, teardown if callable(teardown) else _nothing)


def _nothing() -> None:
    pass


class ChildSide:
    """Made in the child, right after the fork.

    Args:
        reading: The pipe down.
        writing: The pipe up.

    Attributes:
        pid: Of the child. A copy that the target forks is another process and has no part in this.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.pid = os.getpid()
        self._reading, self._writing = make_private(reading), make_private(writing)
        self._reader, self._writer = FrameReader(reading), FrameWriter(writing)
        self._pipes = self._identities()
        self._receiving = threading.RLock()

    def send(self, message: object) -> None:
        """Wait until the pipe has taken all of it."""
        self._put(MESSAGE, encode(message, "the message"))

    def receive(self, timeout: float | None) -> Any:
        """The parent's next message."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check_pipes()
        if not self._receiving.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise _late(timeout)
        try:
            while not self._reader.frames:
                if self._reader.fill():
                    continue
                if self._reader.ended:
                    raise EOFError("the parent has closed its end, and sends no more messages")
                left = time_left(deadline)
                if left == 0.0:
                    raise _late(timeout)
                poll = select.poll()
                poll.register(self._reading, select.POLLIN)
                poll.poll(milliseconds(left))
            _, data = self._reader.frames.popleft()
        finally:
            self._receiving.release()
        return decode(data, "the message")

    def run(self, target: Callable[[], object], attached: Sequence[Hooks]) -> int:
        """Run `target` between the hooks, and send what came of it; returns the exit status."""
        # As for children of multiprocessing: the terminal is the parent's, and would stop us for reading.
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # open as long as this process lives
        try:
            kind, data = VALUE, encode(self._between(attached, target), "the result")
        except SystemExit as error:
            status = _status_of(error)
            if status:
                return status  # without a frame, as after os._exit()
            kind, data = VALUE, encode(None, "the result")
        except BaseException as error:
            kind, data = ERROR, encode(pack_exception(error), "the exception")
        self._put(kind, data)
        return 0 if kind == VALUE else 1

    def _between(self, attached: Sequence[Hooks], target: Callable[[], object]) -> object:
        with contextlib.ExitStack() as stack:
            for hooks in attached:
                hooks.setup()
                stack.callback(hooks.teardown)
            try:
                return target()
            finally:
                if os.getpid() != self.pid:
                    _end_copy()
                _join_threads()

    def _check_pipes(self) -> None:
        """Targets close descriptors that are not theirs, and open files that get the same numbers."""
        if self._identities() != self._pipes:
            raise ChildError("the target has closed the pipes to its parent")

    def _identities(self) -> list[tuple[int, int]]:
        try:
            found = map(os.fstat, (self._reading, self._writing))
            return [(status.st_dev, status.st_ino) for status in found]
        except OSError:
            return []

    def _put(self, kind: int, data: bytes) -> None:
        self._check_pipes()
        self._writer.put(kind, data)
        while not self._writer.flush():
            poll = select.poll()
            poll.register(self._writing, select.POLLOUT)
            poll.poll()


def milliseconds(seconds: float | None) -> float | None:
    """For `poll`, which rounds them up; it may return early where that is very long."""
    return None if seconds is None else min(seconds, _LONGEST_POLL) * 1000


def time_left(deadline: float | None) -> float | None:
    """Seconds until `deadline` by the monotonic clock, not negative; None for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _late(timeout: float | None) -> ChildTimeoutError:
    return ChildTimeoutError(f"no message from the parent in {timeout:g} s")


def _status_of(error: SystemExit) -> int:
    """As Python itself does with one that nobody catches."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _join_threads() -> None:
    """Wait for threads that the target has started, as Python does at the end of a program."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def _end_copy() -> NoReturn:
    """End a copy of the child that the target has forked and that has come back from the target."""
    error = sys.exc_info()[1]
    status = 0
    if isinstance(error, SystemExit):
        status = _status_of(error)
    elif error is not None:
        traceback.print_exc()
        status = 1
    flush_stdio()
    os._exit(status)
