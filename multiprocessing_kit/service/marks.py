"""What a worker notes in shared memory while it works, so that its death is no riddle.

    worker:    begun = n + 1, since = trying = now ─▶ process() ─▶ done = n + 1, since = 0
    consumer:  reads them when the worker has died or takes long; writes `limit` to call jobs back

Jobs are counted in the order in which the worker got them. A job that has begun and is not done was being
run.
"""

from __future__ import annotations

import mmap
import struct
import time

from multiprocessing_kit.ipc.fence import make_fence

__all__ = ["Mark", "Marks"]

_ROW_BYTES = 64  # rows of two writers do not share a line of the processor's cache
_NUMBER, _SECONDS = struct.Struct("=q"), struct.Struct("=d")
_READY, _BEGUN, _DONE, _SINCE, _LIMIT, _TRYING = 0, 8, 16, 24, 32, 40
_NO_LIMIT = (1 << 63) - 1


class Marks:
    """Those of all workers of a consumer.

    Args:
        workers: Their highest number.
    """

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, max(workers * _ROW_BYTES, mmap.PAGESIZE))

    def of(self, pin: int) -> Mark:
        """Those of one worker."""
        return Mark(self._memory, pin * _ROW_BYTES)

    def close(self) -> None:
        """In this process."""
        self._memory.close()


class Mark:
    """Of one worker. Each number has one writer, and is written by one store."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at
        self._fence = make_fence()

    def clear(self) -> None:
        """By the consumer, while there is no worker."""
        self._memory[self._at : self._at + _ROW_BYTES] = bytes(_ROW_BYTES)
        _NUMBER.pack_into(self._memory, self._at + _LIMIT, _NO_LIMIT)

    # ── the worker ────────────────────────────────────────────────────────────────────────────────

    def ready(self) -> None:
        """It is set up."""
        _NUMBER.pack_into(self._memory, self._at + _READY, 1)

    def begin(self, number: int) -> bool:
        """The job of this number, from 0, begins; False if it was called back, and must not be run."""
        now = time.monotonic()
        _SECONDS.pack_into(self._memory, self._at + _SINCE, now)
        _SECONDS.pack_into(self._memory, self._at + _TRYING, now)
        _NUMBER.pack_into(self._memory, self._at + _BEGUN, number + 1)
        self._fence()  # the consumer that does not see this has written its limit before we look for it
        (limit,) = _NUMBER.unpack_from(self._memory, self._at + _LIMIT)
        if number < limit:
            return True
        self.end(number)
        return False

    def attempt(self) -> None:
        """Another attempt of it begins."""
        _SECONDS.pack_into(self._memory, self._at + _TRYING, time.monotonic())

    def pause(self) -> None:
        """It waits for its next attempt, which is not held against it."""
        _SECONDS.pack_into(self._memory, self._at + _TRYING, 0.0)

    def end(self, number: int) -> None:
        """It is over."""
        _NUMBER.pack_into(self._memory, self._at + _DONE, number + 1)
        _SECONDS.pack_into(self._memory, self._at + _SINCE, 0.0)

    # ── the consumer ──────────────────────────────────────────────────────────────────────────────

    @property
    def is_ready(self) -> bool:
        """Whether the worker is set up."""
        return bool(self._read(_READY))

    @property
    def begun(self) -> int:
        """How many jobs have begun."""
        return self._read(_BEGUN)

    @property
    def running(self) -> int | None:
        """Number of the job that is being run; None for none."""
        begun = self._read(_BEGUN)
        return begun - 1 if begun > self._read(_DONE) else None

    @property
    def since(self) -> float:
        """Since when, by `time.monotonic()`; 0.0 if none is."""
        since: float = _SECONDS.unpack_from(self._memory, self._at + _SINCE)[0]
        return since

    @property
    def trying(self) -> float:
        """Since when the attempt is made, of a job that is being run; 0.0 between two of them."""
        since: float = _SECONDS.unpack_from(self._memory, self._at + _TRYING)[0]
        return since

    def call_back(self, number: int) -> None:
        """Have jobs from this number on begin no more; those that have show in `begun` a moment later."""
        _NUMBER.pack_into(self._memory, self._at + _LIMIT, number)
        self._fence()

    def allow(self) -> None:
        """Let all that comes begin."""
        self.call_back(_NO_LIMIT)

    def _read(self, offset: int) -> int:
        found: int = _NUMBER.unpack_from(self._memory, self._at + offset)[0]
        return found
