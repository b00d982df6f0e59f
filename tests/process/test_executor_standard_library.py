"""The standard library's own tests of executors, `test.test_concurrent_futures`, on `ForkExecutor`.

They look into a `ProcessPoolExecutor`, for which there is `AsProcessPool`, expect its errors, in place of
which stand ours, and start programs that import it, which import ours. Their tests of `Future` are not here:
its futures are theirs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from multiprocessing_kit import ForkExecutor, SerializationError, WorkerLostError

ROOT = Path(__file__).parents[2]
LATEST = 30.0  # seconds, where the right answer takes a fraction of one

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

script_helper: Any = pytest.importorskip("test.support.script_helper")
suite = pytest.importorskip(
    "test.test_concurrent_futures", reason="this Python comes without its tests of concurrent.futures"
)


def part(name: str) -> Any:
    """A module of theirs; Python 3.10 and 3.11 have one for all."""
    return importlib.import_module(f"{suite.__name__}.{name}") if hasattr(suite, "__path__") else suite


util, process_pool, shutdown, init = map(part, ("util", "test_process_pool", "test_shutdown", "test_init"))
wait, as_completed, deadlock = map(part, ("test_wait", "test_as_completed", "test_deadlock"))

NOT_OURS = {
    "test_max_workers_too_large": "of Windows",
    "test_max_workers_negative": "the words of a message; ours is in test_executor.py",
    "test_killed_child": "there, a child's death breaks the executor; here it is one call's at most",
    "test_cancel_futures": "some calls have begun by then, there; ours is in test_executor.py",
    "test_traceback": "the type of a cause that is not documented; ours is in test_refused.py",
    "test_idle_process_reuse_one": "there, children come one by one; here all are forked at the first call",
    "test_idle_process_reuse_multiple": "as before",
    "test_max_tasks_per_child": "not with fork, there; ours is in test_executor.py",
    "test_max_tasks_per_child_defaults_to_spawn_context": "there are no start methods here",
    "test_python_finalization_error": "of a second thread, which there is not",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "of its pipe, in place of which it puts another",
}

RAISES = {
    "test_error_at_task_unpickle": SerializationError,
    "test_exit_at_task_unpickle": SerializationError,
    "test_exit_during_result_pickle_on_worker": SerializationError,
    "test_error_during_result_unpickle_in_result_handler": SerializationError,
    "test_exit_during_result_unpickle_in_result_handler": SerializationError,
}
"""Where theirs has another error: that it is broken altogether, or what pickling raised."""


def without(base: Any) -> Any:
    """A class of theirs, without the tests that do not apply."""
    return type(base.__name__, (base,), dict.fromkeys(NOT_OURS))


class Process:
    """Of an executor, while it is there or afterwards."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def join(self) -> None:
        """They wait for it once the executor has ended: it must be gone."""
        assert not psutil.pid_exists(self._pid)


class AsProcessPool(ForkExecutor):
    """With what they see of a `ProcessPoolExecutor`."""

    _call_queue = SimpleNamespace(join_thread=int)

    def __init__(self, max_workers: int | None = None, mp_context: object = None, **options: Any) -> None:
        super().__init__(max_workers, **options)
        self._max_workers = self._size

    @property
    def _processes(self) -> dict[int, Process]:
        return {pid: Process(pid) for pid in self._started().pids}

    @property
    def _executor_manager_thread(self) -> Any:
        return self._started()._thread

    @property
    def _broken(self) -> bool:
        return not self._executor_manager_thread.is_alive()


def python_ok(option: str, program: str) -> tuple[int, bytes, bytes]:
    """Their `assert_python_ok`, with our executor in the program, and their name of our error."""
    theirs, ours = "concurrent.futures import", "multiprocessing_kit import ForkExecutor as"
    assert f"{theirs} AsProcessPool" in program
    program = program.replace(theirs, ours)
    status, out, errors = script_helper.assert_python_ok(option, program, PYTHONPATH=str(ROOT))
    return status, out, errors.replace(b"multiprocessing_kit.errors.PoolClosedError", b"RuntimeError")


class Ours(without(util.ExecutorMixin)):  # type: ignore[misc]
    """In the place of their `ProcessPoolForkMixin`."""

    executor_type = AsProcessPool
    _testMethodName: str

    @pytest.fixture(autouse=True)
    def _in_place_of_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # For those that make one of their own; none is left out as one of a ProcessPoolExecutor.
        other = type("ProcessPoolExecutor", (AsProcessPool,), {})
        monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", other)
        monkeypatch.setattr(shutdown, "assert_python_ok", python_ok)
        monkeypatch.setattr(deadlock, "PicklingError", SerializationError)
        monkeypatch.setattr(deadlock, "BrokenProcessPool", WorkerLostError)
        # SIGALRM is what ends a test of ours that hangs.
        no_alarm = SimpleNamespace(SIGALRM=0, alarm=int, signal=lambda *_: None)
        monkeypatch.setattr(shutdown, "signal", no_alarm)

    def get_context(self) -> Any:
        """For their semaphores and managers."""
        if self._testMethodName == "test_max_tasks_early_shutdown":  # with fork, theirs has no such limit
            return SimpleNamespace(get_start_method=lambda allow_none: "ours")
        return multiprocessing.get_context("fork")


class Base(without(util.BaseTestCase)):  # type: ignore[misc]
    """Looks for threads at the end."""

    def tearDown(self) -> None:
        """As theirs. An error of pickling has the frames that handed in, and through them the executor."""
        gc.collect()
        super().tearDown()


class TestCalls(without(process_pool.ProcessPoolExecutorTest), Ours, Base):  # type: ignore[misc]
    pass


class TestShutdown(without(shutdown.ProcessPoolShutdownTest), Ours, Base):  # type: ignore[misc]
    pass


@pytest.mark.thorough
class TestWait(without(wait.WaitTests), Ours, Base):  # type: ignore[misc]
    pass


@pytest.mark.thorough
class TestAsCompleted(without(as_completed.AsCompletedTests), Ours, Base):  # type: ignore[misc]
    pass


class TestInitializer(without(init.InitializerMixin), Ours, Base):  # type: ignore[misc]
    pass


class TestFailingInitializer(without(init.FailingInitializerMixin), Ours, Base):  # type: ignore[misc]
    def _assert_logged(self, _message: str) -> Any:
        """Theirs logs why; our error says it."""
        return contextlib.nullcontext()


class TestDeadlock(without(deadlock.ExecutorDeadlockTest), Ours, Base):  # type: ignore[misc]
    def _check_crash(self, error: type[BaseException], *call: Any, **options: Any) -> None:
        super()._check_crash(RAISES.get(self._testMethodName, error), *call, **options)
