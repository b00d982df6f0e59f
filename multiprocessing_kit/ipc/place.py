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
