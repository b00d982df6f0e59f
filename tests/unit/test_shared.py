"""The table, in one process: against a model, and everything it refuses."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from multiprocessing_kit.errors import (
    KitError,
    TableError,
    TableFullError,
    TableOverflowError,
    TableTypeError,
    TableValueError,
)
from multiprocessing_kit.shared import Shared, cells
from multiprocessing_kit.shared.cells import Cells, Disturbed
from multiprocessing_kit.shared.columns import Columns

COLUMNS: dict[str, Any] = {"name": (str, 8), "hits": int, "raw": (bytes, 4), "rate": float}
ZERO = {"name": "", "hits": 0, "raw": b"", "rate": 0.0}
LEAST, MOST = -(2**63), 2**63 - 1
ROWS = 8


@pytest.fixture
def table() -> Iterator[Shared]:
    with Shared(COLUMNS, ROWS, key_size=8) as table:
        yield table


# Against a dict.


def fits(text: str) -> bool:
    return len(text.encode()) <= 8


KEYS = st.sampled_from([f"k{number}" for number in range(12)] + ["é" * 4, "\0", "日本"])
INTS = st.integers(LEAST, MOST) | st.sampled_from([0, 1, -1, LEAST, MOST])
FLOATS = st.floats(allow_nan=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(fits),
    "hits": INTS,
    "raw": st.binary(max_size=4),
    "rate": FLOATS,
}
PARTS = st.fixed_dictionaries({}, optional=VALUES)


class AgainstADict(RuleBasedStateMachine):
    table: Shared

    @initialize(one_bucket=st.booleans())
    def make(self, one_bucket: bool) -> None:
        self.model: dict[str, dict[str, Any]] = {}
        buckets = cells._buckets
        if one_bucket:
            cells._buckets = lambda rows: 1
        try:
            self.table = Shared(COLUMNS, ROWS, key_size=8)
        finally:
            cells._buckets = buckets

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.destroy()

    def refused(self, key: str, call: Callable[[], object]) -> bool:
        """Whether there is no room for the key: then the call must say so."""
        if key in self.model or len(self.model) < ROWS:
            return False
        with pytest.raises(TableFullError, match=r"is full.*8 rows"):
            call()
        return True

    @rule(key=KEYS, part=PARTS)
    def set(self, key: str, part: dict[str, Any]) -> None:
        if not self.refused(key, lambda: self.table.__setitem__(key, part)):
            self.table[key] = part
            self.model[key] = ZERO | part

    @rule(key=KEYS, part=PARTS)
    def set_default(self, key: str, part: dict[str, Any]) -> None:
        if not self.refused(key, lambda: self.table.setdefault(key, part)):
            assert self.table.setdefault(key, part) == self.model.setdefault(key, ZERO | part)

    @rule(key=KEYS, by=INTS, down=st.booleans())
    def count(self, key: str, by: int, down: bool) -> None:
        change = self.table.decr if down else self.table.incr
        total = self.model.get(key, ZERO)["hits"] + (-by if down else by)
        if not LEAST <= total <= MOST:
            with pytest.raises((TableOverflowError, TableFullError)):
                change(key, "hits", by)
        elif not self.refused(key, lambda: change(key, "hits", by)):
            assert change(key, "hits", by) == total
            self.model.setdefault(key, dict(ZERO))["hits"] = total

    @rule(key=KEYS, by=st.floats(-1e9, 1e9) | st.integers(-9, 9))
    def measure(self, key: str, by: float) -> None:
        if not self.refused(key, lambda: self.table.incr(key, "rate", by)):
            row = self.model.setdefault(key, dict(ZERO))
            row["rate"] += by
            assert self.table.incr(key, "rate", by) == row["rate"]

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.table.delete(key) == (self.model.pop(key, None) is not None)

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        assert self.table.pop(key, None) == self.model.pop(key, None)

    @rule()
    def pop_item(self) -> None:
        if self.model:
            key, row = self.table.popitem()
            assert self.model.pop(key) == row
        else:
            with pytest.raises(KeyError):
                self.table.popitem()

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.clear()

    @rule(rows=st.dictionaries(KEYS, PARTS, max_size=3))
    def update(self, rows: dict[str, dict[str, Any]]) -> None:
        if len(self.model | rows) <= ROWS:
            self.table.update(rows)
            self.model.update({key: ZERO | part for key, part in rows.items()})

    @rule(key=KEYS, column=st.sampled_from(sorted(COLUMNS)))
    def get(self, key: str, column: str) -> None:
        assert (key in self.table) == (key in self.model)
        assert self.table.get(key) == self.model.get(key)
        missing = object()
        expected = self.model[key][column] if key in self.model else missing
        assert self.table.get(key, column, missing) == expected

    @invariant()
    def holds_the_same(self) -> None:
        if hasattr(self, "table"):
            assert len(self.table) == len(self.model)
            assert self.table == self.model
            assert sorted(self.table) == sorted(self.model)
            assert all(list(row) == list(COLUMNS) for row in self.table.values())


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


# A mapping of rows.


def test_it_is_a_mapping(table: Shared) -> None:
    assert isinstance(table, MutableMapping)
    assert table
    table["a"] = {"hits": 3, "name": "index"}
    assert table["a"] == {"name": "index", "hits": 3, "raw": b"", "rate": 0.0}
    assert table["a"]["hits"] == 3
    assert list(table["a"]) == list(COLUMNS)
    assert [type(value) for value in table["a"].values()] == [str, int, bytes, float]
    assert table == {"a": table["a"]}
    assert ("a", table["a"]) in table.items()
    assert table["a"] in table.values()
    assert ZERO not in table.values()
    assert table.get("a", "name") == "index"
    assert table.get("b") is None
    assert table.get("b", "hits", 0) == 0
    assert table.get("b", default=ZERO) == ZERO
    del table["a"]
    assert "a" not in table


def test_a_row_that_was_read_is_a_copy(table: Shared) -> None:
    table["a"] = {"hits": 3}
    table["a"]["hits"] = 4
    assert table["a"]["hits"] == 3


def test_a_row_replaces_all_of_the_one_before(table: Shared) -> None:
    table["a"] = {"hits": 3, "name": "longer"}
    table["a"] = {"name": "x"}
    assert table["a"] == ZERO | {"name": "x"}


def test_counting_makes_a_row(table: Shared) -> None:
    assert table.incr("a", "hits") == 1
    assert table.decr("b", "hits", 5) == -5
    assert table.incr("c", "rate", 0.25) == 0.25
    assert table["a"] == ZERO | {"hits": 1}
    assert table.incr("a", "rate", 2) == 2.0


def test_texts_of_all_kinds(table: Shared) -> None:
    for text in ("", "\0", "a\0\0", "é" * 4, "12345678"):
        table["a"] = {"name": text}
        assert table["a"]["name"] == text
    for raw in (b"", b"\0\0", b"\xff" * 4):
        table["a"] = {"raw": raw}
        assert table["a"]["raw"] == raw


def test_numbers_of_all_kinds(table: Shared) -> None:
    for number in (LEAST, MOST, 0):
        table["a"] = {"hits": number}
        assert table["a"]["hits"] == number
    for share in (math.inf, -math.inf, 1e-320, 3):
        table["a"] = {"rate": share}
        assert table["a"]["rate"] == share
    table["a"] = {"rate": math.nan}
    assert math.isnan(table["a"]["rate"])


def test_only_numbers() -> None:
    with Shared({"b": float, "a": int}) as table:
        table["k"] = {"a": 1}
        assert table["k"] == {"b": 0.0, "a": 1}
        assert list(table["k"]) == ["b", "a"]
        assert (table.incr("k", "a", 2), table.incr("k", "b", 0.5)) == (3, 0.5)


def test_a_row_less_is_room_for_another(table: Shared) -> None:
    for number in range(100):
        table[str(number)] = {"hits": number}
        if number >= ROWS - 1:
            del table[str(number - ROWS + 1)]
    assert sorted(int(key) for key in table) == list(range(93, 100))


def test_keys_of_one_hash() -> None:
    """Two texts with the same crc32 and length."""
    with Shared({"hits": int}) as table:
        table.incr("plumless", "hits", 1)
        table.incr("buckeroo", "hits", 2)
        assert table == {"plumless": {"hits": 1}, "buckeroo": {"hits": 2}}
        del table["plumless"]
        assert table == {"buckeroo": {"hits": 2}}


# What it refuses.


def test_errors_are_python_s_own_too() -> None:
    assert issubclass(TableValueError, ValueError)
    assert issubclass(TableTypeError, TypeError)
    assert issubclass(TableOverflowError, OverflowError)


Refusal = tuple[Callable[[Shared], object], type[TableError], str]


def setting(column: str, value: object) -> Callable[[Shared], object]:
    return lambda table: table.__setitem__("k", {column: value})


REFUSALS: dict[str, Refusal] = {
    "long str": (
        setting("name", "é" * 5), TableValueError,
        r"'k', column 'name': 10 bytes of UTF-8, and the column holds 8; shorten.*\(str, 10\)",
    ),
    "long bytes": (
        setting("raw", b"12345"), TableValueError,
        r"'k', column 'raw': 5 bytes, and the column holds 4",
    ),
    "no text": (
        setting("name", "\ud800"), TableValueError, "'name'.*no valid text",
    ),
    "no column": (
        setting("hit", 1), TableValueError,
        "no column 'hit', but 'name', 'hits', 'raw', 'rate'",
    ),
    "no column to get": (lambda t: t.get("k", "hit"), TableValueError, "no column 'hit'"),
    "no column to count": (lambda t: t.incr("k", "hit"), TableValueError, "no column 'hit'"),
    "a default for a column": (lambda t: t.get("k", {}), TableValueError, "no column {}"),  # type: ignore[arg-type]
    "float for int": (
        setting("hits", 1.0), TableTypeError,
        r"'k', column 'hits': it holds int, not float; use int\(value\)",
    ),
    "bool for int": (setting("hits", True), TableTypeError, "int, not bool"),
    "bool for float": (
        setting("rate", False), TableTypeError, "float, not bool",
    ),
    "str for float": (setting("rate", "1"), TableTypeError, "float, not str"),
    "bytes for str": (
        setting("name", b"x"), TableTypeError, "'name': it holds str, not bytes",
    ),
    "str for bytes": (
        setting("raw", "x"), TableTypeError, r"not str; use value.encode\(\)",
    ),
    "None": (setting("hits", None), TableTypeError, "int, not NoneType"),
    "no row": (lambda t: t.__setitem__("k", [1]), TableTypeError, "a dict of columns, not list"),  # type: ignore[assignment]
    "large int": (
        setting("hits", MOST + 1), TableOverflowError,
        r"'k', column 'hits': 9223372036854775808 is outside -2\*\*63 to 2\*\*63 - 1",
    ),
    "large float": (
        setting("rate", 10**400), TableOverflowError, "'rate'.*a float holds",
    ),
    "large sum": (
        lambda t: t.incr("there", "hits", MOST), TableOverflowError,
        r"'there', column 'hits': the sum with 9223372036854775807 is outside.*as it was",
    ),
    "large difference": (
        lambda t: t.decr("there", "hits", LEAST), TableOverflowError, "'there', column 'hits'",
    ),
    "large count of a new row": (
        lambda t: t.decr("k", "hits", LEAST), TableOverflowError, "'k', column 'hits'",
    ),
    "counting texts": (lambda t: t.incr("k", "name"), TableTypeError, "'name': it holds str, and only"),
    "counting by bool": (lambda t: t.decr("k", "hits", True), TableTypeError, "not bool"),
    "counting by parts": (lambda t: t.incr("k", "hits", 0.5), TableTypeError, "not float"),
    "long key": (
        lambda t: t.__setitem__("é" * 5, {}), TableValueError,
        "'ééééé' takes 10 bytes of UTF-8, and key_size is 8; use a shorter one, or create",
    ),
    "long key to count": (lambda t: t.incr("x" * 9, "hits"), TableValueError, "takes 9 bytes"),
    "empty key": (lambda t: t.__setitem__("", {}), TableValueError, "'' is empty; give it"),
    "no text as key": (lambda t: t.setdefault("\ud800"), TableValueError, "no valid text"),
    "int as key": (lambda t: t.__setitem__(5, {}), TableTypeError, "a str, not int"),  # type: ignore[index]
    "full": (
        lambda t: t.update({str(number): {} for number in range(ROWS)}), TableFullError,
        "is full: no room for key '7' beside its 8 rows; delete some, or create it with a larger rows=",
    ),
    "full to count": (
        lambda t: [t.incr(str(number), "hits") for number in range(ROWS)], TableFullError, "is full",
    ),
    "full to set the default": (
        lambda t: [t.setdefault(str(number)) for number in range(ROWS)], TableFullError, "is full",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit(
    table: Shared, call: Callable[[Shared], object], error: type[TableError], message: str
) -> None:
    table["there"] = there = ZERO | {"hits": 1}
    with pytest.raises(error, match=message) as caught:
        call(table)
    assert isinstance(caught.value, KitError)
    assert caught.value.table in str(table)
    assert str(caught.value).startswith(caught.value.table)
    assert repr(caught.value.key) in str(caught.value) or not caught.value.key
    assert caught.value.column in str(caught.value)
    assert table["there"] == there
    assert "k" not in table


@pytest.mark.parametrize("key", ["", "missing", "x" * 100, "\ud800", 5, None, b"a"])
def test_what_is_not_there(table: Shared, key: Any) -> None:
    """What can be no key is not found either."""
    assert key not in table
    assert table.get(key) is None
    assert table.delete(key) is False
    assert table.pop(key, "default") == "default"
    for call in (lambda: table[key], lambda: table.__delitem__(key), lambda: table.pop(key)):
        with pytest.raises(KeyError) as caught:
            call()
        assert caught.value.args == (key,)


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        ({}, {}, ValueError, "at least one column"),
        ({"a": str}, {}, TypeError, r"'a' is int, float, \(str, size\)"),
        ({"a": bool}, {}, TypeError, "'a' is int"),
        ({"a": (int, 4)}, {}, TypeError, "'a' is int"),
        ({"a": (str, 4, 4)}, {}, TypeError, "'a' is int"),
        ({"a": "int"}, {}, TypeError, "'a' is int"),
        ({"a": (str, 0)}, {}, ValueError, "bytes from 1 on, not 0"),
        ({"a": (str, True)}, {}, ValueError, "bytes from 1 on, not True"),
        ({"a": (bytes, 1.5)}, {}, ValueError, "bytes from 1 on, not 1.5"),
        ({1: int}, {}, TypeError, "named by str, not int"),
        ({"": int}, {}, ValueError, "needs a name"),
        ({"a": int}, {"rows": 0}, ValueError, "'rows' is from 1"),
        ({"a": int}, {"rows": 1 << 28}, ValueError, "'rows' is from 1 to 268435455"),
        ({"a": int}, {"rows": 1.5}, TypeError, "'rows' is an int, not float"),
        ({"a": int}, {"rows": True}, TypeError, "'rows' is an int, not bool"),
        ({"a": int}, {"key_size": 0}, ValueError, "'key_size' is from 1"),
        ({"a": int}, {"name": "x" * 200}, ValueError, "a name has 1 to"),
    ],
)
def test_what_is_no_table(columns: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Shared(columns, **options)


def test_it_stays_where_it_is(table: Shared) -> None:
    with pytest.raises(TypeError, match="inherit"):
        pickle.dumps(table)
    with pytest.raises(TypeError, match="unhashable"):
        hash(table)
    assert repr(table).startswith("<Shared table 0x4d4b")
    assert "columns={'name': (str, 8), 'hits': int, 'raw': (bytes, 4), 'rate': float} rows=8" in repr(table)


# Who is disturbed again and again reads under the lock.


def test_readers_end_although_they_are_disturbed(table: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    table["a"] = {"hits": 1}
    looks = 0

    def disturbed(*_: object) -> None:
        nonlocal looks
        looks += 1
        raise Disturbed

    monkeypatch.setattr(Cells, "read", disturbed)
    monkeypatch.setattr(Cells, "read_bucket", disturbed)
    assert table["a"]["hits"] == 1
    assert "b" not in table
    assert list(table) == ["a"]
    assert looks == 3 * 20


LAYOUT = b"layout"


def memory(rows: int = 4) -> tuple[Cells, Columns]:
    columns = Columns(COLUMNS)
    buf = memoryview(bytearray(Cells.bytes_for(LAYOUT, rows, 8, columns.size)))
    return Cells(buf, LAYOUT, rows, 8, columns.size), columns


class Meddling:
    """Memory in which something else happens before one of the loads."""

    def __init__(self, inner: memoryview, meddle: Callable[[], object], left: Iterator[int]) -> None:
        self._inner = inner
        self._meddle = meddle
        self._left = left

    def __getitem__(self, where: Any) -> Any:
        if next(self._left) == 0:
            self._meddle()
        return self._inner[where]


@pytest.mark.parametrize("scans", [False, True])
@pytest.mark.parametrize("at", range(16))
@pytest.mark.parametrize(
    "what", ["write twice", "write half", "take the cell for another", "remove", "insert before"]
)
def test_a_reader_between_whose_loads_something_happens(what: str, at: int, scans: bool) -> None:
    """It sees the row before or after, or that it must look again; never another's, never half of one."""
    reader, columns = memory()
    writer = Cells(reader._bytes, LAYOUT, 4, 8, columns.size)
    old, new = columns.pack({"hits": 1, "name": "old"}, ""), columns.pack({"hits": 2, "name": "new"}, "")
    mark = 5 << 32 | 1
    assert writer.insert(mark, b"a", old)
    cell = writer.find(mark, b"a")
    place = writer._place(cell, 1) * 8
    assert writer._bytes[place : place + len(old)] == old

    def meddle() -> None:
        if what == "write twice":
            writer.write(cell, new)
            writer.write(cell, new)
        elif what == "write half":
            writer.write(cell, new)
            writer._bytes[place : place + 12] = bytes(12)  # of the next row, into the place of the first
        elif what == "insert before":
            assert writer.insert(mark, b"b", new)
        else:
            writer.remove(mark, b"a")
            if what == "take the cell for another":
                assert writer.insert(mark, b"b", new)

    left = itertools.count(at, -1)
    reader._words = Meddling(reader._words, meddle, left)  # type: ignore[assignment]
    reader._bytes = Meddling(reader._bytes, meddle, left)  # type: ignore[assignment]
    allowed = {(b"a", old)}
    if what.startswith("write"):
        allowed.add((b"a", new))
    try:
        if scans:
            pairs = reader.read_bucket(reader.bucket_of(mark))
            assert set(pairs) <= allowed | {(b"b", new)}
            assert len(pairs) == len(dict(pairs)) <= 2
        else:
            row = reader.read(mark, b"a")
            assert (b"a", row) in allowed or (row is None and what in ("remove", "take the cell for another"))
    except Disturbed:
        pass
