"""A manager that nobody asks for anything: what its master costs, and how fast it replaces a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import AtMost, Case, Contender, Scale
from multiprocessing_kit import NotRunningError
from multiprocessing_kit.manager import Manager, Status

__all__ = ["CPU", "LATENCY", "MEMORY"]

_WORKERS = 6
_KILLS = 20
_IDLE_SECONDS = 20.0
_QUICK_SECONDS = 0.5
_START_SECONDS = 60.0

_FORK = multiprocessing.get_context("fork")
_TIME = struct.Struct("d")

_SOURCE = f"""
import os, struct, time
from multiprocessing_kit.manager import Manager

times = os.open("times", os.O_RDWR)

def init(context):
    os.write(times, struct.pack("d", time.monotonic()))

def work(context):
    context.sleep(3600)

manager = Manager(
    "benchmark", workers={_WORKERS}, target=work, init=init, backoff=(0, 0), respawn_limit=0, runtime_dir="."
)
"""


@dataclass
class _Running:
    """A manager that a command line has started, in a folder of its own."""

    manager: Manager
    times: int

    def began(self) -> float:
        """When the next `init` was called."""
        return float(_TIME.unpack(os.read(self.times, _TIME.size))[0])

    def status(self) -> Status:
        """As soon as it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return self.manager.status()
            except NotRunningError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


@contextmanager
def _running() -> Iterator[_Running]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.py").write_text(_SOURCE)
        os.mkfifo(Path(folder, "times"))
        times = os.open(Path(folder, "times"), os.O_RDWR)
        command = [sys.executable, "-m", "multiprocessing_kit.cli", "manage", "run", "program:manager"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as process:
            running = _Running(
                Manager("benchmark", workers=_WORKERS, target=print, runtime_dir=folder), times
            )
            try:
                for _ in range(_WORKERS):
                    running.began()
                yield running
            finally:
                process.send_signal(signal.SIGQUIT)
                process.wait()
                os.close(times)


def _latency(scale: Scale) -> float:
    with _running() as running:
        taken = []
        for number in range(2 if scale.quick else _KILLS):
            pid = running.status().workers[number % _WORKERS].pid
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            taken.append(running.began() - killed)
        return statistics.median(taken) * 1000


def _latency_of_processes(scale: Scale) -> float:
    """What a loop around `multiprocessing.Process` takes."""
    reading, writing = os.pipe()

    def work() -> None:
        os.write(writing, _TIME.pack(time.monotonic()))
        time.sleep(3600)

    taken = []
    process = _FORK.Process(target=work)
    process.start()
    os.read(reading, _TIME.size)
    for _ in range(2 if scale.quick else _KILLS):
        killed = time.monotonic()
        process.kill()
        process.join()
        process = _FORK.Process(target=work)
        process.start()
        taken.append(float(_TIME.unpack(os.read(reading, _TIME.size))[0]) - killed)
    process.kill()
    process.join()
    os.close(reading)
    os.close(writing)
    return statistics.median(taken) * 1000


def _cpu(scale: Scale) -> float:
    with _running() as running:
        pid = running.status().pid
        seconds = _QUICK_SECONDS if scale.quick else _IDLE_SECONDS
        before = _cpu_seconds(pid)
        time.sleep(seconds)
        return (_cpu_seconds(pid) - before) / seconds * 100


def _cpu_seconds(pid: int) -> float:
    """Linux counts nanoseconds beside the ticks that psutil tells of."""
    path = Path(f"/proc/{pid}/schedstat")
    if path.exists():
        return int(path.read_text().split()[0]) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _memory(_scale: Scale) -> float:
    with _running() as running:
        return running.status().memory / 1e6


LATENCY = Case(
    name="manager-restart",
    title=f"a worker is killed: until its successor's init is called, median of {_KILLS}",
    unit="ms",
    contenders=(
        Contender("Manager", _latency, ours=True),
        Contender("multiprocessing.Process, joined and started anew", _latency_of_processes),
    ),
    rounds=3,
)

CPU = Case(
    name="manager-cpu",
    title=f"the processor time of a master with {_WORKERS} workers at rest, over {_IDLE_SECONDS:g} s",
    unit="%",
    contenders=(Contender("Manager", _cpu, AtMost(0.1)),),
    rounds=3,
    apart=False,
)

MEMORY = Case(
    name="manager-memory",
    title=f"what a master with {_WORKERS} workers has resident",
    unit="MB",
    contenders=(Contender("Manager", _memory, AtMost(40)),),
    rounds=3,
    apart=False,
)
