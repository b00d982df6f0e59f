"""Lockers whose owners, waiters and sleepers are killed, interrupted, or other programs."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.ipc import semset
from multiprocessing_kit.ipc.segment import Segment
from multiprocessing_kit.lockers import (
    ConditionLocker,
    FileLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
    condition,
    file,
    mutex,
    reentrant,
    rw,
    semaphore,
    spin,
)
from tests.forks import die, exit_of, fork, wait_until
from tests.gates import Gate
from tests.interrupts import Interrupted, interrupt, interrupted
from tests.kills import Instants

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30  # seconds; only ever used up by a failing test
AT_ONCE = 1.0  # seconds: how soon the next one must get on after a kill

MAKE: dict[str, Callable[[Path], Any]] = {
    "mutex": lambda _: MutexLocker(),
    "spin": lambda _: SpinLocker(),
    "reentrant": lambda _: ReentrantLocker(),
    "semaphore": lambda _: SemaphoreLocker(1),
    "file": lambda folder: FileLocker(folder / "lock"),
    "reader": lambda _: RWLocker().reader,
    "writer": lambda _: RWLocker().writer,
}


@pytest.fixture(params=MAKE)
def locker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    locker = MAKE[request.param](tmp_path)
    yield locker
    locker.destroy()


exclusive = pytest.mark.parametrize("locker", [name for name in MAKE if name != "reader"], indirect=True)


# Deaths: at every instruction.


INSTANTS = Instants(by_instruction=(condition, file, mutex, reentrant, rw, semaphore, spin, semset))
STRIDES = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.stress), pytest.param(7, marks=pytest.mark.thorough), 23]
)
"""Instructions from one kill to the next."""


def killed_at_instants(action: Callable[[], object], stride: int) -> Iterator[None]:
    """After each of the children that were killed in `action`, and after one that was not."""
    return INSTANTS.killed(contextlib.nullcontext, lambda _: action(), stride=stride, least=0)


def usual(locker: Any) -> None:
    with locker:
        pass


def in_vain(locker: Any) -> None:
    with locker:
        if not isinstance(locker, ReentrantLocker):
            locker.acquire(False)
            locker.acquire(timeout=0)


def twice(locker: Any) -> None:
    usual(locker)
    locker.acquire()
    locker.release()


@STRIDES
@pytest.mark.parametrize("action", [usual, in_vain, twice])
def test_killed_at_any_instruction(locker: Any, action: Callable[[Any], object], stride: int) -> None:
    for _ in killed_at_instants(lambda: action(locker), stride):
        assert locker.acquire(False), "the next one proceeds at once"
        locker.release()
        assert locker.owner is None
        assert locker.acquire(False)
        assert not locker.owner_died, "told once"
        locker.release()


@STRIDES
def test_a_sleeper_killed_at_any_instruction(stride: int) -> None:
    shared = ConditionLocker()

    def sleep() -> None:
        with shared:
            shared.wait(0.001)

    for _ in killed_at_instants(sleep, stride):
        with shared:
            assert shared.wait(0) is False, "nothing is left of it"
    shared.destroy()


@STRIDES
def test_a_notifier_killed_at_any_instruction(stride: int) -> None:
    shared = ConditionLocker()

    def notify() -> None:
        with shared:
            shared.notify()

    for _ in killed_at_instants(notify, stride):
        pid = fork(lambda: sleeper(shared))
        wait_until(lambda: sleepers(shared) == 1)
        with shared:
            shared.notify()
        assert exit_of(pid) == 0
    shared.destroy()


def sleepers(shared: ConditionLocker) -> int:
    """How many wait. Counted before they give the lock back, they have done so by the time it is had here."""
    with shared:
        return shared._set.value(0)


def sleeper(shared: ConditionLocker) -> None:
    with shared:
        assert shared.wait(PATIENCE)


# Deaths: of owners and waiters.


TIMES = pytest.mark.parametrize(
    "times", [20, pytest.param(500, marks=[pytest.mark.stress, pytest.mark.timeout(300)])]
)
TOLD, NOT_TOLD = 10, 11


def one_that_has(locker: Any, times: int = 1) -> int:
    """A child that has it until it is killed; returns its pid."""
    with Gate() as has_it, Gate() as never:

        def own() -> None:
            for _ in range(times):
                locker.acquire()
            has_it.open()
            never.wait()

        pid = fork(own)
        has_it.wait()
    return pid


def one_that_waits(locker: Any) -> int:
    """A child that waits for it, and ends with whether it was told of a death; returns its pid."""
    with Gate() as begins:

        def wait() -> None:
            begins.open()
            locker.acquire()
            told = locker.owner_died
            locker.release()
            os._exit(TOLD if told else NOT_TOLD)

        pid = fork(wait)
        begins.wait()
    if HAS_PROC:  # elsewhere it may be killed an instant before it sleeps
        wait_until(lambda: state_of(pid) == "S")
    return pid


HAS_PROC = Path("/proc/self/stat").exists()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def kill(pid: int) -> float:
    """Kill a child; returns when it was dead."""
    os.kill(pid, signal.SIGKILL)
    assert exit_of(pid) == -signal.SIGKILL
    return time.monotonic()


def ends_at_once(pids: list[int], begun: float) -> list[int]:
    """How these ended, who had nothing more to wait for since then."""
    ends = sorted(exit_of(pid) for pid in pids)
    assert time.monotonic() - begun < AT_ONCE
    return ends


@exclusive
@TIMES
def test_the_owner_is_killed_while_others_wait(locker: Any, times: int) -> None:
    for _ in range(times):
        owner = one_that_has(locker)
        assert locker.owner.pid == owner
        waiting = [one_that_waits(locker) for _ in range(2)]
        assert ends_at_once(waiting, kill(owner)) == [TOLD, NOT_TOLD], "one of them was told"


@exclusive
@TIMES
def test_who_waits_is_killed(locker: Any, times: int) -> None:
    for _ in range(times):
        with locker:
            killed, next_one = (one_that_waits(locker) for _ in range(2))
            kill(killed)
            assert not locker.owner_died
            begun = time.monotonic()
        assert ends_at_once([next_one], begun) == [NOT_TOLD]
        assert locker.acquire(False)
        assert not locker.owner_died
        locker.release()


@TIMES
@pytest.mark.parametrize("moment", ["has it", "waits"])
def test_a_reader_is_killed_and_a_writer_is_next(moment: str, times: int) -> None:
    shared = RWLocker()
    for _ in range(times):
        if moment == "has it":
            reader, writer = one_that_has(shared.reader), one_that_waits(shared.writer)
            begun = kill(reader)
        else:
            with shared.writer:
                reader, writer = one_that_waits(shared.reader), one_that_waits(shared.writer)
                kill(reader)
                begun = time.monotonic()
        assert ends_at_once([writer], begun) == [NOT_TOLD], "a dead reader has broken nothing"
        assert shared.readers == 0
    shared.destroy()


@TIMES
def test_a_writer_is_killed_and_readers_are_next(times: int) -> None:
    shared = RWLocker()
    for _ in range(times):
        writer = one_that_has(shared.writer)
        readers = [one_that_waits(shared.reader) for _ in range(2)]
        assert ends_at_once(readers, kill(writer)) == [TOLD, TOLD], "all readers up to the next writer"
        with shared.writer:
            assert shared.writer.owner_died
    shared.destroy()


@TIMES
def test_a_writer_that_waits_is_killed_and_readers_are_next(times: int) -> None:
    shared = RWLocker()
    for _ in range(times):
        with shared.reader:
            writer = one_that_waits(shared.writer)
            wait_until(lambda: shared._set.value(0) == 1)  # it has closed the gate
            reader = one_that_waits(shared.reader)
            assert ends_at_once([reader], kill(writer)) == [NOT_TOLD], "beside the reader that is in"
    shared.destroy()


def check_permits(locker: SemaphoreLocker, value: int) -> list[bool]:
    """There are so many, and no more; returns of which of them a death was told."""
    told = []
    for _ in range(value):
        assert locker.acquire(False)
        told.append(locker.owner_died)
    assert not locker.acquire(False)
    locker.release(value)
    return told


@TIMES
def test_owners_of_several_permits_are_killed(times: int) -> None:
    locker = SemaphoreLocker(3)
    for _ in range(times):
        of_two, of_one = one_that_has(locker, 2), one_that_has(locker)
        waiting = [one_that_waits(locker) for _ in range(2)]
        assert ends_at_once(waiting, kill(of_two)) == [TOLD, TOLD]
        kill(of_one)
        assert check_permits(locker, 3) == [True, False, False]
    locker.destroy()


@TIMES
def test_who_waits_for_a_permit_is_killed(times: int) -> None:
    locker = SemaphoreLocker(3)
    for _ in range(times):
        for _ in range(3):
            locker.acquire()
        killed, next_one = (one_that_waits(locker) for _ in range(2))
        kill(killed)
        begun = time.monotonic()
        locker.release()
        assert ends_at_once([next_one], begun) == [NOT_TOLD]
        locker.release(2)
        assert not any(check_permits(locker, 3))
    locker.destroy()


@TIMES
def test_the_owner_of_a_condition_is_killed_while_others_sleep(times: int) -> None:
    shared = ConditionLocker()
    for _ in range(times):
        asleep = fork(lambda: sleeper(shared))
        wait_until(lambda: sleepers(shared) == 1)
        owner = one_that_has(shared)
        begun = kill(owner)
        with shared:
            assert shared.owner_died
            shared.notify()
        assert ends_at_once([asleep], begun) == [0]
    shared.destroy()


@TIMES
def test_a_wake_up_for_the_dead_goes_to_the_living(times: int) -> None:
    shared = ConditionLocker(MutexLocker())
    for _ in range(times):
        dead, living = (fork(lambda: sleeper(shared)) for _ in range(2))
        wait_until(lambda: sleepers(shared) == 2)
        with shared:
            begun = kill(dead)
            shared.notify()
        assert ends_at_once([living], begun) == [0]
    shared.destroy()


def stopped_sleeper(shared: ConditionLocker) -> int:
    """One that is counted, but cannot take what it is sent; returns its pid."""
    pid = fork(lambda: sleeper(shared))
    wait_until(lambda: sleepers(shared) == 1)
    os.kill(pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    return pid


def test_nobody_takes_away_a_wake_up_that_was_sent_before() -> None:
    shared = ConditionLocker()
    pid = stopped_sleeper(shared)
    with shared:
        shared.notify()
        assert shared.wait(0.01) is False
    os.kill(pid, signal.SIGCONT)
    assert exit_of(pid) == 0
    shared.destroy()


def test_a_wake_up_for_the_dead_is_taken_back() -> None:
    shared = ConditionLocker()
    pid = stopped_sleeper(shared)
    with shared:
        shared.notify()
        os.kill(pid, signal.SIGKILL)
        assert exit_of(pid) == -signal.SIGKILL
        assert shared.wait(0) is False
    shared.destroy()


def test_all_sleepers_are_woken_and_no_more_than_asked_for() -> None:
    shared = ConditionLocker()
    pids = [fork(lambda: sleeper(shared)) for _ in range(5)]
    wait_until(lambda: sleepers(shared) == 5)
    with shared:
        shared.notify(2)
        wait_until(lambda: sleepers(shared) == 3)
        with pytest.raises(LockerError, match="wait for it"):
            shared.destroy()
        shared.notify_all()
        shared.notify_all()
    assert [exit_of(pid) for pid in pids] == [0] * 5
    with shared:
        assert shared.wait(0) is False
    shared.destroy()


def test_a_queue_of_one_item_between_processes() -> None:
    shared, segment = ConditionLocker(), Segment(1)

    def produce() -> None:
        for number in range(1, 101):
            with shared:
                assert shared.wait_for(lambda: not segment.buf[0], PATIENCE)
                segment.buf[0] = number
                shared.notify_all()

    pid = fork(produce)
    for number in range(1, 101):
        with shared:
            assert shared.wait_for(lambda: segment.buf[0], PATIENCE) == number
            segment.buf[0] = 0
            shared.notify_all()
    assert exit_of(pid) == 0
    shared.destroy()
    segment.close()


# Creators.


@pytest.mark.parametrize(
    "kind", [MutexLocker, SpinLocker, ReentrantLocker, SemaphoreLocker, RWLocker, ConditionLocker]
)
def test_dropped_by_its_creator(kind: Callable[[], Any]) -> None:
    with Gate() as dropped:

        def use(locker: Any) -> None:
            dropped.wait()
            with pytest.raises(LockerError, match="creator has ended or dropped it") as caught:
                (locker.reader if kind is RWLocker else locker).acquire()
            assert caught.value.reason == "destroyed"

        def start() -> int:
            locker = kind()
            return fork(lambda: use(locker))

        pid = start()
        gc.collect()
        dropped.open()
        assert exit_of(pid) == 0


# Totals.


@exclusive
def test_one_at_a_time(locker: Any) -> None:
    each, processes = 200, 4
    with Segment(8) as segment:
        total = segment.buf.cast("q")

        def add() -> None:
            for _ in range(each):
                with locker:
                    value = total[0]
                    if value % 10 == 0:
                        os.sched_yield()
                    total[0] = value + 1

        assert [exit_of(pid) for pid in [fork(add) for _ in range(processes)]] == [0] * processes
        assert total[0] == each * processes
        total.release()


def test_no_more_than_the_permits() -> None:
    locker = SemaphoreLocker(2)
    inside = MutexLocker()
    with Segment(2) as segment:
        count = segment.buf

        def enter() -> None:
            for _ in range(50):
                with locker:
                    with inside:
                        count[0] += 1
                        count[1] = max(count[1], count[0])
                    os.sched_yield()
                    with inside:
                        count[0] -= 1

        assert [exit_of(pid) for pid in [fork(enter) for _ in range(4)]] == [0] * 4
        assert count[0] == 0
        assert 1 <= count[1] <= 2  # whether two ever meet is the system's business
    locker.destroy()
    inside.destroy()


# Interrupts: a signal handler that raises, at any instant.


def test_interrupted_anywhere(locker: Any) -> None:
    def body() -> None:
        for _ in interrupted(lambda: usual(locker), 300, 1e-5, 3e-4):
            # The handler may have run just as `release` was called, before it had done anything.
            with contextlib.suppress(LockerError):
                locker.release()
            assert locker.acquire(timeout=PATIENCE), "it was given back, or we knew that we had it"
            locker.release()

    assert exit_of(fork(body)) == 0
    assert locker.acquire(False)
    assert not locker.owner_died
    locker.release()


@exclusive
def test_interrupted_while_it_waits(locker: Any) -> None:
    with Gate() as waits:

        def wait() -> None:
            signal.signal(signal.SIGALRM, interrupt)
            waits.open()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                locker.acquire()

        with locker:
            pid = fork(wait)
            waits.wait()
            assert exit_of(pid) == 0
    assert locker.acquire(False)
    assert not locker.owner_died
    locker.release()


# Other programs.


def program(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from multiprocessing_kit.lockers import *\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("MutexLocker", ""),
        ("SpinLocker", ""),
        ("ReentrantLocker", ""),
        ("SemaphoreLocker", ""),
        ("RWLocker", ".writer"),
    ],
)
def test_a_name_shared_by_two_programs(kind: str, side: str) -> None:
    made = globals()[kind](name="test programs")
    locker = made.writer if side else made
    code = f"""
locker = {kind}(name="test programs"){side}
print(locker.acquire(False), flush=True)
input()
"""
    with program(code) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not locker.acquire(False)
        assert locker.owner.pid == other.pid
        assert "test programs" in locker.owner.title
        with pytest.raises(LockerError) as caught:
            locker.release()
        assert (caught.value.reason, caught.value.pid) == ("another owner", other.pid)
        other.kill()
    assert locker.acquire(timeout=PATIENCE)
    assert locker.owner_died
    locker.release()
    made.destroy()


def test_a_condition_shared_by_two_programs() -> None:
    shared = ConditionLocker(name="test programs")
    code = """
condition = ConditionLocker(name="test programs")
with condition:
    print("waits", flush=True)
    print(condition.wait(30), flush=True)
"""
    with program(code) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "waits\n"
        with shared:  # so it waits now
            shared.notify()
        assert other.stdout.readline() == "True\n"
        assert other.wait(PATIENCE) == 0
    shared.destroy()


needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="flock(1) is not installed")


@needs_flock
def test_a_shell_waits_for_our_lock(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    command = ["flock", "-n", locker.path, "true"]
    with locker:
        assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0
    locker.destroy()


@needs_flock
def test_we_wait_for_a_shells_lock(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    command = ["flock", locker.path, "sh", "-c", "echo has it; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdin is not None
        assert shell.stdout.readline() == "has it\n"
        assert locker.locked()
        assert not locker.acquire(False)
        assert not locker.acquire(timeout=0.02)
        assert locker.owner is not None
        assert locker.owner.pid == shell.pid
        with pytest.raises(LockerError, match="not ours"):
            locker.release()
        with pytest.raises(LockerError, match="cannot be destroyed"):
            locker.destroy()
        shell.stdin.write("\n")
        shell.stdin.flush()
        assert locker.acquire(timeout=PATIENCE)
        assert not locker.owner_died
        locker.release()
    locker.destroy()


# Files.


def test_a_file_lock_is_its_owners_only_whoever_it_forks(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    with Gate() as never, Gate() as forked:

        def wait() -> None:
            forked.open()
            never.wait()

        def own() -> None:
            locker.acquire()
            fork(wait)
            forked.wait()
            die()

        assert exit_of(fork(own)) == -signal.SIGKILL
        assert locker.acquire(timeout=PATIENCE), "the child of the dead does not hold it"
        assert locker.owner_died
        locker.release()
        never.open()
    locker.destroy()


def test_a_program_that_is_started_does_not_keep_it(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    with locker:
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    assert locker.acquire(False)
    locker.release()
    other.communicate()
    locker.destroy()


def test_what_is_in_the_file(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    assert not Path(locker.path).exists()
    with locker:
        assert Path(locker.path).read_text().split() == ["locked", "by", str(os.getpid())]
        assert Path(locker.path).stat().st_mode & 0o777 == 0o600
    assert Path(locker.path).read_text() == ""
    Path(locker.path).write_text("somebody's data")
    with locker:
        assert Path(locker.path).read_text() == "somebody's data"
    assert Path(locker.path).read_text() == "somebody's data"
    locker.destroy()
    assert not Path(locker.path).exists()


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        FileLocker(tmp_path / "link").acquire()
    assert not (tmp_path / "target").exists()


def test_a_lock_file_that_is_removed_while_others_wait(tmp_path: Path) -> None:
    locker = FileLocker(tmp_path / "lock")
    other = FileLocker(tmp_path / "lock")
    locker.acquire()
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(other.acquire(timeout=PATIENCE)))
    thread.start()
    wait_until(lambda: len(other._opened) == 1)
    Path(locker.path).unlink()
    third = FileLocker(tmp_path / "lock")
    assert third.acquire(False)
    locker.release()
    assert not got, "it waits for the file that is there now"
    third.release()
    thread.join(PATIENCE)
    assert got == [True]
    other.release()
    other.destroy()


def test_dropped_while_it_is_had(tmp_path: Path) -> None:
    FileLocker(tmp_path / "lock").acquire()
    locker = FileLocker(tmp_path / "lock")
    assert locker.acquire(False)
    locker.release()
    locker.destroy()


# Readers and writers, against a model.


class Actor:
    """A process that takes and gives back one side of a lock at a time, when it is told to."""

    def __init__(self, locker: RWLocker) -> None:
        commands, self.tell = os.pipe()
        self.hear, answers = os.pipe()
        self.fds = self.tell, self.hear
        self.pid = fork(lambda: self._serve(locker, commands, answers))
        os.close(commands)
        os.close(answers)
        self.doing = ""  # "", or with "r" or "w": "wants r", "has r"

    @staticmethod
    def _serve(locker: RWLocker, commands: int, answers: int) -> None:
        sides: dict[bytes, Any] = {b"r": locker.reader, b"w": locker.writer}
        while True:
            side = sides[os.read(commands, 1)]
            side.acquire()
            os.write(answers, b"t" if side.owner_died else b"f")
            os.read(commands, 1)
            side.release()
            os.write(answers, b"g")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for fd in self.fds:
            os.close(fd)


class ReadersAndWriters(RuleBasedStateMachine):
    """First come, first served; readers together. Who waits is known from the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.locker = RWLocker()
        self.actors = [Actor(self.locker) for _ in range(4)]
        self.line: list[Actor] = []  # who wants it, in the order in which they asked
        self.broken = False  # a writer has died inside, and none has been inside since

    def inside(self, side: str) -> list[Actor]:
        return [actor for actor in self.actors if actor.doing == f"has {side}"]

    def settle(self) -> None:
        """Let in whom the model lets in, and see that the lock does; and that the others wait."""
        while self.line:
            actor = self.line[0]
            side = actor.doing[-1]
            if self.inside("w") or (side == "w" and self.inside("r")):
                break
            self.line.pop(0)
            actor.doing = f"has {side}"
            told = os.read(actor.hear, 1)
            assert told == (b"t" if self.broken else b"f")
            if side == "w":
                self.broken = False
        # A writer at the head of the line has closed the gate and waits for readers to leave.
        draining = bool(self.line) and not self.inside("w")
        assert self.locker.readers == len(self.inside("r"))
        wait_until(lambda: self.locker._set.value(0) == (1 if draining or self.inside("w") else 0))

    @rule(number=st.integers(0, 3), side=st.sampled_from("rw"))
    def ask(self, number: int, side: str) -> None:
        actor = self.actors[number]
        if actor.doing:
            return
        os.write(actor.tell, side.encode())
        actor.doing = f"wants {side}"
        self.line.append(actor)
        self.settle()
        if actor in self.line:
            wait_until(lambda: is_asleep(actor.pid))

    @rule(number=st.integers(0, 3))
    def give_back(self, number: int) -> None:
        actor = self.actors[number]
        if actor.doing.startswith("has"):
            os.write(actor.tell, b"x")
            assert os.read(actor.hear, 1) == b"g"
            actor.doing = ""
            self.settle()

    @rule(number=st.integers(0, 3))
    def kill(self, number: int) -> None:
        actor = self.actors[number]
        actor.end()
        self.broken = self.broken or actor.doing == "has w"
        if actor in self.line:
            self.line.remove(actor)
        self.actors[number] = Actor(self.locker)
        self.settle()

    @precondition(lambda self: not self.line and not any(actor.doing for actor in self.actors))
    @rule()
    def free(self) -> None:
        assert self.locker.writer.acquire(False)
        self.broken = False
        self.locker.writer.release()

    def teardown(self) -> None:
        for actor in self.actors:
            actor.end()
        self.locker.destroy()


def is_asleep(pid: int) -> bool:
    """Whether a process sleeps in the kernel: all that an actor does there is to wait for the lock."""
    wait = Path(f"/proc/{pid}/wchan").read_text()
    return state_of(pid) == "S" and ("sem" in wait or wait == "0")


@pytest.mark.skipif(not HAS_PROC, reason="looks into /proc")
@pytest.mark.thorough
class TestReadersAndWriters(ReadersAndWriters.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
