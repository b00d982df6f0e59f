"""What every locker is: `threading.Lock`'s interface, who has it, and whether its last owner died with it."""

from __future__ import annotations

import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.ipc.named import NamedSegment, open_named
from multiprocessing_kit.ipc.semset import NOW
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.lockers.holder import LockOwner

__all__ = [
    "LockOwner",
    "Locker",
    "Removed",
    "deadline_of",
    "destroyed",
    "held",
    "not_ours",
    "open_segment",
]


class Removed:
    """Takes the place of a segment that was destroyed here, so that its memory can be detached.

    Attributes:
        key: The segment's.
        words: As many words as it had, all 0.
    """

    def __init__(self, key: int, words: int) -> None:
        self.key = key
        self.words = memoryview(bytearray(8 * words)).cast("Q")


class Locker(ABC):
    """One of these is had by one owner at a time, in all processes that share it.

    Attributes:
        name: By which unrelated processes share it; "": only children inherit it, by fork. Then it is removed
            when its creator exits or drops the object: keep it as long as children use it.
    """

    name: str = ""

    @abstractmethod
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, waiting until its owner gives it back or dies.

        Args:
            blocking: Wait for it.
            timeout: Seconds to wait at most; -1: as long as it takes.

        Returns:
            Whether it was taken.

        Raises:
            LockerError: It was destroyed.
            OverflowError: `timeout` is more than `threading.TIMEOUT_MAX`.
            ValueError: `timeout` is negative, but not -1; or it is given with `blocking=False`.
        """

    @abstractmethod
    def release(self) -> None:
        """Give it back.

        Raises:
            LockerError: This process, or this thread where threads are owners, does not have it.
        """

    @abstractmethod
    def destroy(self) -> None:
        """Remove it from the system, for every process. May be called again.

        All later calls raise LockerError. Who opens its name from then on gets a new one.

        Raises:
            LockerError: Somebody has it.
        """

    @property
    @abstractmethod
    def owner(self) -> LockOwner | None:
        """The process that has it now, with its title; None if nobody has it."""

    @property
    @abstractmethod
    def owner_died(self) -> bool:
        """Whether the owner before this one, who took it here, died with it.

        What it protects may then be half changed. As long as it is not taken again, this stays as it is.
        """

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: children inherit it by fork, and other programs "
            f"open it by its name"
        )


def deadline_of(blocking: bool, timeout: float) -> float | None:
    """When to give up, on the monotonic clock; None: never. Checks what is given as `threading.Lock` does."""
    if not blocking:
        if timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return NOW
    if timeout == -1:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout value must be a non-negative number, or -1, not {timeout}")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError(f"timeout value is too large: {timeout}")
    return time.monotonic() + timeout


def open_segment(
    kind: str,
    name: str,
    words: Sequence[int],
    values: Sequence[int] = (),
    *,
    sets: Sequence[Sequence[int]] = (),
) -> tuple[StampedSegment | NamedSegment, memoryview]:
    """The segment that has this name, or one that only children share if it is "".

    Args:
        kind: Of locker.
        name: Its name, or "".
        words: What its memory begins with, if it is made here.
        values, sets: The same for its semaphores.

    Returns:
        It, and its memory as words of 8 bytes.
    """

    def write(memory: memoryview) -> None:
        struct.pack_into(f"={len(words)}Q", memory, 0, *words)

    segment: StampedSegment | NamedSegment
    if name == "":
        segment = StampedSegment(kind, 8 * len(words), values, sets=sets)
        write(segment.buf)
    else:
        segment = open_named(kind, name, 8 * len(words), values, sets=sets, prepare=write)
    return segment, segment.buf.cast("Q")


def destroyed(locker: object) -> LockerError:
    """The error for using a locker that is not there any more."""
    return LockerError(
        f"{locker!r} was destroyed, or it has no name and its creator has ended or dropped it",
        reason="destroyed",
    )


def not_ours(locker: Locker) -> LockerError:
    """The error for giving back what this process or thread does not have."""
    owner = locker.owner
    if owner is None:
        return LockerError(
            f"release() without acquire(): nobody has {locker!r}, and a forked child does not have what its "
            f"parent had",
            reason="not acquired",
        )
    return LockerError(
        f"{locker!r} is not ours to release: process {owner.pid} ({owner.title}) has it",
        reason="another owner",
        pid=owner.pid,
    )


def held(locker: Locker) -> LockerError:
    """The error for destroying what somebody has."""
    owner = locker.owner
    who = "somebody" if owner is None else f"process {owner.pid} ({owner.title})"
    return LockerError(
        f"{locker!r} cannot be destroyed: {who} has it; release it first, or end that process",
        reason="held",
        pid=0 if owner is None else owner.pid,
    )
