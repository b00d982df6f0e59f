"""What executors and pools refuse, as documented: ours and the standard library's are asked."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import pytest

from multiprocessing_kit import ForkExecutor, Pool, RemoteError

LATEST = 30.0  # seconds, where the right answer takes a fraction of one

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def inputs_that_raise() -> Iterator[int]:
    yield 1
    raise KeyError("here")


def canceled(executor: Executor, gate: int) -> Future[Any]:
    executor.submit(os.read, gate, 1)
    last: Future[Any] = [executor.submit(abs, -1) for _ in range(2000)][-1]
    assert last.cancel()
    return last


def done(executor: Executor) -> Future[Any]:
    future = executor.submit(abs, -1)
    future.result(LATEST)
    return future


def closed(executor: Executor) -> Executor:
    executor.shutdown()
    return executor


REFUSED_BY_EXECUTORS: dict[str, Callable[[Any, int], object]] = {
    "no function": lambda executor, _: executor.submit(),
    "what cannot be called": lambda executor, _: executor.submit(3).result(LATEST),
    "arguments that it does not take": lambda executor, _: executor.submit(abs, 1, 2).result(LATEST),
    "a call that exits": lambda executor, _: executor.submit(sys.exit, 3).result(LATEST),
    "a map over what is no iterable": lambda executor, _: executor.map(abs, 3),
    "a map over inputs that raise": lambda executor, _: executor.map(abs, inputs_that_raise()),
    "a map in chunks of nothing": lambda executor, _: executor.map(abs, [1], chunksize=0),
    "a map in no time": lambda executor, gate: next(executor.map(os.read, [gate], [1], timeout=0)),
    "a map in less than no time": lambda executor, gate: next(executor.map(os.read, [gate], [1], timeout=-1)),
    "a result in no time": lambda executor, gate: executor.submit(os.read, gate, 1).result(0),
    "an exception in no time": lambda executor, gate: executor.submit(os.read, gate, 1).exception(0),
    "the result of what was canceled": lambda executor, gate: canceled(executor, gate).result(LATEST),
    "the exception of what was canceled": lambda executor, gate: canceled(executor, gate).exception(LATEST),
    "a result that is there": lambda executor, _: done(executor).set_result(1),
    "an exception where a result is": lambda executor, _: done(executor).set_exception(ValueError()),
    "a call after shutdown": lambda executor, _: closed(executor).submit(abs, 1),
    "a map after shutdown": lambda executor, _: closed(executor).map(abs, [1]),
    "no children": lambda executor, _: type(executor)(0),
    "fewer than none": lambda executor, _: type(executor)(-1),
    "an initializer that cannot be called": lambda executor, _: type(executor)(1, initializer=3),
}


def error_of_executor(call: Callable[[Any, int], object], executor: Executor) -> type[BaseException]:
    """What it raises; what then waits is let go."""
    read, write = os.pipe()
    try:
        with executor:
            try:
                with pytest.raises(BaseException) as caught:  # noqa: PT011
                    call(executor, read)
            finally:
                os.write(write, b"go")
    finally:
        os.close(read)
        os.close(write)
    return caught.type


@pytest.mark.parametrize("call", REFUSED_BY_EXECUTORS.values(), ids=REFUSED_BY_EXECUTORS)
def test_executors_refuse(call: Callable[[Any, int], object]) -> None:
    theirs = error_of_executor(call, ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")))
    assert issubclass(error_of_executor(call, ForkExecutor(1)), theirs)


REFUSED_BY_POOLS: dict[str, Callable[[Any], object]] = {
    "what cannot be called": lambda pool: pool.apply(3),
    "arguments that are no iterable": lambda pool: pool.apply(abs, 3),
    "arguments that it does not take": lambda pool: pool.apply(abs, (1, 2)),
    "keyword arguments that it does not take": lambda pool: pool.apply(abs, (1,), {"key": 2}),
    "a map over what is no iterable": lambda pool: pool.map(abs, 3),
    "a map over inputs that raise": lambda pool: pool.map(abs, inputs_that_raise()),
    "a map of no function": lambda pool: pool.map(None, [1]),
    "a starmap over what cannot be unpacked": lambda pool: pool.starmap(abs, [1]),
    "an imap over what is no iterable": lambda pool: list(pool.imap(abs, 3)),
    "an imap in chunks of nothing": lambda pool: pool.imap(abs, [1], chunksize=0),
    "an imap_unordered in chunks of nothing": lambda pool: pool.imap_unordered(abs, [1], chunksize=0),
    "an imap_unordered, late": lambda pool: pool.imap_unordered(time.sleep, [60]).next(timeout=0),
    "a result in less than no time": lambda pool: pool.apply_async(time.sleep, (60,)).get(timeout=-1),
    "success before the end": lambda pool: pool.map_async(time.sleep, [60]).successful(),
    "no children": lambda pool: type(pool)(0),
    "fewer than none": lambda pool: type(pool)(-1),
    "an initializer that cannot be called": lambda pool: type(pool)(1, initializer=3),
    "tasks of no number": lambda pool: type(pool)(1, maxtasksperchild="12"),
    "another start": lambda pool: (pool.terminate(), pool.__enter__()),
    "map_async after close": lambda pool: (pool.close(), pool.map_async(abs, [1])),
    "starmap after close": lambda pool: (pool.close(), pool.starmap(abs, [(1,)])),
    "starmap_async after close": lambda pool: (pool.close(), pool.starmap_async(abs, [(1,)])),
}


def error_of_pool(call: Callable[[Any], object], pool: Any) -> type[BaseException]:
    with pool, pytest.raises(BaseException) as caught:  # noqa: PT011
        call(pool)
    pool.join()
    return caught.type


class StandardPool(multiprocessing.pool.Pool):
    """Forks, whatever is the default."""

    def __init__(self, processes: int, **options: Any) -> None:
        super().__init__(processes, context=multiprocessing.get_context("fork"), **options)


@pytest.mark.parametrize("call", REFUSED_BY_POOLS.values(), ids=REFUSED_BY_POOLS)
def test_pools_refuse(call: Callable[[Any], object]) -> None:
    theirs = error_of_pool(call, StandardPool(1))
    assert issubclass(error_of_pool(call, Pool(1)), theirs)


def raise_runtime_error() -> None:
    raise RuntimeError(123)  # some comment


def by_executor() -> None:
    with ForkExecutor(1) as executor:
        executor.submit(raise_runtime_error).result(LATEST)


def by_pool() -> None:
    with Pool(1) as pool:
        pool.apply(raise_runtime_error)


@pytest.mark.parametrize("call", [by_executor, by_pool])
def test_the_traceback_of_the_child(call: Callable[[], None]) -> None:
    """It is in the cause, so it is printed with the exception."""
    with pytest.raises(RuntimeError, match="123") as caught:
        call()
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "raise RuntimeError(123)  # some comment" in "".join(traceback.format_exception(caught.value))


def test_what_is_raised_here_has_no_cause() -> None:
    with Pool(1) as pool, pytest.raises(KeyError) as caught:
        pool.map(abs, inputs_that_raise(), 1)
    assert caught.value.__cause__ is None
