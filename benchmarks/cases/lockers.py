"""What a lock costs that nobody else wants: taken and given back, over and over."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.calls import RUNS, quickest
from benchmarks.harness import AtMost, Case, Contender, Scale
from multiprocessing_kit import (
    FileLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
)

__all__ = ["CASE"]

_PERMITS = 4

_FORK = multiprocessing.get_context("fork")


class _Flock:
    """What a `FileLocker` does at the least: open the file, lock it, close it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def acquire(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        os.close(self._file)


@contextmanager
def _ours(make: Callable[[], Any]) -> Iterator[Any]:
    locker = make()
    yield locker
    locker.destroy()


@contextmanager
def _theirs(make: Callable[..., Any], *arguments: object) -> Iterator[Any]:
    yield make(*arguments)


@contextmanager
def _file(make: Callable[[str], Any]) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        yield make(os.path.join(folder, "lock"))


def _pair(opener: Callable[..., AbstractContextManager[Any]], *arguments: object) -> Callable[[Scale], float]:
    """Measures microseconds for `acquire()` and `release()` together."""

    def measure(scale: Scale) -> float:
        with opener(*arguments) as lock:

            def work(pairs: int) -> None:
                for _ in range(pairs):
                    lock.acquire()
                    lock.release()

            return quickest(work, scale)

    return measure


CASE = Case(
    name="lockers",
    title=f"acquire and release, with nobody else there, the quickest of {RUNS} short runs",
    unit="us/pair",
    contenders=(
        Contender("MutexLocker", _pair(_ours, MutexLocker), AtMost(3)),
        Contender("SpinLocker", _pair(_ours, SpinLocker), AtMost(2.5)),
        Contender("ReentrantLocker", _pair(_ours, ReentrantLocker), ours=True),
        Contender(
            f"SemaphoreLocker, {_PERMITS} permits", _pair(_ours, lambda: SemaphoreLocker(_PERMITS)), ours=True
        ),
        Contender("RWLocker.reader", _pair(_ours, lambda: RWLocker().reader), ours=True),
        Contender("RWLocker.writer", _pair(_ours, lambda: RWLocker().writer), ours=True),
        Contender("FileLocker", _pair(_file, FileLocker), ours=True),
        Contender("multiprocessing.Lock", _pair(_theirs, _FORK.Lock)),
        Contender("multiprocessing.RLock", _pair(_theirs, _FORK.RLock)),
        Contender(
            f"multiprocessing.Semaphore, {_PERMITS} permits", _pair(_theirs, _FORK.Semaphore, _PERMITS)
        ),
        Contender("threading.Lock", _pair(_theirs, threading.Lock)),
        Contender("fcntl.flock on a file opened for it", _pair(_file, _Flock)),
    ),
    rounds=3,
)
