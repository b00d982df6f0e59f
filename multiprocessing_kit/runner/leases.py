"""How many jobs a child is given at once, and how many it may hold.

A lease is worth about twenty milliseconds of work by what jobs have taken so far: enough that handing it out
costs little beside the work. When it turns out longer, what waits in it is taken back after ten (see `lane`).
The first ones are one job each; a lease is at most four times as large as one that has been answered, so a
guess is checked before it is built upon. Towards the end of inputs whose number is known, leases shrink
(guided self-scheduling, Polychronopoulos and Kuck 1987), so that the children finish together.

A child may hold a second lease, so that it need not sleep until the next one comes. Where jobs are long, that
sleep is nothing, and a waiting job would only be stuck.
"""

from __future__ import annotations

__all__ = ["STUCK_SECONDS", "Leases"]

STUCK_SECONDS = 0.01
"""How long a job may last before those behind it count as stuck, and jobs are given one at a time."""

_LEASE_SECONDS = 0.02
"""Worth of a lease. To be woken costs the caller some 0.2 ms, because its data have left the caches."""

_LEAST_SECONDS = 0.0005
"""What a lease should be worth also at the end, beside the 20 µs that it costs."""

_AHEAD_SECONDS = 0.006
"""Worth of single jobs that may wait in a lane. The caller may be late by half of it."""

_OVERHEAD = 0.00001
"""Seconds that a child spends on a job that travels alone, beside `process()`."""

_SHORTEST = 1e-7
"""Seconds of a job; it may tell less, and 0 if it was canceled."""

_MOST_JOBS = 8192
_MOST_BYTES = 64 * 1024
"""Of arguments in a lease: a fraction of what the ring holds."""

_BYTES_AHEAD = 8 * 1024 * 1024
"""Of arguments that wait in shared memory for one child: what it finds in a cache when it comes to them."""

_WEIGHT = 0.1
"""Of the newest job in the running means."""


class Leases:
    """Measures the jobs of one run.

    Args:
        children: At most how many there are.
        fixed: Jobs in each record; None to adapt.

    Attributes:
        hold: A child that holds fewer jobs than this is given another lease.
        mean: Seconds in `process()` of a job, so far.
    """

    def __init__(self, children: int, fixed: int | None) -> None:
        self._children = children
        self._fixed = fixed
        self._largest = 0
        self._measured = False
        self._count = 0
        self._seconds = 0.0
        self._bytes = 1.0
        self._size = fixed or 1
        self.mean = STUCK_SECONDS
        self.hold = 1

    def size(self, left: int | None, room: int) -> int:
        """How many jobs a child should get next.

        Args:
            left: How many inputs there still are, if that is known.
            room: How many more it may hold.
        """
        if self._fixed is not None:
            return max(self._fixed, room - room % self._fixed)
        size = self._size
        if left is None:
            return size
        share = -(-left // (2 * self._children))
        return size if share >= size else max(share, min(size, int(_LEAST_SECONDS / self.mean)), 1)

    def answered(self, count: int, seconds: float) -> None:
        """`count` jobs took `seconds` in `process()`, all together."""
        self._count += count
        self._seconds += seconds
        self._largest = max(self._largest, count)

    def sent(self, count: int, size: int) -> None:
        """The arguments of `count` jobs took `size` bytes."""
        mean = size / count
        # At once when they become large: many would be sent before this is looked at the next time.
        self._bytes = max(mean, self._bytes + (mean - self._bytes) * min(0.5, _WEIGHT * count))
        self.hold = max(1, min(self.hold, self._most_ahead()))

    def adapt(self) -> None:
        """Draw the consequences of what was answered since the last time."""
        count = self._count
        if not count:
            return
        mean = max(self._seconds / count, _SHORTEST)
        self._count, self._seconds = 0, 0.0
        self.mean += (mean - self.mean) * (min(0.5, _WEIGHT * count) if self._measured else 1.0)
        self._measured = True
        if self._fixed is None:
            most = min(_MOST_JOBS, int(_MOST_BYTES / self._bytes), 4 * self._largest)
            self._size = max(1, min(int(_LEASE_SECONDS / self.mean), most))
        ahead = self._size // 2 if self._size > 1 else int(_AHEAD_SECONDS / (self.mean + _OVERHEAD))
        hold = max(2 if self.mean < STUCK_SECONDS else 1, ahead)
        self.hold = max(1, min(hold, self._most_ahead()))

    def _most_ahead(self) -> int:
        """How many jobs may wait for one child, by the memory of their arguments."""
        return int(_BYTES_AHEAD / self._bytes)
