"""The standard library's own tests of the locks of `multiprocessing`, on ours."""

from __future__ import annotations

import multiprocessing
import unittest
from typing import Any

import pytest

from multiprocessing_kit.lockers import (
    ConditionLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
)

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

suite = pytest.importorskip(
    "test._test_multiprocessing", reason="this Python comes without its tests of multiprocessing"
)
fork = multiprocessing.get_context("fork")

NOT_OURS = {
    "test_semaphore": "of a semaphore that may be released more often than acquired: ours are bounded",
    "test_timeout": "of a semaphore without permits",
}


class Counted(SemaphoreLocker):
    """With the number of free permits."""

    def get_value(self) -> int:
        """As there."""
        return self._set.value(0)


class Ours:
    """What they take from the class that they are mixed into."""

    TYPE = "processes"
    Process: Any = staticmethod(fork.Process)
    Event: Any = staticmethod(fork.Event)
    Value: Any = staticmethod(fork.Value)
    Pipe: Any = staticmethod(fork.Pipe)
    RLock = ReentrantLocker
    BoundedSemaphore = Counted


class TestMutex(Ours, suite._TestLock, unittest.TestCase):  # type: ignore[misc, name-defined]
    Lock = MutexLocker


class TestSpin(Ours, suite._TestLock, unittest.TestCase):  # type: ignore[misc, name-defined]
    Lock = SpinLocker


class TestWriter(Ours, suite._TestLock, unittest.TestCase):  # type: ignore[misc, name-defined]
    @staticmethod
    def Lock() -> Any:
        """The side of the writer."""
        return RWLocker().writer


class TestSemaphore(Ours, type("", (suite._TestSemaphore,), dict.fromkeys(NOT_OURS)), unittest.TestCase):  # type: ignore[misc]
    pass


class TestCondition(Ours, suite._TestCondition, unittest.TestCase):  # type: ignore[misc, name-defined]
    Lock = MutexLocker
    Semaphore: Any = staticmethod(fork.Semaphore)  # by which its processes tell that they sleep
    Condition = ConditionLocker

    @classmethod
    def setUpClass(cls) -> None:
        """Have the shared memory of `multiprocessing`, which stays, before descriptors are counted."""
        super().setUpClass()
        fork.Value("i", 0)

    def check_invariant(self, _condition: Any) -> None:
        """Theirs is of the semaphores of its own."""
