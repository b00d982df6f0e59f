"""Records in the order of their priorities in shared memory, for one user at a time: all hold the same lock.

    words of 8 bytes; those between are as in `store.py`
     0  whole       0 while something below is being changed
     1  count       of records
     2  last        number given to a record
    16  lists of free blocks, see `blocks.py`
    81  heap        positions of the records: none has a lower priority than the one at half its index
        blocks      used: header, number, priority, payload; free: header, …

A record is a priority, as a native 8-byte float, and a payload. Of those with the lowest priority the
one with the lowest number comes first. It is the binary heap of J. W. J. Williams (1964), as in `heapq`.

A record is there from the one 8-byte store that makes its block a used one to the one that makes it
free. The heap and all else is derived from that. `whole` is 0 while it changes; who finds it so holds the
lock after somebody who was killed or interrupted, and first makes everything anew from the blocks. That
takes 1 to 2 µs for each record, and more for those of a million that no processor cache holds.
"""

from __future__ import annotations

import struct
from array import array

from multiprocessing_kit.queues.blocks import CONTROL_WORDS, SMALLEST, Blocks
from multiprocessing_kit.queues.store import REST, RecordStore

__all__ = ["RecordHeap", "prefix"]

_WHOLE, _COUNT, _LAST = 0, 1, 2
_HEAP = REST + CONTROL_WORDS
_NUMBER, _PRIORITY = 1, 2  # words from the beginning of a block
_HEADER = 2  # words of a block before the record

prefix = struct.Struct("=d").pack
"""What a record of this priority begins with."""


class RecordHeap(RecordStore):
    """The record of the lowest priority is the first one taken. It is `prefix(priority) + payload`."""

    kind = "priority queue"
    locks = 1

    def __init__(self, buf: memoryview, max_records: int) -> None:
        super().__init__(buf, max_records)
        self._priorities = buf.cast("d")
        self._bytes = buf
        words_of_blocks = (len(self.words) - _HEAP - 1) * SMALLEST // (SMALLEST + 1)
        end = len(self.words) - 1
        self._blocks = Blocks(self.words, REST, end - words_of_blocks, end)
        self.max_payload = (words_of_blocks - _HEADER - 1) * 8

    @staticmethod
    def bytes_for(size: int) -> int:
        """Bytes of shared memory for records that take `size`, a multiple of 32, with their overhead."""
        return (_HEAP + 1) * 8 + size + size // SMALLEST

    @property
    def head(self) -> int:
        """Goes down when records are taken."""
        return self.words[_COUNT]

    def has_records(self, looks: int = 1) -> bool:
        """Whether there may be a record, in one of so many looks. Under the lock, a no is final."""
        words = self.words
        return any(words[_COUNT] or not words[_WHOLE] for _ in range(looks))

    def has_lost_records(self, head: int, looks: int) -> bool:
        """Whether it is lower than when `head` was read, in one of so many looks."""
        words = self.words
        return any(words[_COUNT] < head for _ in range(looks))

    def has_room(self, size: int) -> bool:
        """Whether a record of `size` bytes finds room. Under the lock, as all below."""
        if not self.words[_WHOLE]:
            self._make_whole()
        return not self._is_full() and self._blocks.find(_length(size)) != 0

    def count(self) -> int:
        """How many records there are."""
        if not self.words[_WHOLE]:
            self._make_whole()
        return self.words[_COUNT]

    def append_one(self, record: bytes) -> bool:
        """Add a record. False if it finds no room."""
        words, blocks, size = self.words, self._blocks, len(record)
        if not words[_WHOLE]:
            self._make_whole()
        length = _length(size)
        block = 0 if self._is_full() else blocks.find(length)
        if not block:
            return False
        words[_WHOLE] = 0
        length = blocks.reserve(block, length)
        words[_LAST] = words[block + _NUMBER] = words[_LAST] + 1
        start = block + _HEADER << 3
        self._bytes[start : start + size] = record
        blocks.use(block, length, (length - _HEADER << 3) - size)  # here it happens
        self._push(block)
        words[_WHOLE] = 1
        return True

    def take_one(self) -> bytes | None:
        """Remove the first record, if there is one, and return its payload."""
        words = self.words
        if not words[_WHOLE]:
            self._make_whole()
        if not words[_COUNT]:
            return None
        block = words[_HEAP]
        start = block + _HEADER + 1 << 3
        payload = self._bytes[start : start + self._blocks.bytes_in(block) - 16].tobytes()
        words[_WHOLE] = 0
        self._blocks.free(block)  # here it happens
        self._pop()
        words[_WHOLE] = 1
        return payload

    def take(self, most: int) -> list[bytes]:
        """Remove up to `most` records, the first one first, and return their payloads."""
        payloads: list[bytes] = []
        while len(payloads) < most:
            payload = self.take_one()
            if payload is None:
                break
            payloads.append(payload)
        return payloads

    @staticmethod
    def split(payloads: list[bytes]) -> list[memoryview]:
        """The payloads in what `take` returned."""
        return [memoryview(payload) for payload in payloads]

    def clear(self) -> None:
        """Drop every record."""
        self.words[_WHOLE] = 0
        self._blocks.free_all()  # here it happens
        self._make_whole()

    def _is_full(self) -> bool:
        return 0 < self._max_records <= self.words[_COUNT]

    def _push(self, block: int) -> None:
        """Into the heap, where its number is the highest: behind all of its priority."""
        words, priorities = self.words, self._priorities
        count = place = words[_COUNT]
        priority = priorities[block + _PRIORITY]
        while place:
            above = place - 1 >> 1
            other = words[_HEAP + above]
            if priorities[other + _PRIORITY] <= priority:
                break
            words[_HEAP + place] = other
            place = above
        words[_HEAP + place] = block
        words[_COUNT] = count + 1

    def _pop(self) -> None:
        """Take the first one out of the heap. Its own words are not looked at."""
        words, priorities = self.words, self._priorities
        count = words[_COUNT] = words[_COUNT] - 1
        # As in heapq: the smaller child moves up all the way, for the last one belongs far below.
        place, right = 0, 2
        while right < count:
            left_block, block = words[_HEAP + right - 1], words[_HEAP + right]
            left_priority, priority = priorities[left_block + _PRIORITY], priorities[block + _PRIORITY]
            if left_priority < priority or (
                left_priority == priority and words[left_block + _NUMBER] < words[block + _NUMBER]
            ):
                block = left_block
                right -= 1
            words[_HEAP + place] = block
            place = right
            right = 2 * right + 2
        if right == count:  # a left child alone
            words[_HEAP + place] = words[_HEAP + right - 1]
            place = right - 1
        if count:
            self._raise(words[_HEAP + count], place)

    def _raise(self, block: int, place: int) -> None:
        """Put a block into the empty `place`, or above it where it belongs."""
        words, priorities = self.words, self._priorities
        key = priorities[block + _PRIORITY], words[block + _NUMBER]
        while place:
            above = place - 1 >> 1
            other = words[_HEAP + above]
            if (priorities[other + _PRIORITY], words[other + _NUMBER]) < key:
                break
            words[_HEAP + place] = other
            place = above
        words[_HEAP + place] = block

    def _make_whole(self) -> None:
        """Make lists and heap anew. A sorted row of records is a heap."""
        words, priorities = self.words, self._priorities
        found = [
            (priorities[block + _PRIORITY], words[block + _NUMBER], block) for block in self._blocks.rebuild()
        ]
        found.sort()
        words[_HEAP : _HEAP + len(found)] = array("Q", [block for _, _, block in found])
        words[_COUNT] = len(found)
        words[_WHOLE] = 1


def _length(size: int) -> int:
    """Words that a record of `size` bytes takes."""
    return max(SMALLEST, _HEADER + (size + 7 >> 3))
