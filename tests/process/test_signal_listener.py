"""`SignalListener`: callbacks in order and one after the other, and the former handlers afterwards."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from multiprocessing_kit.child import Child, current_child
from multiprocessing_kit.supervise.signal_listener import SignalListener
from tests.instants import at_every_instruction

PATIENCE = 30.0  # seconds; only ever used up by a failing test
ONE, TWO = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    watched = (ONE, TWO, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(signum) for signum in watched]
    yield
    assert [signal.getsignal(signum) for signum in watched] == before


def raised(*signums: int) -> None:
    for signum in signums:
        signal.raise_signal(signum)


def test_callbacks_run_in_order() -> None:
    told: list[object] = []
    listener = SignalListener()
    assert listener.on(ONE, told.append) is listener
    listener.on(ONE, lambda *args: told.append(args), "extra", 2).on(TWO, told.append)
    assert not listener.is_listening
    with listener:
        assert listener.is_listening
        raised(ONE, TWO, ONE)
    assert not listener.is_listening
    assert told == [ONE, (ONE, "extra", 2), TWO, ONE, (ONE, "extra", 2)]
    assert isinstance(told[0], signal.Signals)


@pytest.mark.parametrize("former", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_former_handlers_are_put_back(former: Any) -> None:
    before = signal.signal(ONE, former)
    try:
        listener = SignalListener().on(ONE, print)
        assert signal.getsignal(ONE) is former
        for _ in range(2):
            listener.setup()
            assert signal.getsignal(ONE) is not former
            listener.close()
            listener.close()
            assert signal.getsignal(ONE) is former
    finally:
        signal.signal(ONE, before)


def test_a_signal_while_a_callback_runs_waits_its_turn() -> None:
    told: list[str] = []

    def outer(_signum: int) -> None:
        told.append("outer begins")
        raised(TWO, ONE, TWO)
        told.append("outer ends")
        listener.off(ONE, outer)

    listener = SignalListener().on(ONE, outer).on(ONE, lambda _: told.append("one"))
    listener.on(TWO, lambda _: told.append("two"))
    with listener:
        raised(ONE)
        assert told == ["outer begins", "outer ends", "one", "two", "one", "two"]


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def fail(_signum: int) -> None:
        raise ValueError("oh")

    with SignalListener().on(ONE, fail).on(ONE, told.append), caplog.at_level(logging.ERROR):
        raised(ONE)
    assert told == [ONE]
    assert "fail for <Signals.SIGUSR1: 10> failed" in caplog.text
    assert "ValueError: oh" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_a_program_is_raised_where_it_was(error: BaseException) -> None:
    told: list[int] = []

    def leave(_signum: int) -> None:
        raised(TWO)
        raise error

    listener = SignalListener().on(ONE, leave).on(ONE, told.append).on(TWO, told.append)
    with listener:
        with pytest.raises(type(error)) as caught:
            raised(ONE)
        assert caught.value is error
        assert told == [ONE, TWO], "after all that were due"
        raised(TWO)
        assert told == [ONE, TWO, TWO], "it goes on listening"


def test_on_and_off_while_listening() -> None:
    told: list[str] = []
    before = signal.getsignal(ONE)
    listener = SignalListener()
    one, other = (lambda _: told.append("one")), (lambda _: told.append("other"))
    with listener:
        listener.on(ONE, one).on(ONE, other)
        raised(ONE)
        listener.off(ONE, one)
        raised(ONE)
        listener.off(ONE)
        assert signal.getsignal(ONE) == before
        listener.off(ONE).off(TWO, one)
        listener.on(ONE, one)
        raised(ONE)
    assert told == ["one", "other", "other", "one"]


@pytest.mark.parametrize("change", ["on", "off", "close"])
def test_callbacks_change_what_is_being_changed(change: str) -> None:
    """A signal at every instruction, whose callback does what is just being done."""
    heard: list[int] = []
    listener = SignalListener()

    def note(signum: int) -> None:
        heard.append(signum)

    def meddle(_signum: int) -> None:
        heard.append(ONE)
        if change == "on":
            listener.on(TWO, note)
        elif change == "off":
            listener.off(ONE).off(TWO)
        else:
            listener.close()

    def listen() -> None:
        nonlocal listener
        listener = SignalListener().on(ONE, meddle)
        if change != "on":
            listener.on(TWO, note)
        with listener:
            if change == "on":
                listener.on(TWO, note)
            listener.off(TWO)
            listener.off(ONE)

    before = [signal.signal(signum, lambda signum, _: heard.append(signum)) for signum in (ONE, TWO)]
    former = [signal.getsignal(signum) for signum in (ONE, TWO)]
    try:
        for _ in at_every_instruction(listen, "/signal_listener.py", only_looks=True):
            assert heard == [ONE]
            raised(ONE, TWO)  # one that was set up after its end gives up at its next signal
            assert heard == [ONE, ONE, TWO]
            assert [signal.getsignal(signum) for signum in (ONE, TWO)] == former
            heard.clear()
    finally:
        for signum, handler in zip((ONE, TWO), before, strict=True):
            signal.signal(signum, handler)


def test_wrong_arguments() -> None:
    listener = SignalListener()
    for signum in (0, 1000, signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(ValueError, match="no signal that can be listened to"):
            listener.on(signum, print)
    with pytest.raises(TypeError, match="a callback must be callable"):
        listener.on(ONE, 3)  # type: ignore[arg-type]


def test_real_time_signals() -> None:
    told: list[int] = []
    with SignalListener().on(signal.SIGRTMIN + 1, told.append):
        raised(signal.SIGRTMIN + 1)
    assert told == [signal.SIGRTMIN + 1]


def test_only_the_main_thread_listens() -> None:
    errors: list[str] = []
    listener = SignalListener().on(ONE, print)

    def listen() -> None:
        try:
            listener.setup()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert not listener.is_listening


def test_two_listeners() -> None:
    told: list[str] = []
    first = SignalListener().on(ONE, lambda _: told.append("first"))
    second = SignalListener().on(ONE, lambda _: told.append("second"))
    with first:
        with second:
            raised(ONE)
        raised(ONE)
    assert told == ["second", "first"]


def test_two_listeners_close_in_the_other_order() -> None:
    """What the second one puts back is a handler that is closed: it hands the signal on."""
    told: list[str] = []

    def former(_signum: int, _frame: FrameType | None) -> None:
        told.append("former")

    before = signal.signal(ONE, former)
    try:
        first = SignalListener().on(ONE, lambda _: told.append("first"))
        second = SignalListener().on(ONE, lambda _: told.append("second"))
        first.setup()
        second.setup()
        first.close()
        raised(ONE)
        second.close()
        raised(ONE, ONE)
        assert told == ["second", "former", "former"]
        assert signal.getsignal(ONE) == former
    finally:
        signal.signal(ONE, before)


def in_a_child(target: Callable[[], Any], listener: SignalListener) -> Child[Any]:
    child = Child(target).attach(listener)
    child.start()
    assert child.receive(PATIENCE) == "ready"
    return child


def send(message: object) -> None:
    child = current_child()
    assert child is not None
    child.send(message)


def test_in_a_child() -> None:
    """Signals that come one by one are all heard."""
    listener = SignalListener().on(ONE, send)

    def wait() -> None:
        send("ready")
        while True:
            signal.pause()

    child = in_a_child(wait, listener.on(TWO, send))
    for signum in [ONE, TWO, ONE, ONE]:
        child.send_signal(signum)
        assert child.receive(PATIENCE) == signum
    child.terminate()
    assert child.wait(PATIENCE)
    assert child.exitcode == -signal.SIGTERM


def test_a_child_ends_in_order_when_terminated() -> None:
    def stop(_signum: int) -> None:
        raise SystemExit

    def work() -> None:
        try:
            send("ready")
            while True:
                signal.pause()
        finally:
            send("cleaned up")

    child = in_a_child(work, SignalListener().on(signal.SIGTERM, stop))
    child.terminate()
    assert child.result(PATIENCE) is None
    assert child.exitcode == 0
    assert child.receive() == "cleaned up"


def test_a_child_that_waits_for_a_message_hears() -> None:
    def answer() -> object:
        send("ready")
        child = current_child()
        assert child is not None
        return child.receive(PATIENCE)

    child = in_a_child(answer, SignalListener().on(ONE, send))
    child.send_signal(ONE)
    assert child.receive(PATIENCE) == ONE
    child.send("the message")
    assert child.result(PATIENCE) == "the message"


def test_a_listener_of_the_parent_listens_in_the_child_anew() -> None:
    told: list[int] = []
    listener = SignalListener().on(ONE, told.append)
    with listener:
        raised(ONE)

        def work() -> tuple[bool, list[int], bool]:
            fresh = listener.is_listening
            send("ready")
            raised(ONE)
            listener.close()
            return fresh, told, signal.getsignal(ONE) == signal.SIG_DFL

        assert in_a_child(work, listener).result(PATIENCE) == (True, [ONE, ONE], True)
        plain = Child(lambda: (listener.is_listening, signal.getsignal(ONE) == signal.SIG_DFL))
        plain.start()
        assert plain.result(PATIENCE) == (False, True)
        raised(ONE)
    assert told == [ONE, ONE]


def test_many_signals_are_merged_and_not_lost() -> None:
    """Of those that another process sends in a hurry, the last one is always heard."""
    told: list[int] = []

    def fire(pid: int) -> None:
        for _ in range(1000):
            os.kill(pid, ONE)

    with SignalListener().on(ONE, told.append):
        gun = Child(fire, os.getpid())
        gun.start()
        assert gun.wait(PATIENCE)
        count = len(told)
        assert 1 <= count <= 1000
        os.kill(os.getpid(), ONE)
        assert len(told) == count + 1
