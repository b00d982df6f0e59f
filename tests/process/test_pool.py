"""`Pool`: what `multiprocessing.pool.Pool` promises, run on both, and what only ours does."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool as StandardPool
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, Pool, PoolClosedError, PoolError, PoolFullError, WorkerLostError
from tests.process.test_executor import (
    add,
    exits_at_5,
    exits_behind,
    gate,
    increment,
    initialize,
    pid,
    raises_at_7,
    tell_initialized,
    wait_for,
    waiting_at,
)

__all__ = ["gate"]  # a fixture

LATEST = 30.0

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def pool() -> Iterator[Pool]:
    """One of two children."""
    with Pool(2) as made:
        yield made
    made.join()


def standard() -> StandardPool:
    """The same of the standard library."""
    return multiprocessing.get_context("fork").Pool(2)


def raised(call: Callable[[], object]) -> tuple[type[BaseException], tuple[object, ...]]:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return type(caught.value), caught.value.args


# ── as the standard library's ─────────────────────────────────────────────────────────────────────

CALLS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "apply": (lambda pool: pool.apply(add, (1,), {"more": 2}), 13),
    "apply_async": (lambda pool: pool.apply_async(add, [1, 2]).get(LATEST), 3),
    "map": (lambda pool: pool.map(increment, range(100)), [*range(1, 101)]),
    "map of an iterator": (lambda pool: pool.map(increment, iter(range(100))), [*range(1, 101)]),
    "map, chunks": (lambda pool: pool.map(increment, [*range(100)], chunksize=7), [*range(1, 101)]),
    "map of nothing": (lambda pool: pool.map(increment, []), []),
    "map_async": (lambda pool: pool.map_async(increment, (1, 2)).get(LATEST), [2, 3]),
    "map_async of nothing": (lambda pool: pool.map_async(increment, []).get(LATEST), []),
    "starmap": (lambda pool: pool.starmap(add, [(1, 2), (3, 4)]), [3, 7]),
    "starmap_async": (lambda pool: pool.starmap_async(add, zip([1, 2], [3, 4])).get(LATEST), [4, 6]),  # noqa: B905
    "imap": (lambda pool: list(pool.imap(increment, range(500))), [*range(1, 501)]),
    "imap, chunks": (lambda pool: list(pool.imap(increment, range(500), 30)), [*range(1, 501)]),
    "imap, next": (lambda pool: pool.imap(increment, [1]).next(LATEST), 2),
    "imap of nothing": (lambda pool: list(pool.imap(increment, [])), []),
    "imap_unordered": (lambda pool: sorted(pool.imap_unordered(increment, range(500))), [*range(1, 501)]),
}


@pytest.mark.parametrize(("call", "result"), CALLS.values(), ids=CALLS)
def test_results(call: Callable[[Any], Any], result: object, pool: Pool) -> None:
    assert call(pool) == result


def test_these_are_the_results_of_the_standard_library() -> None:
    with standard() as pool:
        for call, result in CALLS.values():
            assert call(pool) == result
    pool.join()


FAILURES: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(raises_at_7, (7,)),
    "apply_async": lambda pool: pool.apply_async(raises_at_7, (7,)).get(LATEST),
    "map": lambda pool: pool.map(raises_at_7, range(100)),
    "starmap": lambda pool: pool.starmap(raises_at_7, [(7,)]),
    "imap": lambda pool: list(pool.imap(raises_at_7, range(100))),
    "imap_unordered": lambda pool: list(pool.imap_unordered(raises_at_7, range(100))),
    "late": lambda pool: pool.apply_async(signal.pause).get(0.01),
    "imap, late": lambda pool: pool.imap(os.read, []).next(0.01),
    "chunks of none": lambda pool: pool.imap(increment, [1], 0),
    "join too early": lambda pool: pool.join(),
    "not ready": lambda pool: pool.apply_async(signal.pause).successful(),
    "pickled": pickle.dumps,
}


@pytest.mark.parametrize("call", FAILURES.values(), ids=FAILURES)
def test_failures(call: Callable[[Any], Any]) -> None:
    """Both raise the same."""
    with standard() as theirs:
        expected, _ = raised(lambda: call(theirs))
    theirs.join()
    with Pool(2) as ours:
        found, _ = raised(lambda: call(ours))
    assert found is expected


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: pool.apply(increment, (1,)),
        lambda pool: pool.apply_async(increment, (1,)),
        lambda pool: pool.map(increment, [1]),
        lambda pool: pool.imap(increment, [1]),
        lambda pool: pool.imap_unordered(increment, [1]),
        lambda pool: pool.__enter__(),
    ],
)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_after_the_end(use: Callable[[Any], object], end: str, pool: Pool) -> None:
    getattr(pool, end)()
    with pytest.raises(ValueError, match="Pool not running"):
        use(pool)


@pytest.mark.parametrize("make", [standard, lambda: Pool(2)], ids=["standard", "ours"])
@pytest.mark.parametrize("way", ["imap", "imap_unordered"])
def test_an_iterator_outlives_the_end(make: Callable[[], Any], way: str) -> None:
    """What is left of its items is handed in by `close`."""
    pool = make()
    results = getattr(pool, way)(increment, iter(range(1000)))
    pool.close()
    pool.join()
    assert sorted(results) == [*range(1, 1001)]


def test_an_iterator_goes_on_behind_an_error(pool: Pool) -> None:
    results, errors = [], 0
    iterator = pool.imap(raises_at_7, range(10))
    for _ in range(10):
        try:
            results.append(next(iterator))
        except ValueError:
            errors += 1
    assert (results, errors) == ([0, 1, 2, 3, 4, 5, 6, 8, 9], 1)
    assert next(iterator, None) is None


@pytest.mark.parametrize("way", ["imap", "imap_unordered"])
def test_inputs_that_raise(way: str, pool: Pool) -> None:
    def inputs() -> Iterator[int]:
        yield from range(5)
        raise KeyError("inputs")

    results: list[int] = []
    with pytest.raises(KeyError, match="inputs"):
        results.extend(getattr(pool, way)(increment, inputs()))
    assert sorted(results) == [1, 2, 3, 4, 5]


def test_callbacks(pool: Pool) -> None:
    heard: list[object] = []
    pool.apply_async(increment, (1,), callback=heard.append).wait(LATEST)
    pool.map_async(increment, [1, 2], callback=heard.append).wait(LATEST)
    pool.apply_async(raises_at_7, (7,), error_callback=lambda error: heard.append(type(error))).wait(LATEST)
    pool.map_async(raises_at_7, [7], error_callback=lambda error: heard.append(type(error))).wait(LATEST)
    pool.close()
    pool.join()
    assert heard == [2, [2, 3], ValueError, ValueError]


def test_ready_and_successful(pool: Pool, gate: Path) -> None:
    result = pool.apply_async(wait_for, (gate,))
    with gate.open("w"):
        assert not result.ready()
        result.wait(0.01)
        assert not result.ready()
    assert result.get(LATEST) == ""
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(raises_at_7, (7,))
    failed.wait(LATEST)
    assert not failed.successful()


def test_close_and_join_wait_for_all(pool: Pool) -> None:
    results = [pool.apply_async(increment, (number,)) for number in range(200)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == [*range(1, 201)]


# ── what only ours does ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunksize", [None, 1, 25])
def test_a_crash_fails_one_call(chunksize: int | None) -> None:
    with Pool(2, crash_retries=0) as pool:
        with pytest.raises(WorkerLostError):
            pool.map(exits_at_5, range(100), chunksize)
        iterator = pool.imap(exits_at_5, range(10))
        results = [raised(lambda: next(iterator))[0] if n == 5 else next(iterator) for n in range(10)]
        assert results == [0, 1, 2, 3, 4, WorkerLostError, 6, 7, 8, 9]
        assert pool.apply(increment, (1,)) == 2


def test_a_chunk_that_dies_after_the_end(gate: Path) -> None:
    pool = Pool(1, crash_retries=0)
    result = pool.map_async(exits_behind, [0, gate, 2], 3)
    with waiting_at(gate):
        pool.close()
    with waiting_at(gate):  # alone
        pass
    pool.join()
    assert result.ready()
    with pytest.raises(WorkerLostError):
        result.get(0)


def test_a_chunk_that_dies_with_an_item_that_is_no_tuple(gate: Path) -> None:
    with Pool(1, crash_retries=0) as pool:
        result = pool.starmap_async(exits_behind, [(gate,), 5], 2)  # type: ignore[list-item]
        with waiting_at(gate):
            pass
        with pytest.raises(TypeError):
            result.get(LATEST)


def test_children_that_are_killed_lose_nothing() -> None:
    with Pool(3, crash_retries=100) as pool:
        result = pool.map_async(increment, range(20_000), chunksize=10)
        for _ in range(10):
            os.kill(pool.apply(pid), signal.SIGKILL)
        assert result.get(LATEST) == [*range(1, 20_001)]


def test_a_full_pool(gate: Path) -> None:
    with Pool(1, maxsize=3) as pool:
        running = pool.apply_async(wait_for, (gate,))
        with gate.open("w"):
            waiting = [pool.apply_async(increment, (number,)) for number in range(2)]
            for call in (lambda: pool.apply_async(increment, (1,)), lambda: pool.map(increment, [1])):
                with pytest.raises(PoolFullError, match="may have 3") as caught:
                    call()
                assert caught.value.maxsize == 3
        assert running.get(LATEST) == ""
        assert [result.get(LATEST) for result in waiting] == [1, 2]
        assert list(pool.imap(increment, range(50))) == [*range(1, 51)]
        with pytest.raises(PoolFullError):
            pool.map(increment, range(4), chunksize=1)


def test_an_iterator_keeps_within_the_room(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    with Pool(1, maxsize=4) as pool:
        results = pool.imap(increment, range(20))
        for _ in range(4):
            while True:  # until one of the iterator's is done
                try:
                    pool.apply_async(wait_for, (tmp_path / "never",))
                    break
                except PoolFullError:
                    pass
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(PoolFullError, match="has 4 unanswered jobs and may have 4: no room for 1 more"):
            pool.apply_async(increment, (1,))


def test_events_of_maps() -> None:
    heard: list[tuple[str, bool, object]] = []
    with Pool(2) as pool:
        for event in (JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED):
            pool.on(
                event,
                lambda _, event, argument, response: heard.append((event.name, response.ok, argument)),
            )
        ways: list[tuple[Callable[[], object], object]] = [
            (lambda: pool.map(raises_at_7, [7, 8], 1), (raises_at_7, (7,), {})),
            (lambda: list(pool.imap(raises_at_7, [7, 8])), (raises_at_7, (7,), {})),
            (lambda: pool.starmap(raises_at_7, [(7,)]), (raises_at_7, (7,), {})),
            (lambda: pool.map(raises_at_7, [6, 7, 8], 3), None),
        ]
        for way, argument in ways:
            heard.clear()
            with pytest.raises(ValueError, match="7"):
                way()
            pool.apply(increment, (1,))  # what comes before it has been told of
            ((_, ok, failed),) = [one for one in heard if one[0] == "JOB_FAILED"]
            assert not ok
            assert failed == argument or argument is None


def test_events() -> None:
    heard: list[tuple[JobEvent, int]] = []
    with Pool(2) as pool:
        for event in (JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED):
            pool.on(event, lambda _, event, argument: heard.append((event, argument[1][0])))
        for result in [pool.apply_async(raises_at_7, (number,)) for number in range(10)]:
            result.wait(LATEST)
    assert sorted(argument for event, argument in heard if event is JobEvent.JOB_SUCCESS) == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        9,
    ]
    assert [argument for event, argument in heard if event is JobEvent.JOB_FAILED] == [7]


def test_initializer_and_tasks_per_child() -> None:
    with Pool(2, initialize, ("here",), 1) as pool:
        assert pool.map(tell_initialized, range(10), 1) == ["here"] * 10
        assert len(set(pool.map(pid, range(10), 1))) == 10


def test_an_initializer_that_fails() -> None:
    with Pool(2, increment, ("text",)) as pool, pytest.raises(PoolError):
        pool.apply(increment, (1,))


def test_terminate_ends_what_runs(gate: Path) -> None:
    """And nobody waits for ever."""
    pool = Pool(1)
    running = pool.apply_async(wait_for, (gate,))
    waiting = pool.map_async(increment, range(1000), chunksize=1)
    with gate.open("w"):
        pool.terminate()
        for result in (running, waiting):
            with pytest.raises(PoolError, match="terminated"):
                result.get(LATEST)
    pool.join()


def test_dropped() -> None:
    pool = Pool(2)
    assert pool.apply(increment, (1,)) == 2
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mpkit")]


def test_a_callback_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(1) as pool:
        bad = pool.apply_async(increment, (1,), callback=raises_at_7_always)
        assert bad.get(LATEST) == 2
        assert pool.apply(increment, (1,)) == 2
    assert "a callback of" in caplog.text


def raises_at_7_always(_: object) -> None:
    raises_at_7(7)


@pytest.mark.parametrize(
    ("options", "raises"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": "2"}, TypeError),
        ({"initializer": 3}, TypeError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxsize": -1}, ValueError),
        ({"crash_retries": -1}, ValueError),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], raises: type[Exception]) -> None:
    with pytest.raises(raises, match=next(iter(options))):
        Pool(**options)


def test_closed_is_what_the_standard_library_raises() -> None:
    assert issubclass(PoolClosedError, (RuntimeError, ValueError))
