"""Workers and masters that are killed, that cannot start, that are started by many at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from multiprocessing_kit.errors import ManagerError
from multiprocessing_kit.manager import Status
from tests.folders import PATIENCE, until
from tests.process.managers import Program
from tests.process.test_manager_restart import descriptors_at_rest

pytestmark = pytest.mark.timeout(180)

IDLE = """
    def work(context):
        context.sleep(3600)

    manager = Manager("tested", workers=3, target=work)
"""

# Each worker has a program of its own, which knows nothing of managers.
WITH_A_PROGRAM = """
    import subprocess

    def init(context):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])

    def work(context):
        context.sleep(3600)

    manager = Manager("tested", workers=2, target=work, init=init)
"""

ALREADY_RUNNING = 75


needs_pidfds = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits through pidfds")


def seconds_until_gone(pids: list[int], killed: Iterable[int]) -> float:
    """From a SIGKILL to some of them, one after the other, to the end of all."""
    with contextlib.ExitStack() as opened:
        pidfds = [os.pidfd_open(pid) for pid in pids]
        for pidfd in pidfds:
            opened.callback(os.close, pidfd)
        begin = time.monotonic()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        for pid, pidfd in zip(pids, pidfds, strict=True):
            assert select.select([pidfd], [], [], PATIENCE)[0], f"{pid} goes on"
        return time.monotonic() - begin


def test_a_killed_worker_comes_back_with_its_pin(tmp_path: Path) -> None:
    with Program(tmp_path, IDLE) as program:
        program.start()
        before = program.wait_until_ready()
        for pin in range(3):
            killed = program.kill_worker(pin)
            after = program.wait_until(lambda status: status.workers[pin].pid not in (0, killed))  # noqa: B023
            assert after.workers[pin].restarts == 1
            assert "SIGKILL" in after.workers[pin].last_exit
            line = program.wait_for_log(rf"worker #{pin} \(pid {killed}\)")[-1]
            assert "SIGKILL" in line
        status = program.wait_until_ready()
        assert [worker.pin for worker in status.workers] == [0, 1, 2]
        assert status.pid == before.pid


@needs_pidfds
@pytest.mark.parametrize("way", ["-d", "run"])
@pytest.mark.parametrize("source", [IDLE, WITH_A_PROGRAM], ids=["idle", "with a program"])
def test_a_killed_master_leaves_nobody(tmp_path: Path, way: str, source: str) -> None:
    with Program(tmp_path, source) as program:
        status = started(program, way)
        workers = [worker.pid for worker in status.workers]
        programs = [process.pid for pid in workers for process in psutil.Process(pid).children()]
        assert len(programs) == (source == WITH_A_PROGRAM) * len(workers)
        check_gone_and_started_anew(program, [status.pid, *workers, *programs], [status.pid])


@needs_pidfds
@pytest.mark.parametrize("way", ["-d", "run"])
@pytest.mark.parametrize("first", ["master", "workers"])
def test_master_and_workers_killed_at_once_leave_nobody(tmp_path: Path, way: str, first: str) -> None:
    with Program(tmp_path, IDLE) as program:
        status = started(program, way)
        pids = [status.pid, *(worker.pid for worker in status.workers)]
        killed = pids[:3] if first == "master" else pids[2::-1]
        check_gone_and_started_anew(program, pids, killed)


def started(program: Program, way: str) -> Status:
    if way == "-d":
        program.start()
    else:
        program.run()
    return program.wait_until_ready()


def check_gone_and_started_anew(program: Program, pids: list[int], killed: Iterable[int]) -> None:
    seconds = seconds_until_gone(pids, killed)
    print(f"gone after {seconds:.3f} s")
    assert seconds < 1
    assert program.wait_for_end() in (None, -signal.SIGKILL)
    assert program.socket.exists()  # what lies about does not hold up the next one
    program.foreground = None
    program.start()
    status = program.wait_until_ready()
    assert status.starts == len(status.workers)


def lock_of_a_living_process(program: Program) -> None:
    """Its number was given to somebody else since."""
    line = f'{{"name": "tested", "pid": {os.getpid()}, "started": {time.time()}}}\n'
    (program.runtime / "tested.lock").write_text(line)


def lock_with_rubbish(program: Program) -> None:
    (program.runtime / "tested.lock").write_bytes(b"\0\xff{" * 100)


def socket_of_nobody(program: Program) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(program.socket))


def file_in_place_of_the_socket(program: Program) -> None:
    program.socket.write_text("no socket")


@pytest.mark.parametrize(
    "leave", [lock_of_a_living_process, lock_with_rubbish, socket_of_nobody, file_in_place_of_the_socket]
)
def test_what_lies_about_does_not_hold_up_a_start(tmp_path: Path, leave: Callable[[Program], None]) -> None:
    with Program(tmp_path, IDLE) as program:
        program.runtime.mkdir(mode=0o700)
        leave(program)
        program.start()
        program.wait_until_ready()


# ── storms ────────────────────────────────────────────────────────────────────────────────────────────

RAISES = 'raise ValueError("no database")'
KILLS_ITSELF = "os.kill(os.getpid(), signal.SIGKILL)"
EXITS = "sys.exit(3)"

STORM = """
    def init(context):
        {fault}

    def work(context):
        pass

    manager = Manager(
        "tested", workers={workers}, target=work, init=init,
        backoff=({first}, {longest}), respawn_limit={limit}, healthy_seconds=30,
    )
"""


def has_given_up(status: Status) -> bool:
    return all(worker.state == "fatal" for worker in status.workers)


def starts_in(log: str, pin: int) -> list[float]:
    """When a worker was started, from the log."""
    found = []
    for line in log.splitlines():
        if re.search(rf"worker #{pin} started", line):
            found.append(datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp())
    return found


@pytest.mark.parametrize(
    ("fault", "said"), [(RAISES, "exited with 1"), (KILLS_ITSELF, "SIGKILL"), (EXITS, "exited with 3")]
)
def test_a_worker_that_cannot_start_is_tried_by_schedule_and_given_up(
    tmp_path: Path, fault: str, said: str
) -> None:
    limit, first, longest = 6, 0.2, 0.8
    expected = [0.0, 0.2, 0.4, 0.8, 0.8]  # seconds from the end of one to the start of the next
    source = STORM.format(fault=fault, workers=2, first=first, longest=longest, limit=limit)
    with Program(tmp_path, source) as program:
        program.start()
        status = program.wait_until(has_given_up, "all to be given up")
        for worker in status.workers:
            assert worker.restarts == limit
            assert "6 times in a row" in worker.reason
            assert said in worker.reason
            starts = starts_in(program.log, worker.pin)
            assert len(starts) == limit
            pauses = [after - before for before, after in itertools.pairwise(starts)]
            # earlier by the jitter and the clock of the log; later by whatever the machine does
            assert all(pause >= 0.9 * least - 0.01 for pause, least in zip(pauses, expected, strict=True)), (
                pauses
            )
        assert status.starts == 2 * limit
        table = program.command("status", expect=0).stdout
        assert "fatal" not in program.command("stop", expect=0).stdout
        assert table.count("6 times in a row") == 2


SLOW_STORM = """
    def init(context):
        time.sleep(0.4)
        {in_init}

    def work(context):
        {in_work}

    manager = Manager(
        "tested", workers=1, target=work, init=init, backoff=(0.5, 1), respawn_limit=3, healthy_seconds=0.2,
    )
"""


@pytest.mark.parametrize(("in_init", "in_work"), [(RAISES, "pass"), ("pass", RAISES)])
def test_a_long_time_in_init_is_no_health(tmp_path: Path, in_init: str, in_work: str) -> None:
    with Program(tmp_path, SLOW_STORM.format(in_init=in_init, in_work=in_work)) as program:
        program.start()
        status = program.wait_until(has_given_up, "it to be given up")
        assert "3 times in a row" in status.workers[0].reason
        _, second, third = starts_in(program.log, 0)
        assert third - second >= 0.8  # `init`, and a pause as configured, by its jitter shorter


def test_a_long_life_after_init_is_health(tmp_path: Path) -> None:
    with Program(tmp_path, SLOW_STORM.format(in_init="pass", in_work="time.sleep(0.3);" + RAISES)) as program:
        program.start()
        status = program.wait_until(lambda status: status.workers[0].restarts >= 4)
        assert status.workers[0].state != "fatal"


def test_healthy_workers_beside_one_that_cannot_start(tmp_path: Path) -> None:
    source = """
        def init(context):
            if context.pin == 1:
                raise ValueError("no database")

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=3, target=work, init=init, backoff=(0.05, 0.1), respawn_limit=3)
    """
    with Program(tmp_path, source) as program:
        program.start()
        before = program.status()
        status = program.wait_until(lambda status: status.workers[1].state == "fatal")
        assert status.state == "running"
        assert [status.workers[pin].pid for pin in (0, 2)] == [before.workers[pin].pid for pin in (0, 2)]


def test_a_fault_in_a_command_ends_nobody(tmp_path: Path) -> None:
    source = """
        from multiprocessing_kit.manager import master

        def broken(pid):
            raise RuntimeError("nobody knows")

        master.resident_memory = broken

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=1, target=work, check_interval=0)
    """
    with Program(tmp_path, source) as program:
        foreground = program.run()
        program.wait_for_log("worker #0 started")
        with pytest.raises(ManagerError, match="RuntimeError: nobody knows"):
            program.ask("status")
        foreground.send_signal(signal.SIGUSR2)
        program.wait_for_log("signal SIGUSR2 failed")
        program.ask("stop")
        assert program.wait_for_end() == 0


WITHOUT_DESCRIPTORS = """
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def work(context):
        if context.pin == 0 and os.path.exists("speak") and not os.path.exists("spoken"):
            for _ in range(3):
                log.info("large %s", "x" * 100_000)
            log.info("small one")
            open("spoken", "w").close()

    manager = Manager("tested", workers=40, target=work, execute_sleep=0.05, check_interval=0.3)
"""


def test_a_master_without_descriptors_goes_on(tmp_path: Path) -> None:
    """It neither ends nor spins, hears commands all the same, and has all its workers once there are some."""
    with Program(tmp_path, WITHOUT_DESCRIPTORS) as program:
        foreground = program.run()
        program.wait_for_log("cannot fork worker")
        with contextlib.ExitStack() as clients:
            for _ in range(6):
                clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(program.socket))
            program.wait_for_log("a client gets the last descriptor")
            begin, before = time.monotonic(), psutil.Process(foreground.pid).cpu_times().user
            (tmp_path / "speak").touch()
            program.wait_for_log("large log records are lost")
            program.wait_for_log("small one")
            program.wait_for_log("the status cannot be told", 3)
            time.sleep(max(0.0, begin + 2 - time.monotonic()))
            assert foreground.poll() is None
            after = psutil.Process(foreground.pid).cpu_times().user
            assert after - before < (time.monotonic() - begin) / 2
        assert program.log.count("large log records are lost") == 1
        program.ask("wakeup")
        resource.prlimit(foreground.pid, resource.RLIMIT_NOFILE, (400, 400))
        assert len(program.wait_until_ready().workers) == 40
        program.ask("stop")
        assert program.wait_for_end() == 0


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────


def outcomes_of_simultaneous_starts(program: Program, count: int) -> list[int]:
    """Start it in the foreground so often at once; the exit statuses of all that have ended by themselves."""
    begun = [
        subprocess.Popen(
            program.line("run"),
            cwd=program.folder,
            env=program.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        until(lambda: sum(each.poll() is None for each in begun) <= 1, "all but one", 2 * PATIENCE)
        assert program.wait_until_ready().pid in {each.pid for each in begun if each.returncode is None}
        return [each.returncode for each in begun if each.returncode is not None]
    finally:
        for each in begun:
            each.send_signal(signal.SIGQUIT)
            each.wait(PATIENCE)


def test_of_many_that_start_at_once_one_runs(tmp_path: Path) -> None:
    with Program(tmp_path, IDLE) as program:
        assert outcomes_of_simultaneous_starts(program, 30) == [ALREADY_RUNNING] * 29


# ── process 1 ─────────────────────────────────────────────────────────────────────────────────────────

# A worker starts a process in a session of its own, whose parent ends at once: process 1 inherits it.
ORPHANS = """
    def orphan():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp(sys.executable, [sys.executable, "-c", "import sys; sys.exit(7)"])
            os._exit(0)
        os.wait()

    def work(context):
        orphan()
        with open("orphans", "a") as file:
            file.write(".")
        context.sleep(3600)

    manager = Manager("tested", workers=2, target=work)
"""

NAMESPACES = (["unshare", "--pid", "--fork", "--mount-proc"], ["unshare", "-Urpf", "--mount-proc"])


def unshared() -> list[str]:
    """How this system gives a process a namespace of its own; skips the test where it does not."""
    for words in NAMESPACES:
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    pytest.skip("this system does not let us unshare a process namespace")


def test_as_process_1_it_buries_orphans_and_knows_its_own(tmp_path: Path) -> None:
    namespace = unshared()
    with Program(tmp_path, ORPHANS) as program:
        program.line = lambda command, *words, **_: [  # type: ignore[method-assign]
            *namespace, sys.executable, "-m", "multiprocessing_kit.cli", "manage", command,
            program.reference, *words,
        ]  # fmt: skip
        foreground = program.run()
        status = program.wait_until_ready()
        assert status.pid == 1
        assert len(program.wait_for_log(r"orphan \d+ exited with 7", 2)) == 2
        # its own workers end by a signal from within: as seen here they have other numbers
        inside = psutil.Process(foreground.pid).children(recursive=True)
        workers = [process for process in inside if process.cmdline()[0].startswith("mpkit: worker")]
        assert len(workers) == 2
        workers[0].kill()
        after = program.wait_until(lambda status: sum(worker.restarts for worker in status.workers) == 1)
        assert "SIGKILL" in "".join(worker.last_exit for worker in after.workers)
        assert len(program.wait_for_log(r"orphan \d+ exited with 7", 3)) == 3
        assert not [process for process in inside if process.is_running() and process.status() == "zombie"]
        program.ask("stop")
        assert program.wait_for_end() == 0


# ── over a long time ──────────────────────────────────────────────────────────────────────────────────


def check_respawns(folder: Path, respawns: int, most_growth: int) -> None:
    """Kill workers so often; the master has then what it had before."""
    source = """
        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=3, target=work, backoff=(0.0, 0.0), respawn_limit=0)
    """
    with Program(folder, source) as program:
        pid = program.start()
        kill_all(program, 9)
        before, memory = descriptors_at_rest(pid), program.status().memory
        files = sorted(path.name for path in program.runtime.iterdir())
        kill_all(program, respawns)
        assert descriptors_at_rest(pid) == before
        assert sorted(path.name for path in program.runtime.iterdir()) == files
        assert program.status().memory - memory <= most_growth
        assert program.status().starts == 3 + 9 + respawns
        program.command("stop", expect=0)


def kill_all(program: Program, times: int) -> None:
    """Kill workers, three at once, until so many have been."""
    for _ in range(times // 3):
        starts = program.status().starts
        for worker in program.status().workers:
            os.kill(worker.pid, signal.SIGKILL)
        program.wait_until(lambda status: status.starts == starts + 3)  # noqa: B023
        program.wait_until_ready()


def test_respawns_leave_nothing_in_the_master(tmp_path: Path) -> None:
    check_respawns(tmp_path, 60, 2 << 20)
