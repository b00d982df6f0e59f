"""The caller's side of a lane; see `lane` for the drawing and the races."""

from __future__ import annotations

from collections import deque

from multiprocessing_kit.ipc import membarrier
from multiprocessing_kit.ipc.fence import make_fence
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
    NEXT_SLEEP,
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
        self._taken_from = self._taken_until = 0
        self._seen = 0
        self._seen_at = 0.0
        self._heard = -1
        self._heard_at = 0.0

    @property
    def clogged(self) -> bool:
        """Whether it should get no more jobs now: there is no room, or it has not passed those taken back."""
        return bool(self._outbox) or self._words[BEGUN] < self._taken_until

    def send_jobs(self, record: bytes, count: int) -> int:
        """Send jobs; as `send`, but counted. Returns the first one's number."""
        number = self._sent_jobs + 1
        self._sent_jobs += count
        self.send(record)
        return number

    def stuck_for(self, now: float) -> float:
        """Seconds since the child began its job, as far as this was looked at; 0 if it is between two."""
        begun = self._words[BEGUN]
        if begun != self._seen or not self._words[AT_JOB]:
            self._seen, self._seen_at = begun, now
        return now - self._seen_at

    def since(self, now: float) -> float | None:
        """When the child began its job, by `time.monotonic()`; None while it is between two, or two attempts.

        Where the child has not told yet, since it was first seen. While it waits for the caller, since that
        has heard of it, for the caller may have been elsewhere for long.
        """
        words = self._words
        stuck = self.stuck_for(now)
        begun = self._seen
        if not words[AT_JOB]:
            return None
        if words[TIMED] != begun:
            return now - stuck
        since = words[SINCE]
        if not since:
            return None
        if words[CHILD_WAITS] & (FOR_ROOM | FOR_GRANT):
            heard = self._up.passed
            if heard != self._heard or self.has_records:
                self._heard, self._heard_at = heard, now
            since = max(since, int(self._heard_at * 1e9))
        return since / 1e9 if words[BEGUN] == begun else now

    @property
    def has_records(self) -> bool:
        """Whether there is something to receive."""
        return bool(self._up)

    @property
    def is_set_up(self) -> bool:
        """Whether the child can begin its next job as soon as it is there."""
        return self._words[SET_UP] != 0

    @property
    def attempt(self) -> int:
        """Which attempt of its job is under way, as far as the child tells: 0 if it is the first."""
        number, attempt = divmod(self._words[ATTEMPT], 1 << ATTEMPT_BITS)
        return attempt if number == self._words[BEGUN] else 0

    @property
    def sent_jobs(self) -> int:
        """How many jobs were sent so far."""
        return self._sent_jobs

    @property
    def begun(self) -> int:
        """Number of the job that the child has begun last."""
        return self._words[BEGUN]

    @property
    def could_take(self) -> int:
        """How many jobs could be taken back now: those the child has not begun."""
        if self._outbox:
            return 0
        begun = self._words[BEGUN]
        if self._taken_until and begun > self._taken_until:
            self._taken_until = self._words[TAKEN_BACK] = 0
        # Not cleared before: it announces a job and then looks, so it may still have to look at the last.
        return max(0, self._last_left - begun)

    @property
    def _last_left(self) -> int:
        """Number of the last job that was sent and not taken back."""
        return self._taken_from - 1 if self._taken_until else self._sent_jobs

    def take_back_from(self, number: int) -> int | None:
        """Have the child skip this job and all behind it, unless it was taken back; as `take_back`."""
        could = self.could_take
        count = min(could, self._last_left + 1 - number)
        return self.take_back(count) if count > 0 else None

    def take_back(self, count: int) -> int:
        """Have the child skip `count` jobs: the last of those that `could_take` counts.

        Returns:
            The number from which on it will surely skip them. Which of the earlier ones it skips, it tells.
        """
        words = self._words
        if not self._taken_until:
            self._taken_from, self._taken_until = self._sent_jobs + 1, self._sent_jobs
        self._taken_from -= count  # what was taken before is taken still, whichever word the child reads
        words[TAKEN_BACK] = self._taken_from << COUNT_BITS | (self._taken_until + 1 - self._taken_from)
        self._fence()
        membarrier.barrier()
        return max(self._taken_from, words[BEGUN] + 1)

    def send(self, record: bytes) -> None:
        """Send a record, now or (`clogged`) with a later `flush`."""
        if not self._outbox and len(record) <= PIECE and self._down.write(record):
            self._unannounced = True
            return
        self._outbox.extend(pieces_of(record))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._outbox:
            piece, more = self._outbox[0]
            if not self._down.write(piece, more=more):
                break
            self._outbox.popleft()
            self._unannounced = True

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
                if self._made_room:
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

    def grant(self, place: Place | None) -> None:
        """Answer the child that asked for a place to write to; None if there is none."""
        words = self._words
        words[GRANTED_SEGMENT], words[GRANTED_OFFSET], words[GRANTED_LENGTH] = place or (0, 0, 0)
        self._fence()
        words[GRANTED] += 1
        self._fence()
        if words[CHILD_WAITS] & FOR_GRANT:
            self._lane.child_bell.ring()

    def _announce_room(self) -> None:
        self._made_room = False
        self._fence()
        if self._words[CHILD_WAITS] & FOR_ROOM:
            self._lane.child_bell.ring()

    def prepare_wait(self, ahead: int) -> bool:
        """Announce that the caller will sleep; False if there is something to do after all.

        Args:
            ahead: How many of its jobs the child may leave to be begun before it has to wake the caller.
        """
        words = self._words
        self._sleeps += NEXT_SLEEP
        wake_at = words[WAKE_AT] = max(0, self._sent_jobs - ahead)
        words[CALLER_WAITS] = self._sleeps | FOR_RECORD | (FOR_ROOM if self._outbox else 0)
        self._fence()
        if self._outbox and self._room_for_next():
            return False
        return not self._up or (words[BEGUN] < wake_at and not words[CHILD_WAITS])

    def end_wait(self) -> None:
        """The caller is awake."""
        self._words[CALLER_WAITS] = 0

    def _room_for_next(self) -> bool:
        return self._down.free >= len(self._outbox[0][0])

    def ask_to_stop(self) -> None:
        """Have the child end after its current job."""
        self._words[STOP] = 1
        self._lane.child_bell.ring()

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether it was."""
        return self._words[STOP] != 0

    def set_events(self, mask: int) -> None:
        """Tell the child which events to send home."""
        self._words[EVENTS] = mask

    @property
    def current(self) -> int | None:
        """Number of the job that the child is at; None between two."""
        return self._words[BEGUN] if self._words[AT_JOB] else None

    def close(self) -> None:
        """Give up the caller's access."""
        self._outbox.clear()
        self._lane.close()
