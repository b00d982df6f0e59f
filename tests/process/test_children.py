"""What children are like: how many there are, their titles, seeds, `setup()` and `teardown()`."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import termios
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from multiprocessing_kit import JobResponse, PoolError, Process, Worker


def run(process: Process, worker: Worker | Callable[[Any], Any], inputs: Iterable[Any]) -> list[JobResponse]:
    return cast("list[JobResponse]", process.map(worker, inputs))


def pids(responses: list[JobResponse]) -> set[int]:
    return {response.pid for response in responses}


class Meeting:
    """Each of `size` jobs goes on when all of them run, so each is in a child of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrivals, self._starts = os.pipe(), os.pipe()

    def wait(self) -> None:
        os.write(self._arrivals[1], b".")
        arrived = fcntl.ioctl(self._arrivals[0], termios.FIONREAD, bytes(4))
        if int.from_bytes(arrived, sys.byteorder) == self._size:
            os.write(self._starts[1], b"." * self._size)
        os.read(self._starts[0], 1)

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_exc: object) -> None:
        for fd in (*self._arrivals, *self._starts):
            os.close(fd)


def test_by_default_as_many_children_as_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing_kit.process.available_cpus", lambda: 3)
    with Meeting(3) as meeting:
        assert len(pids(run(Process(), lambda _: meeting.wait(), range(3)))) == 3


@pytest.mark.parametrize("source", ["random", "numpy"])
def test_random_numbers_differ_between_children(source: str) -> None:
    numpy_random = pytest.importorskip("numpy").random

    def draw(_: int) -> float:
        meeting.wait()
        return random.random() if source == "random" else float(numpy_random.rand())

    random.seed(1)
    numpy_random.seed(1)
    with Meeting(2) as meeting:
        bodies = [response.body for response in run(Process(2), draw, range(2))]
    assert len({*bodies, random.random() if source == "random" else float(numpy_random.rand())}) == 3


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads titles in Linux's /proc")
@pytest.mark.parametrize(
    ("name", "worker", "label"),
    [
        ("", Worker("times 3"), "times 3"),
        ("nightly", Worker("times 3"), "nightly"),
        ("", type("Unnamed", (Worker,), {})(), "Unnamed"),
    ],
)
def test_titles(monkeypatch: pytest.MonkeyPatch, name: str, worker: Worker, label: str) -> None:
    def title(_: object) -> bytes:
        meeting.wait()
        return Path("/proc/self/cmdline").read_bytes().rstrip(b"\0")

    monkeypatch.setattr(worker, "process", title)
    with Meeting(2) as meeting:
        titles = {response.body.decode() for response in run(Process(2, name=name), worker, range(2))}
    assert titles == {f"mpkit: worker {label} #0", f"mpkit: worker {label} #1"}


class Connected(Worker):
    """Writes its life to a file."""

    def __init__(self, path: Path, meeting: Meeting) -> None:
        super().__init__()
        self.path, self.meeting = path, meeting

    def write(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} {what}\n")

    def setup(self) -> None:
        self.write("setup")

    def process(self, argument: int) -> None:
        if argument < 2:
            self.meeting.wait()

    def teardown(self) -> None:
        self.write("teardown")


def test_setup_and_teardown_once_in_each_child(tmp_path: Path) -> None:
    path = tmp_path / "life"
    with Meeting(2) as meeting:
        worker = Connected(path, meeting)
        used = pids(run(Process(2), worker, range(50)))
    expected = {f"{pid} {what}" for pid in used for what in ("setup", "teardown")}
    assert len(used) == 2
    assert sorted(path.read_text().splitlines()) == sorted(expected)


def test_setup_that_fails() -> None:
    class Unreachable(Worker):
        def setup(self) -> None:
            raise ConnectionError("no database")

    with pytest.raises(PoolError, match=r"setup\(\) of worker .* failed: .*no database") as caught:
        Process(2).map(Unreachable(), range(5))
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.responses == []  # type: ignore[attr-defined]
