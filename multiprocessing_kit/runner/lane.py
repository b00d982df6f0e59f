"""A lane: two rings and a small header in one segment, between the caller and one child.

    caller ──▶ down ring: jobs ──────▶ child          each word of the header has one writer:
    caller ◀── up ring: answers ◀───── child            caller: caller waits, stop, event mask,
                                                                taken back, wake at, granted
                                                        child:  child waits, begun, at job,
                                                                attempt, timed, since, set up

No lock is shared: a child killed anywhere blocks nobody, and what it published can still be read.

Sleep and wake. A side that finds nothing to do writes what it waits for into its word, looks once
more, and only then waits on its doorbell. The other side moves a counter of a ring and then reads that
word. With a fence between each pair at least one of the two sees the other (Dekker's argument), so
a doorbell rings only for a sleeper, and no sleeper is missed. Where nobody waits for single answers, the
caller also says at which job it wants to be woken: when the child has to get more. A child that is about
to sleep wakes it in any case.

Taking back. Jobs that a child has not begun can be given to another. Both sides count the jobs of the
lane. The child announces each number before it looks whether that was taken back; the caller writes
which numbers it takes back before it looks what was announced. Again one of the two sees the other: a job
whose number was not announced yet will be skipped. If the child was quicker, only it knows which it
skipped; so it always tells, with SKIPPED. The child does this for each job and the caller seldom, so
the fences of both are in the caller's hands (`membarrier`), where the system can do that.

Timing. Where jobs have a time limit, the child writes when each began, and then (TIMED) of which job that
tells: the caller takes a time only for the job that is announced, and until then goes by when it saw it.

A record larger than half a ring is cut into pieces, so that it has no size limit and the two sides
work on it at the same time.
"""

from __future__ import annotations

import signal

from multiprocessing_kit.ipc.doorbell import Doorbell
from multiprocessing_kit.ipc.ring import Ring
from multiprocessing_kit.ipc.segment import Segment

__all__ = [
    "ATTEMPT",
    "ATTEMPT_BITS",
    "AT_JOB",
    "BEGUN",
    "CALLER_WAITS",
    "CHILD_WAITS",
    "COUNT_BITS",
    "EVENTS",
    "FOR_GRANT",
    "FOR_RECORD",
    "FOR_ROOM",
    "GRANTED",
    "GRANTED_LENGTH",
    "GRANTED_OFFSET",
    "GRANTED_SEGMENT",
    "HURRY",
    "NEXT_SLEEP",
    "PIECE",
    "RING_BYTES",
    "SET_UP",
    "SINCE",
    "STOP",
    "TAKEN_BACK",
    "TIMED",
    "WAKE_AT",
    "Lane",
    "pieces_of",
]

RING_BYTES = 256 * 1024
"""Bytes of payload each of the two rings holds; both fit a processor's second-level cache."""

PIECE = RING_BYTES // 2
"""A larger record is cut up."""

CALLER_WAITS, STOP, EVENTS = 0, 1, 2
TAKEN_BACK, WAKE_AT = 3, 4
CHILD_WAITS, BEGUN, AT_JOB = 8, 9, 10
ATTEMPT, TIMED, SINCE, SET_UP = 11, 12, 13, 14
GRANTED, GRANTED_SEGMENT, GRANTED_OFFSET, GRANTED_LENGTH = 16, 17, 18, 19
_HEADER_BYTES = 192  # a cache line of the caller's words, one of the child's, one of the caller's

HURRY = signal.SIGURG
"""The caller sends it to a child that is at a long job with answers unsent. Nothing happens where it has no
handler, as in what a job executes."""

ATTEMPT_BITS = 16
"""Of the word ATTEMPT: which one is under way; the rest is the job's number. Not written for the first."""

COUNT_BITS = 24
"""Of the word TAKEN_BACK: how many; the rest is the first one's number."""

FOR_RECORD = 1
FOR_ROOM = 2
FOR_GRANT = 8
NEXT_SLEEP = 4
"""The caller's word also counts its sleeps: each child rings once for one. A woken caller may have to wait
for a processor, and a child with short jobs would ring for each of them meanwhile."""


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


def pieces_of(record: bytes) -> list[tuple[bytes | memoryview, bool]]:
    """What `record` is cut into, each with whether another piece follows."""
    view = memoryview(record)
    cuts = range(0, len(record), PIECE)
    return [(view[at : at + PIECE], at + PIECE < len(record)) for at in cuts]
