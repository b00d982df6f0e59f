"""The child's side of a lane; see `lane` for the drawing and the races."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable

from multiprocessing_kit.ipc.fence import make_fence
from multiprocessing_kit.runner.lane import (
    BEGUN,
    CALLER_WAITS,
    CHILD_WAITS,
    COUNT_BITS,
    COUNT_MASK,
    CURRENT,
    EVENTS,
    FOR_RECORD,
    FOR_ROOM,
    PIECE,
    SINCE,
    STOP,
    TAKEN_BACK,
    Lane,
    pieces_of,
)

__all__ = ["CallerGone", "ChildEnd", "DescriptorsLost", "Stopped"]


class CallerGone(Exception):
    """The child found the caller dead while it waited."""


class DescriptorsLost(Exception):
    """A job closed the descriptors that this child is woken by."""


class Stopped(Exception):
    """The child was asked to stop while it waited for room."""


class ChildEnd:
    """The child's side of a lane; blocks.

    Args:
        lane: Inherited by fork.
        liveness: Readable once the caller is dead.
        before_wait: Called before the child sleeps.
    """

    def __init__(self, lane: Lane, liveness: int, before_wait: Callable[[], None]) -> None:
        self._words = lane.words
        self._down, self._up = lane.down, lane.up
        self._bell, self._caller_bell = lane.child_bell, lane.caller_bell
        self._fence = make_fence()  # for whoever holds `_sending`
        self._begin_fence = make_fence()
        self._before_wait = before_wait
        self._sending = threading.Lock()  # worker.running() may be called from any thread
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(liveness, select.POLLIN)
        self._liveness = liveness
        self._rang_for = 0
        self._begun = 0
        self._cut_short = False

    @property
    def events(self) -> int:
        """Mask of the events that the caller listens to."""
        return self._words[EVENTS]

    @property
    def at_job(self) -> bool:
        """Whether a job is under way."""
        return self._words[CURRENT] != 0

    def begin(self, index: int) -> int:
        """Note the job that is about to run, for the caller to find if this child dies of it.

        Returns:
            0; or the job's number in this lane if the caller took it back: it is not to be run.
        """
        words = self._words
        number = self._begun = self._begun + 1
        words[BEGUN] = number
        self._begin_fence()
        taken = words[TAKEN_BACK]
        if taken and 0 <= number - (taken >> COUNT_BITS) < taken & COUNT_MASK:
            return number
        words[SINCE] = time.monotonic_ns()
        words[CURRENT] = index + 1
        return 0

    def end(self) -> None:
        """The job is answered; a death from here on is no job's fault."""
        self._words[CURRENT] = 0

    def receive(self) -> bytes | None:
        """Wait for the next whole record; None when asked to stop.

        Raises:
            CallerGone: The caller is dead.
            DescriptorsLost: A job closed our descriptors.
        """
        parts: list[bytes] = []
        while True:
            if self._words[STOP]:
                return None
            piece = self._down.read()
            if piece is None:
                with self._sending:  # two threads must not wait, nor use the fence, at the same time
                    self._wait(FOR_RECORD)
                continue
            data, more = piece
            if not more and not parts:
                return data
            with self._sending:
                self._wake_caller(FOR_ROOM)
            parts.append(data)
            if not more:
                return b"".join(parts)

    def send(self, record: bytes) -> None:
        """Send a record, waiting for room; any thread.

        Raises:
            Stopped: Asked to stop while waiting for room; the record is not sent.
            CallerGone, DescriptorsLost: As for `receive`.
        """
        with self._sending:
            if self._cut_short:
                raise DescriptorsLost("an earlier record was sent in part")
            if len(record) <= PIECE and self._up.write(record):
                self._wake_caller(FOR_RECORD)
                return
            self._cut_short = True  # until the end: an exception, as from a job's alarm, may come between
            for piece, more in pieces_of(record):
                while not self._up.write(piece, more=more):
                    if self._words[STOP]:
                        raise Stopped("asked to stop with an answer half sent")
                    self._wait(FOR_ROOM, len(piece))
                self._wake_caller(FOR_RECORD)
            self._cut_short = False

    def _wake_caller(self, what: int) -> None:
        self._fence()
        waits = self._words[CALLER_WAITS]
        if not waits & what or waits == self._rang_for:
            return
        self._rang_for = waits
        try:
            self._caller_bell.ring()
        except OSError as error:  # EBADF; the caller sees this child end instead
            raise DescriptorsLost(str(error)) from error

    def _wait(self, what: int, size: int = 0) -> None:
        self._words[CHILD_WAITS] = what
        try:
            self._wake_caller(FOR_ROOM)  # all that was in the ring is read: let it go on
            ready = bool(self._down) if what == FOR_RECORD else self._up.free >= size
            if ready or self._words[STOP]:
                return
            self._before_wait()
            for fd, happened in self._poll.poll():
                if happened & select.POLLNVAL:
                    raise DescriptorsLost(f"descriptor {fd}")
                if fd == self._liveness:
                    raise CallerGone("the caller is dead")
            self._bell.clear()
        finally:
            self._words[CHILD_WAITS] = 0
