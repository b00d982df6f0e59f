"""`test.lock_tests` of the standard library, on our lockers, as far as it speaks of what is documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.lockers import (
    ConditionLocker,
    FileLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
)

pytestmark = pytest.mark.thorough

lock_tests: Any = pytest.importorskip("test.lock_tests")
PRIVATE = "test_at_fork_reinit", "test_recursion_count"  # methods that the documentation does not have


def without(base: type, *names: str) -> type:
    """A copy of a class of theirs that leaves out tests that do not apply."""
    return type(base.__name__, (base,), dict.fromkeys(name for name in names if hasattr(base, name)))


class TestTheirsOfMutex(without(lock_tests.LockTests, *PRIVATE)):  # type: ignore[misc]
    locktype = staticmethod(MutexLocker)


class TestTheirsOfSpin(without(lock_tests.LockTests, *PRIVATE)):  # type: ignore[misc]
    locktype = staticmethod(SpinLocker)


class TestTheirsOfWriter(without(lock_tests.LockTests, *PRIVATE, "test_repr", "test_locked_repr")):  # type: ignore[misc]
    @staticmethod
    def locktype() -> Any:
        return RWLocker().writer


class TestTheirsOfReentrant(without(lock_tests.RLockTests, *PRIVATE)):  # type: ignore[misc]
    locktype = staticmethod(ReentrantLocker)


class TestTheirsOfFile(without(lock_tests.LockTests, *PRIVATE)):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.numbers = iter(range(1000))
        self.folder = tmp_path

    def locktype(self) -> Any:
        return FileLocker(self.folder / str(next(self.numbers)))


class TestTheirsOfSemaphore(without(lock_tests.BoundedSemaphoreTests, "test_repr")):  # type: ignore[misc]
    semtype = staticmethod(SemaphoreLocker)


# A ConditionLocker goes with our lockers only, `test_acquire` gives it a threading.Lock.
class TestTheirsOfCondition(without(lock_tests.ConditionTests, "test_acquire")):  # type: ignore[misc]
    condtype = staticmethod(ConditionLocker)
