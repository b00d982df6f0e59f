"""What a `RecordQueue` needs of the shared memory that holds its records.

the first words of 8 bytes
 0  (3 words that each kind of store has its own use for)
 3  closed
 4  (4 words for the queue's own use under the appenders' lock)
 8  (4 words as the first, in another cache line)
12  (4 words for the queue's own use under the takers' lock)
16  all else
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

__all__ = ["REST", "RecordStore"]

_CLOSED, _APPENDERS_OWN, _TAKERS_OWN = 3, 4, 12
REST = 16


class RecordStore(ABC):
    """Records in some order. Appending is done under the appenders' lock, taking under the takers'.

    A process may be killed anywhere in here, and a signal handler may raise: the next one that holds
    the lock finds each record there or not there.

    Args:
        buf: `bytes_for(size)` bytes, zeroed when new, at an address that is a multiple of 8.
        max_records: Most records it holds; 0: as many as fit.

    Attributes:
        kind: What `clear_ipc.py` shows.
        locks: 2, or 1 where appenders and takers have the same.
        words: All of it; one item is one aligned 8-byte load or store.
        own: Words for the queue's own use: 4 under the appenders' lock, 4 under the takers'.
        max_payload: Bytes of the largest item that ever fits.
    """

    kind: ClassVar[str]
    locks: ClassVar[int]
    max_payload: int

    def __init__(self, buf: memoryview, max_records: int) -> None:
        self.words = buf.cast("Q")
        appenders, takers = _APPENDERS_OWN, _TAKERS_OWN
        self.own = self.words[appenders : appenders + 4], self.words[takers : takers + 4]
        self._max_records = max_records

    @staticmethod
    @abstractmethod
    def bytes_for(size: int) -> int:
        """Bytes of shared memory for records that take `size` with their overhead, a multiple of 8."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.words[_CLOSED] != 0

    def close(self) -> None:
        """Say that no more records will come. Under both locks."""
        self.words[_CLOSED] = 1

    @property
    @abstractmethod
    def head(self) -> int:
        """For `has_lost_records`."""

    @abstractmethod
    def has_records(self, looks: int = 1) -> bool:
        """Whether there may be one, in one of so many looks. Under the appenders' lock, a no is final."""

    @abstractmethod
    def has_lost_records(self, head: int, looks: int) -> bool:
        """Whether records were taken since `head` was read, in one of so many looks. May miss some."""

    @abstractmethod
    def has_room(self, size: int) -> bool:
        """Whether a record of `size` bytes finds room. Under the takers' lock, which makes a no final."""

    @abstractmethod
    def count(self) -> int:
        """How many records there are. Under the appenders' lock."""

    @abstractmethod
    def append_one(self, record: bytes) -> bool:
        """Add a record. False if it finds no room. Under the appenders' lock."""

    def append(self, records: list[bytes]) -> int:
        """Move the records that find room out of the list; returns how many. Under the appenders' lock."""
        done = 0
        for record in records:
            if not self.append_one(record):
                break
            done += 1
        del records[:done]
        return done

    @abstractmethod
    def take_one(self) -> bytes | None:
        """Remove the first record, if there is one. Under the takers' lock."""

    @abstractmethod
    def take(self, most: int) -> Any:
        """Remove up to `most` records; something false if there is none. Under the takers' lock."""

    @staticmethod
    @abstractmethod
    def split(taken: Any) -> list[memoryview]:
        """The payloads in what `take` returned."""

    @abstractmethod
    def clear(self) -> None:
        """Drop every record. Under the takers' lock."""
