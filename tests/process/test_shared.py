"""Tables between real processes, some of which are killed at the worst moments."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiprocessing_kit.errors import TableClosedError, TableError, TableFullError
from multiprocessing_kit.ipc.semaphore import Semaphore
from multiprocessing_kit.shared import Shared, cells
from tests.forks import die, exit_of, fork
from tests.gates import Gate
from tests.interrupts import interrupted
from tests.kills import killed_one_after_the_other

PATIENCE = 30  # seconds; only ever used up by a failing test
AT_ONCE = 1.0  # seconds: how soon the next one must get on after a kill

COLUMNS: dict[str, Any] = {"text": (str, 200), "number": int, "raw": (bytes, 50), "share": float}


def row(seed: int) -> dict[str, Any]:
    """Values that belong together, of very different lengths."""
    text = f"{seed} " * (seed * 7 % 30)
    return {"text": text, "number": seed, "raw": bytes([seed % 256]) * (seed * 5 % 50), "share": seed / 8}


def is_whole(found: dict[str, Any]) -> bool:
    return found == row(found["number"])


def locks(table: Shared) -> list[int]:
    return [semaphore.value for semaphore in semaphores(table)]


def semaphores(table: Shared) -> list[Semaphore]:
    assert table._segment is not None
    return table._segment.semaphores


@pytest.fixture
def table() -> Iterator[Shared]:
    with Shared(COLUMNS, 64) as table:
        yield table


# Totals.


def test_every_count_counts(table: Shared) -> None:
    processes, each = 4, 400

    def count(name: int) -> None:
        for number in range(each):
            table.incr("all", "number")
            table.incr("all", "share", 0.5)
            table.decr(f"every {number % 10}", "number", 2)
            table.incr(f"own {name}", "number", name)

    assert [exit_of(pid) for pid in [fork(lambda n=n: count(n)) for n in range(processes)]] == [0] * processes  # type: ignore[misc]
    assert table.get("all", "number") == processes * each
    assert table.get("all", "share") == processes * each / 2
    assert [table.get(f"every {n}", "number") for n in range(10)] == [-2 * processes * each // 10] * 10
    assert [table.get(f"own {n}", "number") for n in range(processes)] == [n * each for n in range(processes)]
    assert len(table) == 11 + processes


def test_dropped_by_its_creator() -> None:
    with Gate() as dropped:

        def use(table: Shared) -> None:
            dropped.wait()
            with pytest.raises(TableClosedError, match="creator has ended or dropped it"):
                table.incr("all", "number")

        def start() -> int:
            table = Shared(COLUMNS)
            return fork(lambda: use(table))

        pid = start()
        gc.collect()
        dropped.open()
        assert exit_of(pid) == 0


def test_a_row_is_popped_once(table: Shared) -> None:
    shares = Shared({"got": int})

    def pop(name: int) -> None:
        with contextlib.suppress(KeyError):
            while True:
                shares.incr(table.popitem()[0], "got")

    for number in range(64):
        table[str(number)] = row(number)
    with shares:
        assert [exit_of(pid) for pid in [fork(lambda n=n: pop(n)) for n in range(3)]] == [0] * 3  # type: ignore[misc]
        assert {key: found["got"] for key, found in shares.items()} == dict.fromkeys(map(str, range(64)), 1)
    assert len(table) == 0


def test_one_of_many_sets_the_default(table: Shared) -> None:
    reading, writing = os.pipe()

    def propose(name: int) -> None:
        for number in range(20):
            os.write(writing, bytes([number, table.setdefault(str(number), row(name))["number"]]))

    assert [exit_of(pid) for pid in [fork(lambda n=n: propose(n)) for n in range(4)]] == [0] * 4  # type: ignore[misc]
    answers = os.read(reading, 1000)
    assert len(answers) == 4 * 20 * 2
    assert len(set(zip(answers[::2], answers[1::2], strict=True))) == 20, "everybody was told of the same one"
    os.close(reading)
    os.close(writing)


def test_a_child_of_a_child(table: Shared) -> None:
    assert exit_of(fork(lambda: fork(lambda: table.incr("a", "number")) and os.wait())) == 0
    assert table.get("a", "number") == 1


# Readers.


def test_readers_see_whole_rows_and_all_that_stay(table: Shared) -> None:
    """Others are rewritten, deleted and set again meanwhile, in the same buckets and cells."""
    stay = {f"stay {number}": row(number) for number in range(12)}
    table.update(stay)
    reading, writing = os.pipe()

    def churn(name: int) -> None:
        chance = random.Random(name)
        while True:
            key = f"{chance.randrange(8)}"
            if chance.random() < 0.5:
                table[key] = row(chance.randrange(1000))
            else:
                table.delete(key)

    def check() -> None:
        for _ in range(150):
            assert all(table[key] == expected for key, expected in stay.items())
            assert all(found is None or is_whole(found) for found in map(table.get, map(str, range(8))))
            items = list(table.items())
            assert all(is_whole(found) for _, found in items)
            assert max(Counter(key for key, _ in items).values()) == 1
            assert stay.items() <= {key: found for key, found in items if key in stay}.items()
            assert 12 <= len(table) <= 20

    writers = [fork(lambda n=n: churn(n)) for n in range(2)]  # type: ignore[misc]
    try:
        assert exit_of(fork(check)) == 0
    finally:
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
            assert exit_of(pid) == -signal.SIGKILL
        os.close(reading)
        os.close(writing)
    assert locks(table) == [1] * 8


def test_readers_do_not_wait_for_writers(table: Shared) -> None:
    """Who holds the locks may be stopped, for instance."""
    table["a"] = row(1)
    with contextlib.ExitStack() as held:
        for semaphore in semaphores(table):
            held.enter_context(semaphore.guard)

        def read() -> None:
            assert table["a"] == row(1)
            assert table.get("b") is None
            assert "a" in table
            assert list(table.items()) == [("a", row(1))]
            assert len(table) == 1

        assert exit_of(fork(read)) == 0


# Deaths, at every store.


class Mortal:
    """Memory whose process dies before one of its stores, or in the middle of it if it is a long one."""

    def __init__(self, memory: memoryview, left: Iterator[int]) -> None:
        self._memory = memory
        self._left = left

    def __getitem__(self, where: Any) -> Any:
        return self._memory[where]

    def __setitem__(self, where: Any, value: Any) -> None:
        if next(self._left) == 0:
            if isinstance(where, slice):
                half = (where.stop - where.start) // 2
                self._memory[where.start : where.start + half] = value[:half]
            die()
        self._memory[where] = value


def die_at(store: int, table: Shared, action: Callable[[Shared], object]) -> None:
    """Run `action` up to one of its stores."""
    left = itertools.count(store, -1)
    memory = table._opened().cells
    for name in ("_words", "_bytes", "ints", "floats"):
        setattr(memory, name, Mortal(getattr(memory, name), left))
    action(table)


def killed_at_stores(prepare: Callable[[], Shared], action: Callable[[Shared], object]) -> Iterator[Shared]:
    """Tables whose user was killed in `action` before one store after the other; at last, was not."""
    return killed_one_after_the_other(prepare, lambda store, table: die_at(store, table, action))


def check_whole(table: Shared, rows: int) -> None:
    """Nobody waits, every count is right and every cell can be used."""
    assert locks(table) == [1] * 8
    there = dict(table)
    assert len(table) == len(there)
    assert all(table[key] == found for key, found in there.items())
    more = (f"more {number}" for number in itertools.count())
    with contextlib.suppress(TableFullError):
        for key in more:
            table[key] = row(100)
            there[key] = row(100)
    assert len(there) == len(table) == rows
    assert dict(table) == there
    table.clear()
    assert len(table) == 0
    assert list(table) == []


ROWS = 5


def some() -> Shared:
    """Rows a, b and c, and one cell that was used before."""
    table = Shared(COLUMNS, ROWS)
    table.update({key: row(number) for number, key in enumerate("dabc")})
    del table["d"]
    return table


def none() -> Shared:
    return Shared(COLUMNS, ROWS)


def not_reused() -> Shared:
    table = some()
    del table["a"], table["b"], table["c"]
    table.update({key: row(number) for number, key in enumerate("abcd", -3)})
    del table["d"]
    table.update({key: row(number) for number, key in enumerate("dabc")})
    return table


BEFORE = {"a": row(1), "b": row(2), "c": row(3)}


@pytest.mark.parametrize("in_one_bucket", [False, True])
@pytest.mark.parametrize(
    ("prepare", "action", "after"),
    [
        (some, lambda table: table.__setitem__("b", row(9)), BEFORE | {"b": row(9)}),
        (some, lambda table: table.__setitem__("new", row(9)), BEFORE | {"new": row(9)}),
        (some, lambda table: table.incr("b", "number", 7), BEFORE | {"b": row(2) | {"number": 9}}),
        (some, lambda table: table.decr("b", "share", 0.25), BEFORE | {"b": row(2) | {"share": 0.0}}),
        (some, lambda table: table.incr("new", "number"), BEFORE | {"new": row(0) | {"number": 1}}),
        (some, lambda table: table.setdefault("new", row(9)), BEFORE | {"new": row(9)}),
        (some, lambda table: table.delete("a"), {"b": row(2), "c": row(3)}),
        (some, lambda table: table.delete("b"), {"a": row(1), "c": row(3)}),
        (some, lambda table: table.delete("c"), {"a": row(1), "b": row(2)}),
        (some, lambda table: table.pop("b"), {"a": row(1), "c": row(3)}),
        (not_reused, lambda table: table.__setitem__("new", row(9)), {**BEFORE, "d": row(0), "new": row(9)}),
        (none, lambda table: table.__setitem__("new", row(9)), {"new": row(9)}),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("<>") or None,
)
def test_killed_at_any_store(
    prepare: Callable[[], Shared],
    action: Callable[[Shared], object],
    after: dict[str, Any],
    in_one_bucket: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if in_one_bucket:
        monkeypatch.setattr(cells, "_buckets", lambda _: 1)
    with prepare() as table:
        before = dict(table)
    outcomes = []
    for table in killed_at_stores(prepare, action):
        there = dict(table)
        assert there in (before, after)
        outcomes.append(there == after)
        check_whole(table, ROWS)
    assert outcomes == sorted(outcomes), "first not done, from one store on done"
    assert set(outcomes) == {False, True}


@pytest.mark.parametrize("first", ["delete", "insert"])
def test_killed_while_another_s_change_is_repaired(first: str) -> None:
    def change(table: Shared) -> None:
        if first == "delete":
            del table["b"]
        else:
            table["new"] = row(9)

    for store in itertools.count():
        outcome = 0

        def prepare() -> Shared:
            nonlocal outcome
            table = some()
            outcome = exit_of(fork(lambda: die_at(store, table, change)))  # noqa: B023  # runs at once
            return table

        for table in killed_at_stores(prepare, lambda table: table.__setitem__("late", row(4))):
            assert dict(table).items() <= {**BEFORE, "new": row(9), "late": row(4)}.items()
            assert ("b" in table) or first == "delete"
            check_whole(table, ROWS)
        if outcome == 0:
            break


def go_on(table: Shared, number: int) -> None:
    """The next one reads and changes every row, and makes and deletes one."""
    for key, found in table.items():
        assert is_whole(found)
        with contextlib.suppress(TableFullError):  # it was deleted meanwhile, and its place taken
            table[key] = row(number)
    with contextlib.suppress(TableFullError):
        table["next"] = row(number)
        assert table.delete("next")


@pytest.mark.parametrize(
    "rounds", [20, pytest.param(500, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_kills_at_any_instant_leave_whole_rows(rounds: int) -> None:
    chance = random.Random(20260104)
    with Shared(COLUMNS, 24) as table:
        reading, writing = os.pipe()

        def write(seed: int) -> None:
            chance = random.Random(seed)
            os.write(writing, b"x")
            while True:
                key, number = str(chance.randrange(30)), chance.randrange(1000)
                with contextlib.suppress(TableFullError):
                    chance.choice(ACTIONS)(table, key, number)

        def read() -> None:
            while True:
                assert all(is_whole(found) for found in table.values())
                assert all(found is None or is_whole(found) for found in map(table.get, map(str, range(30))))

        reader = fork(read)
        for seed in range(rounds):
            pids = [fork(lambda n=n: write(n)) for n in (2 * seed, 2 * seed + 1)]  # type: ignore[misc]
            assert len(os.read(reading, 1) + os.read(reading, 1)) == 2
            time.sleep(chance.uniform(0, 0.01))  # no synchronisation: it picks the instant
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                assert exit_of(pid) == -signal.SIGKILL
                begun = time.monotonic()
                go_on(table, seed)
                assert time.monotonic() - begun < AT_ONCE
            assert len(table) == len(list(table)) <= 24
            assert locks(table) == [1] * 8
        assert os.waitpid(reader, os.WNOHANG) == (0, 0), "the reader found nothing wrong"
        os.kill(reader, signal.SIGKILL)
        assert exit_of(reader) == -signal.SIGKILL
        check_whole(table, 24)
        os.close(reading)
        os.close(writing)


ACTIONS: list[Callable[[Shared, str, int], object]] = [
    lambda table, key, number: table.__setitem__(key, row(number)),
    lambda table, key, number: table.__setitem__(key, row(number)),
    lambda table, key, number: table.setdefault(key, row(number)),
    lambda table, key, _: table.delete(key),
    lambda table, key, _: table.pop(key, None),
]


def test_a_signal_handler_that_raises_leaves_the_table_whole(table: Shared) -> None:
    chance = random.Random(7)

    def change() -> None:
        with contextlib.suppress(TableFullError):
            chance.choice(ACTIONS)(table, str(chance.randrange(80)), chance.randrange(1000))

    def child() -> None:
        for _ in interrupted(change, 300, 0.0001, 0.002):
            assert locks(table) == [1] * 8
            assert all(map(is_whole, table.values()))

    assert exit_of(fork(child)) == 0
    check_whole(table, 64)


# Its end.


def calls(table: Shared) -> list[Callable[[], object]]:
    return [
        lambda: table["a"],
        lambda: table.get("a"),
        lambda: "a" in table,
        lambda: len(table),
        lambda: list(table),
        lambda: list(table.items()),
        lambda: list(table.values()),
        lambda: table.__setitem__("a", {}),
        lambda: table.setdefault("a", {}),
        lambda: table.incr("a", "number"),
        lambda: table.decr("a", "number"),
        lambda: table.delete("a"),
        lambda: table.pop("a", None),
        table.popitem,
        table.clear,
    ]


@pytest.mark.parametrize("who", ["this process", "a child"])
def test_a_destroyed_table_says_so_everywhere(who: str) -> None:
    table = Shared(COLUMNS)
    table["a"] = row(1)
    if who == "this process":
        ready, go = os.pipe(), os.pipe()

        def child() -> None:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            assert raised_by(table) == {TableClosedError}

        pid = fork(child)
        os.read(ready[0], 1)
        table.destroy()
        os.write(go[1], b"x")
        assert exit_of(pid) == 0
        for descriptor in ready + go:
            os.close(descriptor)
    else:
        assert exit_of(fork(table.destroy)) == 0
    assert raised_by(table) == {TableClosedError}
    table.destroy()


def raised_by(table: Shared) -> set[type]:
    raised = []
    for call in calls(table):
        with pytest.raises(TableClosedError, match=r"destroyed|closed") as caught:
            call()
        raised.append(caught.type)
    return set(raised)


def test_a_closed_table_goes_on_for_others(table: Shared) -> None:
    def child() -> None:
        table.close()
        table.close()
        assert raised_by(table) == {TableClosedError}

    table["a"] = row(1)
    assert exit_of(fork(child)) == 0
    assert table["a"] == row(1)


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    start = "import os, sys\nfrom multiprocessing_kit.shared import Shared\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(text), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_without_a_name_it_ends_with_its_creator() -> None:
    text = """
    from multiprocessing_kit.errors import TableClosedError
    table = Shared({"hits": int})
    table.incr("a", "hits")
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        os.read(reading, 1)
        for call in (lambda: table["a"], lambda: table.incr("a", "hits")):
            try:
                call()
            except TableClosedError:
                print("gone", flush=True)
        os._exit(0)
    """
    with program(text) as creator:
        out, _ = creator.communicate(timeout=PATIENCE)
    assert out.split() == ["gone", "gone"]


# Names.


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test {os.getpid()} {random.getrandbits(32)}"
    yield name
    Shared(COLUMNS, 10, name=name).destroy()


OPEN = """
table = Shared({"text": (str, 200), "number": int, "raw": (bytes, 50), "share": float}, 10, name=sys.argv[1])
"""


def test_programs_share_a_table_by_its_name(name: str) -> None:
    """Started apart from each other, and after the one that made it has ended."""
    with program(OPEN + "table['a'] = {'text': 'from the first', 'number': 5}", name) as first:
        first.communicate(timeout=PATIENCE)
    text = "print(table.incr('a', 'number'), flush=True)\ninput()\nprint(table['a']['text'], len(table))"
    with program(OPEN + text, name) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "6\n"
        with Shared(COLUMNS, 10, name=name) as table:
            assert table.name == name
            assert table["a"] == {"text": "from the first", "number": 6, "raw": b"", "share": 0.0}
            table["b"] = row(1)
            table["a"] = {"text": "from here"}
        out, _ = second.communicate("\n", timeout=PATIENCE)
    assert out == "from here 2\n"
    assert second.returncode == 0


def test_many_open_a_name_at_once(name: str) -> None:
    def child() -> None:
        with Shared(COLUMNS, 10, name=name) as table:
            for _ in range(50):
                table.incr("a", "number")

    assert [exit_of(pid) for pid in [fork(child) for _ in range(8)]] == [0] * 8
    with Shared(COLUMNS, 10, name=name) as table:
        assert table.get("a", "number") == 400


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({**COLUMNS, "more": int}, {}),
        ({**COLUMNS, "number": float}, {}),
        ({**COLUMNS, "text": (bytes, 200)}, {}),
        (dict(reversed(COLUMNS.items())), {}),
        (COLUMNS, {"rows": 11}),
        (COLUMNS, {"rows": 1000}),
        (COLUMNS, {"key_size": 63}),
    ],
    ids=["another column", "type", "text", "order", "rows", "many rows", "key_size"],
)
def test_another_layout(name: str, columns: dict[str, Any], options: dict[str, int]) -> None:
    with Shared(COLUMNS, 10, name=name) as table:
        table["a"] = row(1)
        with pytest.raises(TableError, match=rf"{name}.*is there with.*not with columns=.*destroy"):
            Shared(columns, **{"rows": 10, **options}, name=name)
        assert table["a"] == row(1)


def test_a_destroyed_name_is_free_again(name: str) -> None:
    first = Shared(COLUMNS, 10, name=name)
    first["a"] = row(1)
    first.destroy()
    with Shared({"other": int}, name=name) as second:
        assert len(second) == 0
        second.destroy()
    with pytest.raises(TableClosedError, match=name):
        first.get("a")


def test_killed_while_it_is_made(name: str) -> None:
    """At any store into the new memory: who comes next makes it anew."""

    def make(store: int) -> None:
        left = itertools.count(store, -1)
        keep = cells.Cells.keep_layout

        def keep_mortal(self: cells.Cells, layout: bytes) -> None:
            for attribute in ("_words", "_bytes"):
                setattr(self, attribute, Mortal(getattr(self, attribute), left))
            keep(self, layout)

        cells.Cells.keep_layout = keep_mortal  # type: ignore[method-assign]
        Shared(COLUMNS, 10, name=name)

    for store in itertools.count():
        outcome = exit_of(fork(lambda: make(store)))  # noqa: B023  # runs at once
        with Shared(COLUMNS, 10, name=name) as table:
            table["a"] = row(1)
            table.destroy()
        if outcome == 0:
            break
        assert outcome == -signal.SIGKILL
    assert store == 2
