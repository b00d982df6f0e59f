"""`ForkExecutor`: what `concurrent.futures` promises, and what it does not."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import (
    ForkExecutor,
    JobEvent,
    PoolClosedError,
    PoolError,
    SerializationError,
    WorkerLostError,
)
from tests.forks import in_child
from tests.process.test_crashes import quietly

ROOT = Path(__file__).parents[2]
LATEST = 30.0  # seconds, where the right answer takes a fraction of one

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

initialized = ""


def initialize(value: str) -> None:
    global initialized  # noqa: PLW0603
    initialized = value


def tell_initialized(_: object = None) -> str:
    return initialized


def increment(number: int) -> int:
    return number + 1


def add(left: int, right: int = 10, *, more: int = 0) -> int:
    return left + right + more


def exits_at_5(number: int) -> int:
    if number == 5:
        quietly()
        os._exit(3)
    return number


def exits_behind(item: int | Path) -> int:
    """Where the item is a pipe: when its other end is closed."""
    if isinstance(item, Path):
        quietly()
        item.read_text()
        os._exit(3)
    return item


def notes_and_exits_at_5(notes: Path, number: int) -> int:
    with notes.open("a") as file:
        file.write(f"{number}\n")
    return exits_at_5(number)


def raises_at_7(number: int) -> int:
    if number == 7:
        raise ValueError(number)
    return number


def exits_by_sys_at_7(number: int) -> int:
    if number == 7:
        sys.exit(4)
    return number


def pid(_: object = None) -> int:
    return os.getpid()


def wait_for(path: Path) -> str:
    """Until the other end of the pipe is closed."""
    return path.read_text()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe; to open it for writing waits until a job reads it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@contextmanager
def waiting_at(gate: Path) -> Iterator[None]:
    """A job reads the pipe, and goes on afterwards. Who comes next finds another pipe."""
    with gate.open("w"):
        gate.unlink()
        os.mkfifo(gate)
        yield


class Looks:
    """Like a response, and unlike one, whose result is itself."""

    ok, body, exception, exit_code = False, 1, None, 3


# ── submit ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda submit: submit(increment, 1), 2),
        (lambda submit: submit(add, 1), 11),
        (lambda submit: submit(add, 1, right=2, more=3), 6),
        (lambda submit: submit(dict, fn=1, self=2), {"fn": 1, "self": 2}),
        (lambda submit: submit(len, b"." * 300_000), 300_000),
        (lambda submit: submit(bytes, 300_000), bytes(300_000)),
    ],
)
def test_submit(call: Callable[[Any], Future[Any]], result: object) -> None:
    with ForkExecutor(2) as executor:
        assert call(executor.submit).result(LATEST) == result


@pytest.mark.parametrize(
    ("function", "argument", "raises"),
    [
        (raises_at_7, 7, ValueError),
        (exits_by_sys_at_7, 7, SystemExit),
        (exits_at_5, 5, WorkerLostError),
        (lambda: 0, (), SerializationError),
        (os.strerror, lambda: 0, SerializationError),
        (threading.Lock, None, TypeError),
    ],
)
def test_a_call_that_fails(function: Any, argument: object, raises: type[BaseException]) -> None:
    """Others are not concerned."""
    with ForkExecutor(2) as executor:
        before = [executor.submit(increment, number) for number in range(50)]
        bad = executor.submit(function, argument)
        after = [executor.submit(increment, number) for number in range(50)]
        assert isinstance(bad.exception(LATEST), raises)
        assert [future.result(LATEST) for future in before + after] == [*range(1, 51)] * 2


def test_what_looks_like_a_response_is_a_result() -> None:
    with ForkExecutor(1) as executor:
        assert isinstance(executor.submit(Looks).result(LATEST), Looks)


def test_children_that_are_killed_lose_nothing() -> None:
    with ForkExecutor(3, crash_retries=100) as executor:
        made = [executor.submit(increment, number) for number in range(3000)]
        for _ in range(10):
            os.kill(executor.submit(pid).result(LATEST), signal.SIGKILL)
        assert [future.result(LATEST) for future in made] == [*range(1, 3001)]


def test_from_many_threads() -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        made = [executor.submit(increment, number * 1000 + place) for place in range(200)]
        results[number] = [future.result(LATEST) for future in made]

    with ForkExecutor(2) as executor:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LATEST)
    assert results == {n: [n * 1000 + place + 1 for place in range(200)] for n in range(8)}


def test_cancel(gate: Path) -> None:
    with ForkExecutor(1) as executor:
        running = executor.submit(wait_for, gate)
        with gate.open("w") as pipe:
            made = [executor.submit(increment, number) for number in range(2000)]
            canceled = [future.cancel() for future in made]
            assert canceled[-1]
            assert not running.cancel()
            pipe.write("done")
        assert running.result(LATEST) == "done"
        for future, was_canceled in zip(made, canceled, strict=True):
            if was_canceled:
                with pytest.raises(CancelledError):
                    future.result(LATEST)
            else:
                assert future.result(LATEST)


def test_callbacks() -> None:
    done: list[int] = []
    with ForkExecutor(2) as executor:
        for number in range(20):
            executor.submit(increment, number).add_done_callback(lambda future: done.append(future.result()))
    assert sorted(done) == [*range(1, 21)]


def test_asyncio() -> None:
    async def main(executor: ForkExecutor) -> list[int]:
        loop = asyncio.get_running_loop()
        some = [loop.run_in_executor(executor, increment, number) for number in range(50)]
        others = [asyncio.wrap_future(executor.submit(increment, number)) for number in range(50)]
        return await asyncio.gather(*some, *others)

    with ForkExecutor(2) as executor:
        assert asyncio.run(main(executor)) == [*range(1, 51)] * 2


# ── map ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 7}, {"buffersize": 3}])
@pytest.mark.parametrize("kind", [list, tuple, iter, range])
def test_map(options: dict[str, int], kind: Any) -> None:
    with ForkExecutor(2) as executor:
        items = range(500) if kind is range else kind(range(500))
        assert list(executor.map(increment, items, **options)) == [*range(1, 501)]
        assert list(executor.map(add, [1, 2, 3], [10, 20], **options)) == [11, 22]
        assert list(executor.map(increment, [], **options)) == []


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 50}])
@pytest.mark.parametrize(
    ("function", "raises", "results"),
    [
        (raises_at_7, ValueError, [*range(7)]),
        (exits_at_5, WorkerLostError, [*range(5)]),
    ],
)
def test_a_map_in_which_a_call_fails(
    function: Any, raises: type[BaseException], results: list[int], options: dict[str, int]
) -> None:
    """All results before it are there, however the calls travelled."""
    with ForkExecutor(2, crash_retries=0) as executor:
        found: list[int] = []
        with pytest.raises(raises):
            found.extend(executor.map(function, range(100), **options))
        assert found == results
        assert executor.submit(increment, 1).result(LATEST) == 2


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_a_chunk_that_dies_after_the_shutdown(cancel_futures: bool, gate: Path) -> None:
    """Its calls are made one by one all the same."""
    executor = ForkExecutor(1)
    results = executor.map(exits_behind, [0, 1, gate, 3], chunksize=4)
    with waiting_at(gate):
        executor.shutdown(wait=False, cancel_futures=cancel_futures)
    for _ in range(5):  # in the chunk and alone, three times each
        with waiting_at(gate):
            pass
    executor.shutdown()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(WorkerLostError):
        next(results)


def test_what_is_left_of_a_chunk_that_died_is_canceled(gate: Path) -> None:
    executor = ForkExecutor(1, crash_retries=0)
    results = executor.map(exits_behind, [gate, *range(5000)], chunksize=5001)
    with waiting_at(gate):
        pass
    with waiting_at(gate):
        executor.shutdown(wait=False, cancel_futures=True)
    executor.shutdown()
    with pytest.raises(CancelledError):
        next(results)


@pytest.mark.parametrize("way", ["submit", "map"])
def test_without_crash_retries_nothing_runs_twice(way: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with ForkExecutor(2, crash_retries=0) as executor:
        call = partial(notes_and_exits_at_5, notes)
        if way == "submit":
            made = [executor.submit(call, number) for number in range(500)]
            assert [type(future.exception(LATEST)) for future in made].count(WorkerLostError) == 1
        else:
            with pytest.raises(WorkerLostError):
                list(executor.map(call, range(500)))
    runs = Counter(notes.read_text().split())
    assert runs["5"] == 1
    assert set(runs.values()) == {1}


def test_a_buffered_map_takes_items_as_results_are_taken() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10**9):
            taken.append(number)
            yield number

    with ForkExecutor(2) as executor:
        results = executor.map(increment, items(), buffersize=4)
        assert len(taken) == 4
        assert [next(results) for _ in range(10)] == [*range(1, 11)]
        assert len(taken) == 14
        results.close()  # type: ignore[attr-defined]


def test_a_map_that_takes_too_long(gate: Path) -> None:
    with ForkExecutor(1) as executor:
        results = executor.map(wait_for, [gate], timeout=0.05)
        with gate.open("w"), pytest.raises(futures.TimeoutError):
            next(results)


# ── life ──────────────────────────────────────────────────────────────────────────────────────────


def test_initializer() -> None:
    with ForkExecutor(2, initializer=initialize, initargs=("here",)) as executor:
        assert set(executor.map(tell_initialized, range(20), chunksize=1)) == {"here"}
    assert not initialized


def test_an_initializer_that_fails() -> None:
    with ForkExecutor(2, initializer=increment, initargs=("text",)) as executor:
        made = [executor.submit(increment, number) for number in range(10)]
        for future in made:
            assert isinstance(future.exception(LATEST), PoolError)
        with pytest.raises(PoolError):
            executor.submit(increment, 1)


def test_children_are_replaced() -> None:
    with ForkExecutor(2, max_tasks_per_child=1) as executor:
        pids = list(executor.map(pid, range(20), chunksize=1))
    assert len(set(pids)) == 20


def test_events() -> None:
    heard: list[tuple[JobEvent, int]] = []
    with ForkExecutor(2) as executor:
        for event in (JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED):
            executor.on(event, lambda _, event, argument: heard.append((event, argument[1][0])))
        futures.wait([executor.submit(raises_at_7, number) for number in range(10)])
    assert {argument for event, argument in heard if event is JobEvent.JOB_FAILED} == {7}
    assert {argument for event, argument in heard if event is JobEvent.JOB_SUCCESS} == {*range(10)} - {7}


@pytest.mark.parametrize("started", [False, True])
def test_after_shutdown(started: bool) -> None:
    executor = ForkExecutor(2)
    if started:
        assert executor.submit(increment, 1).result(LATEST) == 2
    executor.shutdown()
    executor.shutdown()
    for use in (lambda: executor.submit(increment, 1), lambda: executor.map(increment, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            use()
        with pytest.raises(PoolClosedError):
            use()


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_without_waiting(cancel_futures: bool, gate: Path) -> None:
    executor = ForkExecutor(1)
    running = executor.submit(wait_for, gate)
    with gate.open("w") as pipe:
        last = [executor.submit(increment, number) for number in range(2000)][-1]
        executor.shutdown(wait=False, cancel_futures=cancel_futures)
        assert last.cancelled() == cancel_futures
        pipe.write("done")
    executor.shutdown()
    assert running.result(0) == "done"
    assert cancel_futures or last.result(0) == 2000


def test_dropped_without_shutdown() -> None:
    """What was handed in is done, and nothing stays."""
    executor = ForkExecutor(2)
    gone = weakref.ref(executor)
    made = [executor.submit(increment, number) for number in range(100)]
    del executor
    gc.collect()
    assert gone() is None
    assert [future.result(LATEST) for future in made] == [*range(1, 101)]
    for thread in threading.enumerate():
        if thread.name.startswith("mpkit"):
            thread.join(LATEST)


def test_the_end_of_the_program_waits() -> None:
    program = (
        "import sys, time\n"
        "from multiprocessing_kit import ForkExecutor\n"
        "executor = ForkExecutor(1)\n"
        "for n in range(3):\n"
        "    executor.submit(time.sleep, 0.05).add_done_callback(lambda f: print('done', flush=True))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=LATEST, cwd=ROOT
    )
    assert (result.stdout, result.stderr) == ("done\n" * 3, "")


def test_in_a_child_of_the_program() -> None:
    """Its thread is not there."""
    with ForkExecutor(1) as executor:
        executor.submit(increment, 1).result(LATEST)

        def child() -> None:
            with pytest.raises(PoolError):
                executor.submit(increment, 1)

        assert in_child(child) == 0


@pytest.mark.parametrize(
    ("options", "raises"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"max_workers": "2"}, TypeError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": 1.0}, TypeError),
        ({"crash_retries": -1}, ValueError),
        ({"crash_retries": "2"}, TypeError),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], raises: type[Exception]) -> None:
    with pytest.raises(raises, match=next(iter(options))):
        ForkExecutor(**options)


@pytest.mark.parametrize("options", [{"chunksize": 0}, {"buffersize": 0}, {"chunksize": -3}])
def test_map_arguments_that_make_no_sense(options: dict[str, Any]) -> None:
    with ForkExecutor(1) as executor, pytest.raises(ValueError, match=next(iter(options))):
        executor.map(increment, [1], **options)
