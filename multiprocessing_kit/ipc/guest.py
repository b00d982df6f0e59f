"""Another process's access to the arena: it reads blocks, and writes to those it was granted.

    owner: allocates, writes inputs ──▶ blocks ──▶ guest: read-only views ──▶ on_death(place)
    owner: reads answers ◀── blocks it granted ◀── guest: writes

A guest decides nothing: what is free is known to the owner only, so a guest may be killed at any instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from multiprocessing_kit.ipc.forks import FORKS
from multiprocessing_kit.ipc.pages import Pages, attach
from multiprocessing_kit.ipc.place import Place

__all__ = ["Guest"]


class Guest:
    """Attaches segments as places in them occur, and keeps them attached until told to forget them.

    Attaching costs little, but each page is mapped anew when it is touched for the first time after it,
    which takes longer than to copy it.
    """

    def __init__(self) -> None:
        self._pages: dict[int, Pages] = {}

    def view(self, place: Place, on_death: Callable[[Place], object]) -> memoryview:
        """The bytes at `place`, read-only and without a copy.

        Args:
            place: Of a block that the owner holds for this process, or of a part of one.
            on_death: Called with `place` when the last view, slice or array made from the result has died:
                at any instant, in any thread, also during garbage collection, so it must do no more than
                append to a `deque`. Never called if this process forked meanwhile, because the child may
                still look; the owner learns then from this process's end.

        Raises:
            IpcError: The segment cannot be attached.
        """
        pages = self._attached(place)
        return pages.view(place.offset, place.length, _Report(place, on_death)).toreadonly()

    def memory(self, place: Place) -> memoryview:
        """The bytes at `place`, to be written: of a block that the owner granted to this process.

        Raises:
            IpcError: The segment cannot be attached.
        """
        return self._attached(place).view(place.offset, place.length)

    def forget(self, segments: Iterable[int]) -> None:
        """Let go of segments that the owner has dropped. Views stay valid, and detach when they die."""
        for segment in segments:
            self._pages.pop(segment, None)

    def _attached(self, place: Place) -> Pages:
        # An id cannot have been given to another segment: the one attached here exists until it is detached.
        pages = self._pages.get(place.segment)
        if pages is None:
            pages = self._pages[place.segment] = attach(place.segment)
        pages.map_at_once(place.offset, place.length)
        return pages


class _Report:
    """Dies with a view, and says so."""

    __slots__ = ("_count", "_forks", "_on_death", "_place")

    def __init__(self, place: Place, on_death: Callable[[Place], object]) -> None:
        self._place = place
        self._on_death = on_death
        self._forks = FORKS  # the module's own name may be gone at the interpreter's end
        self._count = FORKS.count

    def __del__(self) -> None:
        if self._forks.count == self._count:
            self._on_death(self._place)
