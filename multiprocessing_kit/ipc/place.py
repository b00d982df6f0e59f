"""Where bytes are in shared memory, in words that any process understands."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Place"]


class Place(NamedTuple):
    """A part of a System V segment; plain numbers, fit for `struct` and pickle. All sizes are bytes."""

    segment: int
    """The segment's System V id."""
    offset: int
    length: int

    def part(self, start: int, length: int) -> Place:
        """`length` bytes of it, from its byte `start` on."""
        if start < 0 or length < 0 or start + length > self.length:
            raise ValueError(f"bytes {start} to {start + length} do not lie within {self.length}")
        return Place(self.segment, self.offset + start, length)
