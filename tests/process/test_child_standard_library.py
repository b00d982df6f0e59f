"""The standard library's own tests of `multiprocessing.Process`, on `Child`.

Left out are those of what a `Child` has not: start methods (`test_set_executable`, `test_forkserver_*`),
`daemon` and `authkey` (`test_daemon_argument`, `test_process`, `test_current`), `parent_process()`
(`test_parent_process*`), `active_children()` and `cpu_count()`, `close()`, a subclass with `run()`
(`test_subclassing`); `test_terminate` and `test_kill`, which call the methods of `multiprocessing.Process`
itself; `test_sentinel`, a descriptor for other code to wait for; and `test_stderr_flush`, of a traceback on
stderr, where a `Child` hands the exception to its parent.
"""

from __future__ import annotations

import multiprocessing
import unittest
from typing import Any

import pytest

from multiprocessing_kit.child import Child

suite = pytest.importorskip("test._test_multiprocessing")


class AsProcess(Child[Any]):
    """A `Child` under the names of `multiprocessing.Process`."""

    def __init__(self, target: Any = int, args: Any = (), kwargs: Any = None, daemon: bool = True) -> None:
        super().__init__(target, *args, **(kwargs or {}))
        self.daemon = daemon

    def join(self, timeout: float | None = None) -> None:
        """As there."""
        self.wait(timeout)

    def is_alive(self) -> bool:
        """As there."""
        return self.is_running


CHOSEN = {
    "test_args_argument",
    "test_child_fd_inflation",  # skips itself where children are forked
    "test_error_on_stdio_flush_1",
    "test_error_on_stdio_flush_2",
    "test_lose_target_ref",
    "test_many_processes",
    "test_process_mainthread_native_id",
    "test_recursion",
    "test_sys_exit",
    "test_wait_for_threads",
}
CLASSES = (suite._TestProcess, suite._TestSubclassingProcess)

TestStandardLibrary = type(
    "TestStandardLibrary",
    (*CLASSES, unittest.TestCase),
    {
        "TYPE": "processes",
        "Process": AsProcess,
        # multiprocessing.Queue writes by a thread, which a `Child` does not wait for.
        "Queue": staticmethod(lambda _maxsize=0: multiprocessing.SimpleQueue()),
        "Event": staticmethod(multiprocessing.Event),
        "Pipe": staticmethod(multiprocessing.Pipe),
    }
    | {
        name: None for each in CLASSES for name in dir(each) if name.startswith("test") and name not in CHOSEN
    },
)


def test_they_are_all_there() -> None:
    since_python_3_11 = {"test_args_argument"}
    assert {name for each in CLASSES for name in dir(each)} >= CHOSEN - since_python_3_11
