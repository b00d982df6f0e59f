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
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import flush_stdio
from multiprocessing_kit.supervise.supervisor import Place, State, Then

__all__ = [
    "REACHED",
    "Handover",
    "Seat",
    "execute_anew",
    "execute_trial",
    "is_for_another",
    "is_handed_over",
    "is_restarting",
    "leave_trial",
    "place_of",
    "seats_of",
    "taken_over",
]

_STATE = "MPKIT_HANDOVER"
_TRIAL = "MPKIT_TRIAL"

REACHED = 87
"""Exit status of a trial that has got as far as the manager's start; 0 could be any program's end."""


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
    due: float | None
    since: float
    steps: list[tuple[float, int]]
    then: str


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
        connections: Those of clients that wait for an answer.
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
    connections: tuple[int, ...]
    seats: tuple[Seat, ...]

    def descriptors(self) -> list[int]:
        """All that must stay open."""
        found = [self.lock, self.control, *self.relay, self.board, *self.connections]
        for seat in self.seats:
            found += [fd for fd in (seat.liveness, seat.exit_pipe) if fd is not None and fd >= 0]
        return found

    def set_inheritable(self, inheritable: bool) -> None:
        """Whether programs that this process and its children execute get them."""
        for descriptor in self.descriptors():
            os.set_inheritable(descriptor, inheritable)


def is_handed_over(name: str) -> bool:
    """Whether an earlier life of this process ran the manager of this name."""
    data = json.loads(os.environ.get(_STATE, "null"))
    return data is not None and data["name"] == name and data["pid"] == os.getpid()


def taken_over(name: str) -> Handover | None:
    """What it has left; None if there was none."""
    if not is_handed_over(name):
        return None
    with open(json.loads(os.environ.pop(_STATE))["file"]) as file:
        file.seek(0)
        data: dict[str, Any] = json.load(file)
    tuples = {name: tuple(data[name]) for name in ("relay", "connections")}
    found = Handover(**{**data, **tuples, "seats": tuple(Seat(**seat) for seat in data["seats"])})
    found.set_inheritable(False)
    return found


def is_for_another(name: str) -> bool:
    """Whether this process only goes on with, or tries, another manager of the same program."""
    data = json.loads(os.environ.get(_STATE, "null"))
    goes_on = data is not None and data["pid"] == os.getpid() and data["name"] != name
    trial = json.loads(os.environ.get(_TRIAL, "null"))
    return goes_on or (trial is not None and trial["name"] != name)


def is_restarting() -> bool:
    """Whether this process tries or becomes the new code of a manager, and has not come to its start."""
    data = json.loads(os.environ.get(_STATE, "null"))
    return (data is not None and data["pid"] == os.getpid()) or _TRIAL in os.environ


def leave_trial(name: str, check: Callable[[], Sequence[Path]]) -> None:
    """End this process if it only tries whether the program gets as far as this manager's start.

    Args:
        name: Of the manager.
        check: Raises if something is not as it must be; gives the paths that `execute_trial` had.
    """
    trial = json.loads(os.environ.get(_TRIAL, "null"))
    if trial is None:
        return
    if trial["name"] != name:
        problem = f"the program starts manager {name!r}, and not {trial['name']!r}"
    elif list(map(str, check())) != trial["paths"]:
        problem = "a restart does not change lock_file and runtime_dir: stop and start it"
    else:
        os._exit(REACHED)
    print(problem, file=sys.stderr)
    flush_stdio()
    os._exit(1)


def execute_trial(name: str, paths: Sequence[Path], output: int) -> NoReturn:
    """In a child: become a trial of the new code, which writes to the descriptor `output`."""
    trial = json.dumps({"name": name, "paths": list(map(str, paths))})
    os.dup2(output, 1)
    os.dup2(output, 2)
    command = _command()
    os.execve(command[0], command, {**os.environ, _TRIAL: trial})


def execute_anew(handover: Handover, may: Callable[[], bool]) -> None:
    """Become the new code; returns only if that must not be yet.

    Args:
        handover: For it.
        may: Asked when no more signals come in. One that has come, and was not acted on, would be lost.

    Raises:
        OSError: The interpreter cannot be executed, or there is no room for the handover.
    """
    flush_stdio()
    command = _command()
    with tempfile.TemporaryFile("w+") as file:  # a variable of the environment has no room for many workers
        json.dump(asdict(handover), file)
        file.flush()
        state = {"name": handover.name, "pid": handover.pid, "file": file.fileno()}
        # Until the new code has its handlers, a signal would end it: they wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if may():
                handover.set_inheritable(True)
                os.set_inheritable(file.fileno(), True)
                os.execve(command[0], command, {**os.environ, _STATE: json.dumps(state)})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            handover.set_inheritable(False)


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
                place.due,
                place.since,
                place.steps,
                place.then.value,
            )
        )
    return tuple(seats)


def place_of(seat: Seat) -> Place:
    """The place that `seats_of` has described, with the worker in it."""
    child = ForkedChild.adopted(seat.pid, seat.liveness, seat.exit_pipe) if seat.pid else None
    place = Place(seat.pin, State(seat.state), child, seat.started, seat.restarts, seat.failures)
    place.last_exit, place.reason = seat.last_exit, seat.reason
    place.due, place.since, place.then = seat.due, seat.since, Then(seat.then)
    place.steps = [(when, signum) for when, signum in seat.steps]
    return place


def _command() -> list[str]:
    """As this process was started."""
    return [sys.executable, *sys.orig_argv[1:]]
