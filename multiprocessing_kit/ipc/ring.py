"""A ring of records between one producer and one consumer, without a lock.

    ┌──────────┬──────────┬───────────────────────────────────────────────┐
    │ head  u64│ tail  u64│ data: [length u64][payload, padded to 8] …    │
    └──────────┴──────────┴───────────────────────────────────────────────┘
      producer   consumer   head and tail count bytes since the start and never wrap

Each counter has one writer and a cache line of its own. The producer stores the payload first and
the head last, with a fence between: a killed producer leaves a readable prefix, never half a
record. The consumer copies a record out before it moves the tail, so the bytes under it cannot change.

A payload may run over the end of the data and go on at its start; a length word never does, because
everything is kept at multiples of 8. The top bit of a length marks a piece that another one follows.
(The scheme is Lamport's single-producer single-consumer queue, with lengths as in a bip buffer.)
"""

from __future__ import annotations

from multiprocessing_kit.ipc.fence import KEEPS_STORES_IN_ORDER, make_fence

__all__ = ["Ring"]

_HEAD = 0
_TAIL = 8  # in words of 8 bytes: 64 bytes on, another cache line
_HEADER_BYTES = 128
_MORE = 1 << 63


class Ring:
    """One end of a ring; make one in each process, over the same bytes.

    Args:
        buf: Shared memory, zeroed at first: `Ring.bytes_for(capacity)` of it, at an address that is
            a multiple of 8.
    """

    def __init__(self, buf: memoryview) -> None:
        self._buf = buf[_HEADER_BYTES:]
        self._words = buf.cast("Q")  # item access is one aligned 8-byte store; struct's is not
        self._capacity = len(self._buf)
        self._fence = None if KEEPS_STORES_IN_ORDER else make_fence()

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """Bytes of shared memory for a ring that holds `capacity` bytes (a multiple of 8)."""
        if capacity <= 0 or capacity % 8:
            raise ValueError(f"a ring's capacity must be a positive multiple of 8, not {capacity}")
        return _HEADER_BYTES + capacity

    @property
    def free(self) -> int:
        """Longest payload, in bytes, that `write` would take now (producer's side); may be negative."""
        return self._capacity - (self._words[_HEAD] - self._words[_TAIL]) - 8

    def write(self, payload: bytes | memoryview, *, more: bool = False) -> bool:
        """Append a record and publish it; producer only.

        Args:
            payload: Its bytes.
            more: Whether the next record continues this one.

        Returns:
            False when there is no room for it now; nothing is written then.
        """
        size = len(payload)
        words = self._words
        # Not kept beside it: a signal handler may raise between two stores.
        head = words[_HEAD]
        capacity = self._capacity
        if capacity - (head - words[_TAIL]) - 8 < size:
            return False
        at = head % capacity
        words[(_HEADER_BYTES + at) >> 3] = size | _MORE if more else size
        start = (at + 8) % capacity
        end = start + size
        if end <= capacity:
            self._buf[start:end] = payload
        else:
            first = capacity - start
            self._buf[start:] = payload[:first]
            self._buf[: size - first] = payload[first:]
        if self._fence is not None:
            self._fence()
        words[_HEAD] = head + 8 + ((size + 7) & ~7)  # publish
        return True

    def read(self) -> tuple[bytes, bool] | None:
        """Take the oldest record off; consumer only.

        Returns:
            Its bytes, and whether the next record continues it; None when the ring is empty.
        """
        words = self._words
        tail = words[_TAIL]
        if words[_HEAD] == tail:
            return None
        if self._fence is not None:
            self._fence()  # the payload is loaded after the counter that promised it
        capacity = self._capacity
        at = tail % capacity
        length = words[(_HEADER_BYTES + at) >> 3]
        size = length & ~_MORE
        start = (at + 8) % capacity
        end = start + size
        if end <= capacity:
            payload = bytes(self._buf[start:end])
        else:
            payload = bytes(self._buf[start:]) + bytes(self._buf[: end - capacity])
        if self._fence is not None:
            self._fence()
        words[_TAIL] = tail + 8 + ((size + 7) & ~7)  # publish
        return payload, length >= _MORE

    def __bool__(self) -> bool:
        """Whether a record waits (consumer's side)."""
        return self._words[_HEAD] != self._words[_TAIL]

    @property
    def passed(self) -> int:
        """How far the consumer has read, in bytes since the beginning."""
        return self._words[_TAIL]

    def close(self) -> None:
        """Let go of the shared memory."""
        self._words.release()
        self._buf.release()
