"""The standard library's own tests of waiting for connections and of signals meanwhile, on `Pipe`.

Those of sending, receiving and `poll` are in test_pipe.py.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from multiprocessing_kit.pipe import Pipe

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

suite = pytest.importorskip(
    "test._test_multiprocessing", reason="this Python comes without its tests of multiprocessing"
)

NOT_OURS = {
    "test_wait_socket": "of sockets",
    "test_wait_socket_slow": "of sockets",
    "test_ignore_listener": "of listeners, which ours has not",
}


def without(base: Any) -> Any:
    """A class of theirs, without the tests that do not apply."""
    return type(base.__name__, (base,), dict.fromkeys(NOT_OURS))


class Ours:
    """They take `multiprocessing.Pipe`: ours is put in its place."""

    @pytest.fixture(autouse=True)
    def _in_place_of_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multiprocessing, "Pipe", Pipe)


class TestWait(Ours, without(suite.TestWait)):  # type: ignore[misc]
    pass


class TestSignals(Ours, without(suite.TestIgnoreEINTR)):  # type: ignore[misc]
    pass
