"""Jobs that the kernel kills because a memory cgroup is full: each is answered, the others do not notice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LIMIT = 256 << 20

PROGRAM = """
import os, sys
from multiprocessing_kit import Process, WorkerLostError

BAD = set(range(50, {jobs}, {every}))

def job(number):
    if number in BAD:
        bytearray({limit} * 2)[::4096] = bytes({limit} * 2 // 4096)
    return number * 3

for folder in sys.argv[1:]:
    with open(os.path.join(folder, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
responses = Process(2, crash_retries={crash_retries}).map(job, range({jobs}))
for number, response in enumerate(responses):
    if number not in BAD:
        assert (response.body, response.attempts) == (number * 3, 1), response
        continue
    error = response.exception
    assert isinstance(error, WorkerLostError), response
    assert (error.signal_name, error.attempts) == ("SIGKILL", {crash_retries} + 1), response
    assert {limit} // 2 < error.peak_memory < {limit} * 2, error.peak_memory
    assert "memory" in str(error), error
print(len(BAD), "killed")
"""


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)


def _cgroup() -> Path | None:
    """A new memory cgroup; None where there is none to be had."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers == "memory":
            parent, file = Path("/sys/fs/cgroup/memory" + inside), "memory.limit_in_bytes"
        elif not controllers:
            parent, file = Path("/sys/fs/cgroup" + inside), "memory.max"
        else:
            continue
        folder = parent / f"mpkit-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            _write(folder / file, str(LIMIT))
            for swap in ("memory.swappiness", "memory.swap.max"):
                if (folder / swap).exists():
                    _write(folder / swap, "0")
        except OSError:
            folder.rmdir()
            continue
        return folder
    return None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    folder = _cgroup()
    if folder is None:
        pytest.skip("may not make a memory cgroup here; RLIMIT_AS is tested in test_crashes.py")
    yield folder
    folder.rmdir()


@pytest.mark.parametrize(
    ("jobs", "every", "crash_retries"),
    [(100, 1000, 2), (1000, 100, 0), pytest.param(10_000, 100, 0, marks=pytest.mark.stress)],
)
def test_the_kernel_kills(jobs: int, every: int, crash_retries: int, cgroup: Path) -> None:
    program = PROGRAM.format(jobs=jobs, every=every, crash_retries=crash_retries, limit=LIMIT)
    result = subprocess.run(
        [sys.executable, "-c", program, str(cgroup)],
        check=False, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{len(range(50, jobs, every))} killed\n"
