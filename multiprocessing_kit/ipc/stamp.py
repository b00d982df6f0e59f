"""The stamp at the start of a segment that must be found again: whose it is and what belongs to it.

     0  magic        8 bytes, written last: a segment without it was never finished
     8  version      4 bytes
    12  pid          4 bytes   creator …
    16  start time   8 bytes   … its start in clock ticks since boot: a reused pid has another
    24  pid space    8 bytes   inode of its pid namespace: pids mean nothing in another one
    32  kind        16 bytes   "queue", …
    48  removed      1 byte    1 once everything here has been removed
    49  named        1 byte    1 if a name follows at 128
    50  ready        1 byte    1 once all of a named one has been made; 5 bytes unused
    56  keys     8 x 4 bytes   semaphores that belong here, each written before it is created
    88  ids      8 x 4 bytes   their ids plus 1, each written after it is created
   128  size         8 bytes   of a named one: bytes of its memory, …
   136  name       120 bytes   … and its name, in UTF-8, padded with zeros

A creator killed at any point leaves nothing that the stamp does not name.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

__all__ = [
    "HEADER_SIZE",
    "MAX_NAME_BYTES",
    "MAX_SEMAPHORES",
    "NAMED_HEADER_SIZE",
    "Owner",
    "Stamp",
    "is_half_made",
    "is_removed",
    "mark_ready",
    "mark_removed",
    "start_time",
    "write_semaphore",
]

HEADER_SIZE = 128
NAMED_HEADER_SIZE = 256
MAX_NAME_BYTES = 120
MAX_SEMAPHORES = 8

_MAGIC = b"MPKITIPC"
_VERSION = 1
_LAYOUT = struct.Struct(f"=8sIiQQ16sBBB5x{MAX_SEMAPHORES}i{MAX_SEMAPHORES}i")
_NAME_LAYOUT = struct.Struct(f"=Q{MAX_NAME_BYTES}s")
_VERSION_AT, _REMOVED_AT, _READY_AT, _KEYS_AT, _IDS_AT = 8, 48, 50, 56, 88


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other on this machine, also from one with the same pid."""

    pid: int
    started: int
    pid_space: int

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return cls(os.getpid(), start_time(os.getpid()) or 0, _pid_space())

    def is_dead(self) -> bool:
        """Whether that process has certainly ended. False if this pid namespace cannot tell."""
        return self.pid_space == _pid_space() and start_time(self.pid) != self.started


@dataclass(frozen=True)
class Stamp:
    """What the head of a segment says.

    Attributes:
        kind: What it is for.
        owner: Who made it.
        semaphores: (key, id) pairs; id None: perhaps not created.
        name: By which it is found again; "" if it has none.
        size: Bytes of a named one's memory, behind the stamp and the name.
        removed, ready: As `mark_removed` and `mark_ready` say.
    """

    kind: str
    owner: Owner
    semaphores: tuple[tuple[int, int | None], ...] = ()
    name: str = ""
    size: int = 0
    removed: bool = False
    ready: bool = False

    def write(self, buf: memoryview) -> None:
        """Stamp a new segment. `buf` is all of it, with format "B"."""
        owner = self.owner
        none = [0] * 2 * MAX_SEMAPHORES
        who = owner.pid, owner.started, owner.pid_space
        head = _LAYOUT.pack(bytes(8), _VERSION, *who, self.kind.encode(), 0, bool(self.name), 0, *none)
        if self.name:
            _NAME_LAYOUT.pack_into(buf, HEADER_SIZE, self.size, self.name.encode())
        buf[8 : len(head)] = head[8:]
        buf[:8] = _MAGIC

    @classmethod
    def read(cls, head: bytes) -> Stamp | None:
        """The stamp in the first `NAMED_HEADER_SIZE` bytes of a segment; None if there is none of ours."""
        if len(head) < HEADER_SIZE:
            return None
        magic, version, pid, started, space, kind, removed, named, ready, *numbers = _LAYOUT.unpack_from(head)
        if magic != _MAGIC or version != _VERSION:
            return None
        size, name = 0, b""
        if named:
            if len(head) < NAMED_HEADER_SIZE:
                return None
            size, name = _NAME_LAYOUT.unpack_from(head, HEADER_SIZE)
        pairs = zip(numbers[:MAX_SEMAPHORES], numbers[MAX_SEMAPHORES:], strict=True)
        semaphores = tuple((key, number - 1 if number else None) for key, number in pairs if key)
        return cls(
            _text(kind), Owner(pid, started, space), semaphores, _text(name), size, removed == 1, ready == 1
        )


def is_half_made(head: bytes) -> bool:
    """Whether these first bytes of a segment may be a stamp of ours that was never finished."""
    head = head[:HEADER_SIZE]  # the name behind it is written first
    return not any(head[:_VERSION_AT]) and (
        not any(head) or head[_VERSION_AT : _VERSION_AT + 4] == struct.pack("=I", _VERSION)
    )


def mark_ready(buf: memoryview) -> None:
    """Say in a named segment that it has been made, with all that belongs to it."""
    buf[_READY_AT] = 1


def write_semaphore(buf: memoryview, slot: int, key: int, number: int | None = None) -> None:
    """Name a semaphore: its key before it is created, and its id too once it is."""
    struct.pack_into("=i", buf, _IDS_AT + 4 * slot, 0 if number is None else number + 1)
    struct.pack_into("=i", buf, _KEYS_AT + 4 * slot, key)


def mark_removed(buf: memoryview) -> None:
    """Say in the segment that it has been removed, for those who still have it attached."""
    buf[_REMOVED_AT] = 1


def is_removed(buf: memoryview) -> bool:
    """Whether `mark_removed` was called by any process."""
    return buf[_REMOVED_AT] == 1


def start_time(pid: int) -> int | None:
    """When a process started: clock ticks since boot on Linux. None if there is no such process.

    A zombie counts as gone: it runs no more, and nothing is attached to it.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") else _start_time_elsewhere(pid)
    # The name in parentheses may itself contain blanks and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    state, started = fields[0], int(fields[19])
    return None if state in (b"Z", b"X") else started


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")


def _start_time_elsewhere(pid: int) -> int | None:
    import psutil  # noqa: PLC0415  # slow to import, and only needed where there is no /proc

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.NoSuchProcess:
        return None


def _pid_space() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # a system without pid namespaces
        return 0
