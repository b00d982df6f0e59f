"""One fault in one pool, in a process of its own with a time limit; what a user sees of it.

The process writes what happens, line by line, to a file. It leads a session of its own: whatever is left in
that when it has ended, or when its time is up, was started by it and is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.faults import FAULTS, JOBS, TIMEOUT, job
from benchmarks.chaos.pools import POOLS

__all__ = ["Seen", "run"]


@dataclass
class Seen:
    """What a user sees.

    Attributes:
        seconds: Until the map was over; the limit if it was not.
        limit: Seconds it had.
        answers: Jobs with the right result.
        wrong: Jobs with another one.
        failures: Errors of single jobs, by their number.
        raised: What the map raised.
        over: Whether it came to an end.
        closed: Whether the pool did, too.
        missing: The package that is not installed.
        status: Exit status of the process; None if it was killed when its time was up.
    """

    seconds: float
    limit: float
    answers: int = 0
    wrong: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    raised: str = ""
    over: bool = False
    closed: bool = False
    missing: str = ""
    status: int | None = None

    @property
    def text(self) -> str:
        """In a few words."""
        if self.missing:
            return f"not installed: {self.missing}"
        parts = [f"{self.answers} of {len(JOBS)} answered"] if self.answers else []
        if self.wrong:
            parts.append(f"{self.wrong} wrong")
        parts += _failed(self.failures)
        if not self.over:
            after = "then " if parts else ""
            hangs = f"hangs (>{self.limit:g} s)"
            parts.append(after + (hangs if self.status is None else f"its caller ends with {self.status}"))
        elif self.raised:
            parts.append(f"then {self.raised}" if parts else f"fails all: {self.raised}")
        if self.over and not self.closed:
            parts.append("hangs when closed" if self.status is None else "fails when closed")
        return ", ".join(parts)


def _failed(failures: dict[int, str]) -> list[str]:
    if len(failures) <= 2:
        return [f"job {number}: {name}" for number, name in failures.items()]
    names = " or ".join(sorted(set(failures.values())))
    return [f"{len(failures)} jobs: {names}"]


def run(fault: str, pool: str, limit: float) -> Seen:
    """Try it, for so many seconds at most."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seen")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.cell", fault, pool, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        lines = file.read_text().splitlines() if file.exists() else []
    seen = Seen(limit, limit, status=status)
    for line in lines:
        _take(seen, json.loads(line))
    return seen


def _take(seen: Seen, news: dict[str, Any]) -> None:
    if "answer" in news:
        if news["right"]:
            seen.answers += 1
        else:
            seen.wrong += 1
    elif "failure" in news:
        seen.failures[news["failure"]] = news["error"]
    elif "missing" in news:
        seen.missing = news["missing"]
    elif "over" in news:
        seen.over, seen.raised, seen.seconds = True, news["raised"], news["seconds"]
    else:
        seen.closed = True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill its session."""
    for other in psutil.pids():
        with contextlib.suppress(ProcessLookupError):  # just gone
            if os.getsid(other) == process.pid:
                os.kill(other, signal.SIGKILL)
    process.wait()


class _Writer:
    """Implements `pools.Witness`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def tell(self, **news: object) -> None:
        """Write a line."""
        self._file.write(json.dumps(news) + "\n")

    @contextlib.contextmanager
    def map(self) -> Iterator[None]:
        began, raised = time.perf_counter(), ""
        try:
            yield
        except Exception as error:
            raised = type(error).__name__
        self.tell(over=True, raised=raised, seconds=time.perf_counter() - began)

    def answer(self, index: int, value: object) -> None:
        self.tell(answer=index, right=value == index)

    def failure(self, index: int, error: BaseException) -> None:
        self.tell(failure=index, error=type(error).__name__)


def _main(fault: str, pool: str, folder: str) -> None:
    writer = _Writer(Path(folder, "seen"))
    bad = partial(job, fault, str(Path(folder, "happened")))
    try:
        POOLS[pool](bad, TIMEOUT if FAULTS[fault].timed else None, writer)
    except ImportError as error:
        writer.tell(missing=(error.name or str(error)).partition(".")[0])
    else:
        writer.tell(closed=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
