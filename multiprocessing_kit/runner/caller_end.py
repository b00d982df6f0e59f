"""The caller's side of a lane; see `lane` for the drawing and the races."""

from __future__ import annotations

import time
from collections import deque

from multiprocessing_kit.ipc.fence import make_fence
from multiprocessing_kit.runner.lane import (
    BEGUN,
    CALLER_WAITS,
    CHILD_WAITS,
    COUNT_BITS,
    CURRENT,
    EVENTS,
    FOR_RECORD,
    FOR_ROOM,
    NEXT_SLEEP,
    PIECE,
    SINCE,
    STOP,
    TAKEN_BACK,
    Lane,
    pieces_of,
)

__all__ = ["CallerEnd"]


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
        return bool(self._outbox or (self._taken_until and self._words[BEGUN] < self._taken_until))

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
        begun = words[BEGUN]
        if self.clogged or not words[CURRENT] or time.monotonic_ns() - words[SINCE] < busy_for * 1e9:
            return 0
        count = self._sent_jobs - begun
        if not count:
            return 0
        words[TAKEN_BACK] = (begun + 1) << COUNT_BITS | count
        self._taken_until = self._sent_jobs
        self._fence()
        if words[BEGUN] != begun:
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
        if not self._outbox and len(record) <= PIECE and self._down.write(record):
            self._unannounced = True
            return
        self._outbox.extend(pieces_of(record))
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
            if self._words[CHILD_WAITS]:
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
            if self._words[CHILD_WAITS] & FOR_ROOM:
                self._lane.child_bell.ring()

    def prepare_wait(self) -> bool:
        """Announce that the caller will sleep; False if there is something to do after all."""
        self._sleeps += NEXT_SLEEP
        self._words[CALLER_WAITS] = self._sleeps | FOR_RECORD | (FOR_ROOM if self._outbox else 0)
        self._fence()
        return not self._up and not (self._outbox and self._room_for_next())

    def end_wait(self) -> None:
        """The caller is awake."""
        self._words[CALLER_WAITS] = 0

    def _room_for_next(self) -> bool:
        return self._down.free >= len(self._outbox[0][0])

    def ask_to_stop(self) -> None:
        """Have the child end after its current job."""
        self._words[STOP] = 1
        self._lane.child_bell.ring()

    def set_events(self, mask: int) -> None:
        """Tell the child which events to send home."""
        self._words[EVENTS] = mask

    @property
    def current(self) -> int | None:
        """Index of the job that the child is at; None between two."""
        return self._words[CURRENT] - 1 if self._words[CURRENT] else None

    def close(self) -> None:
        """Give up the caller's access."""
        self._outbox.clear()
        self._lane.close()
