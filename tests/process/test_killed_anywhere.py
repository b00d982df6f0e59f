"""A child that is killed between any two instructions of its own: every job is still answered, once.

The child counts the instructions of the runner and of the rings under it, from its first job on, and kills
itself at a given one; maps are repeated, each with a later instant, until a child lives to its end. That
covers the reading of a lease, the announcing of a job, and each step of writing and publishing an answer.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

import multiprocessing_kit
from multiprocessing_kit import JobResponse, Process, RetryStrategy, RetryType, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a large arena")

PACKAGE = Path(multiprocessing_kit.__file__).parent
COUNTED = (str(PACKAGE / "runner"), str(PACKAGE / "ipc"))
LARGE = 1 << 18
JOBS = 6


class Mortal(Worker):
    """Its first child dies at an instant."""

    def __init__(self, instant: int, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.instant = instant
        self.folder = folder

    def setup(self) -> None:
        try:
            (self.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            return
        self.first = True
        self.log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.settrace(self.trace())

    def trace(self) -> Callable[[FrameType, str, Any], Any]:
        numbers = itertools.count()

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            if not frame.f_code.co_filename.startswith(COUNTED):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode" and next(numbers) == self.instant:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
            return trace

        return trace

    def process(self, argument: Any) -> Any:
        number = argument[0]
        with open(self.folder / "ran", "a") as ran:
            ran.write(f"{number}\n")
        if self.retry is not None and self.attempt == 1:
            raise ValueError(number)
        return argument

    def teardown(self) -> None:
        sys.settrace(None)
        if hasattr(self, "first"):
            (self.folder / "lived").touch()


def instants(folder: Path, stride: int) -> Iterator[tuple[int, Path]]:
    """One after the other, each with a folder of its own, until a child has lived to its end."""
    for number in itertools.count(0, stride):
        own = folder / str(number)
        own.mkdir()
        yield number, own
        if (own / "lived").exists():
            assert number > 500, "little was counted"
            return


STRIDES = pytest.mark.parametrize(
    "stride", [pytest.param(7, marks=pytest.mark.stress), pytest.param(211, marks=pytest.mark.thorough)]
)


@STRIDES
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
@pytest.mark.parametrize("kind", ["small", "large", "requeued", "retried", "listened"])
def test_no_job_is_lost_or_answered_twice(kind: str, batch_size: Any, stride: int, tmp_path: Path) -> None:
    padding = b"x" * (LARGE if kind == "large" else 1)
    retry = None
    if kind in {"requeued", "retried"}:
        retry = RetryStrategy(1, RetryType.REQUEUE if kind == "requeued" else RetryType.IMMEDIATE)
    for instant, folder in instants(tmp_path, stride):
        process = Process(1, batch_size=batch_size)
        heard: list[int] = []
        if kind == "listened":
            process.on("job_start", lambda process: None)
            process.on("job_success", lambda process, argument: heard.append(argument[0]))  # noqa: B023
        worker = Mortal(instant, folder, retry=retry)
        inputs = [(number, padding) for number in range(JOBS)]
        responses = [cast(JobResponse, response) for response in process.map(worker, inputs)]
        assert [response.body for response in responses] == [(n, padding) for n in range(JOBS)], instant
        assert [response.argument_index for response in responses] == list(range(JOBS))
        if kind == "listened":
            assert sorted(heard) == list(range(JOBS))
        ran = Counter(map(int, (folder / "ran").read_text().split()))
        attempts = 1 if retry is None else 2
        assert set(ran) == set(range(JOBS))
        # What had finished unsent runs again; one at a time, that is the one job under way.
        again = sum(ran.values()) - attempts * JOBS
        assert again <= (1 if batch_size == 1 else JOBS) * attempts, instant
