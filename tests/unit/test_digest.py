"""The digest of an argument: the same for the same value, in any run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime  # noqa: F401  # for VALUES
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.checkpoint.digest import SIZE, Digester, _hash

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Point:
    x: Any
    y: Any = None


class Tags(set[str]):
    """A set with more to it."""


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


def fresh(text: str) -> str:
    """Equal to `text`, and another object."""
    return "".join(list(text))


WORDS = ["some", "words", "whose", "hashes", "differ", "from", "run", "to", "run"]

# Expressions, so that other interpreters can make the same values.
VALUES = [
    "1", "-1", "10**30", "True", "None", "1.5", "float('nan')", "'text'", "b'bytes'", "'\\udc80'",
    "()", "[]", "(1, 2)", "[1, 2]", "('a', b'b', 1.5, None)", "{'a': 1}", "{'a': [1, {'b': (2,)}]}",
    "set()", "set(WORDS)", "frozenset(WORDS)", "{1, 'one', None, (1, 'one')}", "[set(WORDS)]",
    "{'tags': frozenset(WORDS)}", "frozenset([frozenset(WORDS), frozenset()])", "Tags(WORDS)",
    "Point(1, set(WORDS))", "Point(Point(1))", "deque([1, 'a'])", "datetime(2020, 1, 2)", "len", "Point",
    "bytearray(b'a')", "range(5)", "1j",
]  # fmt: skip


def digest(value: object) -> bytes:
    found = Digester()(value)
    assert found is not None
    assert len(found) == SIZE
    return found


def test_different_values_have_different_digests() -> None:
    digests = [digest(eval(value)) for value in VALUES]
    assert len(set(digests)) == len(VALUES)


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_another_interpreter_finds_the_same(seed: str) -> None:
    code = "from tests.unit.test_digest import *\nfor value in VALUES: print(digest(eval(value)).hex())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    # Classes are pickled by name, and pytest knows this module by the same one.
    assert done.stdout.split() == [digest(eval(value)).hex() for value in VALUES]


@pytest.mark.parametrize(
    ("shared", "apart"),
    [
        (lambda a: (a, a), lambda a: (a, fresh(a))),
        (lambda a: [a, a], lambda a: [a, fresh(a)]),
        (lambda a: {"a": a, "b": [a]}, lambda a: {"a": fresh(a), "b": [a]}),
        (lambda a: Point([a], [a]), lambda a: Point([a], [fresh(a)])),
        (lambda a: [b := [a], b], lambda a: [[a], [a]]),
        (lambda a: [b := {a: 1}, b], lambda a: [{a: 1}, {a: 1}]),
        (lambda a: Point(b := Point(a), b), lambda a: Point(Point(a), Point(a))),
        (lambda a: {(a, a), a}, lambda a: {(a, fresh(a)), fresh(a)}),
        (lambda a: deque([b := (a, a), b]), lambda a: deque([(a, a), (fresh(a), a)])),
    ],
)
def test_which_parts_are_one_object_does_not_matter(
    shared: Callable[[str], Any], apart: Callable[[str], Any]
) -> None:
    assert digest(shared("some text")) == digest(apart("some text"))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), ((1,), [1]), ("a", b"a"), (0.0, -0.0), ({1}, frozenset({1})), ([{1}], [[1]])],
)
def test_equal_is_not_the_same(one: object, other: object) -> None:
    assert digest(one) != digest(other)


def test_what_refers_to_itself() -> None:
    def ring(text: str) -> list[Any]:
        found: list[Any] = [text]
        found.append({"self": found})
        return found

    assert digest(ring("a")) == digest(ring("a"))
    assert digest(ring("a")) != digest(ring("b"))
    point = Point(1)
    point.y = point
    digest(point)


def test_parts_that_double_at_every_level_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing_kit.checkpoint.digest._LONGEST", 1 << 20)
    tower: list[Any] = ["a"]
    for _ in range(40):
        tower = [tower, tower]
    assert digest(tower) != digest([tower])


def test_a_large_buffer_is_not_copied_and_counts_in_full() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(2_000_000)
    before = digest(array)
    assert digest(array.copy()) == before
    array[-1] += 1
    assert digest(array) != before


@pytest.mark.parametrize("value", [Unpicklable(), [Unpicklable()], {Unpicklable()}, lambda: None])
def test_what_cannot_be_pickled_has_none(value: object) -> None:
    assert Digester()(value) is None


def test_a_digester_can_be_used_again_after_a_failure() -> None:
    digester = Digester()
    assert digester([Unpicklable()]) is None
    assert digester((1, "a")) == digest((1, "a"))


def test_ctrl_c_passes() -> None:
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Digester()(Interrupted())


def test_both_ways_see_sets() -> None:
    for fast in (True, False):
        assert _hash({"a"}, digest, fast=fast) == _hash({fresh("a")}, digest, fast=fast)
