"""What every locker does, and the standard library's locks as far as they do the same."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.errors import LockerError
from multiprocessing_kit.lockers import (
    ConditionLocker,
    FileLocker,
    MutexLocker,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    SpinLocker,
)
from tests.forks import exit_of, fork, in_child

PATIENCE = 30  # seconds; only ever used up by a failing test

OURS: dict[str, Callable[[Path], Any]] = {
    "mutex": lambda _: MutexLocker(),
    "named mutex": lambda _: MutexLocker("test contract"),
    "spin": lambda _: SpinLocker(),
    "reentrant": lambda _: ReentrantLocker(),
    "semaphore": lambda _: SemaphoreLocker(1),
    "file": lambda folder: FileLocker(folder / "lock"),
    "writer": lambda _: RWLocker().writer,
    "named writer": lambda _: RWLocker("test contract").writer,
}
THEIRS: dict[str, Callable[[Path], Any]] = {
    "threading.Lock": lambda _: threading.Lock(),
    "threading.RLock": lambda _: threading.RLock(),
}
ALL = OURS | THEIRS


@pytest.fixture
def locker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    locker = ALL[request.param](tmp_path)
    yield locker
    if request.param in OURS:
        if locker.owner is not None and locker.owner.pid == os.getpid():
            locker.release()
        locker.destroy()


each = pytest.mark.parametrize("locker", ALL, indirect=True)
each_of_ours = pytest.mark.parametrize("locker", OURS, indirect=True)


def in_thread(body: Callable[[], Any]) -> Any:
    """What `body` returns or raises in another thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(body())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "did not end"
    return outcome[0]


def refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(LockerError) as caught:
        call()
    assert caught.value.reason == reason


# What the standard library's locks do, too.


@each
def test_taken_once(locker: Any) -> None:
    assert locker.acquire() is True
    assert in_thread(lambda: locker.acquire(False)) is False
    assert in_thread(lambda: locker.acquire(blocking=False)) is False
    assert in_thread(lambda: locker.acquire(timeout=0)) is False
    assert in_thread(lambda: locker.acquire(timeout=0.01)) is False
    assert in_thread(lambda: locker.acquire(True, 0.01)) is False
    assert locker.release() is None
    assert in_thread(lambda: (locker.acquire(timeout=PATIENCE), locker.release())) == (True, None)


@each
def test_timeouts_when_it_is_free(locker: Any) -> None:
    for arguments in [
        (),
        (True,),
        (True, -1),
        (True, -1.0),
        (True, 0),
        (True, 1),
        (True, 0.5),
        (False,),
        (0,),
    ]:
        assert locker.acquire(*arguments) is True
        locker.release()
    more: list[dict[str, Any]] = [
        {"timeout": 0},
        {"timeout": threading.TIMEOUT_MAX},
        {"blocking": False, "timeout": -1},
    ]
    for keywords in more:
        assert locker.acquire(**keywords) is True
        locker.release()


@each
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((False, 1), ValueError),
        ((False, 0), ValueError),
        ((True, -2), ValueError),
        ((True, -0.5), ValueError),
        ((True, math.nan), ValueError),
        ((True, 2 * threading.TIMEOUT_MAX), OverflowError),
        ((True, "1"), TypeError),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_wrong_arguments(locker: Any, arguments: tuple[Any, ...], error: type[Exception], held: bool) -> None:
    if held:
        locker.acquire()
    with pytest.raises(error):
        locker.acquire(*arguments)
    if held:
        locker.release()
    assert in_thread(lambda: locker.acquire(False) and locker.release()) is None, "nothing was taken"


@each
def test_release_without_acquire(locker: Any) -> None:
    with pytest.raises(RuntimeError):
        locker.release()
    locker.acquire()
    locker.release()
    with pytest.raises(RuntimeError):
        locker.release()
    assert locker.acquire(False)
    locker.release()


@each
def test_with(locker: Any) -> None:
    with locker as value:
        assert value is True
        assert not in_thread(lambda: locker.acquire(False))
    with pytest.raises(KeyError), locker:
        raise KeyError
    assert in_thread(lambda: locker.acquire(False) and locker.release()) is None


@each
def test_a_waiting_thread_gets_it(locker: Any) -> None:
    locker.acquire()
    got: list[bool] = []

    def wait() -> None:
        got.append(locker.acquire(timeout=PATIENCE))
        locker.release()

    thread = threading.Thread(target=wait)
    thread.start()
    assert got == []
    locker.release()
    thread.join(PATIENCE)
    assert got == [True]


@pytest.mark.parametrize(
    "locker", [name for name in ALL if "RLock" not in name and name != "reentrant"], indirect=True
)
def test_any_thread_of_the_process_may_release(locker: Any) -> None:
    locker.acquire()
    assert in_thread(locker.release) is None
    assert locker.acquire(False)
    locker.release()


@pytest.mark.parametrize("locker", ["reentrant", "threading.RLock"], indirect=True)
def test_reentrant(locker: Any) -> None:
    for _ in range(3):
        assert locker.acquire(False)
    assert isinstance(in_thread(locker.release), RuntimeError)
    for _ in range(3):
        assert not in_thread(lambda: locker.acquire(False))
        locker.release()
    assert in_thread(lambda: locker.acquire(False) and locker.release()) is None
    with pytest.raises(RuntimeError):
        locker.release()


@pytest.mark.parametrize(
    "locker", [name for name in ALL if name not in ("semaphore", "threading.RLock")], indirect=True
)
def test_locked(locker: Any) -> None:
    assert not locker.locked()
    with locker:
        assert locker.locked()
    assert not locker.locked()


# What only ours do.


@each_of_ours
def test_a_child_does_not_own_what_its_parent_has(locker: Any) -> None:
    def child() -> None:
        refused(locker.release, "another owner")
        assert not locker.acquire(False)
        assert not locker.acquire(timeout=0.01)
        assert locker.owner.pid == os.getppid()

    locker.acquire()
    assert in_child(child) == 0
    locker.release()
    assert in_child(lambda: locker.acquire(False) or os._exit(3)) == 0
    assert locker.acquire(False)


@each_of_ours
def test_a_child_that_ends_without_having_it_changes_nothing(locker: Any) -> None:
    with locker:
        assert in_child(lambda: None) == 0
        assert not in_thread(lambda: locker.acquire(False))


@each_of_ours
def test_the_owner(locker: Any) -> None:
    assert locker.owner is None
    with locker:
        owner = locker.owner
        assert owner is not None
        assert owner.pid == os.getpid()
        assert "python" in owner.title
    assert in_thread(lambda: locker.owner) is None


@each_of_ours
@pytest.mark.parametrize("way", ["killed", "ended"])
def test_the_death_of_its_owner_frees_it(locker: Any, way: str) -> None:
    def own() -> None:
        locker.acquire()
        if way == "killed":
            os.kill(os.getpid(), 9)

    assert in_child(own) == (-9 if way == "killed" else 0)
    assert locker.owner is None
    assert not locker.owner_died
    assert locker.acquire(False)
    assert locker.owner_died
    locker.release()
    assert locker.acquire(False)
    assert not locker.owner_died, "told once"
    locker.release()


@each_of_ours
def test_who_waits_gets_it_when_the_owner_is_killed(locker: Any) -> None:
    reading, writing = os.pipe()

    def own() -> None:
        locker.acquire()
        os.write(writing, b"x")
        os.read(*never)

    blocked, unused = os.pipe()
    never = blocked, 1
    pid = fork(own)
    os.read(reading, 1)
    waiting = fork(lambda: (locker.acquire(timeout=PATIENCE) and locker.owner_died) or os._exit(4))
    os.kill(pid, signal.SIGKILL)
    assert exit_of(pid) == -signal.SIGKILL
    assert exit_of(waiting) == 0
    for fd in (reading, writing, blocked, unused):
        os.close(fd)


@each_of_ours
def test_destroyed(locker: Any) -> None:
    with locker:
        refused(locker.destroy, "held")
        assert in_child(lambda: refused(locker.destroy, "held")) == 0
    locker.destroy()
    locker.destroy()
    refused(locker.acquire, "destroyed")
    refused(lambda: locker.acquire(timeout=1), "destroyed")
    refused(lambda: locker.acquire(False), "destroyed")
    with pytest.raises(LockerError):
        locker.release()
    assert locker.owner is None
    assert "estroyed" in repr(locker) or "unlocked" in repr(locker)


@each_of_ours
def test_not_pickled(locker: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(locker)


@pytest.mark.parametrize(
    "make", [MutexLocker, SpinLocker, ReentrantLocker, RWLocker, lambda name: SemaphoreLocker(2, name)]
)
def test_a_name_is_shared(make: Callable[[str], Any]) -> None:
    one, other = make("test shared"), make("test shared")
    lock, again = (each.writer if isinstance(each, RWLocker) else each for each in (one, other))
    for _ in range(2 if isinstance(one, SemaphoreLocker) else 1):
        lock.acquire()
    assert not in_thread(lambda: again.acquire(False))
    for _ in range(2 if isinstance(one, SemaphoreLocker) else 1):
        lock.release()
    one.destroy()
    refused(again.acquire, "destroyed")
    third = make("test shared")
    (third.writer if isinstance(third, RWLocker) else third).acquire(False)
    (third.writer if isinstance(third, RWLocker) else third).release()
    third.destroy()


@pytest.mark.parametrize("make", [MutexLocker, SpinLocker, ReentrantLocker, RWLocker])
@pytest.mark.parametrize(
    ("name", "error"), [(None, TypeError), (1, TypeError), ("x" * 121, ValueError), ("a\0b", ValueError)]
)
def test_wrong_names(make: Any, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(name)


def test_a_semaphore() -> None:
    for value in (0, -1, 32768):
        with pytest.raises(ValueError, match="permits"):
            SemaphoreLocker(value)
    locker = SemaphoreLocker(3)
    assert [locker.acquire(False) for _ in range(4)] == [True, True, True, False]
    with pytest.raises(ValueError, match="one or more"):
        locker.release(0)
    refused(lambda: locker.release(4), "not acquired")
    locker.release(2)
    assert locker.acquire(timeout=None)
    locker.release(2)
    refused(locker.release, "not acquired")
    locker.destroy()


def test_a_semaphore_tells_of_each_death_once() -> None:
    locker = SemaphoreLocker(3)

    def own() -> None:
        locker.acquire()
        locker.acquire()

    assert in_child(own) == 0
    told = []
    for _ in range(3):
        locker.acquire(False)
        told.append(locker.owner_died)
    assert told == [True, True, False]
    locker.release(3)
    locker.destroy()


def test_a_name_with_another_number_of_permits() -> None:
    locker = SemaphoreLocker(3, "test permits")
    refused(lambda: SemaphoreLocker(2, "test permits"), "another value")
    locker.destroy()


def test_readers_and_a_writer() -> None:
    locker = RWLocker()
    reader, writer = locker.reader, locker.writer
    with reader, reader:
        assert locker.readers == 2
        assert reader.locked()
        assert not writer.acquire(False)
        assert not writer.acquire(timeout=0.01)
        assert reader.acquire(False), "the writer has given up"
        reader.release()
        assert in_child(lambda: reader.acquire(False) or os._exit(3)) == 0
        refused(locker.destroy, "held")
        assert in_child(lambda: refused(reader.release, "not acquired")) == 0
    with writer:
        assert not reader.acquire(False)
        assert not reader.acquire(timeout=0.01)
        assert locker.owner is not None
    refused(reader.release, "not acquired")
    locker.destroy()
    refused(reader.acquire, "destroyed")


def test_readers_are_told_of_a_writers_death_until_a_writer_has_been_in() -> None:
    locker = RWLocker()
    assert in_child(locker.writer.acquire) == 0
    told = []
    for side in (locker.reader, locker.reader, locker.writer, locker.reader, locker.writer):
        with side:
            told.append(side.owner_died)
    assert told == [True, True, True, False, False]
    locker.destroy()


def test_a_readers_death_is_no_harm() -> None:
    locker = RWLocker()
    assert in_child(locker.reader.acquire) == 0
    with locker.writer:
        assert not locker.writer.owner_died
    locker.destroy()


def test_a_condition() -> None:
    with pytest.raises(TypeError, match="MutexLocker"):
        ConditionLocker(threading.Lock())  # type: ignore[arg-type]
    condition = ConditionLocker()
    for call in (
        condition.wait,
        condition.notify,
        condition.notify_all,
        lambda: condition.wait_for(lambda: 0, 0),
    ):
        with pytest.raises(RuntimeError, match="un-acquired"):
            call()
    with condition, condition:
        assert condition.wait(0) is False
        assert condition.wait(0.01) is False
        assert condition.wait(-1) is False
        assert condition.wait_for(lambda: 7) == 7
        assert condition.wait_for(lambda: 0, 0.01) == 0
        condition.notify()
        assert condition.wait(0) is False, "it woke nobody"
        assert condition.owner is not None
        with pytest.raises(LockerError):
            condition.destroy()
    condition.destroy()
    with pytest.raises(LockerError):
        condition.acquire()
