"""`Child` and `delay`: every way to end, events in order, messages both ways, what the killed leave."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import gc
import itertools
import logging
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import termios
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from multiprocessing_kit import parent_side
from multiprocessing_kit.child import Child, current_child, delay
from multiprocessing_kit.child_events import CHILD_PAYLOAD, ChildEvent
from multiprocessing_kit.errors import (
    ChildError,
    ChildTimeoutError,
    RemoteError,
    SerializationError,
    WorkerLostError,
)
from multiprocessing_kit.ipc.frames import FrameReader, FrameWriter
from multiprocessing_kit.supervise.signal_listener import SignalListener
from tests.forks import in_child
from tests.instants import at_instruction
from tests.interrupts import Interrupted, interrupt
from tests.process.test_fork import watched_by

__all__ = ["watched_by"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds; only ever used up by a failing test
LARGE = b"0123456789abcdef" * 200_000  # beyond every pipe


Start = Callable[..., Child[Any]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child, which is killed at the end of the test."""
    children: list[Child[Any]] = []

    def start(target: Callable[..., Any], *args: object, **kwargs: Any) -> Child[Any]:
        child = Child(target, *args, **kwargs)
        children.append(child)
        child.start()
        return child

    yield start
    for child in children:
        child.kill()
        assert child.wait(PATIENCE)


def me() -> Child[Any]:
    child = current_child()
    assert child is not None
    return child


def say(message: object) -> bool:
    me().send(message)
    return True


def notes(child: Child[Any]) -> list[tuple[Any, ...]]:
    """What its events will tell."""
    told: list[tuple[Any, ...]] = []

    def note(source: Child[Any], event: ChildEvent, **payload: object) -> None:
        assert source is child
        filled = (payload[name] for name in CHILD_PAYLOAD[2:] if payload[name] is not None)
        told.append((event.value, *filled))

    for event in ChildEvent:
        child.on(event, note)
    return told


def no_children() -> bool:
    return not psutil.Process().children()


class Custom(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    if current_child() is None:
        raise OSError("unreadable")


# The ends.


def fork_and_return() -> int:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return os.getpid()


def fork_and_raise() -> int:
    pid = os.fork()
    if pid == 0:
        sys.exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_leave() -> str:
    """The grandchild keeps running, in the child's process group."""
    if os.fork() == 0:
        signal.pause()
    return "left"


def stay_in_a_thread() -> str:
    threading.Thread(target=lambda: me().send("from a thread")).start()
    return "done"


def lose_descriptors() -> str:
    inside = me()._inside
    assert inside is not None
    os.close(inside._writing)
    return "nobody hears"


def take_over_descriptors() -> str:
    inside = me()._inside
    assert inside is not None
    with open(os.devnull, "wb") as file:
        os.dup2(file.fileno(), inside._writing)
    return "nobody hears"


def read_stdin() -> str:
    return sys.stdin.read()


def with_multiprocessing() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    return process.exitcode


VALUES: dict[str, tuple[Callable[[], object], object]] = {
    "a value": (lambda: [1, "two"], [1, "two"]),
    "None": (lambda: None, None),
    "an exception as value": (lambda: str(ValueError("returned")), "returned"),
    "huge": (lambda: LARGE, LARGE),
    "sys.exit()": (sys.exit, None),
    "sys.exit(0)": (lambda: sys.exit(0), None),
    "sys.exit(False)": (lambda: sys.exit(False), None),
    "forks, and both return": (lambda: fork_and_return() == me().pid, True),
    "forks, and the copy exits": (fork_and_raise, 9),
    "leaves a grandchild": (fork_and_leave, "left"),
    "reads stdin": (read_stdin, ""),
    "has a child": (lambda: in_a_child(in_a_child, int, "7"), 7),
    "uses multiprocessing": (with_multiprocessing, 5),
}

LOST: dict[str, tuple[Callable[[], object], int]] = {
    "os._exit(0)": (lambda: os._exit(0), 0),
    "os._exit(3)": (lambda: os._exit(3), 3),
    "sys.exit(4)": (lambda: sys.exit(4), 4),
    "sys.exit(True)": (lambda: sys.exit(True), 1),
    "sys.exit(-1)": (lambda: sys.exit(-1), 255),
    "sys.exit(text)": (lambda: sys.exit("the reason"), 1),
    "sys.exit(tuple)": (lambda: sys.exit((1, 2)), 1),  # type: ignore[arg-type]
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
    "SIGRTMIN": (lambda: os.kill(os.getpid(), signal.SIGRTMIN), -signal.SIGRTMIN),
    "closes descriptors": (lose_descriptors, 1),
    "closes descriptors and opens others": (take_over_descriptors, 1),
}

ERRORS: dict[str, tuple[Callable[[], object], type[BaseException], str]] = {
    "raises": (lambda: 1 // 0, ZeroDivisionError, "by zero"),
    "raises KeyboardInterrupt": (lambda: throw(KeyboardInterrupt()), KeyboardInterrupt, ""),
    "raises GeneratorExit": (lambda: throw(GeneratorExit("oh")), GeneratorExit, "oh"),
    "raises what does not travel": (lambda: throw(Custom("a", "b")), RemoteError, "Custom: a b"),
    "returns what cannot be pickled": (lambda: lambda: 1, SerializationError, "cannot be pickled"),
    "returns what cannot be unpickled": (Unreadable, SerializationError, "unreadable"),
    "raises after a huge message": (lambda: [say(LARGE), 1 // 0], ZeroDivisionError, "by zero"),
    "exceeds the stack": (lambda: recurse(0), RecursionError, "recursion"),
}


def throw(error: BaseException) -> None:
    raise error


def recurse(depth: int) -> int:
    return recurse(depth + 1) + 1


def in_a_child(target: Callable[..., object], *args: object) -> object:
    child = Child(target, *args)
    child.start()
    return child.result(PATIENCE)


@pytest.mark.parametrize("case", VALUES)
def test_ends_with_a_value(case: str) -> None:
    target, value = VALUES[case]
    child = Child(target)
    told = notes(child)
    child.start()
    assert child.result(PATIENCE) == value
    assert (child.exitcode, child.is_running) == (0, False)
    filled = () if value is None else (value,)
    assert told == [("start",), ("success", *filled, 0), ("finish", *filled, 0)]
    assert child.result() == value, "again"
    assert child.wait(0)
    child.kill()
    assert no_children()


@pytest.mark.parametrize("case", LOST)
def test_ends_without_an_answer(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    target, exitcode = LOST[case]
    child = Child(target, name="mayfly")
    told = notes(child)
    child.start()
    with pytest.raises(WorkerLostError) as caught:
        child.result(PATIENCE)
    error = caught.value
    assert (error.exitcode, error.pid, child.exitcode) == (exitcode, child.pid, exitcode)
    assert str(error).startswith(f"mayfly (pid {child.pid}) ")
    assert ("out of memory" in str(error)) == (case == "SIGKILL")
    assert told == [("start",), ("error", error, exitcode), ("finish", error, exitcode)]
    written = {"sys.exit(text)": "the reason\n", "sys.exit(tuple)": "(1, 2)\n"}
    if "descriptors" in case:
        assert "the target has closed the pipes to its parent" in capfd.readouterr().err
    else:
        assert capfd.readouterr().err == written.get(case, "")


@pytest.mark.parametrize("case", ERRORS)
def test_ends_with_an_error(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    target, kind, text = ERRORS[case]
    child = Child(target)
    told = notes(child)
    child.start()
    with pytest.raises(kind) as caught:
        child.result(PATIENCE)
    assert text in str(caught.value)
    assert child.exitcode == (0 if "unpickled" in case else 1)
    assert [event[0] for event in told if event[0] != "receive"] == ["start", "error", "finish"]
    assert told[-1][1] is caught.value
    assert capfd.readouterr().err == "", "it is told, not printed"


def test_the_cause_has_the_traceback(start: Start) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        start(ERRORS["raises"][0]).result(PATIENCE)
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "1 // 0" in str(caught.value.__cause__)


def test_a_thread_is_waited_for(start: Start) -> None:
    child = start(stay_in_a_thread)
    assert child.receive(PATIENCE) == "from a thread"
    assert child.result(PATIENCE) == "done"


def test_the_grandchildren_die_with_it(start: Start) -> None:
    def leave() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    grandchild = start(leave).result(PATIENCE)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(grandchild).wait(PATIENCE)


def test_nobody_took_the_status(start: Start) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = start(lambda: 7)
        assert child.result(PATIENCE) == 7
        assert (child.exitcode, child.is_running) == (None, False)
        child = start(lambda: os._exit(3))
        with pytest.raises(WorkerLostError, match="unknown status"):
            child.result(PATIENCE)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("method", ["terminate", "kill"])
def test_is_told_to_end(start: Start, method: str) -> None:
    child = start(signal.pause)
    assert child.is_running
    assert child.exitcode is None
    getattr(child, method)()
    assert child.wait(PATIENCE)
    assert child.exitcode == -{"terminate": signal.SIGTERM, "kill": signal.SIGKILL}[method]
    getattr(child, method)()
    child.send_signal(signal.SIGUSR1)


def test_ends_at_random_instants() -> None:
    """Whatever it was at, what it had sent is whole, and the end is told once."""
    rounds = 20
    chance = random.Random(5)

    def chatter() -> bytes:
        for number in range(50):
            me().send((number, bytes([number]) * number * 1000))
        return LARGE

    ended: set[object] = set()
    for _ in range(rounds):
        child = Child(chatter)
        messages: list[tuple[int, bytes]] = []
        ends: list[object] = []
        child.on("receive", lambda _child, messages, message: messages.append(message), messages)
        child.on("success", lambda _child, ends, value: ends.append(value == LARGE), ends)
        child.on("error", lambda _child, ends, exitcode: ends.append(exitcode), ends)
        child.on("finish", lambda _child, ends: ends.append("finish"), ends)
        child.start()
        child.wait(chance.uniform(0, 0.03))  # no synchronisation: it picks the instant
        child.kill()
        assert child.wait(PATIENCE)
        assert messages == [(number, bytes([number]) * number * 1000) for number in range(len(messages))]
        assert ends in ([True, "finish"], [-signal.SIGKILL, "finish"])
        assert ends[0] is not True or len(messages) == 50
        ended.add(ends[0])
    assert -signal.SIGKILL in ended
    assert no_children()


# The rules of multiprocessing.Process.


def test_before_the_start() -> None:
    child = Child(int)
    assert (child.pid, child.exitcode, child.is_running) == (None, None, False)
    assert "not started" in repr(child)
    for call in (child.wait, child.result, child.terminate, child.kill, child.receive):
        with pytest.raises(ChildError, match="was not started"):
            call()
    with pytest.raises(ChildError, match="was not started"):
        child.send(1)


def test_starts_once(start: Start) -> None:
    child = start(int)
    for _ in range(2):
        with pytest.raises(ChildError, match="was started already"):
            child.start()
        with pytest.raises(ChildError, match="was started already"):
            child.attach(print)
        assert child.wait(PATIENCE)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="target must be callable"):
        Child(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a string"):
        Child(int, name=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attach something"):
        Child(int).attach(3)
    with pytest.raises(ValueError, match="unknown event 'end'; the events of a child are start, receive"):
        Child(int).on("end", print)
    with pytest.raises(TypeError, match="asks for 'body'"):
        Child(int).on("success", lambda _child, body: body)
    with pytest.raises(ValueError, match="0 or more"):
        delay(-1, int)
    with pytest.raises(ValueError, match="0 or more"):
        delay(float("nan"), int)
    with pytest.raises(TypeError, match="fn must be callable"):
        delay(1, 3)  # type: ignore[arg-type]


def test_other_processes_have_no_part_in_it(start: Start) -> None:
    sibling = start(signal.pause)

    def meddle() -> list[str]:
        calls = (
            sibling.wait,
            sibling.kill,
            sibling.start,
            sibling.receive,
            lambda: sibling.exitcode,
            lambda: sibling.is_running,
            me().wait,
            me().kill,
            me().start,
            me().result,
        )
        refused = []
        for call in calls:
            with pytest.raises(ChildError, match=f"was made by process {parent}, not by this one") as caught:
                call()
            refused.append(str(caught.value))
        return refused

    parent = os.getpid()
    assert len(start(meddle).result(PATIENCE)) == 10
    assert sibling.is_running


def test_inside() -> None:
    def look() -> tuple[Any, ...]:
        child = me()
        return child.pid == os.getpid(), child.is_running, child.exitcode, child.name, os.getppid()

    assert current_child() is None
    child = Child(look, name="the one")
    child.start()
    assert child.result(PATIENCE) == (True, True, None, "the one", os.getpid())
    assert current_child() is None


def test_names_and_titles(start: Start) -> None:
    first, second = Child(int), Child(int)
    assert first.name.startswith("Child-")
    assert first.name != second.name
    child = start(lambda: say(1) and me().receive(), name="the one")
    child.receive(PATIENCE)
    assert psutil.Process(child.pid).cmdline()[0] == "mpkit: child the one"
    assert repr(child) == f"<Child the one: pid {child.pid}>"
    child.kill()
    child.wait()
    assert repr(child) == f"<Child the one: pid {child.pid} was killed by SIGKILL>"


def test_arguments(start: Start) -> None:
    assert start(lambda *args, **kwargs: (args, kwargs), 1, 2, key=3).result(PATIENCE) == ((1, 2), {"key": 3})


def test_the_target_is_let_go(start: Start) -> None:
    class Target:
        def __call__(self, argument: object) -> None:
            pass

    target, argument = Target(), Target()
    gone = weakref.ref(target), weakref.ref(argument)
    child = start(target, argument)
    del target, argument
    assert [reference() for reference in gone] == [None, None]
    child.wait()


def test_timeouts(start: Start) -> None:
    child = start(signal.pause, name="sleeper")
    for timeout in (0, 0.02, -1):
        assert not child.wait(timeout)
        with pytest.raises(ChildTimeoutError, match=r"sleeper \(pid \d+\) has not ended in"):
            child.result(timeout)
        with pytest.raises(TimeoutError, match="no message from sleeper"):
            child.receive(timeout)
    assert child.is_running


def test_a_long_timeout(start: Start) -> None:
    assert start(lambda: 1).result(1e9) == 1
    assert start(lambda: me().receive(1e9)).is_running


def test_many(start: Start) -> None:
    children = [start(lambda number=number: number) for number in range(20)]
    assert [child.result(PATIENCE) for child in children] == list(range(20))
    children = [start(signal.pause) for _ in range(10)]
    for child in children:
        child.terminate()
    assert all(child.wait(PATIENCE) for child in children)
    assert no_children()


def test_descriptors_do_not_pile_up(start: Start) -> None:
    """Each child has two pipes, its liveness pipe and the standard ones, however many siblings it has."""
    counts = [start(lambda: len(os.listdir("/proc/self/fd"))) for _ in range(5)]
    assert len({child.result(PATIENCE) for child in counts}) == 1


def test_a_fork_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", lambda: throw(BlockingIOError(errno.EAGAIN, "no")))
        child = Child(int)
        with pytest.raises(BlockingIOError):
            child.start()
    child.start()
    assert child.result(PATIENCE) == 0, "it may be tried again"


def test_flushes_once(capfd: pytest.CaptureFixture[str]) -> None:
    program = """
        from multiprocessing_kit.child import Child
        print("before", end=";")
        for _ in range(3):
            child = Child(print, "child", end=";")
            child.start()
            child.wait()
        print("after", end=";")
    """
    assert run(program).stdout == "before;child;child;child;after;"


# Events.


def test_events_come_in_order() -> None:
    def talk() -> str:
        for number in range(3):
            me().send(number)
        return "over"

    child = Child(talk)
    told = notes(child)
    child.start()
    assert told == [("start",)]
    assert child.wait(PATIENCE)
    received = [("receive", number) for number in range(3)]
    assert told == [("start",), *received, ("success", "over", 0), ("finish", "over", 0)]
    child.wait()
    assert len(told) == 6, "once"


@pytest.mark.parametrize("look", ["is_running", "exitcode"])
def test_who_looks_hears(look: str) -> None:
    """And takes in what the child waits to send: a loop that only looks comes to an end."""
    child = Child(lambda: say(LARGE) and LARGE)
    told = notes(child)
    child.start()
    while getattr(child, look) in (True, None):
        time.sleep(0.001)
    assert [event[0] for event in told] == ["start", "receive", "success", "finish"]


def test_listeners_that_raise_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SystemExit("no")

    child = Child(lambda: me().send(1))
    for event in ChildEvent:
        child.on(event, fail)
    told = notes(child)
    with caplog.at_level(logging.ERROR, "multiprocessing_kit"):
        child.start()
        assert child.result(PATIENCE) is None
    assert [event[0] for event in told] == ["start", "receive", "success", "finish"]
    assert len(caplog.records) == 4
    text = f"fail failed at SUCCESS of child {child.pid}; the child goes on"
    assert text in caplog.records[2].getMessage()


def test_ctrl_c_in_a_listener_passes() -> None:
    child = Child(int)
    child.on("success", lambda _child: throw(KeyboardInterrupt()))
    told: list[int | None] = []
    child.on("finish", lambda child: told.append(child.exitcode))
    child.start()
    with pytest.raises(KeyboardInterrupt):
        child.wait(PATIENCE)
    assert child.wait(0)
    assert told == [0], "the rest is told next time"


def test_listeners_take_what_they_declare() -> None:
    told: list[object] = []
    child = Child(lambda: 5)
    child.on("success", lambda _child, one, two, pid, value: told.append((one, two, pid, value)), 1, 2)
    child.on("start", lambda _child, pid: told.append("never"))
    child.on("start", lambda *_: told.append("start"), override=True)
    child.on("finish", told.append).off("finish", told.append)
    child.on("finish", told.append).off("finish")
    child.start()
    child.wait()
    assert told == ["start", (1, 2, child.pid, 5)]


def test_a_listener_may_use_the_child() -> None:
    def converse() -> list[object]:
        me().send("first")
        return [me().receive(), me().receive()]

    told: list[object] = []
    child = Child(converse)

    def hear(child: Child[Any], message: object) -> None:
        child.send(f"re: {message}")
        child.send(LARGE)
        told.append(("result", child.result(PATIENCE)[1] == LARGE))

    child.on("receive", hear)
    child.on("finish", lambda child: told.append(("finish", child.is_running, child.wait())))
    child.start()
    assert child.result(PATIENCE) == ["re: first", LARGE]
    assert told == [("result", True), ("finish", False, True)]


def test_messages_go_to_listeners_or_to_receive(start: Start) -> None:
    child = start(lambda: [say(number) for number in range(3)])
    assert child.wait(PATIENCE)
    assert child.receive() == 0
    heard: list[object] = []
    child.on("receive", lambda _child, message: heard.append(message))
    with pytest.raises(ChildError, match="listeners of 'receive'"):
        child.receive()
    assert child.wait()
    assert heard == [1, 2], "also what has come before it listened"
    child.off("receive")
    with pytest.raises(EOFError):
        child.receive()


def test_a_message_that_cannot_be_read(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    child = Child(lambda: say(Unreadable()) and say(1))
    told = notes(child)
    child.start()
    assert child.wait(PATIENCE)
    assert told[1] == ("receive", 1)
    assert "lost a message of" in caplog.text
    child = start(lambda: me().send(Unreadable()))
    with pytest.raises(SerializationError, match="unreadable"):
        child.receive(PATIENCE)


# Messages.


def test_messages_both_ways(start: Start) -> None:
    def double() -> int:
        count = 0
        with contextlib.suppress(StopIteration):
            while True:
                me().send(me().receive() * 2)
                count += 1
                if count == 200:
                    raise StopIteration
        return count

    child = start(double)
    for number in range(100):
        child.send(number)
        assert child.receive(PATIENCE) == 2 * number
    for number in range(100):
        child.send(bytes([number]) * number * 2000)
        assert child.receive(PATIENCE) == bytes([number]) * number * 4000
    assert child.result(PATIENCE) == 200


def test_both_send_at_once(start: Start) -> None:
    def flood() -> bool:
        for _ in range(3):
            me().send(LARGE)
        return all(me().receive() == LARGE for _ in range(3))

    child = start(flood)
    for _ in range(3):
        child.send(LARGE)
    assert child.result(PATIENCE) is True
    assert [child.receive() == LARGE for _ in range(3)] == [True] * 3
    with pytest.raises(EOFError, match="no message left"):
        child.receive()


def test_what_cannot_be_pickled_is_not_sent(start: Start) -> None:
    def refuse() -> object:
        with pytest.raises(SerializationError, match="cannot be pickled"):
            me().send(lambda: 1)
        return me().receive()

    child = start(refuse)
    with pytest.raises(SerializationError, match="cannot be pickled"):
        child.send(lambda: 1)
    child.send("fine")
    assert child.result(PATIENCE) == "fine"


def test_receiving_in_time(start: Start) -> None:
    def wait() -> object:
        for timeout in (0, 0.02, -1):
            with pytest.raises(ChildTimeoutError, match="no message from the parent in"):
                me().receive(timeout)
        me().send("ready")
        return me().receive(PATIENCE)

    child = start(wait)
    assert child.receive() == "ready"
    child.send("come")
    assert child.result(PATIENCE) == "come"


def test_a_sender_is_killed_inside_a_message(start: Start) -> None:
    def stall() -> None:
        me().send("whole")
        me().send(LARGE)

    child = start(stall)
    assert child.receive(PATIENCE) == "whole"
    while not select.select([child._parent._pipes.from_child], [], [], 0)[0]:  # type: ignore[union-attr]
        pass
    child.kill()
    assert child.wait(PATIENCE)
    with pytest.raises(EOFError):
        child.receive()
    with pytest.raises(BrokenPipeError):
        child.send("anybody?")


def test_the_receiver_is_killed_inside_a_message(start: Start) -> None:
    def fill_and_die() -> None:
        inside = me()._inside
        assert inside is not None
        queued = bytearray(4)
        while int.from_bytes(queued, sys.byteorder) < 60_000:  # the pipe is full: the parent waits
            fcntl.ioctl(inside._reading, termios.FIONREAD, queued)
        os.kill(os.getpid(), signal.SIGUSR1)

    child = start(fill_and_die)
    with pytest.raises(BrokenPipeError):
        child.send(LARGE)
    assert child.wait(PATIENCE)
    assert child.exitcode == -signal.SIGUSR1


def test_threads_share_a_child(start: Start) -> None:
    """One waits, some receive, some send: each message arrives once."""
    count = 100

    def echo() -> str:
        for _ in range(2 * count):
            me().send(me().receive())
        return "over"

    child = start(echo)
    got: list[Any] = []

    def receive() -> None:
        for _ in range(count):
            got.append(child.receive(PATIENCE))

    def send(name: int) -> None:
        for number in range(count):
            child.send((name, number))

    threads = [threading.Thread(target=child.wait)]
    threads += [threading.Thread(target=receive) for _ in range(2)]
    threads += [threading.Thread(target=send, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    assert child.result(PATIENCE) == "over"
    for thread in threads:
        thread.join()
    assert sorted(got) == [(name, number) for name in range(2) for number in range(count)]


def test_who_leads_wakes_the_others(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread waits for the end and takes in what another one waits for, and the other way round."""
    monkeypatch.setattr(parent_side, "_RECHECK", 1000.0)
    count = 100

    def ask() -> None:
        for number in range(count):
            me().send(number)
            assert me().receive() == number

    child = start(ask)
    waiting = threading.Thread(target=child.wait)
    waiting.start()
    for number in range(count):
        assert child.receive(PATIENCE) == number
        child.send(number)
    assert child.result(PATIENCE) is None
    waiting.join()


def test_who_stops_waiting_lets_another_lead(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_side, "_RECHECK", 1000.0)
    child = start(lambda: me().receive())
    parent = child._parent
    assert parent is not None
    leader = threading.Thread(target=child.wait, args=(0.2,))
    leader.start()
    while parent._leader == 0 and leader.is_alive():
        time.sleep(0.001)
    follower = threading.Thread(target=child.wait, daemon=True)
    follower.start()
    leader.join()
    child.send("end")
    follower.join(PATIENCE)
    assert not follower.is_alive()
    assert child.result(0) == "end"


def test_threads_of_the_child_share_it(start: Start) -> None:
    count = 100

    def echo() -> None:
        for _ in range(count):
            me().send(me().receive())

    def target() -> None:
        for _ in range(3):
            threading.Thread(target=echo).start()

    child = start(target)
    for number in range(3 * count):
        child.send(number)
    assert sorted(child.receive(PATIENCE) for _ in range(3 * count)) == list(range(3 * count))
    assert child.wait(PATIENCE)


# Signal handlers in between.


@contextlib.contextmanager
def under_fire(
    handle: Callable[[], object] | None = None,
) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Another process sends a signal to this one, again and again, each when the last has been handled.

    Yields a function that makes a call, which the signal ends by `KeyboardInterrupt` if there is no `handle`.
    """
    armed = False
    asking, asked = os.pipe()

    def note(*_: object) -> None:
        nonlocal armed
        try:
            if handle is not None:
                handle()
            elif armed:
                armed = False
                raise KeyboardInterrupt
        finally:
            os.write(asked, b"x")

    def endanger(call: Callable[[], object]) -> None:
        nonlocal armed
        with contextlib.suppress(KeyboardInterrupt):
            armed = True
            call()
            armed = False

    def fire(pid: int) -> None:
        chance = random.Random(7)
        while True:
            time.sleep(chance.uniform(0, 0.002))  # no synchronisation: it picks the instant
            os.kill(pid, signal.SIGUSR2)
            os.read(asking, 1)

    before = signal.signal(signal.SIGUSR2, note)
    gun = Child(fire, os.getpid())
    gun.start()
    try:
        yield endanger
    finally:
        gun.kill()
        gun.wait(PATIENCE)
        signal.signal(signal.SIGUSR2, before)
        os.close(asking)
        os.close(asked)


def content(number: int) -> bytes:
    return b"x" * (number * 701 % 90_000)


@pytest.mark.parametrize("side", ["parent", "child"])
def test_a_handler_that_raises_leaves_the_stream_whole(start: Start, side: str) -> None:
    """The messages that were interrupted come or not; those that come are whole, once and in order."""
    count = 300

    def shower(send: Callable[[object], None]) -> None:
        with under_fire() as endanger:
            for number in range(count):
                endanger(lambda: send((number, content(number))))  # noqa: B023  # runs at once
        send("end")

    def collect(receive: Callable[[], Any]) -> list[int]:
        numbers = []
        while (message := receive()) != "end":
            assert message[1] == content(message[0])
            numbers.append(message[0])
        return numbers

    if side == "parent":
        child = start(lambda: collect(me().receive))
        shower(child.send)
        numbers = child.result(PATIENCE)
    else:
        child = start(lambda: shower(me().send))
        numbers = collect(child.receive)
    assert numbers == sorted(set(numbers))
    assert len(numbers) > count / 4


@pytest.mark.parametrize("side", ["parent", "child"])
def test_a_handler_that_raises_in_the_receiver(start: Start, side: str) -> None:
    """What was taken out at that moment may be lost; what comes is whole, once and in order."""
    count = 300

    def scatter(send: Callable[[object], None]) -> None:
        for number in range(count):
            send((number, content(number)))
        for _ in range(3):  # one may be lost
            send("end")

    def collect(receive: Callable[[], Any]) -> list[int]:
        messages: list[Any] = []
        with under_fire() as endanger, contextlib.suppress(EOFError):
            while not messages or messages[-1] != "end":
                endanger(lambda: messages.append(receive()))
        return [number for number, data in messages[:-1] if data == content(number)]

    if side == "parent":
        child = start(lambda: scatter(me().send))
        numbers = collect(child.receive)
        assert child.wait(PATIENCE)
    else:
        child = start(lambda: collect(me().receive))
        scatter(child.send)
        numbers = child.result(PATIENCE)
    assert numbers == sorted(set(numbers))
    assert len(numbers) > count / 4


@pytest.mark.parametrize("side", ["parent", "child"])
def test_a_handler_that_sends_does_not_cut_into_a_message(start: Start, side: str) -> None:
    count = 300

    def shower(send: Callable[[object], None]) -> None:
        fired = itertools.count()
        with under_fire(lambda: send(("handler", next(fired)))):
            for number in range(count):
                send(("main", number, content(number)))
        send(("end", next(fired)))

    def collect(receive: Callable[[], Any]) -> tuple[list[int], list[int], int]:
        numbers, handled = [], []
        while (message := receive())[0] != "end":
            if message[0] == "handler":
                handled.append(message[1])
            else:
                assert message[2] == content(message[1])
                numbers.append(message[1])
        return numbers, handled, message[1]

    if side == "parent":
        child = start(lambda: collect(me().receive))
        shower(child.send)
        numbers, handled, fired = child.result(PATIENCE)
    else:
        child = start(lambda: shower(me().send))
        numbers, handled, fired = collect(child.receive)
    assert numbers == list(range(count))
    assert sorted(handled) == list(range(fired))  # one handler may be interrupted by the next
    assert fired > 0


def test_a_handler_that_looks_does_not_steal() -> None:
    count = 300

    def scatter() -> None:
        for number in range(count):
            me().send((number, content(number)))

    for _ in range(5):
        child = Child(scatter)
        child.start()
        with under_fire(lambda: child.is_running):  # noqa: B023  # runs at once
            for number in range(count):
                assert child.receive(PATIENCE) == (number, content(number))
            assert child.wait(PATIENCE)


def test_a_look_inside_of_a_look_leaves_the_pipes_open(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler's, at the worst moment: it sees the end, and the interrupted one still reads."""
    child = start(lambda: 5)
    parent = child._parent
    assert parent is not None
    os.waitid(os.P_PID, parent.forked.pid, os.WEXITED | os.WNOWAIT)
    fill = parent._reader.fill

    def interrupted_fill() -> bool:
        monkeypatch.undo()
        assert not child.is_running
        return fill()

    monkeypatch.setattr(parent._reader, "fill", interrupted_fill)
    assert not child.is_running
    assert child.result() == 5


@contextlib.contextmanager
def handling(handle: Callable[[], object]) -> Iterator[None]:
    """SIGUSR1 calls it."""
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def ended(child: Child[Any]) -> None:
    """Wait for the end of a child, without having it looked at."""
    assert child.pid is not None
    with contextlib.suppress(ChildProcessError):  # the code under a signal handler has just looked
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("ends", ["before", "in the handler"])
def test_a_handler_that_looks_inside_of_a_look(ends: str) -> None:
    """At every instant: both know how it ended, and its listeners hear of all."""
    told: list[object] = []
    child: Child[Any]

    def look() -> None:
        os.write(writing, b"x")
        ended(child)
        child.terminate()
        assert (child.is_running, child.exitcode) == (False, 3)

    def lives() -> None:
        os.write(writing, b"x" if ends == "before" else b"")
        if ends == "before":
            ended(child)
        for _ in range(2):
            child.send_signal(signal.SIGCONT)
            assert child.exitcode in (None, 3)

    def end() -> None:
        os.read(reading, 1)
        os._exit(3)

    reading, writing = os.pipe()
    with handling(look):
        for place in itertools.count():
            child = Child(end)
            for event in ChildEvent.START, ChildEvent.ERROR, ChildEvent.FINISH:
                child.on(event, lambda child, event, exitcode: told.append((event, exitcode)))
            child.start()
            modules = "/supervise/child.py", "/parent_side.py", "/multiprocessing_kit/child.py"
            came = at_instruction(place, lives, *modules, only_looks=True)
            if not came:
                os.write(writing, b"x")
                child.wait()
            assert told == [(ChildEvent.START, None), (ChildEvent.ERROR, 3), (ChildEvent.FINISH, 3)]
            told.clear()
            while select.select([reading], [], [], 0)[0]:
                os.read(reading, 1)
            if not came:
                break
    os.close(reading)
    os.close(writing)
    assert place > 50


def test_a_handler_that_receives_inside_of_a_receive(start: Start) -> None:
    """At every instant: each message arrives once, and the result is none."""
    got: list[object] = []

    def receive() -> None:
        with contextlib.suppress(EOFError):
            got.append(child.receive())

    def talk() -> str:
        me().send("message")
        return "result"

    with handling(receive):
        for place in itertools.count():
            child = start(talk)
            ended(child)
            came = at_instruction(
                place, receive, "/parent_side.py", "/multiprocessing_kit/child.py", only_looks=True
            )
            assert got == ["message"]
            assert child.result() == "result"
            got.clear()
            if not came:
                break
    assert place > 20


def test_threads_send_signals_to_a_child_that_ends() -> None:
    """Who waits for it knows how it ended, and no other process gets one."""
    errors: list[OSError] = []

    def send_signals(child: Child[Any]) -> None:
        try:
            while child._parent is not None and not child._parent.over:
                child.send_signal(signal.SIGCONT)
        except OSError as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(200):
            child = Child(os._exit, 3)
            child.start()
            sender = threading.Thread(target=send_signals, args=(child,))
            sender.start()
            assert child.wait(PATIENCE)
            assert child.exitcode == 3
            sender.join()
            assert errors == []
    finally:
        sys.setswitchinterval(interval)


def test_a_handler_that_waits(start: Start) -> None:
    def stop(*_: object) -> None:
        child.terminate()
        assert child.wait(PATIENCE)

    child = start(signal.pause)
    before = signal.signal(signal.SIGUSR2, stop)
    try:
        start(os.kill, os.getpid(), signal.SIGUSR2)
        assert child.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert child.exitcode == -signal.SIGTERM


def test_ctrl_c_ends_the_wait_and_not_the_child(start: Start) -> None:
    def wait_under_fire(wait: Callable[[], object]) -> None:
        start(os.kill, os.getpid(), signal.SIGINT)
        wait()

    child = start(lambda: me().receive())
    for wait in (child.wait, child.result, child.receive):
        with pytest.raises(KeyboardInterrupt):
            wait_under_fire(wait)
    child.send("go")
    assert child.result(PATIENCE) == "go"


def test_a_signal_at_any_instant_of_a_start() -> None:
    """Taken by a thread that Python knows nothing of, as it may be: the child was started, or was not."""

    def strike_everywhere() -> None:
        taker = threading.Thread(target=threading.Event().wait, daemon=True)
        taker.start()
        assert taker.ident is not None
        heard, hear = os.pipe()
        for end in (heard, hear):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(hear)
        signal.signal(signal.SIGUSR1, interrupt)
        files = os.listdir("/proc/self/fd")
        for place in itertools.count(step=5):
            child = Child(lambda: 5)
            was_struck, was_interrupted = start_under_fire(child, place, taker.ident, heard)
            if child.pid is None:
                child.start()
            assert child.result(PATIENCE) == 5
            assert was_struck == was_interrupted
            assert os.listdir("/proc/self/fd") == files
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            if not was_struck:
                assert place > 500
                return

    def start_under_fire(child: Child[int], place: int, taker: int, heard: int) -> tuple[bool, bool]:
        """Whether it got as far as the place, and whether the handler's exception came out."""
        left, owner = place, os.getpid()

        def trace(frame: Any, event: str, _argument: object) -> Any:
            nonlocal left
            frame.f_trace_opcodes = "multiprocessing_kit" in frame.f_code.co_filename
            if event == "opcode" and os.getpid() == owner:
                left -= 1
                if left == -1:
                    with contextlib.suppress(BlockingIOError):  # of the strike before
                        os.read(heard, 10)
                    signal.pthread_kill(taker, signal.SIGUSR1)
                    select.select([heard], [], [])  # until it is taken
            return trace

        try:
            sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one in `settrace`
            sys.settrace(trace)
            try:
                child.start()
            finally:
                sys.settrace(None)
        except Interrupted:
            return True, True
        return left < 0, False

    assert in_child(strike_everywhere) == 0


# What is attached.


def test_attached_things_are_set_up_and_torn_down(start: Start) -> None:
    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def setup(self) -> None:
            me().send(f"+{self.name}")

        def teardown(self) -> None:
            me().send(f"-{self.name}")

    class OnlyTeardown:
        def teardown(self) -> None:
            me().send("-only")

    class Failing(Part):
        def setup(self) -> None:
            raise OSError("not today")

    def steps(target: Callable[[], object], *items: object) -> tuple[list[object], Child[Any]]:
        child = Child(target)
        heard: list[object] = []
        child.on("receive", lambda _child, message: heard.append(message))
        for item in items:
            assert child.attach(item) is child
        child.start()
        assert child.wait(PATIENCE)
        return heard, child

    a, b = Part("a"), Part("b")
    heard, child = steps(lambda: me().send("target"), a, lambda: me().send("+f"), OnlyTeardown(), b)
    assert heard == ["+a", "+f", "+b", "target", "-b", "-only", "-a"]
    assert child.result() is None
    for target, error in ((lambda: 1 // 0, ZeroDivisionError), (lambda: sys.exit(3), WorkerLostError)):
        heard, child = steps(target, a, b)
        assert heard == ["+a", "+b", "-b", "-a"]
        with pytest.raises(error):
            child.result()
    heard, child = steps(lambda: me().send("target"), a, Failing("c"), b)
    assert heard == ["+a", "-a"]
    with pytest.raises(OSError, match="not today"):
        child.result()


def test_a_copy_that_the_target_forks_tears_nothing_down(start: Start) -> None:
    class Counted:
        def teardown(self) -> None:
            os.write(writing, b"x")

    reading, writing = os.pipe()
    for target in (fork_and_return, fork_and_raise):
        child = Child(target).attach(Counted())
        child.start()
        assert child.wait(PATIENCE)
    os.close(writing)
    assert os.read(reading, 9) == b"xx"
    os.close(reading)


def test_a_teardown_that_fails_is_the_childs_error(start: Start) -> None:
    class Bad:
        def teardown(self) -> None:
            raise OSError("stuck")

    for target in (int, functools.partial(int, "x")):
        child = Child(target).attach(Bad())
        child.start()
        with pytest.raises(OSError, match="stuck") as caught:
            child.result(PATIENCE)
        assert ("ValueError" in str(caught.value.__cause__)) == (target is not int)


def test_a_listener_for_signals_is_attached() -> None:
    stopped: list[int] = []
    listener = SignalListener().on(signal.SIGTERM, stopped.append)
    listener.on(signal.SIGUSR1, lambda signum: me().send(signum))

    def work() -> tuple[list[int], bool]:
        me().send("ready")
        while not stopped:
            signal.pause()
        return stopped, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    before = signal.getsignal(signal.SIGTERM)
    child = Child(work).attach(listener).attach(lambda: None)
    child.start()
    assert child.receive(PATIENCE) == "ready"
    child.send_signal(signal.SIGUSR1)
    assert child.receive(PATIENCE) == signal.SIGUSR1
    child.terminate()
    assert child.result(PATIENCE) == ([signal.SIGTERM], False)
    assert stopped == []
    assert signal.getsignal(signal.SIGTERM) == before


# delay.


def test_delay() -> None:
    begun = time.monotonic()
    child = delay(0.05, lambda *args, **kwargs: (args, kwargs, time.monotonic()), 1, key=2, name="later")
    args, kwargs, ran = child.result(PATIENCE)
    assert (args, kwargs, child.name) == ((1,), {"key": 2}, "later")
    assert ran >= begun + 0.05
    assert delay(0, int).result(PATIENCE) == 0


def test_a_delayed_call_is_canceled() -> None:
    child = delay(1e6, os._exit, 5)
    child.terminate()
    with pytest.raises(WorkerLostError, match="SIGTERM"):
        child.result(PATIENCE)


# Children that nobody waits for.


def run(program: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=50)
    if check:
        assert (done.returncode, done.stderr) == (0, "")
    return done


def test_children_that_nobody_holds_go_on_and_are_reaped(start: Start) -> None:
    reading, writing = os.pipe()
    gone = weakref.ref(delay(0.02, os.write, writing, b"x"))
    gc.collect()
    assert gone() is None
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
    while not no_children():
        start(int).wait(PATIENCE)  # each start reaps


def test_children_end_with_the_program() -> None:
    program = """
        import atexit, os, signal
        from multiprocessing_kit.child import Child, current_child
        from multiprocessing_kit.supervise.signal_listener import SignalListener

        def sleep():
            current_child().send("ready")
            while True:
                signal.pause()

        def stop(signum):
            print("asked", flush=True)
            raise SystemExit

        children = [Child(sleep), Child(bytes, 10_000_000), Child(int), Child(sleep)]
        children[-1].attach(SignalListener().on(signal.SIGTERM, stop))
        for child in children:
            child.start()
        children[0].receive()
        children[-1].receive()
        print(*(child.pid for child in children))
    """
    done = run(program)
    pids, asked = done.stdout.splitlines()
    assert asked == "asked"
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.split())


def test_no_zombie_is_left_at_exit() -> None:
    """What comes last sees none: not of ended, not of running children."""
    program = """
        import atexit, os, sys

        def last():
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                print("none")
        atexit.register(last)  # runs after what is registered later
        import signal
        from multiprocessing_kit.child import Child
        for target in (int, signal.pause):
            Child(target).start()
    """
    assert run(program).stdout == "none\n"


def test_the_parent_is_killed() -> None:
    program = """
        import os, signal, sys
        from multiprocessing_kit.child import Child, current_child, delay

        def spin():
            current_child().send("ready")
            while True:
                pass

        def flood():
            current_child().send("ready")
            while True:
                current_child().send(bytes(100_000))

        def listen():
            current_child().send("ready")
            current_child().receive()

        children = [Child(target) for target in (spin, flood, listen)]
        for child in children:
            child.start()
        for child in children:
            child.receive()
        children.append(delay(1000, print))
        print(*(child.pid for child in children), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(program, check=False)
    assert done.returncode == -signal.SIGKILL
    for pid in map(int, done.stdout.split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(PATIENCE)


# Frames.


def test_frames_of_any_length_and_pieces() -> None:
    reading, writing = os.pipe()
    reader = FrameReader(reading)
    writer = FrameWriter(writing)
    sizes = [0, 1, 8, 9, 65527, 65528, 200_000, 3, 0]
    for size in sizes:
        writer.put(size % 200, b"y" * size)
    while not writer.flush():
        reader.fill()
    assert reader.fill()
    assert not reader.fill()
    assert [(kind, len(data)) for kind, data in reader.frames] == [(size % 200, size) for size in sizes]
    os.set_blocking(writing, True)
    reader.frames.clear()
    for byte in (3).to_bytes(8, sys.byteorder) + b"\x01abc" + b"\x05":
        assert not reader.frames
        os.write(writing, bytes([byte]))
        reader.fill()
        if reader.frames:
            assert reader.frames.pop() == (1, b"abc")
    assert not reader.ended
    os.close(writing)
    assert not reader.fill()
    assert reader.ended
    assert not reader.frames, "half of one"
    os.close(reading)
