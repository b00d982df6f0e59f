"""A ring of records in shared memory, whose state changes in one step. Who calls holds the mutex.

     0  which      8 bytes    0 or 1: the copy of the state that holds
     8  state 0   40 bytes    head, tail, records ever put, records ever got, closed
    48  state 1   40 bytes
    88  (the queue's own flags, 8 bytes)
    96  records               length (8 bytes), payload, next length, …; goes on at the start

Bytes between `head` and `tail` hold records; both only grow, and are taken modulo the capacity.
A change writes bytes outside of what the state covers, then the copy of the state that does not
hold, and last `which`: one aligned 8-byte store. A process killed anywhere before that store has
changed nothing, one killed after it has changed everything. When the ring becomes empty it starts
again at its first byte, so that one which is never very full keeps using the same few pages.
"""

from __future__ import annotations

import struct

__all__ = ["FLAGS_AT", "FLAGS_SIZE", "LENGTH_SIZE", "RING_HEADER", "RecordRing", "RingState"]

FLAGS_AT, FLAGS_SIZE = 88, 8
RING_HEADER = 96
LENGTH_SIZE = 8

_STATE = struct.Struct("=5Q")
_LENGTH = struct.Struct("=Q")
_STATE_AT = (8, 48)


RingState = tuple[int, int, int, int, int]
"""head, tail, records ever put, records ever got, closed"""


class RecordRing:
    """The ring in `buf`, which is zeroed when new.

    Attributes:
        capacity: Bytes for records; each takes `LENGTH_SIZE` more than its payload.
    """

    def __init__(self, buf: memoryview) -> None:
        self._buf = buf
        self._which = buf[:8].cast("Q")
        self._records = buf[RING_HEADER:]
        self.capacity = len(self._records)

    def load(self) -> RingState:
        """The state that holds."""
        state: RingState = _STATE.unpack_from(self._buf, _STATE_AT[self._which[0]])
        return state

    def commit(self, state: RingState) -> None:
        """Make `state` the one that holds, all of it or nothing."""
        other = 1 - self._which[0]
        _STATE.pack_into(self._buf, _STATE_AT[other], *state)
        self._which[0] = other

    def append(self, state: RingState, payload: bytes) -> RingState:
        """Write a record into the free bytes; returns the state that makes it count."""
        head, tail, put, got, closed = state
        size = len(payload)
        at = tail % self.capacity
        start = at + LENGTH_SIZE
        if start + size <= self.capacity:
            _LENGTH.pack_into(self._records, at, size)
            self._records[start : start + size] = payload
        else:
            self._write_around(at, _LENGTH.pack(size) + payload)
        return head, tail + LENGTH_SIZE + size, put + 1, got, closed

    def take(self, state: RingState) -> tuple[bytes, RingState]:
        """Copy the first record out; returns it and the state without it."""
        head, tail, put, got, closed = state
        (size,) = _LENGTH.unpack(self._read(head, LENGTH_SIZE))
        payload = self._read(head + LENGTH_SIZE, size)
        head += LENGTH_SIZE + size
        if head == tail:
            head = tail = 0
        return payload, (head, tail, put, got + 1, closed)

    def _write_around(self, at: int, data: bytes) -> None:
        split = self.capacity - at
        self._records[at:] = data[:split]
        self._records[: len(data) - split] = data[split:]

    def _read(self, position: int, size: int) -> bytes:
        at = position % self.capacity
        end = at + size
        if end <= self.capacity:
            return bytes(self._records[at:end])
        return bytes(self._records[at:]) + bytes(self._records[: end - self.capacity])
