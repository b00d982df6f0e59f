"""Segments found by name: by processes that start at the same instant, that die half-way, that come later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc import named, naming, semset, stamp, stamped, sysv
from multiprocessing_kit.ipc.hygiene import scan, sweep
from multiprocessing_kit.ipc.named import NamedSegment, open_named
from multiprocessing_kit.ipc.semaphore import SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import UNDO
from multiprocessing_kit.ipc.stamp import NAMED_HEADER_SIZE
from multiprocessing_kit.ipc.tables import read_segments, read_semaphores
from tests.forks import die, exit_of, fork
from tests.kills import Instants

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "clear_ipc.py"
NAME = "test named"


def opened() -> NamedSegment:
    return open_named("test", NAME, 100, (1, 0), sets=[(0, 3)])


@pytest.fixture(autouse=True)
def nobody_has_the_name() -> Iterator[None]:
    yield
    opened().remove()


def is_whole(segment: NamedSegment) -> bool:
    """Whether it is as new."""
    values = [each.value for each in segment.semaphores], [segment.sets[0].value(each) for each in (0, 1)]
    return values == ([1, 0], [0, 3]) and not any(segment.buf) and len(segment.buf) == 100


def test_found_by_name() -> None:
    one, other = opened(), opened()
    assert (one.created, other.created) == (True, False)
    assert (one.id, one.key, one.owner) == (other.id, other.key, other.owner)
    assert [each.id for each in one.semaphores] == [each.id for each in other.semaphores]
    assert one.sets[0].id == other.sets[0].id
    assert is_whole(one)
    one.buf[99] = 7
    assert other.buf[99] == 7
    assert [row.mode for row in read_segments() if row.id == one.id] == [0o600]
    assert {row.mode for row in read_semaphores()} == {0o600}


def test_kinds_have_names_of_their_own() -> None:
    one, other = opened(), open_named("other", NAME, 100)
    assert other.created
    assert one.id != other.id
    other.remove()
    assert not one.is_removed


def test_it_outlives_its_creator_and_is_not_swept() -> None:
    def make() -> None:
        opened().buf[0] = 7

    assert exit_of(fork(make)) == 0
    assert sweep() == []
    assert {item.state for item in scan() if item.name == NAME} == {"kept"}
    segment = opened()
    assert not segment.created
    assert segment.buf[0] == 7
    assert {item.state for item in scan() if item.name == NAME} == {"in use"}


def test_a_child_inherits_it() -> None:
    segment = opened()
    assert exit_of(fork(lambda: segment.buf.__setitem__(5, 5))) == 0
    assert segment.buf[5] == 5
    assert not segment.is_removed, "the end of a child removes nothing"


@pytest.mark.parametrize(
    ("size", "values", "sets"), [(99, (1, 0), [(0, 3)]), (100, (1,), [(0, 3)]), (100, (1, 0), [])]
)
def test_another_size(size: int, values: tuple[int, ...], sets: list[tuple[int, ...]]) -> None:
    opened()
    with pytest.raises(IpcError, match="is there with 100 bytes and 3 semaphores"):
        open_named("test", NAME, size, values, sets=sets)


@pytest.mark.parametrize(
    ("name", "error"),
    [(None, TypeError), (b"x", TypeError), ("", ValueError), ("é" * 61, ValueError), ("a\0b", ValueError)],
)
def test_wrong_names(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_named("test", name, 1)


def test_long_names() -> None:
    for name in ("é" * 60, "x" * 120):
        segment = open_named("a kind of 16 by.", name, 1)
        assert open_named("a kind of 16 by.", name, 1).id == segment.id
        segment.remove()


def test_removed_while_another_has_it_open() -> None:
    one, other = opened(), opened()
    one.remove()
    assert other.is_removed
    with pytest.raises(SemaphoreRemovedError):
        other.semaphores[0].release()
    with pytest.raises(SemaphoreRemovedError):
        other.sets[0].value(0)
    third = opened()
    assert third.created
    other.remove()
    one.remove()
    assert is_whole(third)


def test_what_fails_to_be_prepared_is_not_made() -> None:
    def fail(memory: memoryview) -> None:
        raise KeyError(len(memory))

    with pytest.raises(KeyError):
        open_named("test", NAME, 100, (1,), prepare=fail)
    assert [item for item in scan() if item.name == NAME] == []
    assert opened().created


def test_prepared_before_anybody_sees_it() -> None:
    segment = open_named("test", "prepared", 1, prepare=lambda memory: memory.__setitem__(0, 9))
    assert open_named("test", "prepared", 1, prepare=lambda memory: memory.__setitem__(0, 8)).buf[0] == 9
    segment.remove()


# At the same instant.


def test_two_processes_at_the_same_instant() -> None:
    for _ in range(10):
        start, go = os.pipe()
        answers, answer = os.pipe()

        def race() -> None:
            os.read(start, 1)  # noqa: B023  # runs at once
            segment = opened()
            assert is_whole(segment)
            os.write(answer, b"%d %d\n" % (segment.id, segment.created))  # noqa: B023

        pids = [fork(race) for _ in range(6)]
        os.write(go, bytes(len(pids)))
        assert [exit_of(pid) for pid in pids] == [0] * len(pids)
        lines = os.read(answers, 1000).split(b"\n")[:-1]
        for fd in (start, go, answers, answer):
            os.close(fd)
        assert len({line.split()[0] for line in lines}) == 1, "all found the same"
        assert sorted(line.split()[1] for line in lines) == [b"0"] * 5 + [b"1"], "one made it"
        opened().remove()


# Keys that are taken.


def test_keys_that_are_taken() -> None:
    first = opened()
    key = first.key
    first.remove()
    in_the_way = sysv.create_segment_at(key, 100)
    memoryview(in_the_way)[:] = b"x" * 100
    one = opened()
    assert one.created
    assert one.key != key
    in_the_way.remove()
    other = opened()
    assert (other.created, other.id) == (False, one.id), "also when an earlier key is free again"


def test_all_keys_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened()
    key = first.key
    first.remove()
    in_the_way = sysv.create_segment_at(key, 100)
    memoryview(in_the_way)[:] = b"x" * 100
    with monkeypatch.context() as patch:
        patch.setattr(named, "_keys", lambda _: iter([key]))
        with pytest.raises(IpcError, match="keys of the test 'test named' are taken"):
            opened()
    in_the_way.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_users_have_names_of_their_own() -> None:
    mine = opened()

    def other_user() -> None:
        os.setuid(65534)
        segment = opened()
        assert segment.created
        assert segment.id != mine.id
        segment.remove()

    assert exit_of(fork(other_user)) == 0
    assert not mine.is_removed


# Deaths: at every line.


INSTANTS = Instants(by_line=(named, naming, semset, stamp, stamped, sysv))


def killed_at_every_line(
    prepare: Callable[[], AbstractContextManager[None]], action: Callable[[], object]
) -> Iterator[None]:
    return INSTANTS.killed(prepare, lambda _: action(), least=50)


@contextmanager
def one_is_there() -> Iterator[None]:
    opened()
    yield


def objects() -> set[tuple[str, int]]:
    """All that has a key: a removed segment may stay until a killed process has let go of it."""
    segments = {("shm", row.id) for row in read_segments() if sysv.is_our_key(row.key)}
    return segments | {("sem", row.id) for row in read_semaphores() if sysv.is_our_key(row.key)}


@pytest.mark.thorough
def test_a_maker_killed_anywhere() -> None:
    before = objects()
    made = set()
    for _ in killed_at_every_line(nullcontext, opened):
        segment = opened()
        assert is_whole(segment)
        assert opened().id == segment.id
        made.add(segment.created)
        segment.remove()
        del segment
        assert objects() == before, "nothing is left"
    assert made == {True, False}


@pytest.mark.thorough
def test_a_remover_killed_anywhere() -> None:
    before = objects()
    made = set()
    for _ in killed_at_every_line(one_is_there, lambda: opened().remove()):
        segment = opened()
        assert is_whole(segment)
        made.add(segment.created)
        segment.remove()
        del segment
        assert objects() == before, "nothing is left"
    assert made == {True, False}


def test_what_is_half_made_is_swept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(named, "mark_ready", lambda _: die())
        assert exit_of(fork(opened)) == -signal.SIGKILL
    assert {item.state for item in scan() if item.name == NAME} == {"orphaned"}
    assert {item.kind for item in scan()} == {"test", "semaphore", "naming lock"}
    assert len(sweep()) == 5
    assert scan() == []


def test_a_lock_in_use_is_not_swept() -> None:
    def action() -> None:
        assert [(item.kind, item.state) for item in scan()] == [("naming lock", "in use")]
        assert not naming.clear_lock()
        assert sweep() == []

    naming.run_alone(action)
    assert not naming.clear_lock()


def test_a_stopped_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "PATIENCE", 0.05)

    def action() -> None:
        with pytest.raises(IpcError, match="stopped"):
            naming.run_alone(action)

    naming.run_alone(action)


# The script.


def script(*options: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.splitlines()


def test_listed_with_name_and_state() -> None:
    def make() -> None:
        opened()

    pid = fork(make)
    assert exit_of(pid) == 0
    for options in ([], ["--check"], ["--dry-run"]):
        lines = script(*options)
        mine = [line for line in lines if line.endswith(NAME)]
        assert len(mine) == 4
        assert all(f" {pid}  kept" in line for line in mine)
        assert any(line.startswith("test ") and f" {NAMED_HEADER_SIZE + 100} " in line for line in mine)
        assert lines[-1] in ("nothing to remove", "no orphans")
    assert script("--named", "--dry-run")[-1] == "4 would be removed"
    assert script("--named")[-1] == "4 removed"
    assert opened().created


def test_one_in_use_stays() -> None:
    segment = opened()
    assert script("--named")[-1] == "nothing to remove"
    assert not segment.is_removed


# Semaphores that change together.


def test_all_steps_or_none() -> None:
    semaphores = opened().sets[0]
    both = semaphores.operation((0, -1, 0), (1, -1, 0))
    for _ in both.done(0):
        raise AssertionError("the first is 0")
    assert semaphores.value(1) == 3
    semaphores.set(0, 2)
    both.do()
    assert [semaphores.value(0), semaphores.value(1)] == [1, 2]
    assert semaphores.last_pid(0) == os.getpid()


def test_undone_at_death() -> None:
    semaphores = opened().sets[0]
    assert exit_of(fork(semaphores.operation((0, 5, UNDO), (1, -2, UNDO)).do)) == 0
    assert [semaphores.value(0), semaphores.value(1)] == [0, 3]
