"""A set of numbers as sorted, disjoint ranges that never touch each other: what is free in a segment.

Each change is one assignment to a slice of one list, so an exception that a signal handler raises leaves
the set as it was before or as it should be after, never half changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

__all__ = ["Ranges"]


class Ranges:
    """Half-open ranges (start, end)."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Add a range that is not empty; joins those which it touches. To add it again changes nothing."""
        ranges = self._ranges
        first = bisect_left(ranges, (start, start))
        if first and ranges[first - 1][1] >= start:
            first -= 1
            start = ranges[first][0]
        last = bisect_left(ranges, (end + 1, 0), first)
        if last > first:
            end = max(end, ranges[last - 1][1])
        ranges[first:last] = [(start, end)]

    def remove(self, start: int, end: int) -> None:
        """Take out whatever lies in the range that is in the set."""
        ranges = self._ranges
        first = bisect_left(ranges, (start, start))
        if first and ranges[first - 1][1] > start:
            first -= 1
        last = bisect_left(ranges, (end, end), first)
        if first == last:
            return
        below, above = (ranges[first][0], start), (end, ranges[last - 1][1])
        ranges[first:last] = [kept for kept in (below, above) if kept[0] < kept[1]]

    def first_fit(self, size: int) -> int | None:
        """Where the lowest range of at least `size` starts; None if there is none."""
        for start, end in self._ranges:
            if end - start >= size:
                return start
        return None

    def covers(self, start: int, end: int) -> bool:
        """Whether all of this range is in the set."""
        place = bisect_left(self._ranges, (start + 1, 0)) - 1
        return place >= 0 and self._ranges[place][1] >= end

    @property
    def total(self) -> int:
        """How many numbers are in the set."""
        return sum([end - start for start, end in self._ranges])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges in order, as they are now."""
        return iter(tuple(self._ranges))

    def __reversed__(self) -> Iterator[tuple[int, int]]:
        return reversed(tuple(self._ranges))
