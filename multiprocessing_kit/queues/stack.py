"""A stack of records in shared memory, for one user at a time: all hold the same lock.

    words of 8 bytes; those between are as in `store.py`
     0  top         position behind the last record; 0: none
    16  records     payload padded to words, number, length; payload, number, length; …

A `number` says how many records there are up to its own. It stands behind its payload, so the record on
top is found from `top`, and one aligned 8-byte store of `top` puts a record or takes as many as one
likes: a process killed before that store has changed nothing, one killed after it has changed
everything. Only words above `top` are written before it.
"""

from __future__ import annotations

from multiprocessing_kit.queues.store import REST, RecordStore

__all__ = ["RecordStack"]

_TOP = 0
_OVERHEAD = 16  # bytes: number and length


class RecordStack(RecordStore):
    """The last record that was appended is the first one taken."""

    kind = "lifo queue"
    locks = 1

    def __init__(self, buf: memoryview, max_records: int) -> None:
        super().__init__(buf, max_records)
        self._data = self.words[REST:]
        self._bytes = buf[REST * 8 :]
        self.max_payload = len(self._data) * 8 - _OVERHEAD

    @staticmethod
    def bytes_for(size: int) -> int:
        """Bytes of shared memory for records that take `size` with their overhead, a multiple of 8."""
        return REST * 8 + size

    @property
    def head(self) -> int:
        """Goes down when records are taken."""
        return self.words[_TOP]

    def has_records(self, looks: int = 1) -> bool:
        """Whether there is a record, in one of so many looks. Under the lock, a no is final."""
        words = self.words
        return any(words[_TOP] for _ in range(looks))

    def has_lost_records(self, head: int, looks: int) -> bool:
        """Whether it is lower than when `head` was read, in one of so many looks."""
        words = self.words
        return any(words[_TOP] < head for _ in range(looks))

    def has_room(self, size: int) -> bool:
        """Whether a payload of `size` bytes finds room."""
        if self._max_records and self.count() >= self._max_records:
            return False
        return self.words[_TOP] + _length(size) <= len(self._data)

    def count(self) -> int:
        """How many records there are."""
        top = self.words[_TOP]
        return self._data[top - 2] if top else 0

    def append_one(self, record: bytes) -> bool:
        """Put a record on top. False if it finds no room."""
        data, size = self._data, len(record)
        top = self.words[_TOP]
        end = top + _length(size)
        number = data[top - 2] if top else 0
        if end > len(data) or (number == self._max_records and number):
            return False
        start = top << 3
        self._bytes[start : start + size] = record
        data[end - 2] = number + 1
        data[end - 1] = size
        self.words[_TOP] = end  # here it happens
        return True

    def take_one(self) -> bytes | None:
        """Remove the record on top, if there is one."""
        top = self.words[_TOP]
        if not top:
            return None
        size = self._data[top - 1]
        end = top - _length(size)
        start = end << 3
        record = self._bytes[start : start + size].tobytes()
        self.words[_TOP] = end  # here it happens
        return record

    def take(self, most: int) -> bytes:
        """Remove up to `most` records from the top; `split` finds them in the result."""
        data = self._data
        top = end = self.words[_TOP]
        for _ in range(most):
            if not end:
                break
            end -= _length(data[end - 1])
        records = self._bytes[end << 3 : top << 3].tobytes()
        self.words[_TOP] = end  # here it happens
        return records

    @staticmethod
    def split(records: bytes) -> list[memoryview]:
        """The payloads in what `take` returned, the topmost first."""
        view = memoryview(records)
        words = view.cast("Q")
        payloads = []
        end = len(words)
        while end:
            size = words[end - 1]
            end -= _length(size)
            payloads.append(view[end << 3 : (end << 3) + size])
        return payloads

    def clear(self) -> None:
        """Drop every record."""
        self.words[_TOP] = 0


def _length(size: int) -> int:
    """Words that a record with a payload of `size` bytes takes."""
    return 2 + ((size + 7) >> 3)
