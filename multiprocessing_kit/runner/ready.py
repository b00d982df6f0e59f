"""Answers on their way to the user, in the order of the inputs or as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from multiprocessing_kit.response import Response
from multiprocessing_kit.responses import Part

__all__ = ["Indexed", "Ready"]


class Indexed(Part, Protocol):
    """Answers of jobs in a row.

    Attributes:
        first: Index of the first one.
    """

    first: int


class Ready:
    """Answers that were not given out yet.

    Args:
        ordered: Whether to keep to the order of the inputs.

    Attributes:
        given: How many responses were given out.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ready: deque[Indexed] = deque()
        self._early: dict[int, Indexed] | None = {} if ordered else None
        self._wanted = 0
        self._open: Iterator[Response] = iter(())
        self._open_left = 0
        self.given = 0

    def __bool__(self) -> bool:
        """Whether `pop` has anything."""
        return bool(self._open_left or self._ready)

    def add(self, part: Indexed) -> None:
        """Answers have come."""
        if self._early is None:
            self._ready.append(part)
            return
        if part.first != self._wanted:
            self._early[part.first] = part
            return
        early = self._early
        wanted = self._wanted
        found: Indexed | None = part
        while found is not None:
            self._ready.append(found)
            wanted += len(found)
            found = early.pop(wanted, None)
        self._wanted = wanted

    def pop(self) -> Response:
        """The next one."""
        if not self._open_left:
            responses = self._ready[0].open()  # a Ctrl-C may strike here: then the part is still there
            self._ready.popleft()
            self._open, self._open_left = iter(responses), len(responses)
        self._open_left -= 1
        self.given += 1
        return next(self._open)

    def pop_part(self) -> Indexed:
        """The next ones, as they came; not to be mixed with `pop`."""
        part = self._ready.popleft()
        self.given += len(part)
        return part
