"""What the kernel says about System V objects: /proc/sysvipc/shm and /proc/sysvipc/sem."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SegmentRow", "SemaphoreRow", "read_segments", "read_semaphores"]

_FOLDER = "/proc/sysvipc"


class SegmentRow(NamedTuple):
    """One line of /proc/sysvipc/shm. `attached` counts attachments, `creator` is a pid."""

    key: int
    id: int
    mode: int
    size: int
    creator: int
    attached: int
    uid: int


class SemaphoreRow(NamedTuple):
    """One line of /proc/sysvipc/sem. `used`: an operation was ever done on it."""

    key: int
    id: int
    mode: int
    uid: int
    used: bool


def read_segments() -> list[SegmentRow]:
    """Every segment in this IPC namespace; none on systems without the table."""
    return [
        SegmentRow(
            key=int(row["key"]),
            id=int(row["shmid"]),
            mode=int(row["perms"], 8),
            size=int(row["size"]),
            creator=int(row["cpid"]),
            attached=int(row["nattch"]),
            uid=int(row["uid"]),
        )
        for row in _read("shm")
    ]


def read_semaphores() -> list[SemaphoreRow]:
    """Every semaphore set in this IPC namespace; none on systems without the table."""
    return [
        SemaphoreRow(
            key=int(row["key"]),
            id=int(row["semid"]),
            mode=int(row["perms"], 8),
            uid=int(row["uid"]),
            used=row["otime"] != "0",
        )
        for row in _read("sem")
    ]


def _read(name: str) -> list[dict[str, str]]:
    try:
        with open(f"{_FOLDER}/{name}") as table:
            head, *lines = table.read().splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return []
    columns = head.split()
    return [dict(zip(columns, line.split(), strict=False)) for line in lines]
