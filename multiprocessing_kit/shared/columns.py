"""What a row is: columns of fixed sizes, packed into bytes.

    int      8 bytes, signed          the numbers come first, so that each is an aligned word
    float    8 bytes
    str      4 bytes for its length, then as many as the column has, UTF-8
    bytes    the same

The whole is padded to a multiple of 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from multiprocessing_kit.errors import TableOverflowError, TableTypeError, TableValueError

__all__ = ["Column", "ColumnType", "Columns", "Row"]

Row = dict[str, Any]
ColumnType = type | tuple[type, int]

_RANGE = "-2**63 to 2**63 - 1"


class Column(NamedTuple):
    """One column.

    Attributes:
        size: Most bytes of a str or bytes; 8 for a number.
        place: Of its first field among those that `Columns.unpack` is given. A number is also the word of
            that number in the row.
    """

    name: str
    type: type
    size: int
    place: int

    @property
    def is_number(self) -> bool:
        """Whether it can be counted up and down."""
        return self.type is int or self.type is float


class Columns:
    """The columns of one table.

    Args:
        columns: Each name with `int`, `float`, `(str, size)` or `(bytes, size)`, sizes in bytes.
        table: How errors call the table.

    Attributes:
        size: Bytes of a packed row.
        table: As given.
        ints: The columns of this type, each with its word in the row.

    Raises:
        TypeError, ValueError: These cannot be columns.
    """

    def __init__(self, columns: Mapping[str, ColumnType], table: str = "") -> None:
        if not columns:
            raise ValueError("a table needs at least one column, such as columns={'hits': int}")
        self.table = table
        kinds = {name: _kind(name, kind) for name, kind in columns.items()}
        numbers = [name for name, (kind, _) in kinds.items() if kind is int or kind is float]
        texts = [name for name in kinds if name not in numbers]
        places = {name: place for place, name in enumerate(numbers)}
        places |= {name: len(numbers) + 2 * place for place, name in enumerate(texts)}
        self._columns = {name: Column(name, *kinds[name], places[name]) for name in kinds}
        form = "=" + "".join("q" if kinds[name][0] is int else "d" for name in numbers)
        form += "".join(f"I{kinds[name][1]}s" for name in texts)
        self._struct = struct.Struct(form + "x" * (-struct.calcsize(form) % 8))
        self.size = self._struct.size
        self._fields = len(numbers) + 2 * len(texts)
        self._only_numbers = not texts
        self.ints = {name: place for name, place in places.items() if kinds[name][0] is int}

    def __getitem__(self, name: str) -> Column:
        """The column of this name.

        Raises:
            TableValueError: There is none.
        """
        try:
            return self._columns[name]
        except (KeyError, TypeError):
            raise TableValueError(
                f"{self.table} has no column {name!r}, but {', '.join(map(repr, self._columns))}",
                table=self.table, column=str(name),
            ) from None  # fmt: skip

    def describe(self) -> str:
        """All columns as they were given: the same text means the same layout of rows."""
        return "{" + ", ".join(f"{each.name!r}: {_written(each)}" for each in self._columns.values()) + "}"

    def pack(self, row: Mapping[str, object], key: str) -> bytes:
        """The bytes of a row; columns it does not have are zero or empty.

        Raises:
            TableTypeError, TableValueError, TableOverflowError: It does not fit.
        """
        if not isinstance(row, Mapping):
            raise TableTypeError(
                f"{self.table}, key {key!r}: a row is a dict of columns, not {_type(row)}",
                table=self.table, key=key,
            )  # fmt: skip
        fields: list[Any] = [0] * self._fields
        for column in self._columns.values():
            if not column.is_number:
                fields[column.place + 1] = b""
        for name, value in row.items():
            column = self[name]
            if column.is_number:
                fields[column.place] = self.number(column, value, key)
            else:
                text = self._text(column, value, key)
                fields[column.place : column.place + 2] = len(text), text
        return self._struct.pack(*fields)

    def number(self, column: Column, value: object, key: str) -> Any:
        """The value, as the number that the column holds."""
        if isinstance(value, bool) or not isinstance(value, (int, column.type)):
            hint = f"use {column.type.__name__}(value)"
            raise self._wrong_type(column, value, key, hint)
        if column.type is int and not -(1 << 63) <= value < 1 << 63:  # type: ignore[operator]
            raise self.too_large(column, key, _short(value))
        try:
            return column.type(value)
        except OverflowError:
            raise self.too_large(column, key, _short(value)) from None

    def too_large(self, column: Column, key: str, what: str) -> TableOverflowError:
        """The error for a number that the column cannot hold."""
        limit = _RANGE if column.type is int else "what a float holds"
        return TableOverflowError(
            f"{self.table}, key {key!r}, column {column.name!r}: {what} is outside {limit}; "
            "the row is as it was",
            table=self.table, key=key, column=column.name,
        )  # fmt: skip

    def unpack(self, packed: bytes) -> Row:
        """A packed row as a dict, in the order of the columns."""
        fields = self._struct.unpack(packed)
        if self._only_numbers:
            return dict(zip(self._columns, fields, strict=True))
        return {name: _value(column, fields) for name, column in self._columns.items()}

    def value(self, column: Column, packed: bytes) -> Any:
        """One value of a packed row."""
        return _value(column, self._struct.unpack(packed))

    def _text(self, column: Column, value: object, key: str) -> bytes:
        if not isinstance(value, column.type):
            hint = "use value.encode()" if column.type is bytes else "use str(value) or value.decode()"
            raise self._wrong_type(column, value, key, hint)
        try:
            text = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
        except UnicodeEncodeError as error:
            raise self._unfit(column, key, f"{_short(value)} is no valid text: {error.reason}") from error
        if len(text) > column.size:
            unit = "bytes of UTF-8" if column.type is str else "bytes"
            raise self._unfit(
                column, key,
                f"{len(text)} {unit}, and the column holds {column.size}; shorten it, or create the table "
                f"with {column.name!r}: ({column.type.__name__}, {len(text)})",
            )  # fmt: skip
        return text

    def _unfit(self, column: Column, key: str, reason: str) -> TableValueError:
        message = f"{self.table}, key {key!r}, column {column.name!r}: {reason}"
        return TableValueError(message, table=self.table, key=key, column=column.name)

    def _wrong_type(self, column: Column, value: object, key: str, hint: str) -> TableTypeError:
        message = (
            f"{self.table}, key {key!r}, column {column.name!r}: it holds {column.type.__name__}, "
            f"not {_type(value)}; {hint}"
        )
        return TableTypeError(message, table=self.table, key=key, column=column.name)


def _kind(name: object, kind: object) -> tuple[type, int]:
    """Type and bytes of a column, from what was given for it."""
    if not isinstance(name, str):
        raise TypeError(f"columns are named by str, not {_type(name)}")
    if not name:
        raise ValueError("a column needs a name")
    if kind is int or kind is float:
        return kind, 8
    if isinstance(kind, tuple) and len(kind) == 2 and kind[0] in (str, bytes):
        text, size = kind
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return text, size
        raise ValueError(f"column {name!r}: a size is a number of bytes from 1 on, not {size!r}")
    raise TypeError(
        f"column {name!r} is int, float, (str, size) or (bytes, size), with sizes in bytes, not {kind!r}"
    )


def _written(column: Column) -> str:
    name = column.type.__name__
    return name if column.is_number else f"({name}, {column.size})"


def _value(column: Column, fields: tuple[Any, ...]) -> Any:
    first = fields[column.place]
    if column.is_number:
        return first
    text: bytes = fields[column.place + 1][:first]
    return text.decode() if column.type is str else text


def _type(value: object) -> str:
    return type(value).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
