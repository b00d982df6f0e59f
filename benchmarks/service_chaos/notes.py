"""What jobs note of their runs, so that lost jobs and runs too many can be counted exactly.

One file, to which all workers append one line at the beginning and one at the end of each run. Lines have
64 bytes, which divide a page: a kernel that ends a killed writer does so between pages, and tears no line.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

__all__ = ["BEGUN", "ENDED", "NOTES", "Note", "Notes", "note"]

NOTES = "SERVICE_CHAOS_NOTES"
"""Name of the variable in the environment that tells workers which file."""

BEGUN, ENDED = "begun", "ended"

_BYTES = 64


class Note(NamedTuple):
    """One line.

    Attributes:
        kind: BEGUN or ENDED.
        number: Of the job.
        pid: Of the worker.
        parent: Of its consumer.
        at: When, by `time.monotonic()`, which all processes of a host share.
    """

    kind: str
    number: int
    pid: int
    parent: int
    at: float


class Notes:
    """All notes of a service.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def count(self) -> int:
        """Of the lines so far."""
        return self.path.stat().st_size // _BYTES

    def last(self, count: int) -> list[Note]:
        """The last so many."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.count - count) * _BYTES)
            return _parsed(file.read(count * _BYTES))

    def all(self) -> list[Note]:
        """Those so far."""
        return _parsed(self.path.read_bytes())

    def ended(self) -> set[int]:
        """Numbers of the jobs that have been run to their end."""
        return {note.number for note in self.all() if note.kind == ENDED}

    def begun(self, number: int) -> list[Note]:
        """Where a job began, each time."""
        return [note for note in self.all() if note.kind == BEGUN and note.number == number]

    def runs_again(self, numbers: Collection[int]) -> int:
        """How often jobs began beyond the first time."""
        runs = Counter(note.number for note in self.all() if note.kind == BEGUN)
        return sum(runs[number] - 1 for number in numbers if runs[number])


@functools.cache
def _file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(kind: str, number: int) -> None:
    """Add a line; in a worker."""
    line = f"{kind} {number} {os.getpid()} {os.getppid()} {time.monotonic():.6f}"
    os.write(_file(os.environ[NOTES]), line.ljust(_BYTES - 1).encode() + b"\n")


def _parsed(data: bytes) -> list[Note]:
    found = []
    for line in data.decode().splitlines():
        kind, number, pid, parent, at = line.split()
        found.append(Note(kind, int(number), int(pid), int(parent), float(at)))
    return found
