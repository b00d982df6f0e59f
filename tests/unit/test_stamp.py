from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from multiprocessing_kit.ipc.stamp import (
    HEADER_SIZE,
    MAX_SEMAPHORES,
    Owner,
    Stamp,
    is_removed,
    mark_removed,
    start_time,
    write_semaphore,
)


def stamped(kind: str = "queue", owner: Owner | None = None) -> memoryview:
    buf = memoryview(bytearray(HEADER_SIZE + 100))
    Stamp(kind, owner or Owner.current()).write(buf)
    return buf


def read(buf: memoryview) -> Stamp:
    stamp = Stamp.read(bytes(buf[:HEADER_SIZE]))
    assert stamp is not None
    return stamp


def test_what_is_written_is_read() -> None:
    owner = Owner(pid=4711, started=2**63, pid_space=2**64 - 1)
    assert read(stamped("a kind of 16 by.", owner)) == Stamp("a kind of 16 by.", owner)


def test_nothing_behind_the_header_is_written() -> None:
    assert not any(stamped()[HEADER_SIZE:])


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(HEADER_SIZE), id="zeros"),
        pytest.param(b"MPKITIPC", id="magic only"),
        pytest.param(b"MPKITIPC" + bytes(HEADER_SIZE - 8), id="another version"),
        pytest.param(b"mpkitipc" + b"\x01" * HEADER_SIZE, id="another magic"),
    ],
)
def test_what_is_not_a_stamp(head: bytes) -> None:
    assert Stamp.read(head) is None


def test_a_semaphore_is_named_before_and_after_it_is_created() -> None:
    buf = stamped()
    write_semaphore(buf, 0, 0x4D4B0001)
    assert read(buf).semaphores == ((0x4D4B0001, None),)
    write_semaphore(buf, 0, 0x4D4B0001, 0)
    write_semaphore(buf, MAX_SEMAPHORES - 1, 0x4D4BFFFF, 77)
    assert read(buf).semaphores == ((0x4D4B0001, 0), (0x4D4BFFFF, 77))
    write_semaphore(buf, 0, 0)
    assert read(buf).semaphores == ((0x4D4BFFFF, 77),)


def test_the_magic_comes_last() -> None:
    """Cut off anywhere, writing leaves something that is no stamp."""

    class Killed(Exception):
        pass

    class Buffer(bytearray):
        stores = 0

        def __setitem__(self, key: Any, value: Any) -> None:
            self.stores += 1
            if self.stores == 2:
                raise Killed
            super().__setitem__(key, value)

    buf = Buffer(HEADER_SIZE)
    with pytest.raises(Killed):
        Stamp("queue", Owner.current()).write(buf)  # type: ignore[arg-type]
    assert any(buf)
    assert Stamp.read(bytes(buf)) is None


def test_removed() -> None:
    buf = stamped()
    assert not is_removed(buf)
    mark_removed(buf)
    assert is_removed(buf)
    assert read(buf).kind == "queue"


def test_this_process_is_not_dead() -> None:
    assert not Owner.current().is_dead()


def test_a_reused_pid_is_another_process() -> None:
    current = Owner.current()
    assert replace(current, started=current.started - 1).is_dead()


def test_a_pid_of_another_namespace_says_nothing() -> None:
    current = Owner.current()
    assert not replace(current, pid_space=current.pid_space + 1, started=0).is_dead()


def test_a_process_ends() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    owner = replace(Owner.current(), pid=pid, started=start_time(pid) or 0)
    assert owner.started > 0
    assert not owner.is_dead()
    os.close(writing)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead(), "a zombie is dead"
    os.waitpid(pid, 0)
    assert owner.is_dead()


@pytest.mark.skipif(not os.path.exists("/proc/self/comm"), reason="needs Linux's /proc")
def test_a_process_name_may_look_like_the_rest_of_the_line() -> None:
    code = (
        "from multiprocessing_kit.ipc.stamp import start_time; import os;"
        "before = start_time(os.getpid());"
        "open('/proc/self/comm', 'w').write(') S 1 1) Z 1');"
        "assert before is not None and start_time(os.getpid()) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_header_has_room_for_all() -> None:
    assert struct.calcsize(f"=8sIiQQ16sQ{2 * MAX_SEMAPHORES}i") <= HEADER_SIZE
