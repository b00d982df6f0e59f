"""A ring of records in shared memory. Who appends holds one lock, who takes another.

    words of 8 bytes, and who writes them; those between are as in `store.py`
     0  tail        appenders   position behind the last record
     1  from, to    appenders   position `from` is another name of position `to`
     8  head        takers      position of the first record; in another cache line
    16  records     appenders   number, length, payload padded to words; number, length, …; number

A position counts words since the start and never wraps; its place is its remainder by the capacity.
A `number` says how many records were ever put before its position, and there is one at every position
from head to tail. So one word says both where a side is and how many records it has done, and one
aligned 8-byte store changes both: a process killed before that store has changed nothing, one killed
after it has changed everything. Appenders write to free words only, and the number at tail is not free.

A ring that is found empty beyond its first pages goes on at its first word, so that one which is never
very full keeps using the same few pages. There goes the number, then `to` is set, then `from`, which is
both tail and head at that time; they move as ever when a record is put and taken.
"""

from __future__ import annotations

from multiprocessing_kit.ipc.fence import KEEPS_STORES_IN_ORDER, make_fence
from multiprocessing_kit.queues.store import REST, RecordStore

__all__ = ["RecordRing"]

_TAIL, _FROM, _TO, _HEAD = 0, 1, 2, 8
_NEAR = 8192  # words: the first pages, 64 KiB
_OVERHEAD = 16  # bytes: number and length


class RecordRing(RecordStore):
    """The first record that was appended is the first one taken."""

    kind = "queue"
    locks = 2

    def __init__(self, buf: memoryview, max_records: int) -> None:
        super().__init__(buf, max_records)
        self._data = self.words[REST:]
        self._bytes = buf[REST * 8 :]
        self._capacity = len(self._data)
        self._fence = None if KEEPS_STORES_IN_ORDER else _fence
        self.max_payload = self._capacity * 8 - _OVERHEAD - 8

    @staticmethod
    def bytes_for(size: int) -> int:
        """Bytes of shared memory for records that take `size` with their overhead, a multiple of 8."""
        return REST * 8 + size + 8

    @property
    def head(self) -> int:
        """Changes whenever records are taken."""
        return self.words[_HEAD]

    def has_records(self, looks: int = 1) -> bool:
        """Whether there is a record, in one of so many looks. Under the appenders' lock, a no is final."""
        words = self.words
        return any(words[_TAIL] != words[_HEAD] for _ in range(looks))

    def has_lost_records(self, head: int, looks: int) -> bool:
        """Whether records were taken since `head` was read, in one of so many looks."""
        words = self.words
        return any(words[_HEAD] != head for _ in range(looks))

    def has_room(self, size: int) -> bool:
        """Whether a payload of `size` bytes finds room. Under the takers' lock, which makes a no final."""
        words = self.words
        tail, head = words[_TAIL], words[_HEAD]
        if tail == head:
            return True
        self._loaded()  # `from` and `to` are as old as this tail, or have changed for a later one
        head = self._real(head)
        most = self._max_records
        if most and self._number(tail) - self._number(head) >= most:
            return False
        return tail + _words(size) < head + self._capacity

    def count(self) -> int:
        """How many records there are. Under the appenders' lock."""
        head, tail = self.words[_HEAD], self.words[_TAIL]
        self._loaded()
        return self._number(self._real(tail)) - self._number(self._real(head))

    def append(self, records: list[bytes]) -> int:
        """Move the records that find room out of the list into the ring. Under the appenders' lock.

        Returns:
            How many that were.
        """
        words, data, buf, capacity = self.words, self._data, self._bytes, self._capacity
        tail, head, alias = words[_TAIL], words[_HEAD], words[_FROM]
        if self._fence is not None:
            self._fence()
        if head == tail and tail != alias and tail % capacity > _NEAR:  # if it is the alias, that was done
            self._begin_again(tail)
            alias = tail
        if head == alias:
            head = words[_TO]
            if tail == alias:
                tail = head
        place = tail % capacity
        number = data[place]
        last = self._number(head) + self._max_records if self._max_records else -1
        limit = head + capacity
        done = 0
        for record in records:
            size = len(record)
            length = 2 + ((size + 7) >> 3)
            if tail + length >= limit or number == last:
                break
            end = place + length
            if end < capacity:
                data[place + 1] = size
                start = (place << 3) + _OVERHEAD
                buf[start : start + size] = record
            else:
                self._write_around(place, record)
                end -= capacity
            number += 1
            data[end] = number
            place = end
            tail += length
            done += 1
        if done:
            if self._fence is not None:
                self._fence()
            words[_TAIL] = tail  # here it happens
            del records[:done]
        return done

    def append_one(self, record: bytes) -> bool:
        """As `append`; whether the record found room."""
        words, capacity = self.words, self._capacity
        tail, head = words[_TAIL], words[_HEAD]
        if self._fence is not None:
            self._fence()
        place = tail % capacity
        size = len(record)
        length = 2 + ((size + 7) >> 3)
        end = place + length
        if (
            end >= capacity
            or tail + length >= head + capacity
            or head == words[_FROM]
            or (place > _NEAR and head == tail)
            or self._max_records
        ):
            return self.append([record]) == 1
        data = self._data
        data[place + 1] = size
        start = (place << 3) + _OVERHEAD
        self._bytes[start : start + size] = record
        data[end] = data[place] + 1
        if self._fence is not None:
            self._fence()
        words[_TAIL] = tail + length  # here it happens
        return True

    def take_one(self) -> bytes | None:
        """Remove the first record, if there is one. Under the takers' lock."""
        words, capacity = self.words, self._capacity
        head = words[_HEAD]
        if words[_TAIL] == head:
            return None
        if self._fence is not None:
            self._fence()
        if head == words[_FROM]:
            head = words[_TO]
        place = head % capacity
        size = self._data[place + 1 if place + 1 < capacity else 0]
        length = 2 + ((size + 7) >> 3)
        if place + length <= capacity:
            start = (place << 3) + _OVERHEAD
            record = self._bytes[start : start + size].tobytes()
        else:
            record = self._read(head + 2, length - 2)[:size]
        if self._fence is not None:
            self._fence()
        words[_HEAD] = head + length  # here it happens
        return record

    def take(self, most: int) -> bytes:
        """Remove up to `most` records; `split` finds them in the result. Under the takers' lock."""
        words = self.words
        tail, head = words[_TAIL], words[_HEAD]
        if tail == head:
            return b""
        self._loaded()
        head = self._real(head)
        end = tail
        if self._number(tail) - self._number(head) > most:
            end = head
            for _ in range(most):
                end += _words(self._data[(end + 1) % self._capacity])
        records = self._read(head, end - head)
        self._loaded()
        words[_HEAD] = end  # here it happens
        return records

    @staticmethod
    def split(records: bytes) -> list[memoryview]:
        """The payloads in what `take` returned."""
        view = memoryview(records)
        words = view.cast("Q")
        payloads = []
        place, end = 0, len(words)
        while place < end:
            size = words[place + 1]
            start = (place << 3) + _OVERHEAD
            payloads.append(view[start : start + size])
            place += 2 + ((size + 7) >> 3)
        return payloads

    def clear(self) -> None:
        """Drop every record. Under the takers' lock."""
        self.words[_HEAD] = self.words[_TAIL]

    def _begin_again(self, tail: int) -> None:
        words, capacity = self.words, self._capacity
        self._data[0] = self._data[tail % capacity]
        words[_TO] = tail - tail % capacity + capacity
        self._loaded()
        words[_FROM] = tail

    def _real(self, position: int) -> int:
        return self.words[_TO] if position == self.words[_FROM] else position

    def _number(self, position: int) -> int:
        return self._data[position % self._capacity]

    def _loaded(self) -> None:
        if self._fence is not None:
            self._fence()

    def _write_around(self, place: int, record: bytes) -> None:
        """The record at a place so near to the end that it, or the number after it, goes on at the start."""
        capacity = self._capacity
        self._data[(place + 1) % capacity] = len(record)
        start = (place + 2) % capacity << 3
        room = (capacity << 3) - start
        self._bytes[start : start + len(record)] = record[:room]
        self._bytes[: max(0, len(record) - room)] = record[room:]

    def _read(self, position: int, length: int) -> bytes:
        start = position % self._capacity << 3
        end = start + (length << 3)
        over = end - (self._capacity << 3)
        if over <= 0:
            return self._bytes[start:end].tobytes()
        return self._bytes[start:].tobytes() + self._bytes[:over].tobytes()


def _words(size: int) -> int:
    """What a record with a payload of `size` bytes takes."""
    return 2 + ((size + 7) >> 3)


def _fence() -> None:
    # A new lock each time: a fork in another thread would leave the child a shared one in the middle.
    make_fence()()
