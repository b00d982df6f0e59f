"""`ForkedChild` and `stop_children`: how a child ended, whoever holds its pipe, and how it is made to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable

import pytest

from multiprocessing_kit import Process, RetryStrategy, RetryType, Worker
from multiprocessing_kit.supervise.stop import StopSteps, stop_children
from tests.process.test_fork import FOR_EVER, Fork, forked, watched_by

__all__ = ["forked", "watched_by"]  # fixtures


def throw(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "exitcode"),
    [
        (lambda: False, 0),
        (lambda: True, 77),
        (throw(ValueError("oh")), 1),
        (throw(SystemExit(5)), 1),
        (throw(KeyboardInterrupt()), 1),
        (lambda: os._exit(255), 255),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 0),
    ],
    ids=["0", "77", "ValueError", "SystemExit", "KeyboardInterrupt", "_exit", "SIGTERM", "SIGKILL", "SIGINT"],
)
def test_how_it_ends(forked: Fork, body: Callable[[], object], exitcode: int) -> None:
    child = forked(body)
    assert child.wait()
    assert (child.ended, child.exitcode, child.poll(), child.wait(0)) == (True, exitcode, True, True)
    assert select.select([child], [], [], 0)[0] == [child]
    child.terminate()  # nobody


def test_waiting_takes_no_longer_than_asked(forked: Fork) -> None:
    child = forked(signal.pause)
    assert not child.wait(0)
    assert not child.wait(0.01)
    assert not child.poll()
    assert (child.ended, child.exitcode) == (False, None)
    child.terminate()
    assert child.wait(FOR_EVER)
    assert child.exitcode == -signal.SIGTERM


def test_a_grandchild_may_hold_the_exit_pipe(forked: Fork) -> None:
    reading, writing = os.pipe()

    def body() -> None:
        if os.fork() == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)

    child = forked(body)
    assert child.wait(FOR_EVER)
    assert child.exitcode == 0
    os.close(writing)
    os.close(reading)


def test_only_its_own_children_are_reaped(forked: Fork) -> None:
    foreign = os.fork()
    if foreign == 0:
        os._exit(9)
    child = forked(lambda: True)
    assert child.wait()
    Process(2).map(str, range(10))
    assert os.waitstatus_to_exitcode(os.waitpid(foreign, 0)[1]) == 9


def test_somebody_else_reaped_it(forked: Fork) -> None:
    child = forked(lambda: True)
    os.waitpid(child.pid, 0)
    assert child.wait()
    assert (child.ended, child.exitcode) == (True, None)
    child.kill()


class Smoke(Worker):
    def process(self, n: int) -> int:
        if n == 7:
            os._exit(4)
        if n == 8 and os.fork() == 0:
            threading.Event().wait(1.5)  # outlives the child, and holds its exit pipe
            os._exit(0)
        if n == 8:
            os._exit(5)
        if self.attempt == 1 and n % 5 == 1:
            raise ValueError
        return n


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_a_map(resident: bool) -> None:
    process = Process(2)
    worker = Smoke(retry=RetryStrategy(1, RetryType.REQUEUE))
    with process if resident else contextlib.nullcontext():
        for _ in range(2):
            responses = process.map(worker, range(30))
            assert [response.body for response in responses if response.ok] == [
                number for number in range(30) if number not in (7, 8)
            ]
            assert [getattr(responses[n].exception, "exitcode", None) for n in (7, 8)] == [4, 5]


def ignore_sigterm(ready: int) -> Callable[[], object]:
    def body() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(ready, b"1")
        while True:
            signal.pause()

    return body


class Impatient:
    """Loses patience once its pipe is readable, for good."""

    def __init__(self, *, at_once: bool) -> None:
        self.reading, self.writing = os.pipe()
        if at_once:
            os.write(self.writing, b"1")

    def fileno(self) -> int:
        return self.reading

    def wanted(self) -> bool:
        return bool(select.select([self.reading], [], [], 0)[0])


@pytest.mark.parametrize(
    ("steps", "hurry", "exitcodes"),
    [
        (StopSteps(None, FOR_EVER), None, [0]),
        (StopSteps(0.0, FOR_EVER), None, [0, -signal.SIGTERM]),
        (StopSteps(0.01, 0.0), None, [0, -signal.SIGTERM, -signal.SIGKILL]),
        (StopSteps(0.0, 0.01), None, [0, -signal.SIGTERM, -signal.SIGKILL]),
        (StopSteps(None, FOR_EVER), True, [0, -signal.SIGTERM, -signal.SIGKILL]),
        (StopSteps(FOR_EVER, FOR_EVER), True, [0, -signal.SIGTERM, -signal.SIGKILL]),
    ],
)
def test_stop_steps(forked: Fork, steps: StopSteps, hurry: bool | None, exitcodes: list[int]) -> None:
    """One child ends when asked, one of SIGTERM, one of SIGKILL alone."""
    asked, ask = os.pipe()
    ready, tell = os.pipe()
    bodies: list[Callable[[], object]] = [
        lambda: os.read(asked, 1) != b"x",
        signal.pause,
        ignore_sigterm(tell),
    ]
    children = [forked(body) for body in bodies[: len(exitcodes)]]
    if len(children) == 3:
        os.read(ready, 1)
    impatient = Impatient(at_once=True) if hurry else None

    def asks() -> None:
        os.write(ask, b"x")
        assert children[0].wait(FOR_EVER)

    stop_children(children, steps, ask=asks, hurry=impatient)
    ended = [child.exitcode for child in children]
    if len(ended) == 3 and ended[1] == -signal.SIGKILL:
        ended[1] = -signal.SIGTERM  # without patience one may overtake the other
    assert ended == exitcodes
    stop_children(children, steps, ask=lambda: None)
    fds = [asked, ask, ready, tell] + ([impatient.reading, impatient.writing] if impatient else [])
    for fd in fds:
        os.close(fd)
