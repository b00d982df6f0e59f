"""The rows in memory: a hash table of cells, each with two places for its row. Nothing here takes a lock.

    words of 8 bytes, and who writes them (locks: see rows.py)
     0  state      structure    rows that there are << 36 | the cell that is being inserted or removed, or 0
     1  inserts    structure    how many inserts were ever begun
     2  free       structure    first cell of the list of free ones, or 0
     3  fresh      structure    words of the cells that have ever been used
     4  length     the maker    bytes of the layout
    16  layout     the maker    text: whoever has another one has another table in mind
     …  heads      structure    of each bucket: its first cell, or 0
     …  cells      version      stripe       of the row; its last bit says which place holds it
                   mark         structure    hash << 32 | length of the key
                   next         structure    the next cell of the bucket
                   next free    structure    the next cell of the list of free ones
                   key          structure
                   two rows     stripe       the one that counts, and the one to be written next

A cell is named by the word where it begins. Each change happens in one aligned 8-byte store:

* A row is written into the place that does not count, then `version` goes up by one.
* A cell is inserted by the store into its bucket's head, after all of it has been written.
* A cell is removed by the store into the link that led to it.

Before an insert or a removal `state` names the cell, and the number of rows without it. Whoever finds a
cell named there while it holds the structure's lock knows that the one before died, or was interrupted by
a signal handler that raised; `repair` looks whether the cell is in its bucket, and makes the list of free
cells and the number of rows fit that. It may itself be killed and done again.

Readers take no lock. They look at `inserts`, find the cell, look at `version`, copy the row, and look at
both again:

* A row is only overwritten after its version has changed.
* A removed cell keeps its key and its link, so a reader that stands on one finds its way on. Only an
  insert takes such a cell for another key, and it counts first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multiprocessing_kit.ipc.fence import KEEPS_STORES_IN_ORDER, make_fence

__all__ = ["MAX_ROWS", "Cells", "Disturbed"]

_STATE, _INSERTS, _FREE, _FRESH, _LENGTH = range(5)
_LAYOUT = 16
_VERSION, _MARK, _NEXT, _NEXT_FREE, _KEY = range(5)
_CELL_BITS = 36
_CELL = (1 << _CELL_BITS) - 1
MAX_ROWS = (1 << 64 - _CELL_BITS) - 1


class Disturbed(Exception):  # not a fault: look again
    """Somebody changed what was being read."""


class Cells:
    """The table in `buf`, which is zeroed when new.

    Args:
        buf: `bytes_for(...)` bytes with the same arguments, at an address that is a multiple of 8.
        layout: What `keep_layout` may keep.
        rows: Most rows.
        key_size: Most bytes of a key.
        row_size: Bytes of a row, a multiple of 8.

    Attributes:
        ints, floats: The memory, in words of that type.
        mask: A hash and this gives the bucket.
    """

    def __init__(self, buf: memoryview, layout: bytes, rows: int, key_size: int, row_size: int) -> None:
        self._bytes = buf
        self._words = buf.cast("Q")
        self.ints = buf.cast("q")
        self.floats = buf.cast("d")
        self.mask = _buckets(rows) - 1
        self._heads = _LAYOUT + _words(len(layout))
        self._first = self._heads + self.mask + 1
        self._row = _KEY + _words(key_size)
        self._row_words = row_size >> 3
        self._cell_words = self._row + 2 * self._row_words
        self._end = self._first + rows * self._cell_words
        self._fence = None if KEEPS_STORES_IN_ORDER else _fence

    @staticmethod
    def bytes_for(layout: bytes, rows: int, key_size: int, row_size: int) -> int:
        """Bytes of shared memory, a multiple of 8."""
        cell = _KEY + _words(key_size) + 2 * (row_size >> 3)
        return 8 * (_LAYOUT + _words(len(layout)) + _buckets(rows) + rows * cell)

    def keep_layout(self, layout: bytes) -> None:
        """Keep it in new memory, before anybody else uses that."""
        start = _LAYOUT << 3
        self._bytes[start : start + len(layout)] = layout
        self._words[_LENGTH] = len(layout)

    def layout(self) -> bytes:
        """What was kept."""
        start = _LAYOUT << 3
        return self._bytes[start : start + self._words[_LENGTH]].tobytes()

    # Readers, without a lock.

    def count(self) -> int | None:
        """How many rows there are. None: somebody is changing that, or died while it did."""
        state = self._words[_STATE]
        return None if state & _CELL else state >> _CELL_BITS

    def read(self, mark: int, key: bytes) -> bytes | None:
        """The row of this key, or None. Raises Disturbed."""
        words = self._words
        inserts = words[_INSERTS]
        self._ordered()
        cell = self.find(mark, key)
        row = self._copy(cell) if cell else None
        self._ordered()
        if words[_INSERTS] != inserts:
            raise Disturbed
        return row

    def read_bucket(self, bucket: int) -> list[tuple[bytes, bytes]]:
        """Keys and rows of one bucket. Raises Disturbed."""
        words = self._words
        inserts = words[_INSERTS]
        self._ordered()
        found = self._walk(bucket, self._copy)
        self._ordered()
        if words[_INSERTS] != inserts:
            raise Disturbed
        return found

    def used_buckets(self, start: int, stop: int) -> list[int]:
        """Those of these buckets that hold anything; `stop` may be beyond the last one."""
        first, last = self._heads + start, min(self._heads + stop, self._first)
        return [bucket for bucket, cell in enumerate(self._words[first:last], start) if cell]

    @property
    def buckets(self) -> int:
        """How many there are."""
        return self.mask + 1

    def bucket_of(self, mark: int) -> int:
        """Where a key with this mark belongs."""
        return mark >> 32 & self.mask

    # Under the lock of the key's stripe.

    def find(self, mark: int, key: bytes) -> int:
        """The cell of this key, or 0."""
        words = self._words
        cell: int = words[self._heads + (mark >> 32 & self.mask)]
        while cell:
            if words[cell + _MARK] == mark:
                start = cell + _KEY << 3
                if self._bytes[start : start + len(key)] == key:
                    return cell
            cell = words[cell + _NEXT]
        return 0

    def row(self, cell: int) -> bytes:
        """The row of a cell."""
        start = self._place(cell, self._words[cell]) << 3
        return self._bytes[start : start + (self._row_words << 3)].tobytes()

    def bucket(self, bucket: int) -> list[tuple[bytes, bytes]]:
        """Keys and rows of one bucket of the stripe."""
        return self._walk(bucket, self.row)

    def write(self, cell: int, row: bytes) -> None:
        """Give a cell another row."""
        version = self._words[cell]
        start = self._place(cell, version + 1) << 3
        self._bytes[start : start + len(row)] = row
        self._ordered()
        self._words[cell] = version + 1  # here it happens

    def add(self, cell: int, numbers: Any, word: int, by: Any) -> Any:
        """Add to one number; `numbers` is `ints` or `floats`, `word` its place in the row. Returns the sum.

        Raises:
            ValueError: The column cannot hold the sum.
        """
        words, length = self._words, self._row_words
        version = words[cell]
        old = cell + self._row
        new = old + length
        if version & 1:
            old, new = new, old
        words[new : new + length] = words[old : old + length]
        total = numbers[new + word] + by
        numbers[new + word] = total
        if self._fence is not None:
            self._fence()
        words[cell] = version + 1  # here it happens
        return total

    # Under the lock of the structure, `insert` and `remove` under that of the key's stripe, too.

    @property
    def is_half_done(self) -> bool:
        """Whether the last change was not finished: `repair` before the next."""
        return self._words[_STATE] & _CELL != 0

    def insert(self, mark: int, key: bytes, row: bytes) -> bool:
        """Add a row for a key that has none. False if there is no free cell."""
        words = self._words
        cell = words[_FREE] or self._first + words[_FRESH]
        if cell >= self._end:
            return False
        count = words[_STATE] >> _CELL_BITS
        words[_STATE] = count << _CELL_BITS | cell
        words[_INSERTS] += 1
        self._ordered()
        if words[_FREE]:
            words[_FREE] = words[cell + _NEXT_FREE]
        else:
            words[_FRESH] += self._cell_words
        head = self._heads + (mark >> 32 & self.mask)
        words[cell + _MARK] = mark
        words[cell + _NEXT] = words[head]
        start = cell + _KEY << 3
        self._bytes[start : start + len(key)] = key
        self.write(cell, row)
        self._ordered()
        words[head] = cell  # here it happens
        words[_STATE] = count + 1 << _CELL_BITS
        return True

    def remove(self, mark: int, key: bytes) -> None:
        """Remove the row of a key that has one."""
        words = self._words
        cell = self.find(mark, key)
        count = (words[_STATE] >> _CELL_BITS) - 1
        link = self._link_to(cell)
        words[_STATE] = count << _CELL_BITS | cell
        words[link] = words[cell + _NEXT]  # here it happens
        self._give_back(cell)
        words[_STATE] = count << _CELL_BITS

    def repair(self) -> None:
        """Finish a change that was not, or undo it."""
        words = self._words
        state = words[_STATE]
        cell, count = state & _CELL, state >> _CELL_BITS
        if self._link_to(cell):
            count += 1
        elif cell < self._first + words[_FRESH] and words[_FREE] != cell:
            self._give_back(cell)
        words[_STATE] = count << _CELL_BITS

    def _link_to(self, cell: int) -> int:
        """The word that leads to a cell; 0 if none does."""
        words = self._words
        link = self._heads + self.bucket_of(words[cell + _MARK])
        while words[link] != cell:
            if not words[link]:
                return 0
            link = words[link] + _NEXT
        return link

    def _give_back(self, cell: int) -> None:
        self._words[cell + _NEXT_FREE] = self._words[_FREE]
        self._words[_FREE] = cell

    def _walk(self, bucket: int, row_of: Callable[[int], bytes]) -> list[tuple[bytes, bytes]]:
        words = self._words
        found = []
        cell = words[self._heads + bucket]
        while cell:
            start = cell + _KEY << 3
            key = self._bytes[start : start + (words[cell + _MARK] & 0xFFFFFFFF)].tobytes()
            found.append((key, row_of(cell)))
            cell = words[cell + _NEXT]
        return found

    def _copy(self, cell: int) -> bytes:
        version = self._words[cell]
        self._ordered()
        start = self._place(cell, version) << 3
        row = self._bytes[start : start + (self._row_words << 3)].tobytes()
        self._ordered()
        if self._words[cell] != version:
            raise Disturbed
        return row

    def _place(self, cell: int, version: int) -> int:
        """The word where the row of this version begins."""
        return cell + self._row + (self._row_words if version & 1 else 0)

    def _ordered(self) -> None:
        if self._fence is not None:
            self._fence()


def _buckets(rows: int) -> int:
    """As many as rows, or up to twice as many: a power of two."""
    return 1 << (rows - 1).bit_length()


def _words(size: int) -> int:
    return size + 7 >> 3


def _fence() -> None:
    # A new lock each time: a fork in another thread would leave the child a shared one in the middle.
    make_fence()()
