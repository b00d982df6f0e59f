"""Memory for records that come and go in any order, in blocks that follow each other without a gap.

    words of a used block       header, and what the user of the block writes
    words of a free block       header, next, previous (in the list of its size class), …, size
    words behind the last       a header of no size that counts as used

    bits of a header            size in words << 8 | left-over bytes << 2 | the one before is free << 1 | used

No two free blocks stay side by side: who frees one joins it with its neighbours (Knuth's boundary tags).
The free ones are in lists by size class, and a word has a bit for each list that is not empty.

Only sizes and `used` bits are the truth. They are changed by one store of a header, which leaves a whole
row of blocks before and after: to use a part of a free block, the header of the rest is written where
nobody looks yet. Lists, classes and the other bits only say where to look, and `rebuild` makes them
from the row. So whoever was killed in here has taken or freed its block, or has not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

__all__ = ["CONTROL_WORDS", "SMALLEST", "Blocks"]

CONTROL_WORDS = 65
SMALLEST = 4  # words that a free block needs

_CLASSES = 64
_EXACT = 16  # words: below, each size has a class of its own
_USED, _AFTER_FREE = 1, 2
_LOOKS = 8  # in a list whose blocks may be too small, before one is split that is certainly large enough


class Blocks:
    """The blocks in the words from `first` up to `end`, which is one more word.

    Args:
        words: Of the whole memory, format "Q". A zero at `first` is one free block.
        control: Where its `CONTROL_WORDS` are.
        first: Not 0: that stands for no block.
        end: Position of the last header.
    """

    def __init__(self, words: memoryview, control: int, first: int, end: int) -> None:
        self._words = words
        self._classes = control
        self._lists = control + 1
        self._first = first
        self._end = end

    def find(self, length: int) -> int:
        """A free block of at least `length` words; 0 if there is none."""
        words = self._words
        own = _class(length)
        larger = words[self._classes] >> own + 1
        block, looks = words[self._lists + own], _LOOKS
        while block:
            if words[block] >> 8 >= length:
                return block
            looks -= 1
            if not looks and larger:
                break
            block = words[block + 1]
        return words[self._lists + own + (larger & -larger).bit_length()] if larger else 0

    def reserve(self, block: int, length: int) -> int:
        """Take a block that `find` returned out of the lists, and give back what is too much of it.

        Returns:
            Its size. It stays free until `use` is called.
        """
        words = self._words
        size = words[block] >> 8
        self._unlink(block, size)
        rest = size - length
        if rest < SMALLEST:
            words[block + size] &= ~_AFTER_FREE
            return size
        words[block + length] = rest << 8
        self._link(block + length, rest)
        return length

    def use(self, block: int, size: int, left_over: int) -> None:
        """Make it a used one: what is written in it counts from here on.

        Args:
            block: That was reserved.
            size: As `reserve` returned it.
            left_over: Bytes of it that are not needed, less than 64; for the user only.
        """
        self._words[block] = size << 8 | left_over << 2 | _USED

    def bytes_in(self, block: int) -> int:
        """Bytes of a used block behind its header, without those left over."""
        header = self._words[block]
        return ((header >> 8) - 1 << 3) - (header >> 2 & 63)

    def free(self, block: int) -> None:
        """Free a used one."""
        words = self._words
        header = words[block]
        size = header >> 8
        after = words[block + size]
        if not after & _USED:
            self._unlink(block + size, after >> 8)
            size += after >> 8
        if header & _AFTER_FREE:
            before = words[block - 1]
            block -= before
            self._unlink(block, before)
            size += before
        words[block] = size << 8  # here it happens
        words[block + size] |= _AFTER_FREE
        self._link(block, size)

    def free_all(self) -> None:
        """Free every block. Needs `rebuild` next."""
        self._words[self._first] = 0

    def rebuild(self) -> Iterator[int]:
        """Make everything anew from sizes and `used` bits, and yield the used blocks. Run it to its end."""
        words, block, end = self._words, self._first, self._end
        words[self._classes : self._lists + _CLASSES] = array("Q", bytes(8 * (_CLASSES + 1)))
        words[end] = _USED
        gap = 0  # where the free blocks before this one begin
        while block <= end:
            header = words[block] or end - block << 8
            if header & _USED:
                if gap:
                    words[gap] = block - gap << 8
                    self._link(gap, block - gap)
                words[block] = header | _AFTER_FREE if gap else header & ~_AFTER_FREE
                gap = 0
                if block == end:
                    return
                yield block
            else:
                gap = gap or block
            block += header >> 8

    def _link(self, block: int, size: int) -> None:
        words = self._words
        number = _class(size)
        first = words[self._lists + number]
        words[block + 1] = first
        words[block + 2] = 0
        words[block + size - 1] = size
        if first:
            words[first + 2] = block
        else:
            words[self._classes] |= 1 << number
        words[self._lists + number] = block

    def _unlink(self, block: int, size: int) -> None:
        words = self._words
        after, before = words[block + 1], words[block + 2]
        if after:
            words[after + 2] = before
        if before:
            words[before + 1] = after
            return
        number = _class(size)
        words[self._lists + number] = after
        if not after:
            words[self._classes] &= ~(1 << number)


def _class(size: int) -> int:
    """Two classes for each power of 2; a block of a higher class is larger."""
    if size < _EXACT:
        return size - SMALLEST
    bits = size.bit_length()
    return min(_CLASSES - 1, 2 * bits + 2 + (size >> bits - 2 & 1))
