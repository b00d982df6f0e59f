"""Memory whose writer is killed at a chosen store, for tests of what the next one finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Killed", "TornMemory", "killed_at_each_store"]


class Killed(BaseException):
    """The writer is dead."""


class TornMemory:
    """A memoryview that takes so many stores, and of a long one that comes next, the first half."""

    def __init__(self, view: memoryview, stores: int) -> None:
        self._view = view
        self._left = itertools.count(stores, -1)

    def cast(self, code: str) -> TornMemory:
        return self._part(self._view.cast(code))  # type: ignore[call-overload]

    def tobytes(self) -> bytes:
        return self._view.tobytes()

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: Any) -> Any:
        return self._part(self._view[key]) if isinstance(key, slice) else self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if next(self._left) > 0:
            self._view[key] = value
            return
        if isinstance(key, slice):
            half = len(value) // 2
            self._view[key][:half] = memoryview(value)[:half]
        raise Killed

    def _part(self, view: memoryview) -> TornMemory:
        part = TornMemory(view, 0)
        part._left = self._left
        return part


def killed_at_each_store(memory: bytes, action: Callable[[Any], object]) -> Iterator[tuple[bytearray, bool]]:
    """Copies of the memory after `action` was killed at its first store, its second, …; at last, was not.

    Yields:
        The copy, and whether it was killed.
    """
    for stores in itertools.count():
        copy = bytearray(memory)
        try:
            action(TornMemory(memoryview(copy), stores))
        except Killed:
            yield copy, True
        else:
            yield copy, False
            return
