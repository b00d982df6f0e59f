"""The signal with which a caller asks a child for the answers that wait behind a long job, at any instant."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from multiprocessing_kit import Process
from tests.instants import at_instruction
from tests.interrupts import Interrupted, interrupt

COUNT = 20_000


@contextlib.contextmanager
def hurrying(reading: int) -> Iterator[None]:
    """Whoever writes its pid into this pipe is asked again and again, by a process that does nothing else."""
    alive, stop = os.pipe()
    helper = os.fork()
    if not helper:
        os.close(stop)
        pids: set[int] = set()
        while not select.select([alive], [], [], 0)[0]:
            if select.select([reading], [], [], 0)[0]:
                pids.add(int.from_bytes(os.read(reading, 4), "little"))
            for pid in list(pids):
                try:
                    os.kill(pid, signal.SIGURG)
                except ProcessLookupError:
                    pids.discard(pid)
        os._exit(0)
    try:
        yield
    finally:
        os.close(stop)
        os.waitpid(helper, 0)
        os.close(alive)


@pytest.mark.parametrize(
    "body", [lambda number: number, lambda number: (number, [])], ids=["plain", "object"]
)
@pytest.mark.parametrize("ordered", [True, False])
def test_any_number_of_them_does_no_harm(ordered: bool, body: Any) -> None:
    reading, writing = os.pipe()
    known: set[int] = set()

    def job(number: int) -> Any:
        if os.getpid() not in known:
            known.add(os.getpid())
            os.write(writing, os.getpid().to_bytes(4, "little"))
        return body(number)

    with hurrying(reading):
        responses: list[Any] = list(Process(2).imap(job, range(COUNT), ordered=ordered))
    os.close(reading)
    os.close(writing)
    answered = [(response.argument_index, response.body) for response in responses]
    assert sorted(answered) == [(number, body(number)) for number in range(COUNT)]


def test_a_handler_of_the_job_that_raises_while_answers_are_sent() -> None:
    """At every instant of that: each answer comes once."""
    length, places = 7, 300
    modules = "/job_runner.py", "/outcomes.py", "/child_end.py", "/ring.py", "/block.py", "/held_signals.py"

    def hurry() -> None:
        signal.raise_signal(signal.SIGURG)

    def job(number: int) -> int:
        place, behind = divmod(number, length)
        if behind == length - 1:
            signal.signal(signal.SIGUSR1, interrupt)
            with contextlib.suppress(Interrupted):
                at_instruction(place, hurry, *modules, only_looks=True)
        return number

    responses: list[Any] = list(Process(1).imap(job, range(places * length), ordered=False))
    assert sorted(response.body for response in responses) == list(range(places * length))
