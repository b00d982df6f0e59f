"""The child's side of a lane; see `lane` for the drawing and the races."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable

from multiprocessing_kit.ipc import membarrier
from multiprocessing_kit.ipc.fence import KEEPS_STORES_IN_ORDER, make_fence
from multiprocessing_kit.ipc.place import Place
from multiprocessing_kit.runner.lane import (
    AT_JOB,
    ATTEMPT,
    ATTEMPT_BITS,
    BEGUN,
    CALLER_WAITS,
    CHILD_WAITS,
    COUNT_BITS,
    EVENTS,
    FOR_GRANT,
    FOR_RECORD,
    FOR_ROOM,
    GRANTED,
    GRANTED_LENGTH,
    GRANTED_OFFSET,
    GRANTED_SEGMENT,
    PIECE,
    SET_UP,
    SINCE,
    STOP,
    TAKEN_BACK,
    TIMED,
    WAKE_AT,
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
        timed: Whether the caller wants to know when each job began.

    Attributes:
        words: The lane's header, for `block`.
        announced: To be called between announcing a job and looking whether it was taken back, for the time
            and for the fence; None where no time is told and the caller passes the fence for both.
    """

    def __init__(
        self, lane: Lane, liveness: int, before_wait: Callable[[], None], *, timed: bool = False
    ) -> None:
        self.words = self._words = lane.words
        self._down, self._up = lane.down, lane.up
        self._bell, self._caller_bell = lane.child_bell, lane.caller_bell
        self._fence = make_fence()  # for whoever holds `_sending`
        self._stamp_fence = make_fence()
        self._timed = timed
        self._begin_fence = None if membarrier.register() else make_fence()
        self.announced = self._stamp if timed else self._begin_fence
        self._before_wait = before_wait
        self._sending = threading.Lock()  # worker.running() may be called from any thread
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(liveness, select.POLLIN)
        self._liveness = liveness
        self._rang_for = 0
        self._cut_short = False
        self._grants = 0

    @property
    def events(self) -> int:
        """Mask of the events that the caller listens to."""
        return self._words[EVENTS]

    @property
    def stopping(self) -> bool:
        """Whether the child was asked to stop."""
        return self._words[STOP] != 0

    @property
    def at_job(self) -> bool:
        """Whether a job is under way."""
        return self._words[AT_JOB] != 0

    def begin(self) -> bool:
        """Announce the next job, for the caller to find if this child dies of it.

        Returns:
            Whether to run it; False if the caller took it back.
        """
        words = self._words
        number = words[BEGUN] = words[BEGUN] + 1
        if self.announced is not None:
            self.announced()
        if words[TAKEN_BACK] and self.is_taken(number):
            return False
        words[AT_JOB] = 1
        return True

    def begin_block(self) -> int:
        """Announce the first of the jobs that `block.run_jobs` then announces; the number before it."""
        words = self._words
        before = words[BEGUN]
        words[BEGUN] = before + 1  # first, so that AT_JOB never speaks of a job that is done
        words[AT_JOB] = 1
        return before

    def is_taken(self, number: int) -> bool:
        """Whether the caller took back the job of this number."""
        first, count = divmod(self._words[TAKEN_BACK], 1 << COUNT_BITS)
        return first <= number < first + count

    def is_begun_taken(self) -> bool:
        """Whether the job that was announced last was taken back."""
        if self._begin_fence is not None:
            self._begin_fence()
        return self.is_taken(self._words[BEGUN])

    def attempting(self, number: int) -> None:
        """This attempt of the current job, beyond the first, begins."""
        self._words[ATTEMPT] = self._words[BEGUN] << ATTEMPT_BITS | number
        if self._timed:
            self._stamp()

    def set_up(self, done: bool) -> None:
        """Whether the next job can begin as soon as it is there, with nothing to set up before."""
        self._words[SET_UP] = done

    def pausing(self) -> None:
        """The current job waits for its next attempt, which is not held against it."""
        if self._timed:
            self._words[SINCE] = 0

    def _stamp(self) -> None:
        words = self._words
        words[SINCE] = time.monotonic_ns()
        if not KEEPS_STORES_IN_ORDER:
            self._stamp_fence()
        words[TIMED] = words[BEGUN]
        if self._begin_fence is not None:
            self._begin_fence()

    def skip(self, most: int) -> tuple[int, int]:
        """Pass the job that was just begun and those behind it, at most `most`, that were taken back.

        Returns:
            Number of the first, and how many.
        """
        words = self._words
        number = words[BEGUN]
        first, count = divmod(words[TAKEN_BACK], 1 << COUNT_BITS)
        skipped = min(most, first + count - number)
        words[AT_JOB] = 0
        words[BEGUN] = number + skipped - 1
        return number, skipped

    def end(self) -> None:
        """The job is answered, or about to be; a death from here on is no job's fault."""
        self._words[AT_JOB] = 0

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

    def send(self, record: bytes, *, wake: bool = True) -> None:
        """Send a record, waiting for room; any thread.

        Args:
            record: Whatever its size.
            wake: Whether the caller should not sleep on beside it.

        Raises:
            Stopped: Asked to stop while waiting for room; the record is not sent.
            CallerGone, DescriptorsLost: As for `receive`.
        """
        with self._sending:
            if self._cut_short:
                raise DescriptorsLost("an earlier record was sent in part")
            if len(record) <= PIECE and self._up.write(record):
                if wake and self._words[BEGUN] >= self._words[WAKE_AT]:
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

    def try_send(self, record: bytes) -> bool:
        """Send a record if that can be done at once; for a signal handler, which may interrupt `send`."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self._cut_short or len(record) > PIECE or not self._up.write(record):
                return False
            self._wake_caller(FOR_RECORD)
            return True
        finally:
            self._sending.release()

    def wait_for_grant(self) -> Place | None:
        """The place to write to that the caller was asked for; None if there is none.

        Raises:
            Stopped, CallerGone, DescriptorsLost: As for `send`.
        """
        words = self._words
        self._grants += 1
        with self._sending:
            while words[GRANTED] < self._grants:
                if words[STOP]:
                    raise Stopped("asked to stop with an answer not sent")
                self._wait(FOR_GRANT)
        if not words[GRANTED_LENGTH]:
            return None
        return Place(words[GRANTED_SEGMENT], words[GRANTED_OFFSET], words[GRANTED_LENGTH])

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
        words = self._words
        began = time.monotonic_ns() if self._timed and what != FOR_RECORD and words[SINCE] else 0
        words[CHILD_WAITS] = what
        try:
            self._wake_caller(FOR_RECORD | FOR_ROOM)  # nothing else may happen until it does something
            if what == FOR_RECORD:
                ready = bool(self._down)
            elif what == FOR_ROOM:
                ready = self._up.free >= size
            else:
                ready = self._words[GRANTED] >= self._grants
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
            if began:
                words[SINCE] += time.monotonic_ns() - began  # the caller's time, not the job's
                self._fence()
            words[CHILD_WAITS] = 0
