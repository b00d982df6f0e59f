"""`fork_child`, `ForkedChild`, `stop_children`: a child starts clean, ends in one way and is never lost."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import inspect
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import Process
from multiprocessing_kit.supervise import fork as fork_module
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.descriptors import close_private, make_private
from multiprocessing_kit.supervise.fork import fork_child
from tests.forks import in_child
from tests.instants import at_every_instruction
from tests.interrupts import Interrupted, interrupt

ROOT = Path(__file__).resolve().parents[2]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
FOR_EVER = 1000.0


@pytest.fixture(params=["pidfd", "exit pipe"], autouse=True)
def watched_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pidfd" and not hasattr(os, "pidfd_open"):
        pytest.skip("has no pidfd")
    if request.param == "exit pipe":
        monkeypatch.setattr(fork_module, "have_pidfd", lambda: False)


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], object]], ForkedChild]]:
    """Forks a child that calls a function; 77 if that gives true, else 0."""
    children: list[ForkedChild] = []

    def fork(body: Callable[[], object]) -> ForkedChild:
        children.append(fork_child(lambda liveness: 77 if body() else 0, title="test"))
        return children[-1]

    yield fork
    for child in children:
        child.kill()
        child.wait()
        child.close()
        child.close()


Fork = Callable[[Callable[[], object]], ForkedChild]


def test_sigchld_is_ignored(forked: Fork) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = forked(lambda: signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL)
        assert child.wait(FOR_EVER)
        assert (child.ended, child.exitcode) == (True, None)
        responses = Process(2).map(lambda n: os._exit(3) if n == 5 else n, range(10))
        assert [response.ok for response in responses] == [number != 5 for number in range(10)]
        assert "unknown status" in str(responses[5].exception)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigchld_is_ignored_and_the_child_ends_at_once(forked: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pidfd = getattr(os, "pidfd_open", None)

    def open_late(pid: int) -> int:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        assert open_pidfd is not None
        return int(open_pidfd(pid))

    monkeypatch.setattr(os, "pidfd_open", open_late, raising=False)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = forked(lambda: True)
        assert child.wait(FOR_EVER)
        assert (child.ended, child.exitcode) == (True, None)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_private_descriptors_are_closed_in_any_fork(forked: Fork) -> None:
    reading, writing = os.pipe()
    make_private(writing)
    private = [writing, forked(signal.pause).fileno()]

    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    child = forked(lambda: any(map(is_open, private)))
    assert child.wait()
    assert child.exitcode == 0
    pid = os.fork()
    if pid == 0:
        close_private(writing)  # already
        os._exit(any(map(is_open, private)))
    assert os.waitpid(pid, 0)[1] == 0
    assert all(map(is_open, private))
    close_private(writing)
    close_private(writing)
    assert os.read(reading, 1) == b"", "nobody holds it"
    os.close(reading)


def test_handlers_and_exit_work_of_the_parent_stay_there(forked: Fork) -> None:
    def never(*_args: object) -> None:
        os._exit(50)

    before = {n: signal.signal(n, never) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    before |= {signal.SIGUSR2: signal.signal(signal.SIGUSR2, signal.SIG_IGN)}
    atexit.register(never)
    try:
        child = forked(
            lambda: [signal.getsignal(n) for n in before] != [signal.SIG_DFL] * 3 + [signal.SIG_IGN]
        )
        assert child.wait()
        assert child.exitcode == 0
        child = forked(signal.pause)
        child.send_signal(signal.SIGUSR1)
        child.wait()
        assert child.exitcode == -signal.SIGUSR1
    finally:
        atexit.unregister(never)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_signal_mask_is_the_parents(forked: Fork) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        child = forked(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()) != before | {signal.SIGUSR1})
        assert child.wait()
        assert child.exitcode == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR1, signal.SIGTERM}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_each_child_has_its_own_random_numbers(forked: Fork) -> None:
    numpy = pytest.importorskip("numpy")
    reading, writing = os.pipe()
    random.seed(1)
    numpy.random.seed(1)
    for _ in range(3):
        forked(lambda: os.write(writing, f"{random.random()} {numpy.random.random()}\n".encode())).wait()
    os.close(writing)
    with open(reading) as lines:
        numbers = [number for line in lines for number in line.split()]
    numbers += [str(random.random()), str(numpy.random.random())]
    assert len(set(numbers)) == 8


def test_output_is_flushed_once() -> None:
    program = """
        import sys, atexit
        from multiprocessing_kit.supervise.fork import fork_child
        atexit.register(print, "exit", end=";")
        print("before", end=";")
        for _ in range(3):
            child = fork_child(lambda liveness: print("child", end=";") or 0, title="")
            child.wait()
            child.close()
        print("after", end=";")
    """
    command = [sys.executable, "-c", inspect.cleandoc(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=BUFFERED, timeout=50
    )
    assert done.stdout == "before;child;child;child;after;exit;"


def test_a_fork_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "no")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BlockingIOError):
        fork_child(lambda liveness: 0, title="")


def test_a_handler_that_raises_leaves_no_logging_handler_locked() -> None:
    """At every instant: other threads log on."""

    def forks() -> None:
        with contextlib.suppress(Interrupted):
            fork_child(lambda _liveness: 0, title="test")

    def is_free(lock: Any) -> bool:
        with concurrent.futures.ThreadPoolExecutor() as others:
            return bool(others.submit(lock.acquire, timeout=0).result())

    def forks_on() -> None:
        handler = logging.NullHandler()
        signal.signal(signal.SIGUSR1, interrupt)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        handler.lock = threading.RLock()
        for _ in at_every_instruction(forks, "/log_locks.py", only_looks=True):
            assert is_free(handler.lock)
            handler.lock = threading.RLock()

    assert in_child(forks_on) == 0
