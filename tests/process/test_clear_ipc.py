"""Orphans are found and removed; nothing else is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from multiprocessing_kit.ipc import hygiene, sysv
from multiprocessing_kit.ipc.hygiene import scan, sweep
from multiprocessing_kit.ipc.semaphore import Semaphore
from multiprocessing_kit.ipc.stamp import HEADER_SIZE, Owner, Stamp, write_semaphore
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.sysv import KEY_PREFIX, create_segment, random_key, sysv_ipc
from multiprocessing_kit.ipc.tables import SegmentRow, read_segments, read_semaphores
from tests.forks import die, exit_of, fork

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "clear_ipc.py"
FOREIGN = 0x4D4A

pytestmark = pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="looks into /proc/sysvipc")


def script(*options: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        input=answer,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def clear(*options: str) -> list[str]:
    """Run the script, which must succeed; returns its lines."""
    done = script(*options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def ids() -> set[tuple[str, int]]:
    """Every object in the system."""
    return {("shm", row.id) for row in read_segments()} | {("sem", row.id) for row in read_semaphores()}


def ids_of(segment: StampedSegment) -> set[tuple[str, int]]:
    return {("shm", segment.id), *(("sem", semaphore.id) for semaphore in segment.semaphores)}


def shm_line(number: int) -> list[str]:
    """All that the kernel tells about a segment, times and last user included."""
    lines = (line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines())
    return next(line for line in lines if line[1] == str(number))


def killed(body: Callable[[], object]) -> int:
    """Run `body` in a forked child which is then killed; returns its pid."""

    def run() -> None:
        keep = body()
        die()
        del keep

    pid = fork(run)
    assert exit_of(pid) == -signal.SIGKILL
    return pid


def orphan() -> set[tuple[str, int]]:
    """Leave a segment and two semaphores; returns their ids."""
    reading, writing = os.pipe()

    def body() -> StampedSegment:
        segment = StampedSegment("queue", 1000, (1, 0))
        numbers = [segment.id, *(semaphore.id for semaphore in segment.semaphores)]
        os.write(writing, " ".join(map(str, numbers)).encode())
        return segment

    killed(body)
    shm, *sem = os.read(reading, 100).split()
    os.close(reading)
    os.close(writing)
    return {("shm", int(shm)), *(("sem", int(number)) for number in sem)}


def drop(kind: str, number: int) -> None:
    with contextlib.suppress(sysv_ipc.ExistentialError):  # the test has removed it
        (sysv_ipc.remove_shared_memory if kind == "shm" else sysv_ipc.remove_semaphore)(number)


@pytest.fixture
def cleanup() -> Iterator[list[tuple[str, int]]]:
    """What a test puts in is removed after it, if the test has not done so."""
    made: list[tuple[str, int]] = []
    yield made
    for each in made:
        drop(*each)


def craft(
    owner: Owner, cleanup: list[tuple[str, int]], semaphore_mode: int | None = 0o600
) -> set[tuple[str, int]]:
    """A segment with this owner that nobody has attached, and a semaphore that it names."""
    segment = create_segment(HEADER_SIZE + 10)
    cleanup.append(("shm", segment.id))
    view = memoryview(segment)
    Stamp("queue", owner).write(view)
    if semaphore_mode is not None:
        semaphore = Semaphore(random_key(), 1)
        semaphore.guard.mode = semaphore_mode
        cleanup.append(("sem", semaphore.id))
        write_semaphore(view, 0, semaphore.key, semaphore.id)
    return set(cleanup)


def test_a_killed_creators_objects_are_removed() -> None:
    left = orphan()
    assert left <= ids()
    lines = clear()
    for _, number in left:
        assert any(f" {number} " in line and line.endswith("orphaned") for line in lines)
    assert lines[0].split() == ["kind", "id", "key", "size", "creator", "state", "name"]
    assert lines[-1].endswith(" removed")
    assert not left & ids()


def test_nothing_to_remove() -> None:
    clear()
    assert clear()[-1] == "nothing to remove"


def test_dry_run_and_check_remove_nothing() -> None:
    left = orphan()
    assert clear("--dry-run")[-1].endswith(" would be removed")
    done = script("--check")
    assert done.returncode == 1
    assert done.stdout.endswith(" orphaned\n")
    assert left <= ids()
    clear()
    assert clear("--check")[-1] == "no orphans"
    assert not left & ids()


def test_a_killed_child_leaves_its_parents_objects() -> None:
    segment = StampedSegment("test", 100, (1,))
    killed(lambda: None)
    clear()
    assert ids_of(segment) <= ids()
    assert {item.state for item in scan() if item.pid == os.getpid()} == {"alive"}
    segment.remove()


def test_what_survivors_use_is_left_to_them() -> None:
    reading, writing = os.pipe()
    ready, done = os.pipe()

    def body() -> StampedSegment:
        segment = StampedSegment("test", 100, (1,))
        if os.fork() == 0:
            os.close(writing)
            os.write(done, str(segment.id).encode())
            os.read(reading, 1)
            os._exit(0)
        return segment

    killed(body)
    number = int(os.read(ready, 20))
    assert [item.state for item in scan() if item.kind == "test" and item.id == number] == ["in use"]
    clear()
    assert ("shm", number) in ids()
    for each in (reading, writing, ready, done):
        os.close(each)
    while ("shm", number) in ids():  # its end cannot be waited for: it is not our child
        clear()


# Others.


def row_of(number: int) -> SegmentRow:
    return next(row for row in read_segments() if row.id == number)


@pytest.mark.parametrize(
    ("key", "mode"),
    [(FOREIGN << 16 | 0x1234, 0o600), (KEY_PREFIX << 16 | 0x1234, 0o644), (KEY_PREFIX << 16 | 0x1234, 0o660)],
)
def test_a_foreign_segment_is_not_even_attached(key: int, mode: int, cleanup: list[tuple[str, int]]) -> None:
    owner = replace(Owner.current(), started=1)
    segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, mode=mode, size=HEADER_SIZE)
    cleanup.append(("shm", segment.id))
    with memoryview(segment) as view:
        view[:] = bytes(HEADER_SIZE)
        Stamp("queue", owner).write(view)  # even with our stamp in it
    segment.detach()
    before = shm_line(segment.id)
    clear()
    sweep()
    assert shm_line(segment.id) == before


def test_a_stranger_with_our_key_and_mode_is_not_removed(cleanup: list[tuple[str, int]]) -> None:
    segment = create_segment(4096)
    cleanup.append(("shm", segment.id))
    number = segment.id
    segment.write(b"PostgreSQL")
    del segment
    assert row_of(number).attached == 0
    clear()
    assert row_of(number).attached == 0
    segment = sysv_ipc.attach(number)
    assert bytes(segment.read(10)) == b"PostgreSQL"
    segment.detach()


def test_foreign_semaphores_stay(cleanup: list[tuple[str, int]]) -> None:
    foreign = {
        ("sem", sysv_ipc.Semaphore(FOREIGN << 16 | 0x1234, sysv_ipc.IPC_CREX).id),
        ("sem", Semaphore(random_key(), 1).id),  # ours to look at, but in no dead creator's stamp
    }
    cleanup += foreign
    orphan()
    clear()
    assert foreign <= ids()


# Stamps.


def test_a_reused_pid_is_not_the_creator(cleanup: list[tuple[str, int]]) -> None:
    current = Owner.current()
    made = craft(replace(current, started=current.started - 1), cleanup)
    clear()
    assert not made & ids()


def test_a_live_creators_objects_stay_though_nobody_is_attached(cleanup: list[tuple[str, int]]) -> None:
    made = craft(Owner.current(), cleanup)
    clear()
    assert made <= ids()


def test_another_pid_namespace_cannot_be_judged(cleanup: list[tuple[str, int]]) -> None:
    current = Owner.current()
    made = craft(replace(current, pid_space=current.pid_space + 1, started=1), cleanup)
    clear()
    assert made <= ids()


@pytest.mark.parametrize("change", ["mode", "id", "used without an id"])
def test_a_semaphore_is_looked_at_again(change: str, cleanup: list[tuple[str, int]]) -> None:
    """A dead creator's stamp may name a key that somebody else has by now."""
    dead = replace(Owner.current(), started=1)
    mode = 0o644 if change == "mode" else 0o600
    segment = create_segment(HEADER_SIZE)
    view = memoryview(segment)
    Stamp("queue", dead).write(view)
    semaphore = Semaphore(random_key(), 1)
    semaphore.guard.mode = mode
    if change == "used without an id":
        semaphore.guard.acquire()
    cleanup += [("shm", segment.id), ("sem", semaphore.id)]
    number = {"mode": semaphore.id, "id": semaphore.id + 1}.get(change)
    write_semaphore(view, 0, semaphore.key, number)
    made = ("shm", segment.id)
    del view, segment
    clear()
    assert made not in ids()
    assert ("sem", semaphore.id) in ids()


@pytest.mark.parametrize("moment", ["before the stamp", "before a semaphore", "after a semaphore"])
def test_killed_while_creating(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Semaphore.__init__

    def create_and_die(self: Semaphore, key: int, value: int = 0) -> None:
        original(self, key, value)
        die()

    with monkeypatch.context() as patch:
        if moment == "before the stamp":
            patch.setattr(Stamp, "write", die)
        else:
            patch.setattr(Semaphore, "__init__", die if moment == "before a semaphore" else create_and_die)
        pid = killed(lambda: StampedSegment("test", 100, (1, 0)))
    left = [item for item in scan() if item.pid == pid]
    assert [item.state for item in left] == ["orphaned"] * (2 if moment == "after a semaphore" else 1)
    clear()
    assert not {("sem" if item.kind == "semaphore" else "shm", item.id) for item in left} & ids()


def test_an_unfinished_segment_of_a_live_creator_stays(cleanup: list[tuple[str, int]]) -> None:
    segment = create_segment(100)
    number = segment.id
    cleanup.append(("shm", number))
    del segment
    assert [item.state for item in scan() if item.id == number and item.kind == "unstamped"] == ["alive"]
    clear()
    assert ("shm", number) in ids()


# The next start.


def test_the_next_start_sweeps() -> None:
    left = orphan()
    code = (
        "from multiprocessing_kit.queues import SharedMemQueue\n"
        "with SharedMemQueue() as queue: queue.put(1); assert queue.get() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert not left & ids()


def test_one_sweep_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(hygiene, "_swept", False)
    monkeypatch.setattr(hygiene, "sweep", lambda: calls.append(1))
    for _ in range(2):
        StampedSegment("test", 100).remove()
    assert calls == [1]


def test_a_failing_sweep_is_logged_and_hinders_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no")

    monkeypatch.setattr(hygiene, "_swept", False)
    monkeypatch.setattr(hygiene, "sweep", fail)
    hygiene.sweep_once()
    assert "could not sweep" in caplog.text


def test_without_system_v(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hygiene, "sysv_ipc", None)
    assert scan() == []
    assert sweep() == []
    assert sysv.KEY_PREFIX == KEY_PREFIX


# --all asks, and is tried where nobody else's objects are.


def may_unshare() -> bool:
    return (
        sys.platform == "linux"
        and subprocess.run(["unshare", "--ipc", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not may_unshare(), reason="may not make an IPC namespace")
@pytest.mark.parametrize(
    ("options", "answer", "status", "last", "works"),
    [
        (["--all"], "no\n", 1, "nothing removed", True),
        (["--all"], "y\n", 1, "nothing removed", True),
        (["--all"], "", 1, "nothing removed", True),
        (["--all"], "yes\n", 0, "7 removed", False),
        (["--all", "--yes"], "", 0, "7 removed", False),
        (["--all", "--dry-run"], "", 0, "7 would be removed", True),
        ([], "", 0, "nothing to remove", True),
    ],
)
def test_all(options: list[str], answer: str, status: int, last: str, works: bool) -> None:
    code = f"""
import subprocess, sys
from multiprocessing_kit.errors import QueueClosedError
from multiprocessing_kit.queues import SharedMemQueue
queue = SharedMemQueue()
command = [sys.executable, {str(SCRIPT)!r}, *{options!r}]
done = subprocess.run(command, input={answer!r}, capture_output=True, text=True)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
try:
    queue.put(1)
    print("works")
except QueueClosedError:
    print("broken")
sys.exit(done.returncode)
"""
    command = ["unshare", "--ipc", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines()[-2:] == [last, "works" if works else "broken"]
