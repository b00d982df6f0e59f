"""One segment of the arena: which of its bytes are blocks, which are free, and which of these have pages.

Everything is kept in whole pages, so that no page has two blocks and each can be given back.
"""

from __future__ import annotations

import mmap
from typing import Final

from multiprocessing_kit.ipc import sysv
from multiprocessing_kit.ipc.pages import Pages
from multiprocessing_kit.ipc.ranges import Ranges

__all__ = ["ROUND", "ArenaSegment"]

ROUND: Final = mmap.PAGESIZE


class ArenaSegment:
    """Created with `size` bytes, a multiple of `ROUND`, all free.

    Attributes:
        pages: Its memory.
        free_ranges: All that may be allocated.
        warm: The part of it that has been used, so that its pages are there.
        live: The starts of the blocks that are not free.
        closed: No more blocks are allocated in it.
    """

    __slots__ = ("closed", "free_ranges", "live", "pages", "warm")

    def __init__(self, size: int) -> None:
        memory = sysv.create_segment(size)
        try:
            self.pages = Pages(memory)
        finally:
            memory.remove()
        self.free_ranges = Ranges()
        self.free_ranges.add(0, size)
        self.warm = Ranges()
        self.live: set[int] = set()
        self.closed = False

    def find(self, room: int) -> int | None:
        """Where `room` bytes start that are free, warm ones first; None if there are none."""
        if self.closed:
            return None
        start = self.warm.first_fit(room)
        return self.free_ranges.first_fit(room) if start is None else start

    def take(self, start: int, room: int) -> None:
        """These bytes are a block now."""
        self.live.add(start)
        self.free_ranges.remove(start, start + room)
        self.warm.remove(start, start + room)

    def free(self, start: int, room: int, *, exposed: bool) -> None:
        """They are no block any more. To do it again changes nothing.

        Args:
            start: Where they begin.
            room: How many.
            exposed: Whether somebody may still look at them, so that they can never be used again.
        """
        if exposed:
            self.close()
        elif self.closed:
            self.pages.give_back(start, start + room)
        else:
            self.free_ranges.add(start, start + room)
            self.warm.add(start, start + room)
        self.live.discard(start)

    def give_back(self, excess: int) -> int:
        """Give warm memory back, from the end on; returns how many bytes, at most `excess` in whole pages."""
        given = 0
        for start, end in reversed(self.warm):
            start = max(start, end - -(-(excess - given) // ROUND) * ROUND)  # noqa: PLW2901
            if not self.pages.give_back(start, end):
                self.close()  # then it comes back with the segment
            self.warm.remove(start, end)
            given += end - start
            if given >= excess:
                break
        return given

    def close(self) -> None:
        """No more blocks here; what is free is given back."""
        self.closed = True
        for start, end in self.warm:
            self.pages.give_back(start, end)
            self.warm.remove(start, end)
