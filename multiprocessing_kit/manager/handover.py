"""A smooth restart: the master executes its own program anew, and keeps its workers.

    old code: try the new code in a process of its own ─▶ it gets as far as `run()` ─▶ exec
    new code: ... up to `run()`, which finds the handover ─▶ adopts the workers ─▶ replaces them one by one

Executing keeps the process id, so the workers go on having a living parent; open descriptors stay open: the
lock, the socket, the pipes that tie the workers to the master, the board, the log. Code that cannot be
imported, or settings that make no sense, show in the trial, and the old ones go on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import flush_stdio
from multiprocessing_kit.supervise.supervisor import Place, State

__all__ = [
    "Handover",
    "Seat",
    "execute_anew",
    "execute_trial",
    "is_handed_over",
    "is_trial",
    "place_of",
    "seats_of",
    "taken_over",
]

_STATE = "MPKIT_HANDOVER"
_TRIAL = "MPKIT_TRIAL"


@dataclass(frozen=True)
class Seat:
    """One worker's place, as it is handed over; `pid` 0: nobody is there."""

    pin: int
    pid: int
    liveness: int
    exit_pipe: int | None
    state: str
    started: float
    restarts: int
    failures: int
    last_exit: str
    reason: str


@dataclass(frozen=True)
class Handover:
    """What the new code gets.

    Attributes:
        name: Of the manager.
        pid: The master's: a child of it must not take the environment for its own.
        started: When the first start was, by `time.time()`.
        starts: How many workers were started.
        restarts: How many handovers there were, this one included.
        workers: How many were wanted by `scale`; None if nobody asked for another number.
        lock, control, relay, board: Descriptors.
        seats: The workers.
    """

    name: str
    pid: int
    started: float
    starts: int
    restarts: int
    workers: int | None
    lock: int
    control: int
    relay: tuple[int, int]
    board: int
    seats: tuple[Seat, ...]

    def descriptors(self) -> list[int]:
        """All that must stay open."""
        found = [self.lock, self.control, *self.relay, self.board]
        for seat in self.seats:
            found += [fd for fd in (seat.liveness, seat.exit_pipe) if fd is not None and fd >= 0]
        return found


def is_handed_over(name: str) -> bool:
    """Whether an earlier life of this process ran the manager of this name."""
    data = json.loads(os.environ.get(_STATE, "null"))
    return data is not None and data["name"] == name and data["pid"] == os.getpid()


def taken_over(name: str) -> Handover | None:
    """What it has left; None if there was none."""
    if not is_handed_over(name):
        return None
    data: dict[str, Any] = json.loads(os.environ.pop(_STATE))
    seats = tuple(Seat(**seat) for seat in data["seats"])
    return Handover(**{**data, "seats": seats, "relay": tuple(data["relay"])})


def is_trial(name: str) -> bool:
    """Whether this process only tries whether the program gets as far as the manager's start."""
    return os.environ.get(_TRIAL) == name


def execute_trial(name: str, output: int) -> NoReturn:
    """In a child: become a trial of the new code, which writes to the descriptor `output`."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    command = _command()
    os.execve(command[0], command, {**os.environ, _TRIAL: name})


def execute_anew(handover: Handover) -> None:
    """Become the new code; returns only if that was refused.

    Raises:
        OSError: The interpreter cannot be executed.
    """
    for descriptor in handover.descriptors():
        os.set_inheritable(descriptor, True)
    flush_stdio()
    # Until the new code has its handlers, a signal would end it: they wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    command = _command()
    try:
        os.execve(command[0], command, {**os.environ, _STATE: json.dumps(asdict(handover))})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for descriptor in handover.descriptors():
            os.set_inheritable(descriptor, False)


def seats_of(places: Iterable[Place]) -> tuple[Seat, ...]:
    """The places, for a handover."""
    seats = []
    for place in places:
        child = place.child
        liveness, exit_pipe = child.descriptors() if child is not None else (-1, None)
        seats.append(
            Seat(
                place.pin,
                child.pid if child is not None else 0,
                liveness,
                exit_pipe,
                place.state.value,
                place.started,
                place.restarts,
                place.failures,
                place.last_exit,
                place.reason,
            )
        )
    return tuple(seats)


def place_of(seat: Seat) -> Place:
    """The place that `seats_of` has described, with the worker in it."""
    child = ForkedChild.adopted(seat.pid, seat.liveness, seat.exit_pipe) if seat.pid else None
    place = Place(seat.pin, State(seat.state), child, seat.started, seat.restarts, seat.failures)
    place.last_exit, place.reason = seat.last_exit, seat.reason
    if place.state is State.BACKOFF:
        place.due = time.monotonic()
    return place


def _command() -> list[str]:
    """As this process was started."""
    return [sys.executable, *sys.orig_argv[1:]]
