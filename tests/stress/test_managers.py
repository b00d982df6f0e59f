"""Managers over a long time: storms, a thousand starts at once, a thousand respawns, restarts without end."""

from __future__ import annotations

import os
import random
import resource
import signal
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from multiprocessing_kit.errors import ManagerError, NotRunningError
from multiprocessing_kit.manager import Status
from multiprocessing_kit.manager.settings import MOST_WORKERS
from tests.folders import until
from tests.process.managers import Program
from tests.process.test_manager_faults import (
    ALREADY_RUNNING,
    EXITS,
    IDLE,
    KILLS_ITSELF,
    RAISES,
    STORM,
    check_respawns,
    has_given_up,
)
from tests.process.test_manager_restart import BUSY, check_restarts_in_a_row, check_whole, notes_of

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]

STARTS = 1000


@pytest.mark.parametrize("fault", [RAISES, KILLS_ITSELF, EXITS])
def test_a_storm_costs_hardly_any_processor_time(tmp_path: Path, fault: str) -> None:
    """With the schedule that is there by default, and all workers failing: under 2% of one processor."""
    source = STORM.format(fault=fault, workers=6, first=1.0, longest=60.0, limit=10)
    with Program(tmp_path, source) as program:
        pid = program.start()
        begin, before = time.monotonic(), psutil.Process(pid).cpu_times()
        time.sleep(30)
        after, seconds = psutil.Process(pid).cpu_times(), time.monotonic() - begin
        share = (after.user + after.system - before.user - before.system) / seconds
        with_forks = share + (after.children_user + after.children_system) / seconds
        print(f"{share:.2%}; with all that it forked {with_forks:.2%}")
        assert share <= with_forks < 0.02
        status = program.status()
        assert all(worker.state == "backoff" for worker in status.workers)
        # one at once, then after 1, 2, 4, 8 and 16 s, or a tenth less: 7 have ended at most
        assert all(5 <= worker.restarts <= 7 for worker in status.workers)


def test_a_long_storm_ends(tmp_path: Path) -> None:
    source = STORM.format(fault=RAISES, workers=20, first=0.1, longest=1.0, limit=30)
    with Program(tmp_path, source) as program:
        program.start()
        until(lambda: has_given_up(program.status()), "the end", 300)
        assert program.status().starts == 20 * 30


# As many processes that have imported all and wait, until nobody can write into their pipe any more.
AT_ONCE = f"""
import os
import sys

import psutil
import setproctitle

import program
from multiprocessing_kit.cli import main
from multiprocessing_kit.manager import cli

reading, writing = os.pipe()
for _ in range({STARTS}):
    if os.fork() == 0:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        try:
            main(["manage", "run", "program:manager"])
        except SystemExit as end:
            os._exit(end.code)
        os._exit(1)
os.close(writing)
for _ in range({STARTS}):
    pid, status = os.wait()
    with open("statuses", "a") as file:
        file.write(f"{{os.waitstatus_to_exitcode(status)}}\\n")
"""


def test_of_a_thousand_that_start_at_once_one_runs(tmp_path: Path) -> None:
    with Program(tmp_path, IDLE) as program:
        (tmp_path / "at_once.py").write_text(AT_ONCE)
        foreground = program.run_python("at_once.py")
        path = program.wait_for_file("statuses")
        until(lambda: path.read_text().count("\n") >= STARTS - 1, "all but one", 240)
        assert path.read_text() == f"{ALREADY_RUNNING}\n" * (STARTS - 1)
        status = program.wait_until_ready()
        assert psutil.Process(status.pid).ppid() == foreground.pid
        program.ask("stop")
        assert program.wait_for_end() == 0
        assert path.read_text().endswith("\n0\n")


def test_a_thousand_respawns(tmp_path: Path) -> None:
    check_respawns(tmp_path, 999, 2 << 20)


def test_twenty_restarts_in_a_row(tmp_path: Path) -> None:
    check_restarts_in_a_row(tmp_path, 20)


def test_a_restart_with_as_many_workers_as_there_can_be(tmp_path: Path) -> None:
    source = IDLE.replace("workers=3", f"workers={MOST_WORKERS}, check_interval=0")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files < 4 * MOST_WORKERS:
        pytest.skip("too few open files are allowed")
    header = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({most_files}, {most_files}))\n"
    with Program(tmp_path, header + textwrap.dedent(source)) as program:
        program.run()
        until(lambda: is_answering(program) and has_settled(program.status()), "its workers", 600)
        before = program.status()
        program.send(signal.SIGHUP)
        until(lambda: program.status().restarts == 1, "new code", 600)
        assert {worker.pid for worker in program.status().workers[100:]} <= {w.pid for w in before.workers}
        program.ask("exit")


def has_settled(status: Status) -> bool:
    return all(worker.state == "busy" for worker in status.workers)


def is_answering(program: Program) -> bool:
    with suppress(ManagerError):
        program.status()
        return True
    return False


@pytest.mark.parametrize("seed", range(20))
def test_signals_at_any_moment_of_restarts(tmp_path: Path, seed: int) -> None:
    """HUP after HUP, at random; then a TERM, which is never lost, and cuts off no call."""
    chance = random.Random(seed)
    with Program(tmp_path, BUSY.format(version=1, workers=3)) as program:
        foreground = program.run()
        program.wait_until_ready()
        for _ in range(chance.randrange(1, 6)):
            foreground.send_signal(chance.choice([signal.SIGHUP, signal.SIGHUP, signal.SIGUSR2]))
            time.sleep(chance.uniform(0, 1.5))
        foreground.send_signal(signal.SIGTERM)
        assert program.wait_for_end() == 0
        check_whole(notes_of(program))


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_by_command_at_any_moment_of_a_restart(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with Program(tmp_path, BUSY.format(version=1, workers=3)) as program:
        program.run()
        program.wait_until_ready()
        program.send(signal.SIGHUP)
        time.sleep(chance.uniform(0, 2))
        program.ask("stop")
        assert program.wait_for_end() == 0
        check_whole(notes_of(program))


@pytest.mark.parametrize("seed", range(5))
def test_kills_of_all_kinds_again_and_again(tmp_path: Path, seed: int) -> None:
    """Workers and masters die at random; the next start always works, and nobody is left."""
    chance = random.Random(seed)
    with Program(tmp_path, IDLE) as program:
        for _ in range(10):
            pid = program.start()
            status = program.status()
            victims = [worker.pid for worker in status.workers if worker.pid and chance.random() < 0.5]
            victims.insert(chance.randrange(len(victims) + 1), pid)
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            program.wait_for_end()
            with pytest.raises(NotRunningError):
                program.status()
