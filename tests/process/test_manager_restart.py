"""Smooth restarts and replacements under load: the work never stops, and no call is cut off or lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from multiprocessing_kit.errors import NotRunningError
from multiprocessing_kit.manager import Status
from tests.folders import PATIENCE, until
from tests.process.managers import Program

pytestmark = pytest.mark.timeout(180)

WORKERS = 3

# Each process notes what it does, with its time: one line, one write.
BUSY = """
    VERSION = {version}
    notes = os.open("calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what):
        os.write(notes, f"{{VERSION}} {{os.getpid()}} {{time.monotonic()}} {{what}}\\n".encode())

    def init(context):
        note("init")

    def work(context):
        note("begin")
        time.sleep(0.05)
        note("end")

    note("loaded")
    manager = Manager("tested", workers={workers}, target=work, init=init, execute_sleep=0, stop_timeout=40.0)
"""


@dataclass(frozen=True)
class Note:
    version: int
    pid: int
    when: float
    what: str


def notes_of(program: Program) -> list[Note]:
    path = program.folder / "calls"
    text = path.read_text() if path.exists() else ""
    found = []
    for line in text[: text.rfind("\n") + 1].splitlines():
        version, pid, when, what = line.split()
        found.append(Note(int(version), int(pid), float(when), what))
    return found


@contextmanager
def busy(folder: Path, workers: int = WORKERS) -> Iterator[Program]:
    """One that runs in the foreground and works without a pause; at its end, each call must be whole."""
    with Program(folder, BUSY.format(version=1, workers=workers)) as program:
        program.run()
        program.wait_until_ready()
        yield program
        with suppress(NotRunningError):
            program.ask("stop")
        assert program.wait_for_end() == 0
        check_whole(notes_of(program))


def check_whole(notes: list[Note], *, killed: int = 0) -> None:
    """Each call has an end, but for that of a worker that was killed."""
    counts = Counter((note.pid, note.what) for note in notes)
    for pid in {note.pid for note in notes}:
        cut_off = counts[pid, "begin"] - counts[pid, "end"]
        assert cut_off == 0 or (pid == killed and cut_off == 1), f"{cut_off} calls of {pid} were cut off"


def least_at_work(notes: list[Note], begin: float, end: float) -> int:
    """How many workers were past `init`, and not at their end, at the worst moment of that time."""
    lives: dict[int, tuple[float, float]] = {}
    for note in notes:
        if note.what != "loaded":
            first, _ = lives.get(note.pid, (note.when, note.when))
            lives[note.pid] = (first, note.when)
    moments = [when for life in lives.values() for when in life if begin <= when <= end]
    # just after an end is the moment at which one may be missing
    return min(sum(first <= when < last for first, last in lives.values()) for when in [begin, *moments])


def is_renewed(restarts: int) -> Callable[[Status], bool]:
    return lambda status: status.state == "running" and status.restarts >= restarts


def all_of(program: Program, version: int) -> bool:
    """Whether each worker that lives now runs the code of this version."""
    versions = {note.pid: note.version for note in notes_of(program) if note.what == "init"}
    return all(versions.get(worker.pid) == version for worker in program.status().workers)


def restart_by_signal(program: Program) -> None:
    program.send(signal.SIGHUP)


def restart_by_command(program: Program) -> None:
    program.command("restart", expect=0)


@pytest.mark.parametrize("restart", [restart_by_signal, restart_by_command])
def test_new_code_takes_over_under_load(tmp_path: Path, restart: Callable[[Program], None]) -> None:
    with busy(tmp_path) as program:
        before = program.status()
        begin = time.monotonic()
        program.write(BUSY.format(version=2, workers=WORKERS))
        restart(program)
        after = program.wait_until(is_renewed(1), "the end of the restart")
        until(lambda: all_of(program, 2), "new code everywhere")
        end = time.monotonic()
        # so that the last life has a call after `end`
        seen = len(notes_of(program))
        until(lambda: len(notes_of(program)) > seen + 2 * WORKERS, "more calls")
        assert after.pid == before.pid
        assert after.restarts == 1
        assert not {worker.pid for worker in after.workers} & {worker.pid for worker in before.workers}
        assert after.uptime >= end - begin
    assert least_at_work(notes_of(program), begin, end) >= WORKERS - 1


def loads(program: Program, pid: int, *, by_master: bool) -> list[Note]:
    """How often the program was loaded by the master, or by its trials."""
    return [note for note in notes_of(program) if note.what == "loaded" and (note.pid == pid) == by_master]


def wait_for_trial(program: Program, pid: int) -> None:
    until(lambda: loads(program, pid, by_master=False), "a trial of the new code")


def wait_for_new_code(program: Program, pid: int) -> None:
    until(lambda: len(loads(program, pid, by_master=True)) > 1, "the new code in the master")


def wait_for_replacing(program: Program, pid: int) -> None:
    program.wait_for_log(r"goes on with new code")


def wait_for_nothing(program: Program, pid: int) -> None:
    del program, pid


PHASES = [wait_for_nothing, wait_for_trial, wait_for_new_code, wait_for_replacing]
phases = pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__.removeprefix("wait_for_"))

Phase = Callable[[Program, int], None]


@phases
def test_a_restart_while_one_is_under_way(tmp_path: Path, phase: Phase) -> None:
    with busy(tmp_path) as program:
        begin = time.monotonic()
        pid = program.status().pid
        program.write(BUSY.format(version=2, workers=WORKERS))
        program.send(signal.SIGHUP)
        phase(program, pid)
        program.write(BUSY.format(version=3, workers=WORKERS))
        os.kill(pid, signal.SIGHUP)
        until(lambda: program.wait_until(is_renewed(1)), "the end of the restart")
        if phase in (wait_for_new_code, wait_for_replacing):
            program.wait_until(is_renewed(2), "the end of the second restart")
            until(lambda: all_of(program, 3), "new code everywhere")
        end = time.monotonic()
        seen = len(notes_of(program))
        until(lambda: len(notes_of(program)) > seen + 2 * WORKERS, "more calls")
    assert least_at_work(notes_of(program), begin, end) >= WORKERS - 1


@phases
@pytest.mark.parametrize("command", ["stop", "status"])
def test_a_command_during_a_restart(tmp_path: Path, phase: Phase, command: str) -> None:
    with busy(tmp_path) as program:
        pid = program.status().pid
        program.send(signal.SIGHUP)
        phase(program, pid)
        program.ask(command)  # no client is sent away, also when it comes at the exchange
        if command == "status":
            program.wait_until(is_renewed(1))


@pytest.mark.parametrize("pin", [0, WORKERS - 1])
def test_a_worker_is_killed_during_a_restart(tmp_path: Path, pin: int) -> None:
    with Program(tmp_path, BUSY.format(version=1, workers=WORKERS)) as program:
        program.run()
        before = program.wait_until_ready()
        killed = before.workers[pin].pid
        program.write(BUSY.format(version=2, workers=WORKERS))
        program.send(signal.SIGHUP)
        wait_for_new_code(program, before.pid)
        with suppress(ProcessLookupError):  # it has been replaced already
            os.kill(killed, signal.SIGKILL)
        program.wait_until(lambda status: is_renewed(1)(status) and all_of(program, 2), "new code everywhere")
        assert [worker.pin for worker in program.status().workers] == list(range(WORKERS))
        program.ask("stop")
        assert program.wait_for_end() == 0
        check_whole(notes_of(program), killed=killed)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_signals_without_end_around_the_exchange(tmp_path: Path, delay: float) -> None:
    """The second one means "at once", so calls are cut off; but nothing is left, and the end is in order."""
    with Program(tmp_path, BUSY.format(version=1, workers=WORKERS)) as program:
        foreground = program.run()
        pid = program.wait_until_ready().pid
        program.send(signal.SIGHUP)
        wait_for_trial(program, pid)
        time.sleep(delay)  # the exchange has no sign of its own that could be waited for
        while foreground.poll() is None:
            foreground.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        # one that comes after the end, while the interpreter shuts down, may end it
        assert program.wait_for_end() in (0, -signal.SIGTERM)
        assert program.log.count("manager 'tested' ended") == 1


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_one_signal_around_the_exchange_is_not_lost(tmp_path: Path, delay: float) -> None:
    with busy(tmp_path) as program:
        pid = program.status().pid
        program.send(signal.SIGHUP)
        wait_for_trial(program, pid)
        time.sleep(delay)
        os.kill(pid, signal.SIGTERM)
        assert program.wait_for_end() == 0


def test_a_signal_just_before_the_exchange_is_not_lost(tmp_path: Path) -> None:
    """What the loop has not seen yet would be gone with the old code."""
    source = """
        import traceback

        class Out:
            def write(self, text):
                return len(text)

            def flush(self):
                if "execute_anew" in {frame.name for frame in traceback.extract_stack()}:
                    os.kill(os.getpid(), signal.SIGTERM)

        sys.stdout = Out()

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=1, target=work)
    """
    with Program(tmp_path, source) as program:
        program.run()
        program.wait_until_ready()
        program.send(signal.SIGHUP)
        assert program.wait_for_end() == 0
        assert "signal SIGTERM" in program.log
        assert "goes on with new code" not in program.log


def test_new_code_that_never_comes_to_the_point_holds_up_no_stop(tmp_path: Path) -> None:
    with busy(tmp_path) as program:
        pid = program.status().pid
        source = BUSY.format(version=2, workers=WORKERS)
        program.write(source.replace('note("loaded")', 'note("loaded"); time.sleep(3600)'))
        program.send(signal.SIGHUP)
        wait_for_trial(program, pid)
        assert program.status().state == "restarting"
        seen = len(notes_of(program))
        until(lambda: len(notes_of(program)) > seen + 2 * WORKERS, "more calls")


def test_a_client_that_came_before_the_exchange_is_answered_after_it(tmp_path: Path) -> None:
    with busy(tmp_path) as program, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(program.socket))
        program.status()  # the master has taken all that came before this one
        program.send(signal.SIGHUP)
        program.wait_for_log("goes on with new code")
        client.sendall(b'{"command": "status"}\n')
        answer = json.loads(client.makefile("rb").readline())
        assert answer["status"]["restarts"] == 1


@pytest.mark.parametrize("command", ["stop", "reload"])
def test_a_long_call_is_asked_to_end_once(tmp_path: Path, command: str) -> None:
    """However many restarts and commands it takes: a second signal would cut it off."""
    source = BUSY.format(version=1, workers=1).replace(
        "time.sleep(0.05)", 'while not os.path.exists("gate"): time.sleep(0.01)'
    )
    with Program(tmp_path, source) as program:
        program.run()
        master = program.wait_until_ready().pid
        until(lambda: [note for note in notes_of(program) if note.what == "begin"], "a call")
        program.send(signal.SIGHUP)
        before = program.wait_until(lambda status: status.workers[0].state == "stopping")
        os.kill(master, signal.SIGHUP)
        after = program.wait_until(lambda status: status.restarts == 2, "the second restart")
        program.ask(command)
        assert after.workers[0].pid == before.workers[0].pid
        (tmp_path / "gate").touch()
        if command == "reload":
            program.wait_until(lambda status: status.workers[0].pid not in (0, before.workers[0].pid))
            program.ask("stop")
        assert program.wait_for_end() == 0
        check_whole(notes_of(program))


def test_one_that_is_on_its_way_out_is_replaced_before_the_others(tmp_path: Path) -> None:
    """Or two would be missing, when another restart comes in the midst of one."""
    source = """
        def work(context):
            while context.pin == 1 and not os.path.exists("gate"):
                time.sleep(0.01)
            context.sleep(3600)

        manager = Manager("tested", workers=3, target=work, stop_timeout=40)
    """
    with Program(tmp_path, source) as program:
        program.run()
        master = program.wait_until_ready().pid
        program.send(signal.SIGHUP)
        program.wait_until(lambda status: status.workers[1].state == "stopping")
        os.kill(master, signal.SIGHUP)
        status = program.wait_until(lambda status: status.restarts == 2, "the second restart")
        assert [worker.state for worker in status.workers] == ["busy", "stopping", "busy"]
        assert [worker.restarts for worker in status.workers] == [1, 0, 0]
        (tmp_path / "gate").touch()
        status = program.wait_until(is_renewed(2), "the end of the second restart")
        assert [worker.restarts for worker in status.workers] == [2, 1, 1]


def test_a_worker_that_does_not_end_is_killed_in_time_after_another_restart(tmp_path: Path) -> None:
    source = """
        def work(context):
            while {stubborn}:
                try:
                    time.sleep(3600)
                except SystemExit:
                    pass
            context.sleep(3600)

        manager = Manager("tested", workers=2, target=work, stop_timeout=4)
    """
    with Program(tmp_path, source.format(stubborn=True)) as program:
        program.run()
        before = program.wait_until_ready()
        program.write(source.format(stubborn=False))
        program.send(signal.SIGHUP)
        program.wait_until(lambda status: status.workers[0].state == "stopping")
        os.kill(before.pid, signal.SIGHUP)
        program.wait_until(is_renewed(2), "the end of the second restart")
        for worker in before.workers:
            program.wait_for_log(rf"worker #{worker.pin} \(pid {worker.pid}\) was killed by SIGKILL")


def test_a_failure_before_a_restart_is_not_forgotten(tmp_path: Path) -> None:
    """A worker that waits for its next try goes on to wait, or is tried at once by the new code."""
    source = """
        def init(context):
            if not os.path.exists("good"):
                raise ValueError("no database")

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=2, target=work, init=init, backoff=(600.0, 600.0))
    """
    with Program(tmp_path, source) as program:
        program.run()
        program.wait_until(lambda status: all(worker.state == "backoff" for worker in status.workers))
        (tmp_path / "good").touch()
        program.send(signal.SIGHUP)
        status = program.wait_until(is_renewed(1), "the end of the restart")
        assert all(worker.restarts == 2 and "exited with 1" in worker.last_exit for worker in status.workers)


@pytest.mark.parametrize("command", ["restart", "reload"])
def test_new_code_that_cannot_work_leaves_the_others_alone(tmp_path: Path, command: str) -> None:
    """Once it can, who asks again hears nothing of the failure before."""
    source = """
        def init(context):
            if os.path.exists("bad"):
                raise ValueError("no database")

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=3, target=work, init=init, backoff=(0.0, 0.0), respawn_limit=3)
    """
    with Program(tmp_path, source) as program:
        program.start()
        before = program.wait_until_ready()
        (tmp_path / "bad").touch()
        done = program.command("restart", expect=1)
        assert "worker #0 does not start anew" in done.stderr
        after = program.status()
        assert after.state == "running"
        assert after.workers[0].state == "fatal"
        assert [worker.pid for worker in after.workers[1:]] == [worker.pid for worker in before.workers[1:]]
        (tmp_path / "bad").unlink()
        program.command(command, expect=0)
        after = program.wait_until_ready()
        assert not {worker.pid for worker in after.workers} & {worker.pid for worker in before.workers}


SOCKETS = 3
"""That a master has at rest: it listens at one, and a pair carries the log."""


def descriptors_of(pid: int) -> Counter[str]:
    """What a process has open, without the numbers that no two of a kind share."""
    folder = Path(f"/proc/{pid}/fd")
    found = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            found.append(os.readlink(folder / name).partition("[")[0])
    return Counter(found)


def descriptors_at_rest(master: int) -> Counter[str]:
    """A master's, once it has seen that whoever asked it last is gone."""
    until(lambda: descriptors_of(master)["socket:"] == SOCKETS, "the end of connections")
    return descriptors_of(master)


def inherited_by_programs(pid: int) -> set[int]:
    """The descriptors that a program which this process executes would get."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            flags = next(line.split()[1] for line in path.read_text().splitlines() if line[:5] == "flags")
            if not int(flags, 8) & os.O_CLOEXEC:
                found.add(int(path.name))
    return found


def check_restarts_in_a_row(folder: Path, restarts: int) -> None:
    with busy(folder, 2) as program:
        pid = program.status().pid
        before: list[tuple[Counter[str], Counter[str]]] = []
        for number in itertools.count(1):
            program.send(signal.SIGHUP)
            status = program.wait_until(is_renewed(number), f"the end of restart {number}")
            found = descriptors_at_rest(pid), descriptors_of(status.workers[0].pid)
            assert found == (before or [found])[0]
            before.append(found)
            assert inherited_by_programs(pid) == {0, 1, 2}
            if number == restarts:
                break
        assert program.status().pid == pid


def test_restarts_in_a_row_leave_the_descriptors_as_they_were(tmp_path: Path) -> None:
    check_restarts_in_a_row(tmp_path, 4)
