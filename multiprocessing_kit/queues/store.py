"""What a `RecordQueue` needs of the shared memory that holds its records."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["RecordStore"]


class RecordStore(Protocol):
    """Records in some order. Appending is done under the appenders' lock, taking under the takers'.

    A process may be killed anywhere in here, and a signal handler may raise: the next one that holds
    the lock finds each record there or not there.

    Attributes:
        kind: What `clear_ipc.py` shows.
        locks: 2, or 1 where appenders and takers have the same.
        words: All of it, format "Q".
        own: Words for the queue's own use: 4 under the appenders' lock, 4 under the takers'.
        max_payload: Bytes of the largest item that ever fits.
    """

    kind: str
    locks: int
    words: memoryview
    own: tuple[memoryview, memoryview]
    max_payload: int

    def __init__(self, buf: memoryview, max_records: int) -> None: ...

    @staticmethod
    def bytes_for(size: int) -> int:
        """Bytes of shared memory for records that take `size` with their overhead."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def close(self) -> None:
        """Say that no more records will come. Under both locks."""

    @property
    def head(self) -> int:
        """For `has_lost_records`."""

    def has_records(self, looks: int = 1) -> bool:
        """Whether there may be one, in one of so many looks. Under the appenders' lock, a no is final."""

    def has_lost_records(self, head: int, looks: int) -> bool:
        """Whether records were taken since `head` was read, in one of so many looks. May miss some."""

    def has_room(self, size: int) -> bool:
        """Whether a record of `size` bytes finds room. Under the takers' lock, which makes a no final."""

    def count(self) -> int:
        """How many records there are. Under the appenders' lock."""

    def append_one(self, record: bytes) -> bool:
        """Add a record. False if it finds no room. Under the appenders' lock."""

    def append(self, records: list[bytes]) -> int:
        """Move the records that find room out of the list; returns how many. Under the appenders' lock."""

    def take_one(self) -> bytes | None:
        """Remove the first record, if there is one. Under the takers' lock."""

    def take(self, most: int) -> Any:
        """Remove up to `most` records; something false if there is none. Under the takers' lock."""

    @staticmethod
    def split(taken: Any) -> list[memoryview]:
        """The payloads in what `take` returned."""

    def clear(self) -> None:
        """Drop every record. Under the takers' lock."""
