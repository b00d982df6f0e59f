"""A table in shared memory: rows by key, each a dict of the same columns.

Shared      checks keys and values, makes dicts     this file, keys.py, columns.py
Rows        locks                                   rows.py
Cells       bytes                                   cells.py
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from multiprocessing_kit.errors import (
    TableClosedError,
    TableError,
    TableFullError,
    TableTypeError,
)
from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.shared.cells import MAX_ROWS, Cells
from multiprocessing_kit.shared.columns import Column, Columns, ColumnType, Row
from multiprocessing_kit.shared.keys import Keys
from multiprocessing_kit.shared.opening import Shape, find, make
from multiprocessing_kit.shared.rows import Rows

__all__ = ["Shared"]

_MISSING: Any = object()
_EMPTY: Mapping[str, object] = MappingProxyType({})


class Shared(MutableMapping[str, Row]):
    """Rows of fixed columns, by key, for any number of processes and threads that read and write.

    A mapping of dicts, as `{"page": {"hits": 3, "name": "index"}}`. Each call sees or changes one row as a
    whole: a reader gets the row before a change or the one after it, also when the writer is killed in the
    middle, and never waits. A row that was read is a copy: changing it does not change the table.

    Forked children inherit it. With a name, unrelated processes share it, and it stays in the system until
    somebody calls `destroy()`; without one it is removed when its creator exits or drops the object, so keep
    it as long as children use it.

    Args:
        columns: Each name with `int` (signed, 64 bits), `float`, `(str, size)` or `(bytes, size)`; sizes are
            bytes, for a str those of its UTF-8. A bool is no number here.
        rows: Most rows it holds. Memory is used only where rows have been.
        name: Found by every process of this user that gives the same name, columns, rows and key_size.
        key_size: Most bytes of a key in UTF-8.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
        TableError: There is a table of this name with other columns, rows or key_size.
        TypeError, ValueError: These cannot be columns, rows or sizes.
    """

    def __init__(
        self, columns: Mapping[str, ColumnType], rows: int = 1024, *, name: str = "", key_size: int = 64
    ) -> None:
        self._columns = Columns(columns)
        self._max_rows = _natural("rows", rows, MAX_ROWS)
        most = _natural("key_size", key_size, 1 << 16)
        self._name = name
        layout = f"columns={self._columns.describe()}, rows={rows}, key_size={key_size}"
        shape = Shape(layout.encode(), self._max_rows, most, self._columns.size)
        segment = find(name, shape) if name else make(shape)
        self._title = f"table {name!r}" if name else f"table {segment.key:#x}"
        # Kept by close(): without a name, the table ends with this object.
        self._segment: NamedSegment | StampedSegment | None = segment
        self._columns.table = self._title
        self._keys = Keys(self._title, most)
        cells = Cells(segment.buf, *shape)
        # Given up by close(): the memory is detached when the last thread has left it.
        self._rows: Rows | None = Rows(segment, cells, self._title)

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    # Reading.

    def __getitem__(self, key: str) -> Row:
        """A copy of the row. Raises KeyError if there is none."""
        packed = self._read(key)
        if packed is None:
            raise KeyError(key)
        return self._columns.unpack(packed)

    def get(self, key: str, column: str | None = None, default: Any = None) -> Any:  # type: ignore[override]
        """A copy of the row or, given a column, the value there; `default` if there is no such row.

        Raises:
            TableValueError: There is no such column.
        """
        which = None if column is None else self._columns[column]
        packed = self._read(key)
        if packed is None:
            return default
        return self._columns.unpack(packed) if which is None else self._columns.value(which, packed)

    def __contains__(self, key: object) -> bool:
        return self._read(key) is not None

    def __len__(self) -> int:
        return self._opened().count()

    def __bool__(self) -> bool:
        # With __len__ alone an empty table would be false, and `table or default` would lose it.
        return True

    def __iter__(self) -> Iterator[str]:
        """The keys, in no order.

        Each that is there all the while comes once. One that is set or deleted meanwhile may come or not.
        """
        return (key.decode() for key, _ in self._opened().scan())

    def items(self) -> ItemsView[str, Row]:
        """Keys with copies of their rows, each pair as it was at one instant; else as iterating."""
        return _Items(self)

    def values(self) -> ValuesView[Row]:
        """Copies of the rows; else as iterating."""
        return _Values(self)

    # Writing.

    def __setitem__(self, key: str, row: Mapping[str, object]) -> None:
        """Set the whole row; columns that are not given become 0 or empty.

        Raises:
            TableFullError: The key has no row, and there is no room for one.
            TableTypeError, TableValueError, TableOverflowError: The key or a value does not fit.
        """
        packed_key = self._keys.pack(key)
        packed = self._columns.pack(row, key)
        if not self._opened().write(packed_key, packed):
            raise self._full(key)

    def setdefault(self, key: str, default: Mapping[str, object] = _EMPTY) -> Row:
        """A copy of the row; without one, set it to `default` first. Raises as setting a row does."""
        packed_key = self._keys.pack(key)
        there = self._opened().keep(packed_key, self._columns.pack(default, key))
        if there is None:
            raise self._full(key)
        return self._columns.unpack(there)

    def incr(self, key: str, column: str, by: float = 1) -> Any:
        """Add to a number. A key without a row is given one, with 0 and empty values.

        Returns:
            The sum.

        Raises:
            TableOverflowError: The sum is outside 64 bits. The row is as it was.
            TableFullError: The key has no row, and there is no room for one.
            TableTypeError, TableValueError: There is no such column, it holds no number, or `by` is none.
        """
        rows = self._rows
        # Most often all is in order, and then this is all there is to it; anything else is left to `_add`.
        if rows is not None and type(by) is int and type(key) is type(column) is str:
            word = self._columns.ints.get(column)
            if word is not None:
                try:
                    total = rows.try_add(key.encode(), rows.cells.ints, word, by)
                except ValueError:
                    total = None
                if total is not None:
                    return total
        which = self._counted(key, column)
        return self._add(key, which, self._columns.number(which, by, key))

    def decr(self, key: str, column: str, by: float = 1) -> Any:
        """Subtract from a number; else as `incr`."""
        which = self._counted(key, column)
        return self._add(key, which, -self._columns.number(which, by, key))

    def delete(self, key: str) -> bool:
        """Remove the row. Returns whether there was one."""
        return self._take(key) is not None

    def __delitem__(self, key: str) -> None:
        """Remove the row. Raises KeyError if there is none."""
        if not self.delete(key):
            raise KeyError(key)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove the row and return it. Of several processes that pop the same row, one gets it.

        Raises:
            KeyError: There is none, and no `default` was given.
        """
        packed = self._take(key)
        if packed is not None:
            return self._columns.unpack(packed)
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Row]:
        """Remove some row, and return its key and the row. Raises KeyError if there is none."""
        for key in self:
            row = self.pop(key, None)
            if row is not None:
                return key, row
        raise KeyError(f"{self._title} is empty")

    def clear(self) -> None:
        """Delete every row, one after the other. One that is set meanwhile may stay."""
        for key in self:
            self.delete(key)

    # Its life.

    def close(self) -> None:
        """Take no more calls in this process. The table goes on for all others. May be called again."""
        self._rows = None

    def destroy(self) -> None:
        """Remove the table from the system: every call of every process raises TableClosedError."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.remove()
        self.close()

    def __enter__(self) -> Shared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End of the `with` block: `destroy()` without a name, `close()` with one."""
        if self._name:
            self.close()
        else:
            self.destroy()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Shared cannot be pickled: children inherit it by fork, others open it by its name")

    def __repr__(self) -> str:
        return f"<Shared {self._title} columns={self._columns.describe()} rows={self._max_rows}>"

    def _opened(self) -> Rows:
        if self._rows is None:
            raise TableClosedError(f"{self._title} was closed", table=self._title)
        return self._rows

    def _read(self, key: object) -> bytes | None:
        rows = self._opened()
        # What is no valid text becomes bytes that no key has.
        return rows.read(key.encode("utf-8", "surrogatepass")) if isinstance(key, str) else None

    def _take(self, key: str) -> bytes | None:
        rows = self._opened()
        return rows.take(key.encode("utf-8", "surrogatepass")) if isinstance(key, str) else None

    def _counted(self, key: str, column: str) -> Column:
        which = self._columns[column]
        if not which.is_number:
            raise TableTypeError(
                f"{self._title}, key {key!r}, column {column!r}: it holds {which.type.__name__}, and only "
                "int and float can be counted",
                table=self._title, key=key, column=column,
            )  # fmt: skip
        return which

    def _add(self, key: str, column: Column, by: Any) -> Any:
        packed_key = self._keys.pack(key)
        rows = self._opened()
        numbers = rows.cells.ints if column.type is int else rows.cells.floats
        try:
            total = rows.add(
                packed_key, numbers, column.place, by, lambda: self._columns.pack({column.name: by}, key)
            )
        except TableError:
            raise
        except ValueError:  # the memory's own, for a number that it cannot hold
            raise self._columns.too_large(column, key, f"the sum with {by}") from None
        if total is None:
            raise self._full(key)
        return total

    def _full(self, key: str) -> TableFullError:
        return TableFullError(
            f"{self._title} is full: no room for key {key!r} beside its {self._max_rows} rows; "
            "delete some, or create it with a larger rows=",
            table=self._title, key=key,
        )  # fmt: skip


class _Items(ItemsView[str, Row]):
    """Without looking up each key again: by then its row may have been deleted."""

    _mapping: Shared

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        table = self._mapping
        unpack = table._columns.unpack
        return ((key.decode(), unpack(row)) for key, row in table._opened().scan())


class _Values(ValuesView[Row]):
    _mapping: Shared

    def __iter__(self) -> Iterator[Row]:
        return (row for _, row in self._mapping.items())

    def __contains__(self, row: object) -> bool:
        return any(each == row for each in self)


def _natural(what: str, number: object, most: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what!r} is an int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{what!r} is from 1 to {most}, not {number}")
    return number
