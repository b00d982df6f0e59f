from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc import segment as segment_module
from multiprocessing_kit.ipc import sysv
from multiprocessing_kit.ipc.segment import Segment
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.ipc.tables import SegmentRow, read_segments, read_semaphores
from tests.forks import die, exit_of, in_child

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="looks into /proc/sysvipc")


def created_here(size: int) -> list[SegmentRow]:
    """The segments of this process with this size."""
    return [row for row in read_segments() if row.creator == os.getpid() and row.size == size]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 1 << 20])
def test_it_has_the_size_asked_for_and_is_zero(size: int) -> None:
    with Segment(size) as segment:
        assert (segment.size, segment.kind, len(segment.buf)) == (size, "sysv", size)
        assert (segment.buf.format, segment.buf.readonly) == ("B", False)
        assert not any(segment.buf)
        segment.buf[size - 1] = 7


def test_it_is_removed_as_soon_as_it_is_attached() -> None:
    with Segment(12345):
        (row,) = created_here(12345)
        assert (row.key, row.mode, row.attached) == (0, 0o1600, 1), "0o1000: marked for removal"
    assert created_here(12345) == []


def test_memory_is_not_touched() -> None:
    with Segment(1 << 30):
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()
        columns = lines[0].split()
        (row,) = (
            line.split()
            for line in lines[1:]
            if line.split()[columns.index("cpid")] == str(os.getpid())
            and line.split()[columns.index("size")] == str(1 << 30)
        )
        assert int(row[columns.index("rss")]) <= 4096


def test_children_share_it() -> None:
    with Segment(100) as segment:

        def child() -> None:
            assert segment.buf[0] == 1
            segment.buf[1] = 2

        segment.buf[0] = 1
        assert in_child(child) == 0
        assert segment.buf[1] == 2


def test_it_lives_as_long_as_the_last_process() -> None:
    segment = Segment(23456)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(segment.buf[0])
    os.close(reading)
    segment.buf[0] = 77
    segment.close()
    assert [row.attached for row in created_here(23456)] == [1]
    os.close(writing)
    assert exit_of(pid) == 77
    assert created_here(23456) == []


def test_a_killed_creator_leaves_nothing() -> None:
    def child() -> None:
        _segment = Segment(34567)
        die()

    assert in_child(child) == -signal.SIGKILL
    assert [row for row in read_segments() if row.size == 34567] == []


def test_closing_twice() -> None:
    segment = Segment(10)
    segment.close()
    segment.close()
    with pytest.raises(ValueError, match="released"):
        segment.buf[0]


def test_a_slice_keeps_the_memory() -> None:
    segment = Segment(45678)
    part = segment.buf[10:20]
    segment.close()
    part[0] = 1
    assert bytes(part) == b"\1" + bytes(9)
    assert len(created_here(45678)) == 1
    del part
    assert created_here(45678) == []


def test_an_array_keeps_the_memory() -> None:
    numpy = pytest.importorskip("numpy")
    segment = Segment(45679)
    array = numpy.frombuffer(segment.buf, dtype="u1")
    segment.close()
    segment.close()
    array[:] = 3
    assert array.sum() == 3 * 45679
    assert len(created_here(45679)) == 1
    del array
    assert created_here(45679) == []


def test_a_forgotten_one_is_detached() -> None:
    segment = Segment(45680)
    assert len(created_here(45680)) == 1
    del segment
    gc.collect()
    assert created_here(45680) == []


@pytest.mark.parametrize("size", [0, -1])
def test_no_size(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        Segment(size)


def test_a_taken_key_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Segment(1):  # so that the module is warm
        taken = sysv.create_segment(1)
        try:
            keys = iter([taken.key, taken.key, taken.key ^ 1])
            monkeypatch.setattr(sysv, "random_key", lambda: next(keys))
            other = sysv.create_segment(1)
            other.remove()
            assert other.key == taken.key ^ 1
        finally:
            taken.remove()


@pytest.mark.parametrize(
    ("error", "number", "limit"),
    [
        (OSError("Not enough shared memory identifiers available (ENOSPC)"), 28, "kernel.shm"),
        (ValueError("The size is invalid"), 22, "kernel.shmmax"),
        (MemoryError("Not enough memory"), 12, ""),
        (PermissionError(1, "Operation not permitted"), 1, ""),
        (OSError(38, "Function not implemented"), 38, ""),
    ],
    ids=str,
)
def test_what_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, number: int, limit: str
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(sysv.Attachment, "__init__", refuse)
    with pytest.raises(IpcError, match="the system refused") as caught:
        sysv.create_segment(10)
    assert caught.value.errno == number
    assert caught.value.limit.startswith(limit)
    assert bool(caught.value.limit) == bool(limit)
    with Segment(100) as segment:
        assert segment.kind == "mmap"


def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysv, "sysv_ipc", None)
    with Segment(100) as segment:
        assert segment.kind == "mmap"
    with pytest.raises(IpcError, match="cannot be imported"):
        StampedSegment("test", 100)


def test_an_mmap_is_shared_too_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sysv, "sysv_ipc", None)
    monkeypatch.setattr(segment_module, "_fallback_logged", False)
    with caplog.at_level(logging.WARNING), Segment(5000) as segment, Segment(5000) as other:
        assert (len(segment.buf), segment.buf.format, segment.buf.readonly) == (5000, "B", False)
        assert in_child(lambda: segment.buf.__setitem__(4999, 9)) == 0
        assert (segment.buf[4999], other.buf[4999]) == (9, 0)
        part = segment.buf[4999:]
        segment.close()
        assert part[0] == 9
    assert [record.name for record in caplog.records] == ["multiprocessing_kit.ipc"]


def test_when_mmap_fails_too() -> None:
    with pytest.raises(IpcError, match=r"mmap of 4611686018427387904 bytes failed .* and the system refused"):
        Segment(1 << 62)
    assert created_here(1 << 62) == []


# With real limits, in an IPC namespace of its own.

ALONE = ["unshare", "--ipc"]


def may_unshare() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = [*ALONE, "sh", "-c", "echo 9 > /proc/sys/kernel/shmmni"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_unshare = pytest.mark.skipif(not may_unshare(), reason="may not make an IPC namespace")


def alone(code: str, **limits: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where these are the kernel's limits and nobody else has any object."""
    sets = (f"Path('/proc/sys/kernel/{name}').write_text('{value}')\n" for name, value in limits.items())
    code = "from pathlib import Path\n" + "".join(sets) + code
    command = [*ALONE, sys.executable, "-c", code]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=ROOT)


@needs_unshare
@pytest.mark.parametrize(
    ("name", "value"),
    [("shmmni", "0"), ("shmmax", "4096"), ("shmall", "1")],
    ids=["shmmni", "shmmax", "shmall"],
)
def test_mmap_where_the_system_refuses(name: str, value: str) -> None:
    done = alone(
        "from multiprocessing_kit.ipc.segment import Segment\n"
        "a = Segment(10000); b = Segment(10000); a.buf[9999] = 1\n"
        "print(a.kind, b.kind)",
        **{name: value},
    )
    assert (done.returncode, done.stdout) == (0, "mmap mmap\n"), done.stderr
    assert done.stderr.count("\n") == 1
    assert f"kernel.{name} is {value} " in done.stderr
    assert f"sysctl -w kernel.{name}=" in done.stderr
    assert "Using anonymous shared mmap" in done.stderr


@needs_unshare
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shmmni", "0"),
        ("shmmax", "4096"),
        ("shmall", "1"),
        ("sem", "500 32000 500 2"),
        ("sem", "500 2 500 128"),
    ],
    ids=["shmmni", "shmmax", "shmall", "sets", "semaphores"],
)
def test_a_queue_names_the_limit_and_leaves_nothing(name: str, value: str) -> None:
    done = alone(
        "from multiprocessing_kit.errors import IpcError\n"
        "from multiprocessing_kit.queues import SharedMemQueue\n"
        "try:\n"
        "    SharedMemQueue()\n"
        "except IpcError as error:\n"
        "    print(error.limit, error)\n"
        "for name in 'shm', 'sem':\n"
        "    print(len(open(f'/proc/sysvipc/{name}').readlines()))",
        **{name: value},
    )
    assert done.returncode == 0, done.stderr
    first, *counts = done.stdout.splitlines()
    assert first.startswith(f"kernel.{name} ")
    assert f"kernel.{name} is {value} " in first
    assert f"sysctl -w kernel.{name}=" in first
    assert counts == ["1", "1"], "the heading of each table, and nothing else"


# Segments that stay.


def keys_of(segment: StampedSegment) -> set[int]:
    return {segment.key, *(semaphore.key for semaphore in segment.semaphores)}


def keys_there() -> set[int]:
    return {row.key for row in read_segments()} | {row.key for row in read_semaphores()}


def test_a_stamped_segment_is_there_until_it_is_removed() -> None:
    segment = StampedSegment("test", 100, (1, 0, 5))
    assert keys_of(segment) <= keys_there()
    assert all(sysv.is_our_key(key) for key in keys_of(segment))
    assert [semaphore.value for semaphore in segment.semaphores] == [1, 0, 5]
    assert len(segment.buf) == 100
    assert not any(segment.buf)
    assert not segment.is_removed
    segment.remove()
    segment.remove()
    assert segment.is_removed
    assert not keys_of(segment) & keys_there()


def test_its_end_removes_it() -> None:
    segment = StampedSegment("test", 100, (1,))
    keys = keys_of(segment)
    del segment
    gc.collect()
    assert not keys & keys_there()


def test_a_child_does_not_remove_it_by_ending() -> None:
    import atexit

    segments = [StampedSegment("test", 100, (1,)) for _ in range(2)]

    def child() -> None:
        segments.pop()
        gc.collect()
        atexit._run_exitfuncs()

    keys = set.union(*map(keys_of, segments))
    assert in_child(child) == 0
    assert keys <= keys_there()
    for segment in segments:
        segment.remove()


def test_any_process_may_remove_it() -> None:
    segment = StampedSegment("test", 100, (1,))
    assert in_child(segment.remove) == 0
    assert segment.is_removed
    assert not keys_of(segment) & keys_there()


def test_the_creators_exit_removes_it() -> None:
    code = (
        "from multiprocessing_kit.ipc.stamped import StampedSegment\n"
        "segment = StampedSegment('test', 100, (1, 1))\n"
        "print(segment.key, *(semaphore.key for semaphore in segment.semaphores))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    keys = {int(key) for key in done.stdout.split()}
    assert len(keys) == 3
    assert not keys & keys_there()


def test_what_does_not_fit_into_a_stamp() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        StampedSegment("test", 100, (0,) * 9)
    with pytest.raises(ValueError, match="does not fit"):
        StampedSegment("a kind of 17 byte", 100)
