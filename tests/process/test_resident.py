"""A `Process` in a `with`: its children stay alive between maps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from multiprocessing_kit import JobEvent, JobResponse, PoolError, Process, Worker


class Times(Worker):
    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.extra: Any = None

    def process(self, argument: int) -> int:
        return argument * self.factor


class Plus(Worker):
    def process(self, argument: int) -> int:
        return argument + 1


def one_map(process: Process, worker: Worker | Callable[[Any], Any]) -> tuple[int, object]:
    """The pid of the only child, and what it made of 10."""
    (response,) = cast("list[JobResponse]", process.map(worker, [10]))
    return response.pid, response.body


def test_children_stay_and_notice_another_worker() -> None:
    worker = Times(2)
    with Process(1) as process:
        pid, body = one_map(process, worker)
        assert body == 20
        assert one_map(process, worker) == (pid, 20)
        worker.factor = 3
        assert one_map(process, worker) == (pid, 30)
        assert one_map(process, Plus()) == (pid, 11)
        assert one_map(process, len_of_repr) == (pid, 2)
        assert process.map(worker, []) == []
        assert one_map(process, Times(4)) == (pid, 40)
    assert not psutil.pid_exists(pid)


def test_an_iterator_that_was_never_asked_leaves_them_alone() -> None:
    with Process(1) as process:
        pid, _ = one_map(process, Times(2))
        process.imap(Times(3), [1])
        assert one_map(process, Times(2)) == (pid, 20)


def len_of_repr(value: object) -> int:
    return len(repr(value))


@pytest.mark.parametrize("extra", [threading.Lock(), lambda: None])
def test_a_worker_that_cannot_be_pickled_comes_by_fork(extra: object) -> None:
    worker = Times(2)
    worker.extra = extra
    with Process(1) as process:
        first, body = one_map(process, worker)
        assert body == 20
        worker.factor = 3
        second, body = one_map(process, worker)
        assert body == 30
        worker.extra = None
        third, body = one_map(process, worker)
        assert body == 30
        assert one_map(process, worker) == (third, 30)
    assert first != second


class StaysHome:
    """Unpickles only in the process where it was made."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() != state["home"]:
            raise ValueError("not here")
        self.__dict__.update(state)


def test_a_worker_that_does_not_unpickle_there_comes_by_fork() -> None:
    worker = Times(3)
    worker.extra = StaysHome(os.getpid())
    with Process(1) as process:
        first, _ = one_map(process, Times(2))
        second, body = one_map(process, worker)
    assert body == 30
    assert first != second


def hear(worker: Worker, path: Path, argument: int) -> None:
    with path.open("a") as file:
        file.write(f"{argument}\n")


def test_a_listener_added_between_maps_is_noticed(tmp_path: Path) -> None:
    worker, path = Times(2), tmp_path / "heard"
    with Process(1) as process:
        pid, _ = one_map(process, worker)
        worker.on(JobEvent.JOB_SUCCESS, hear, path)
        assert one_map(process, worker) == (pid, 20)
        assert path.read_text() == "10\n"
        worker.off(JobEvent.JOB_SUCCESS)
        assert one_map(process, worker) == (pid, 20)
        assert path.read_text() == "10\n"


class Connected(Worker):
    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name)
        self.path = path

    def write(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{what} {self.name}\n")

    def setup(self) -> None:
        self.write("setup")

    def process(self, argument: int) -> None:
        self.write("process")

    def teardown(self) -> None:
        self.write("teardown")


def test_setup_and_teardown_of_each_worker(tmp_path: Path) -> None:
    path = tmp_path / "life"
    with Process(1) as process:
        for name in ("a", "a", "b"):
            process.map(Connected(path, name), [1])
        assert "teardown b" not in path.read_text()
    lives = [["setup a", "process a", "process a", "teardown a"], ["setup b", "process b", "teardown b"]]
    assert path.read_text().splitlines() == lives[0] + lives[1]


class BrokenInputsError(Exception):
    pass


@pytest.mark.parametrize("failure", ["inputs", "setup", "imap dropped"])
def test_it_goes_on_after_a_failed_map(failure: str) -> None:
    class NoSetup(Worker):
        def setup(self) -> None:
            raise ValueError

    def inputs() -> Any:
        yield 1
        raise BrokenInputsError

    with Process(2) as process:
        if failure == "inputs":
            with pytest.raises(BrokenInputsError):
                process.map(Times(2), inputs())
        elif failure == "setup":
            with pytest.raises(PoolError):
                process.map(NoSetup(), [1, 2])
        else:
            next(process.imap(Times(2), range(1000)))
        assert one_map(process, Times(2))[1] == 20


def test_the_work_grows_and_shrinks() -> None:
    with Process(3) as process:
        for count in (1, 100, 2, 0, 50):
            bodies = [response.body for response in process.map(Times(2), range(count))]
            assert bodies == [2 * number for number in range(count)]


def test_closed_is_closed() -> None:
    with Process(1) as process:
        one_map(process, Times(2))
    for call in (process.map, process.imap):
        with pytest.raises(PoolError, match="shut down"):
            call(Times(2), [1])
    process.shutdown()


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_ends_the_children(wait: bool) -> None:
    process = Process(2).__enter__()
    process.map(Times(2), range(10))
    assert psutil.Process().children()
    process.shutdown(wait=wait)
    assert not psutil.Process().children()


def test_an_error_in_the_block_ends_the_children() -> None:
    process = Process(2)

    def block() -> None:
        with process:
            process.map(Times(2), range(10))
            raise BrokenInputsError

    with pytest.raises(BrokenInputsError):
        block()
    assert not psutil.Process().children()
