"""Where shared memory, processes or descriptors are refused: `map` goes on with less, or names the limit."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import Process, RetryStrategy, RetryType, Worker
from multiprocessing_kit.ipc import segment as segment_module
from multiprocessing_kit.ipc import sysv

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534

COMMON = """
import errno, os, resource, signal, sys
from multiprocessing_kit import IpcError, PoolError, Process
import multiprocessing_kit.ipc.segment, setproctitle

def held():
    return sorted(os.listdir("/proc/self/fd"))

def attempt(process, worker=lambda n: n * n):
    try:
        responses = process.map(worker, range(50))
    except (IpcError, PoolError) as error:
        print(type(error).__name__, error)
    else:
        print([response.body for response in responses] == [n * n for n in range(50)])

"""


def run(code: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, sys.executable, "-c", COMMON + inspect.cleandoc(code)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip


class Uneven(Worker):
    def process(self, argument: Any) -> Any:
        self.running()
        if argument == 7 and self.attempt == 1:
            raise ValueError
        if argument == 9:
            os._exit(1)
        return bytes([argument]) * (1 << argument)


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_a_map_in_mmap(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, resident: bool
) -> None:
    monkeypatch.setattr(sysv, "sysv_ipc", None)
    monkeypatch.setattr(segment_module, "_fallback_logged", False)
    beats = []
    process = Process(2, batch_size=1, crash_retries=0).on("job_running", lambda process: beats.append(1))
    worker = Uneven(retry=RetryStrategy(1, RetryType.REQUEUE))
    with caplog.at_level(logging.WARNING):
        if resident:
            with process:
                responses = [process.map(worker, range(22)) for _ in range(2)][-1]
        else:
            responses = process.map(worker, range(22))
    assert [response.ok for response in responses] == [number != 9 for number in range(22)]
    assert all(response.body == bytes([n]) * (1 << n) for n, response in enumerate(responses) if n != 9)
    assert len(beats) == 23 * (1 + resident)
    fallback = [record for record in caplog.records if record.name == "multiprocessing_kit.ipc"]
    assert [("mmap" in record.getMessage()) for record in fallback] == [True]


def may_unshare() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = ["unshare", "--ipc", "sh", "-c", "echo 9 > /proc/sys/kernel/shmmni"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="may not make an IPC namespace")
@pytest.mark.parametrize(("limit", "segments"), [(0, 0), (1, 1), (3, 3)])
def test_a_map_where_the_system_refuses_segments(limit: int, segments: int) -> None:
    done = run(
        f"""
        open("/proc/sys/kernel/shmmni", "w").write("{limit}")
        with Process(3) as process:
            attempt(process)
            attempt(process)
        attempt(Process(2))
        print(len(open("/proc/sysvipc/shm").readlines()) - 1)
        """,
        "unshare",
        "--ipc",
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True", "True", "0"]), done.stderr
    assert done.stderr.count("Using anonymous shared mmap") == (segments < 3), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.parametrize("more", range(12))
def test_a_map_with_few_descriptors(more: int) -> None:
    """With each number of free descriptors: it works, or says why; the others are closed again."""
    done = run(f"""
        def limit(more):
            lowest = os.dup(0)
            os.close(lowest)
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, most))
        process = Process(2)
        attempt(process)
        before = held()
        limit({more})
        for _ in range(3):
            attempt(process)
        with Process(2) as resident:
            attempt(resident)
            attempt(resident)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        print(before == held())
        attempt(process)
    """)
    assert done.returncode == 0, done.stderr
    first, *attempts, clean, last = done.stdout.splitlines()
    assert (first, clean, last) == ("True", "True", "True"), done.stdout
    assert len(attempts) == 5
    for said in attempts:
        assert said == "True" or ("Too many open files" in said and "ulimit -n" in said), said
    assert more or attempts != ["True"] * 5
    assert more < 11 or attempts == ["True"] * 5, done.stdout


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="must become another user")
@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_map_with_few_processes(more: int) -> None:
    user = NOBODY - os.getpid() % 10_000  # whose processes nobody else makes
    done = run(f"""
        attempt(Process(1))  # imports what another user may not read
        resource.setrlimit(resource.RLIMIT_NPROC, (1 + {more}, 1 + {more}))
        os.setuid({user})
        before = held()
        for _ in range(3):
            attempt(Process(2))
        with Process(2) as resident:
            attempt(resident)
            attempt(resident)
        print(before == held())
    """)
    assert done.returncode == 0, done.stderr
    _, *attempts, clean = done.stdout.splitlines()
    assert clean == "True"
    assert len(attempts) == 5
    for said in attempts:
        assert said == "True" if more else ("PoolError" in said and "ulimit -u" in said), said
