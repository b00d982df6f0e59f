"""What `map` returns: a list that makes its responses when somebody looks at them.

A map of a million tiny jobs has its results in some hundred records; to make a million objects of them
takes several times as long as the jobs did. So the records are kept, and one is opened when a
response in it is asked for. From then on these responses are there, as in a list: the same object each
time, with whatever was changed in it.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, overload

from multiprocessing_kit.response import Response

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Part", "Responses"]


class Part(Protocol):
    """Some responses in a row."""

    def __len__(self) -> int: ...

    def open(self) -> list[Response]:
        """Make them."""


class Responses(MutableSequence[Response]):
    """A list of responses.

    It does what a list does, and equals a list of equal responses; slices and sums of it are lists. It is
    none for `isinstance`, nor for C code that looks inside lists: `list(responses)` makes one.

    Args:
        responses: To begin with.
    """

    __hash__ = None  # type: ignore[assignment]  # mutable, as a list

    def __init__(self, responses: Iterable[Response] = ()) -> None:
        self._parts: list[Part | list[Response]] = []
        self._ends: list[int] = []
        opened = list(responses)
        if opened:
            self.add(opened)

    def add(self, part: Part | list[Response]) -> None:
        """Append what is in `part`, unopened."""
        self._ends.append(len(self) + len(part))
        self._parts.append(part)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: SupportsIndex) -> Response: ...
    @overload
    def __getitem__(self, index: slice[Any, Any, Any]) -> list[Response]: ...
    def __getitem__(self, index: SupportsIndex | slice[Any, Any, Any]) -> Response | list[Response]:
        if isinstance(index, slice):
            return [self._at(place) for place in range(*index.indices(len(self)))]
        place = operator.index(index)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError("list index out of range")
        return self._at(place)

    def _at(self, place: int) -> Response:
        number = bisect_right(self._ends, place)
        return self._opened(number)[place - self._ends[number]]  # counted from the end of the part

    def _opened(self, number: int) -> list[Response]:
        part = self._parts[number]
        if not isinstance(part, list):
            part = self._parts[number] = part.open()
        return part

    def __iter__(self) -> Iterator[Response]:
        parts = self._parts
        number = place = 0
        while parts is self._parts and number < len(parts):
            for response in self._opened(number):
                place += 1
                yield response
                if parts is not self._parts:  # it was changed meanwhile: all is in one part now
                    break
            number += 1
        while parts is not self._parts and place < len(self):
            place += 1
            yield self._at(place - 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, Responses)):
            return NotImplemented
        return len(self) == len(other) and all(a is b or a == b for a, b in zip(self, other, strict=True))

    def __add__(self, other: Iterable[Response]) -> list[Response]:
        return [*self, *other] if isinstance(other, (list, Responses)) else NotImplemented

    def __radd__(self, other: list[Response]) -> list[Response]:
        return [*other, *self] if isinstance(other, list) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> list[Response]:
        return list(self) * count

    __rmul__ = __mul__

    def __imul__(self, count: SupportsIndex) -> Self:
        self[:] = list(self) * count
        return self

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> tuple[type[Responses], tuple[list[Response]]]:
        return Responses, (list(self),)

    def copy(self) -> list[Response]:
        """The same responses in a list."""
        return list(self)

    # ── changing ──────────────────────────────────────────────────────────────────────────────────

    @overload
    def __setitem__(self, index: SupportsIndex, value: Response) -> None: ...
    @overload
    def __setitem__(self, index: slice[Any, Any, Any], value: Iterable[Response]) -> None: ...
    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(lambda responses: responses.__setitem__(index, value))

    def __delitem__(self, index: SupportsIndex | slice[Any, Any, Any]) -> None:
        self._change(lambda responses: responses.__delitem__(index))

    def insert(self, index: SupportsIndex, value: Response) -> None:
        """Insert `value` before `index`."""
        self._change(lambda responses: responses.insert(index, value))

    def sort(self, *, key: Callable[[Response], Any] | None = None, reverse: bool = False) -> None:
        """Sort them in place."""
        self._change(lambda responses: responses.sort(key=key, reverse=reverse))  # type: ignore[arg-type]

    def _change(self, change: Callable[[list[Response]], None]) -> None:
        responses = self._flat()
        try:
            change(responses)
        finally:
            self._ends[:] = [len(responses)]

    def _flat(self) -> list[Response]:
        """All of them in one part."""
        if len(self._parts) != 1:
            self._parts = [list(self)]
            self._ends = [len(self._parts[0])]
        return self._opened(0)
