"""The standard library's own tests of `multiprocessing.Pool`, on `Pool`.

They look for the pool's processes, which `AsPool` shows, and some take `multiprocessing.Pool` itself, in the
place of which stands ours.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from multiprocessing_kit import Pool, SerializationError

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

script_helper: Any = pytest.importorskip("test.support.script_helper")
assert_python_ok = script_helper.assert_python_ok
suite = pytest.importorskip(
    "test._test_multiprocessing", reason="this Python comes without its tests of multiprocessing"
)

NOT_OURS = {
    "test_map_unplicklable": "there, what pickling raises; here SerializationError, see below",
    "test_unpickleable_result": "there, an error that is not documented; here SerializationError, see below",
    "test_traceback": "the type of a cause that is not documented; ours is in test_refused.py",
    "test_resource_warning": "it writes into the pool's own state",
    # the only one in `TestInitializers` that is about pools
    "test_pool_initializer": "there, each process calls it when it starts; here, before its first call",
}


def without(base: Any) -> Any:
    """A class of theirs, without the tests that do not apply."""
    return type(base.__name__, (base,), dict.fromkeys(NOT_OURS))


class Process:
    """One of the pool's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        """As there."""
        return psutil.pid_exists(self.pid)


class AsPool(Pool):
    """With what they see of a `multiprocessing.Pool`."""

    @property
    def _pool(self) -> list[Process]:
        return [Process(pid) for pid in self._engine.pids]

    def _repopulate_pool(self) -> None:
        """Ours does so at once, by itself."""


def python_ok(option: str, program: str) -> Any:
    """Their `assert_python_ok`, with our pool in the program."""
    theirs, ours = "from multiprocessing import Pool", "from multiprocessing_kit import Pool"
    assert theirs in program
    return assert_python_ok(option, program.replace(theirs, ours), PYTHONPATH=str(ROOT))


class Ours:
    """What they take from the class that they are mixed into."""

    TYPE = "processes"
    Pool = AsPool

    @pytest.fixture(autouse=True)
    def _in_place_of_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multiprocessing, "Pool", AsPool)
        monkeypatch.setattr(script_helper, "assert_python_ok", python_ok)


class TestPool(Ours, without(suite._TestPool), unittest.TestCase):  # type: ignore[misc]
    pass


class TestErrors(Ours, without(suite._TestPoolWorkerErrors), unittest.TestCase):  # type: ignore[misc]
    pass


class TestLifetime(Ours, without(suite._TestPoolWorkerLifetime), unittest.TestCase):  # type: ignore[misc]
    pass


def test_in_a_child_of_multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As their `test_pool_in_process`, which does not look how that child ends."""
    monkeypatch.setattr(multiprocessing, "Pool", AsPool)
    child = multiprocessing.get_context("fork").Process(target=suite.pool_in_process)
    child.start()
    child.join()
    assert child.exitcode == 0
    child.close()


# What does not run as it is.


class Unpicklable:
    """Raises an error of its own."""

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot pickle")


CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(len, (Unpicklable(),)),
    "map": lambda pool: pool.map(len, [Unpicklable()] * 10),
    "starmap": lambda pool: pool.starmap(len, [(Unpicklable(),)] * 10),
    "imap": lambda pool: list(pool.imap(len, [Unpicklable()] * 10)),
    "imap_unordered": lambda pool: list(pool.imap_unordered(len, [Unpicklable()] * 10)),
    "a result": lambda pool: pool.apply(Unpicklable),
    "a result of a map": lambda pool: pool.starmap(Unpicklable, [()] * 10),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_cannot_be_pickled(call: Callable[[Any], Any]) -> None:
    """It says so, and the pool goes on."""
    with Pool(2) as pool:
        for _ in range(20):
            with pytest.raises(SerializationError, match="cannot pickle"):
                call(pool)
        assert pool.apply(abs, (-1,)) == 1
