"""Inputs are taken as far ahead as is allowed, memory stays where it is, and who waits does nothing else."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from multiprocessing_kit import Process

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
MB = 1 << 20
MOST_AHEAD = 1 << 17
"""Of tiny inputs for two children, where no window is given: many, but not more the longer it goes on."""


def double(number: int) -> int:
    return 2 * number


class Counted(Iterator[int]):
    """Numbers without an end; knows how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __next__(self) -> int:
        self.taken += 1
        return self.taken - 1


def close(stream: object) -> None:
    cast(Any, stream).close()


def run(code: str) -> Any:
    """What a program of its own prints, as JSON."""
    command = [sys.executable, "-c", PEAK + inspect.cleandoc(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ── how far ahead ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch_size", ["auto", 1, 50])
@pytest.mark.parametrize("window", [1, 2, 10, 1000])
def test_a_window_bounds_what_is_taken(ordered: bool, batch_size: Any, window: int) -> None:
    inputs = Counted()
    stream = Process(2, window=window, batch_size=batch_size).imap(double, inputs, ordered=ordered)
    most = 0
    for answered, _ in zip(range(1, 2001), stream, strict=False):
        most = max(most, inputs.taken - answered + 1)
    assert most <= window
    close(stream)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch_size", ["auto", 1, 50])
def test_the_default_window_is_bounded_too(ordered: bool, batch_size: Any) -> None:
    inputs = Counted()
    stream = Process(2, batch_size=batch_size).imap(double, inputs, ordered=ordered)
    most = 0
    for answered, _ in zip(range(1, 300_001 if batch_size == "auto" else 20_001), stream, strict=False):
        most = max(most, inputs.taken - answered + 1)
    assert most <= (MOST_AHEAD if batch_size == "auto" else MOST_AHEAD // 32)
    close(stream)


def test_the_default_window_is_small_where_jobs_are_long() -> None:
    """Two leases of a job each for a child, if not the 64 for each that are said to be the least."""

    def job(number: int) -> int:
        time.sleep(0.011)
        return number

    inputs = Counted()
    stream = Process(2).imap(job, inputs)
    for answered, _ in zip(range(1, 61), stream, strict=False):
        assert inputs.taken - answered < 2 * 64
    close(stream)


@pytest.mark.parametrize("window", [100, None])
def test_who_stops_asking_stops_the_feeding(window: int | None) -> None:
    """Nothing goes on behind the consumer's back."""
    inputs = Counted()
    stream = Process(2, window=window).imap(double, inputs)
    for _ in range(3000):
        next(stream)
    taken = inputs.taken
    for child in psutil.Process().children():  # they run out of jobs; nobody gives them more
        while child.status() != psutil.STATUS_SLEEPING:
            os.sched_yield()
    assert inputs.taken == taken
    assert next(stream).body == 6000
    close(stream)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────

PEAK = """
import json, os, select
from multiprocessing_kit import Process

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10

"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("worker", "inputs"),
    [
        ("lambda number: number", "iter(range({count}))"),
        ("lambda number: number", "range({count})"),
        ("lambda number: str(number)", "(number for number in range({count}))"),
        ("lambda numbers: numbers[0]", "([number] for number in range({count}))"),
    ],
)
def test_memory_of_a_million_jobs(worker: str, inputs: str) -> None:
    expected = "str" if "str" in worker else "int"
    grown, count = run(f"""
        def consume(inputs):
            number = -1
            for number, response in enumerate(Process(2).imap({worker}, inputs)):
                assert response.body == {expected}(number)
            return number + 1

        consume({inputs.format(count=100_000)})
        before = peak()
        count = consume({inputs.format(count=1_000_000)})
        print(json.dumps([peak() - before, count]))
    """)
    assert count == 1_000_000
    assert grown < 50 * MB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_where_the_first_job_is_the_last_to_end() -> None:
    """Ordered, all others wait for it; the window keeps these few."""
    grown, count = run("""
        def job(number):
            if number == 0:
                select.select([reading], [], [], 5)
            if number == 199:
                os.write(writing, b".")
            return bytes(100_000)

        reading, writing = os.pipe()
        before = peak()
        count = sum(1 for _ in Process(2, window=200).imap(job, iter(range(2000))))
        print(json.dumps([peak() - before, count]))
    """)
    assert count == 2000
    assert grown < 60 * MB


# ── slow inputs ───────────────────────────────────────────────────────────────────────────────────


class Feeder:
    """Inputs that come through a pipe, one for each `feed`."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def feed(self, count: int = 1) -> None:
        os.write(self._writing, b"." * count)

    def inputs(self) -> Iterator[int]:
        for number in itertools.count():
            if os.read(self._reading, 1) != b".":
                return
            yield number

    def end(self) -> None:
        os.write(self._writing, b"!")  # children have the pipe, too, so that closing it here ends nothing

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._reading)
        os.close(self._writing)


PROGRAM = """
    import os, sys
    from multiprocessing_kit import Process

    def inputs():
        for number in range({fast}):
            yield number
        while True:
            sys.stdout.write("waiting\\n")
            sys.stdout.flush()
            if not sys.stdin.buffer.read(1):
                return
            yield -1

    for response in Process(2).imap(lambda number: number, inputs(), ordered={ordered}):
        pass
    print("end")
"""


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")
@pytest.mark.parametrize("fast", [0, 3, 5000])
@pytest.mark.parametrize("ordered", [True, False])
def test_who_waits_for_a_slow_input_uses_no_processor(fast: int, ordered: bool) -> None:
    """Of the time that passes while the inputs block, caller and children together use a hundredth or two."""
    command = [sys.executable, "-c", inspect.cleandoc(PROGRAM.format(fast=fast, ordered=ordered))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"waiting\n"
        for _ in range(3):
            program.stdin.write(b".")
            program.stdin.flush()
            assert program.stdout.readline() == b"waiting\n"
        used = used_in_a_second(program.pid)
        rest = program.communicate(b"", timeout=30)[0]
    assert program.returncode == 0
    assert rest.endswith(b"end\n")
    assert used <= 0.02


def used_in_a_second(caller: int) -> float:
    """Processor seconds of a program and its children, of one second in which they have nothing to do."""
    program = psutil.Process(caller)
    everybody = [program, *program.children()]
    until_all_sleep(everybody)
    used = cpu_seconds(everybody)
    time.sleep(1.0)  # not for anything to happen, but for as long as it must not
    return cpu_seconds(everybody) - used


def until_all_sleep(processes: list[psutil.Process]) -> None:
    """Until nobody is busy with what came before; it does not take long, and nothing announces it."""
    quiet = 0
    while quiet < 20:
        sleeping = all(process.status() == psutil.STATUS_SLEEPING for process in processes)
        quiet = quiet + 1 if sleeping else 0
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")
@pytest.mark.parametrize("behind", [0, 1, 100])
def test_who_waits_for_a_long_job_uses_little(behind: int) -> None:
    """Also where other jobs wait behind it that nobody else could run."""
    program = """
        import os, sys, time
        from multiprocessing_kit import Process

        def job(number):
            if number == 3000:
                sys.stdout.write("waiting\\n")
                sys.stdout.flush()
                sys.stdin.buffer.read(1)

        Process({processes}).map(job, range(3001 + {behind}))
        print("end")
    """
    for processes in (1, 2):
        code = inspect.cleandoc(program.format(processes=processes, behind=behind))
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"waiting\n"
            used = used_in_a_second(running.pid)
            rest = running.communicate(b".", timeout=30)[0]
        assert running.returncode == 0
        assert rest.endswith(b"end\n")
        assert used <= 0.02


class TooFarError(Exception):
    pass


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("fast", [0, 10, 5000])
def test_answers_are_given_out_before_many_slow_inputs_are_waited_for(ordered: bool, fast: int) -> None:
    """However well the first inputs came, and however large leases have become with them."""
    answered = 0

    def inputs() -> Iterator[int]:
        for number in itertools.count():
            if number >= fast:
                time.sleep(0.002)  # slow beside the jobs, by far
                if number > max(answered, fast) + 20:
                    raise TooFarError(f"{number - answered} inputs were waited for with no answer")
            yield number

    stream = Process(2).imap(double, inputs(), ordered=ordered)
    for answered, _ in zip(range(1, fast + 51), stream, strict=False):  # noqa: B007
        pass
    close(stream)


@pytest.mark.parametrize("processes", [1, 2])
def test_inputs_that_wait_for_the_answers_to_those_before(processes: int) -> None:
    """With a window of one, each answer comes before the next input is asked for."""
    with Feeder() as feeder:
        stream = Process(processes, window=1).imap(double, feeder.inputs())
        for number in range(20):
            feeder.feed()
            assert next(stream).body == 2 * number
        feeder.end()
        assert list(stream) == []
