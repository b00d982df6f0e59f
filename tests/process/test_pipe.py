"""Pipes between real processes; `multiprocessing.Pipe` shows that what it does as well is tested right."""

from __future__ import annotations

import array
import contextlib
import itertools
import multiprocessing
import os
import pickle
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.errors import KitError, PipeTimeoutError
from multiprocessing_kit.pipe import Pipe, PipeEnd
from tests.forks import exit_of, fork

PATIENCE = 30  # seconds; only ever used up by a failing test
LARGE = 4 << 20  # bytes: more than the system buffers


def closing(made: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    yield made
    for end in made:
        end.close()


@pytest.fixture(params=[Pipe, multiprocessing.Pipe], ids=["ours", "multiprocessing"])
def any_pipe(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    yield from closing(request.param())


@pytest.fixture(params=[Pipe, multiprocessing.Pipe], ids=["ours", "multiprocessing"])
def any_one_way(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    yield from closing(request.param(duplex=False))


@pytest.fixture
def pipe() -> Iterator[tuple[PipeEnd, PipeEnd]]:
    yield from closing(Pipe())


# What multiprocessing.Pipe does.


def test_objects_both_ways(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    for item in (None, 0, "text", b"", {"a": [1, 2.5]}, b"x" * 100_000):
        a.send(item)
        assert b.recv() == item
        b.send(item)
        assert a.recv() == item


def test_messages_do_not_merge(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    messages = [b"a", b"", b"bc", b"", b"d" * 1000]
    for message in messages:
        a.send_bytes(message)
    assert [b.recv_bytes() for _ in messages] == messages
    assert not b.poll()


def test_bytes_with_offset_and_size(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    text = b"abcdefghijklmnopqrstuvwxyz"
    for arguments, expected in [((5,), text[5:]), ((7, 8), text[7:15]), ((26,), b""), ((26, 0), b"")]:
        a.send_bytes(text, *arguments)
        assert b.recv_bytes() == expected
    a.send_bytes(array.array("i", [1, 2, 3]))
    assert array.array("i", b.recv_bytes()) == array.array("i", [1, 2, 3])
    for arguments in [(27,), (22, 5), (26, 1), (-1,), (4, -1)]:
        with pytest.raises(ValueError, match=r"offset|size"):
            a.send_bytes(text, *arguments)
    assert not b.poll()


def test_into_a_buffer(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    buffer = array.array("i", [0] * 6)
    a.send_bytes(array.array("i", [1, 2]))
    assert b.recv_bytes_into(buffer, 3 * buffer.itemsize) == 2 * buffer.itemsize
    assert list(buffer) == [0, 0, 0, 1, 2, 0]
    for offset in (-1, 25):
        with pytest.raises(ValueError, match="offset"):
            b.recv_bytes_into(buffer, offset)
    a.send_bytes(b"x" * 30)
    with pytest.raises(multiprocessing.BufferTooShort) as caught:
        b.recv_bytes_into(bytearray(29))
    assert caught.value.args == (b"x" * 30,)
    a.send("after")
    assert b.recv() == "after"


def test_too_long_a_message(any_pipe: tuple[Any, Any], any_one_way: tuple[Any, Any]) -> None:
    a, b = any_pipe
    a.send_bytes(b"12345")
    assert b.recv_bytes(5) == b"12345"
    with pytest.raises(ValueError, match="maxlength"):
        b.recv_bytes(-1)
    a.send_bytes(b"12345")
    with pytest.raises(OSError, match="length"):
        b.recv_bytes(4)
    assert (b.readable, b.closed) == (False, False)
    reader, writer = any_one_way
    writer.send_bytes(b"12345")
    with pytest.raises(OSError, match="length"):
        reader.recv_bytes(4)
    assert reader.closed


def test_one_way(any_one_way: tuple[Any, Any]) -> None:
    reader, writer = any_one_way
    writer.send(1)
    assert reader.recv() == 1
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    for call in (lambda: reader.send(2), lambda: reader.send_bytes(b""), writer.recv, writer.poll):
        with pytest.raises(OSError, match="only"):
            call()


def test_poll(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    assert not any((b.poll(), b.poll(0), b.poll(-1), b.poll(0.01)))
    a.send_bytes(b"")
    assert all((b.poll(), b.poll(), b.poll(None), b.poll(PATIENCE)))
    assert select.select([b], [], [], 0)[0] == [b]
    b.recv_bytes()
    assert not b.poll()
    a.close()
    assert b.poll(), "there will be nothing, which is known at once"


def test_a_closed_end(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    with a, b:
        assert [a.closed, b.closed] == [False, False]
    assert a.closed
    assert b.closed
    b.close()
    for call in (b.recv, b.recv_bytes, b.poll, b.fileno, lambda: b.send(1), lambda: b.send_bytes(b"")):
        with pytest.raises(OSError, match="closed"):
            call()


def test_the_other_end_was_closed(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    a.send("last")
    a.close()
    assert b.recv() == "last"
    for call in (b.recv, b.recv_bytes, lambda: b.recv_bytes_into(bytearray(9))):
        with pytest.raises(EOFError):
            call()
    with pytest.raises(BrokenPipeError):
        b.send(1)


def test_what_cannot_be_pickled(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        a.send(lambda: None)
    a.send("next")
    assert b.recv() == "next"


def test_an_echoing_child(any_pipe: tuple[Any, Any]) -> None:
    a, b = any_pipe

    def child() -> None:
        a.close()
        with contextlib.suppress(EOFError):
            while True:
                b.send_bytes(b.recv_bytes())

    pid = fork(child)
    b.close()
    for size in (0, 1, 4095, LARGE):
        a.send_bytes(b"x" * size)
        assert a.recv_bytes() == b"x" * size
    a.close()
    assert exit_of(pid) == 0


def test_with_multiprocessing_itself(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    from multiprocessing.connection import wait

    a, b = pipe
    child = multiprocessing.get_context("fork").Process(target=lambda: b.send(os.getpid()))
    child.start()
    ends: list[Any] = [a]
    assert wait(ends, PATIENCE) == ends
    assert a.recv() == child.pid
    child.join()
    child.close()


# Closed while something of it was on its way: the kernel calls that a reset, we call it closed.


def test_closed_with_unread_messages(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    a, b = pipe
    a.send("nobody reads this")
    b.send("last")
    b.close()
    assert a.recv() == "last"
    with pytest.raises(EOFError):
        a.recv()
    a, b = Pipe()
    a.send("nobody reads this")
    b.close()
    with pytest.raises(BrokenPipeError):
        a.send("nor this")
    a.close()


# Deadlines.


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_nothing_comes_in_time(pipe: tuple[PipeEnd, PipeEnd], timeout: float) -> None:
    a, b = pipe
    calls: list[Callable[[], object]] = [
        lambda: b.recv(timeout),
        lambda: b.recv_bytes(None, timeout),
        lambda: b.recv_bytes_into(bytearray(9), 0, timeout),
    ]
    for call in calls:
        with pytest.raises(PipeTimeoutError, match="nothing came in") as caught:
            call()
        assert isinstance(caught.value, (KitError, TimeoutError))
        assert not caught.value.begun
    a.send("late")
    assert b.recv(timeout) == "late"


def test_a_negative_timeout(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    a, b = pipe
    a.send(1)
    for call in (lambda: a.send(2, timeout=-1), lambda: b.recv(timeout=-1)):
        with pytest.raises(ValueError, match="timeout"):
            call()
    assert b.recv() == 1
    assert not b.poll()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 1000])
def test_a_message_stops_in_the_middle(pipe: tuple[PipeEnd, PipeEnd], cut: int) -> None:
    """Its sender is slow, or stopped. What has come is kept for the next call."""
    a, b = pipe
    wire = whole_message(b"x" * 2000) + whole_message(b"next")
    os.write(a.fileno(), wire[:cut])
    for _ in range(2):
        with pytest.raises(PipeTimeoutError) as caught:
            b.recv(timeout=0.01)
        assert caught.value.begun
    os.write(a.fileno(), wire[cut:])
    assert b.recv_bytes(timeout=PATIENCE) == b"x" * 2000
    assert b.recv_bytes(timeout=PATIENCE) == b"next"


def whole_message(payload: bytes) -> bytes:
    """As it travels."""
    a, b = Pipe()
    with a, b:
        a.send_bytes(payload)
        return os.read(b.fileno(), len(payload) + 100)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 1000])
def test_the_sender_ends_in_the_middle(pipe: tuple[PipeEnd, PipeEnd], cut: int) -> None:
    a, b = pipe
    os.write(a.fileno(), whole_message(b"x" * 2000)[:cut])
    a.close()
    for _ in range(2):
        with pytest.raises(EOFError, match="closed"):
            b.recv()


def test_no_room_for_a_message(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    """What has gone out in part goes out whole later, and once; what has not begun never does."""
    a, b = pipe
    payload = bytearray(b"x" * LARGE)
    with pytest.raises(PipeTimeoutError, match="rest goes before the next") as caught:
        a.send_bytes(payload, timeout=0.01)
    assert caught.value.begun
    payload[:] = b"y" * LARGE  # no longer the message's
    with pytest.raises(PipeTimeoutError, match="message before") as caught:
        a.send("second", timeout=0)
    assert not caught.value.begun

    def child() -> None:
        a.close()
        assert b.recv_bytes(timeout=PATIENCE) == b"x" * LARGE
        assert b.recv(timeout=PATIENCE) == "third"

    pid = fork(child)
    a.send("third", timeout=PATIENCE)
    assert exit_of(pid) == 0


def fill(end: PipeEnd) -> tuple[int, PipeTimeoutError]:
    """How many messages found room, and what the next one met."""
    for number in itertools.count():
        try:
            end.send_bytes(b"x" * 100, timeout=0)
        except PipeTimeoutError as error:
            return number, error
    raise AssertionError


def test_no_room_at_all(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    a, b = pipe
    number, error = fill(a)
    assert not error.begun
    assert [b.recv_bytes(timeout=0) for _ in range(number)] == [b"x" * 100] * number
    assert not b.poll()


# Deaths.


def receive_whole(end: PipeEnd) -> None:
    """Until there are no more."""
    while True:
        payload = end.recv_bytes(timeout=PATIENCE)
        assert payload == payload[:4] * 100_000


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.stress)])
def test_a_sender_is_killed_at_any_instant(rounds: int) -> None:
    """The receiver gets whole messages, and then the end at once."""
    chance = random.Random(20260103)
    for _ in range(rounds):
        a, b = Pipe()

        def child() -> None:
            b.close()  # noqa: B023  # runs at once
            for number in itertools.count():
                a.send_bytes(number.to_bytes(4, "big") * 100_000)  # noqa: B023

        pid = fork(child)
        a.close()
        for number in range(chance.randrange(4)):
            assert b.recv_bytes() == number.to_bytes(4, "big") * 100_000
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EOFError):
            receive_whole(b)
        assert exit_of(pid) == -signal.SIGKILL
        b.close()


def test_a_receiver_is_killed(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    a, b = pipe

    def child() -> None:
        a.close()
        b.recv()
        os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(child)
    b.close()
    a.send("go")
    with pytest.raises(BrokenPipeError):
        a.send_bytes(bytes(LARGE), timeout=PATIENCE)
    assert exit_of(pid) == -signal.SIGKILL


class Interrupted(BaseException):
    pass


def test_a_signal_handler_that_raises_loses_nothing(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    """It raises while the end waits, in the middle of a message: sending and receiving go on there."""
    a, b = pipe

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:

        def child() -> None:
            b.close()
            with contextlib.suppress(Interrupted):
                a.send_bytes(b"x" * LARGE)
            a.send("after", timeout=PATIENCE)

        pid = fork(child)
        assert b.poll(PATIENCE)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()  # only the kernel knows when it waits for room
        os.kill(pid, signal.SIGUSR1)
        assert b.recv_bytes(timeout=PATIENCE) == b"x" * LARGE
        assert b.recv(timeout=PATIENCE) == "after"
        assert exit_of(pid) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ends_stay_where_they_are(pipe: tuple[PipeEnd, PipeEnd]) -> None:
    a, _ = pipe
    with pytest.raises(TypeError, match="inherit"):
        pickle.dumps(a)
    assert f"descriptor {a.fileno()}" in repr(a)
    a.close()
    assert "closed" in repr(a)


# The standard library's own tests of connections.

STANDARD = """
import multiprocessing, sys, unittest, warnings
from test import _test_multiprocessing as standard
from multiprocessing_kit.pipe import Pipe

warnings.simplefilter("ignore")
context = multiprocessing.get_context("fork")


class Ours:
    TYPE = "processes"
    Pipe = staticmethod(Pipe)
    Process = staticmethod(context.Process)


class Connection(Ours, standard._TestConnection, unittest.TestCase):
    pass


class Poll(Ours, standard._TestPoll, unittest.TestCase):
    pass


load = unittest.defaultTestLoader.loadTestsFromTestCase
done = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite([load(Connection), load(Poll)]))
assert done.testsRun >= 10, done.testsRun
sys.exit(not done.wasSuccessful() or len(done.skipped))
"""


@pytest.mark.thorough
def test_the_standard_library_s_tests() -> None:
    """All of `_TestConnection` and `_TestPoll`, also those that send descriptors over a pipe's socket."""
    pytest.importorskip("test._test_multiprocessing", reason="this Python comes without its tests")
    done = subprocess.run(
        [sys.executable, "-c", STANDARD], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
