"""A lane: two rings and a small header in one segment, between the caller and one child.

    caller ──▶ down ring: jobs ──────▶ child          each word of the header has one writer:
    caller ◀── up ring: answers ◀───── child            caller: caller waits, stop, event mask, taken back
                                                        child:  child waits, begun, current, since, attempt

No lock is shared: a child killed anywhere blocks nobody, and what it published can still be read.

Sleep and wake. A side that finds nothing to do writes what it waits for into its word, looks once
more, and only then waits on its doorbell. The other side moves a counter of a ring and then reads that
word. With a fence between each pair at least one of the two sees the other (Dekker's argument), so
a doorbell rings only for a sleeper, and no sleeper is missed.

Taking back. Jobs that wait in the lane of a child that is busy for long can be given to another. Both
sides count the jobs of the lane. The child announces each number before it looks whether that was taken
back; the caller writes the numbers it takes back before it looks what was announced. Again one of
the two sees the other: a job whose number was not announced yet will be skipped. If the child
was quicker, only it knows which it skipped; so it always tells, with SKIPPED.

A record larger than half a ring is cut into pieces, so that it has no size limit and the two sides
work on it at the same time.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable

from multiprocessing_kit.ipc.doorbell import Doorbell
from multiprocessing_kit.ipc.fence import make_fence
from multiprocessing_kit.ipc.ring import Ring
from multiprocessing_kit.ipc.segment import Segment

__all__ = ["RING_BYTES", "CallerEnd", "CallerGone", "ChildEnd", "DescriptorsLost", "Lane", "Stopped"]

RING_BYTES = 256 * 1024
"""Bytes of payload each of the two rings holds; both fit a processor's second-level cache."""

_PIECE = RING_BYTES // 2
"""A larger record is cut up."""

_CALLER_WAITS, _STOP, _EVENTS = 0, 1, 2
_TAKEN_BACK = 3
_CHILD_WAITS, _CURRENT, _SINCE, _ATTEMPT, _BEGUN = 8, 9, 10, 11, 12
_HEADER_BYTES = 128  # the caller's words in one cache line, the child's in the next

_COUNT_BITS = 24
_COUNT_MASK = (1 << _COUNT_BITS) - 1

_FOR_RECORD = 1
_FOR_ROOM = 2
_NEXT_SLEEP = 4
"""The caller's word also counts its sleeps: each child rings once for one. A woken caller may have to wait
for a processor, and a child with short jobs would ring for each of them meanwhile."""


class CallerGone(Exception):
    """The child found the caller dead while it waited."""


class DescriptorsLost(Exception):
    """A job closed the descriptors that this child is woken by."""


class Stopped(Exception):
    """The child was asked to stop while it waited for room."""


class Lane:
    """Made by the caller before it forks the child.

    Args:
        caller_bell: Wakes the caller; all its lanes share it.

    Raises:
        IpcError: No shared memory.
        OSError: No descriptor for the child's doorbell.
    """

    def __init__(self, caller_bell: Doorbell) -> None:
        self.caller_bell = caller_bell
        self.child_bell = Doorbell()
        ring_bytes = Ring.bytes_for(RING_BYTES)
        try:
            self._segment = Segment(_HEADER_BYTES + 2 * ring_bytes)
        except BaseException:
            self.child_bell.close()
            raise
        buf = self._segment.buf
        self.words = buf[:_HEADER_BYTES].cast("Q")
        self.down = Ring(buf[_HEADER_BYTES : _HEADER_BYTES + ring_bytes])
        self.up = Ring(buf[_HEADER_BYTES + ring_bytes :])

    def close(self) -> None:
        """Give up this process's access."""
        self.child_bell.close()
        self.words.release()
        self.down.close()
        self.up.close()
        self._segment.close()


def _pieces(record: bytes) -> list[tuple[bytes | memoryview, bool]]:
    view = memoryview(record)
    cuts = range(0, len(record), _PIECE)
    return [(view[at : at + _PIECE], at + _PIECE < len(record)) for at in cuts]


class CallerEnd:
    """The caller's side of a lane; never blocks."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._words = lane.words
        self._down, self._up = lane.down, lane.up
        self._fence = make_fence()
        self._outbox: deque[tuple[bytes | memoryview, bool]] = deque()
        self._partial: list[bytes] = []
        self._unannounced = False
        self._made_room = False
        self._sleeps = 0
        self._sent_jobs = 0
        self._taken_back: set[int] = set()
        self._taken_until = 0

    @property
    def clogged(self) -> bool:
        """Whether it should get no more jobs now: there is no room, or it has not passed those taken back."""
        return bool(self._outbox) or self._words[_BEGUN] < self._taken_until

    def send_job(self, record: bytes) -> None:
        """Send a job; as `send`, but counted."""
        self._sent_jobs += 1
        self.send(record)

    def take_back(self, busy_for: float) -> int:
        """Take back the jobs that the child has not begun, if it is at one for `busy_for` seconds or more.

        Returns:
            How many of the jobs sent last the child will not run: 0 also if it was just then going on.
        """
        words = self._words
        begun = words[_BEGUN]
        if self.clogged or not words[_CURRENT] or time.monotonic_ns() - words[_SINCE] < busy_for * 1e9:
            return 0
        count = self._sent_jobs - begun
        if not count:
            return 0
        words[_TAKEN_BACK] = (begun + 1) << _COUNT_BITS | count
        self._taken_until = self._sent_jobs
        self._fence()
        if words[_BEGUN] != begun:
            return 0
        self._taken_back.update(range(begun + 1, self._sent_jobs + 1))
        return count

    def took_back(self, number: int) -> bool:
        """Whether `take_back` counted the job that SKIPPED tells of; to be asked once for each."""
        known = number in self._taken_back
        self._taken_back.discard(number)
        return known

    def send(self, record: bytes) -> None:
        """Send a record, now or (`clogged`) with a later `flush`."""
        if not self._outbox and len(record) <= _PIECE and self._down.write(record):
            self._unannounced = True
            return
        self._outbox.extend(_pieces(record))
        self.flush()

    def flush(self) -> bool:
        """Send what waits, as far as there is room; returns whether anything moved."""
        moved = False
        while self._outbox:
            piece, more = self._outbox[0]
            if not self._down.write(piece, more=more):
                break
            self._outbox.popleft()
            moved = self._unannounced = True
        return moved

    def wake(self) -> None:
        """Wake the child if it sleeps beside what was sent."""
        if self._unannounced:
            self._unannounced = False
            self._fence()
            if self._words[_CHILD_WAITS]:
                self._lane.child_bell.ring()

    def receive(self) -> bytes | None:
        """The child's next whole record, or None; call it until None, which tells the child of the room."""
        while True:
            piece = self._up.read()
            if piece is None:
                self._announce_room()
                return None
            data, more = piece
            self._made_room = True
            if not more and not self._partial:
                return data
            self._announce_room()  # the rest of a large record can come while we work on this piece
            self._partial.append(data)
            if not more:
                record = b"".join(self._partial)
                self._partial.clear()
                return record

    def _announce_room(self) -> None:
        if self._made_room:
            self._made_room = False
            self._fence()
            if self._words[_CHILD_WAITS] & _FOR_ROOM:
                self._lane.child_bell.ring()

    def prepare_wait(self) -> bool:
        """Announce that the caller will sleep; False if there is something to do after all."""
        self._sleeps += _NEXT_SLEEP
        self._words[_CALLER_WAITS] = self._sleeps | _FOR_RECORD | (_FOR_ROOM if self._outbox else 0)
        self._fence()
        return not self._up and not (self._outbox and self._room_for_next())

    def end_wait(self) -> None:
        """The caller is awake."""
        self._words[_CALLER_WAITS] = 0

    def _room_for_next(self) -> bool:
        return self._down.free >= len(self._outbox[0][0])

    def ask_to_stop(self) -> None:
        """Have the child end after its current job."""
        self._words[_STOP] = 1
        self._lane.child_bell.ring()

    def set_events(self, mask: int) -> None:
        """Tell the child which events to send home."""
        self._words[_EVENTS] = mask

    @property
    def current(self) -> int | None:
        """Index of the job that the child is at; None between two."""
        return self._words[_CURRENT] - 1 if self._words[_CURRENT] else None

    def close(self) -> None:
        """Give up the caller's access."""
        self._outbox.clear()
        self._lane.close()


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
        self._fence = make_fence()
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
    def stopping(self) -> bool:
        """Whether the caller asked this child to stop."""
        return self._words[_STOP] != 0

    @property
    def events(self) -> int:
        """Mask of the events that the caller listens to."""
        return self._words[_EVENTS]

    @property
    def at_job(self) -> bool:
        """Whether a job is under way."""
        return self._words[_CURRENT] != 0

    def begin(self, index: int, attempt: int) -> int:
        """Note the job that is about to run, for the caller to find if this child dies of it.

        Returns:
            0; or the job's number in this lane if the caller took it back: it is not to be run.
        """
        words = self._words
        number = self._begun = self._begun + 1
        words[_BEGUN] = number
        self._fence()
        taken = words[_TAKEN_BACK]
        if taken and 0 <= number - (taken >> _COUNT_BITS) < taken & _COUNT_MASK:
            return number
        words[_SINCE] = time.monotonic_ns()
        words[_ATTEMPT] = attempt
        words[_CURRENT] = index + 1
        return 0

    def end(self) -> None:
        """The job is answered; a death from here on is no job's fault."""
        self._words[_CURRENT] = 0

    def receive(self) -> bytes | None:
        """Wait for the next whole record; None when asked to stop.

        Raises:
            CallerGone: The caller is dead.
            DescriptorsLost: A job closed our descriptors.
        """
        parts: list[bytes] = []
        while True:
            if self._words[_STOP]:
                return None
            piece = self._down.read()
            if piece is None:
                with self._sending:  # two threads must not wait, nor use the fence, at the same time
                    self._wait(_FOR_RECORD)
                continue
            data, more = piece
            if not more and not parts:
                return data
            with self._sending:
                self._wake_caller(_FOR_ROOM)
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
            if len(record) <= _PIECE and self._up.write(record):
                self._wake_caller(_FOR_RECORD)
                return
            self._cut_short = True  # until the end: an exception, as from a job's alarm, may come between
            for piece, more in _pieces(record):
                while not self._up.write(piece, more=more):
                    if self._words[_STOP]:
                        raise Stopped("asked to stop with an answer half sent")
                    self._wait(_FOR_ROOM, len(piece))
                self._wake_caller(_FOR_RECORD)
            self._cut_short = False

    def _wake_caller(self, what: int) -> None:
        self._fence()
        waits = self._words[_CALLER_WAITS]
        if not waits & what or waits == self._rang_for:
            return
        self._rang_for = waits
        try:
            self._caller_bell.ring()
        except OSError as error:  # EBADF; the caller sees this child end instead
            raise DescriptorsLost(str(error)) from error

    def _wait(self, what: int, size: int = 0) -> None:
        self._words[_CHILD_WAITS] = what
        try:
            self._wake_caller(_FOR_ROOM)  # all that was in the ring is read: let it go on
            ready = bool(self._down) if what == _FOR_RECORD else self._up.free >= size
            if ready or self._words[_STOP]:
                return
            self._before_wait()
            for fd, happened in self._poll.poll():
                if happened & select.POLLNVAL:
                    raise DescriptorsLost(f"descriptor {fd}")
                if fd == self._liveness:
                    raise CallerGone("the caller is dead")
            self._bell.clear()
        finally:
            self._words[_CHILD_WAITS] = 0
