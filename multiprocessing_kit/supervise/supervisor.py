"""Workers in numbered places (PINs): started, watched, started again under a policy, stopped in steps.

    IDLE ──start──▶ RUNNING ──ends──▶ BACKOFF ──its time──▶ RUNNING
                       │                 (again)
                       ├──ends──▶ ENDED  (orderly, nothing follows)
                       ├──ends──▶ FATAL  (given up)
                       └──stop──▶ STOPPING ──ends──▶ IDLE, or RUNNING anew, or the place is gone

It owns no loop: the owner of one asks `timeout`, waits for the descriptors of `children` beside its own
ones, and calls `look`. Nothing here blocks but the fork itself.
"""

from __future__ import annotations

import enum
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from multiprocessing_kit.errors import describe_exit
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import fork_child
from multiprocessing_kit.supervise.respawn import Outcome, RespawnPolicy

__all__ = ["Place", "State", "Supervisor", "Then"]

_log = logging.getLogger("multiprocessing_kit.supervise")

_TERMINATED = 2.0
"""Seconds between the second SIGTERM, which interrupts, and SIGKILL."""

_NO_FORK = 1.0
"""Seconds before the next try where the system refused to fork."""


class State(str, enum.Enum):
    """Of a worker's place."""

    IDLE = "idle"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    ENDED = "ended"
    FATAL = "fatal"


class Then(enum.Enum):
    """What follows when a worker has been stopped."""

    NOTHING = "nothing"
    REPLACE = "replace"
    REMOVE = "remove"


@dataclass(eq=False)
class Place:
    """One PIN and who sits there.

    Attributes:
        pin: Its number.
        state: See above.
        child: Who sits there, if anybody does.
        started: When that one was started, by `time.time()`.
        restarts: How many have sat there before.
        failures: Ends in a row that were none of health.
        worked: Whether its owner knows that it has done what it is for: it is sound, and replaced at once.
        last_exit: How the last one ended, in words; "" if none has.
        reason: Why it is FATAL; "" if it is not.
        due: When the next step is to be taken, by `time.monotonic()`; None for none.
        since: When the child was started, by `time.monotonic()`.
        steps: Signals that it gets if it does not end, and when.
        then: What follows when it has ended, if it was asked to.
    """

    pin: int
    state: State = State.IDLE
    child: ForkedChild | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0
    worked: bool = False
    last_exit: str = ""
    reason: str = ""
    due: float | None = None
    since: float = 0.0
    steps: list[tuple[float, int]] = field(default_factory=list)
    then: Then = Then.NOTHING


def _nothing(_pin: int) -> None:
    """Nothing is to be done before a fork."""


class Supervisor:
    """Holds the places of one manager.

    Args:
        run: What a worker is; gets its PIN and the read end of its liveness pipe, returns its exit status.
        title: The process title of a PIN.
        policy: What follows on an end.
        on_change: Called when a place's child has come or gone, with the place and the child that went.
        before_fork: Called with the PIN.
    """

    def __init__(
        self,
        run: Callable[[int, int], int],
        title: Callable[[int], str],
        policy: RespawnPolicy,
        on_change: Callable[[Place, ForkedChild | None], None],
        before_fork: Callable[[int], None] = _nothing,
    ) -> None:
        self._run = run
        self._title = title
        self._policy = policy
        self._on_change = on_change
        self._before_fork = before_fork
        self.places: dict[int, Place] = {}

    # ── asking ────────────────────────────────────────────────────────────────────────────────────

    @property
    def children(self) -> list[ForkedChild]:
        """Those that live, as far as is known."""
        return [place.child for place in self.places.values() if place.child is not None]

    @property
    def is_over(self) -> bool:
        """Whether nobody lives, and nobody will by itself."""
        return all(place.child is None and place.state is not State.BACKOFF for place in self.places.values())

    def timeout(self) -> float | None:
        """Seconds after which to `look` though no descriptor told; None for never."""
        now = time.monotonic()
        times = [place.due - now for place in self.places.values() if place.due is not None]
        times += [child.recheck for child in self.children if child.recheck is not None]
        return max(0.0, min(times)) if times else None

    # ── acting ────────────────────────────────────────────────────────────────────────────────────

    def start(self, pin: int) -> None:
        """Start a worker there, unless one lives; what was FATAL or ENDED there is forgotten."""
        place = self.places.setdefault(pin, Place(pin))
        if place.child is None:
            place.failures, place.reason = 0, ""
            self._fork(place)

    def stop(self, pin: int, patience: float, then: Then = Then.NOTHING) -> None:
        """Have the worker there end: asked by SIGTERM, interrupted by another one, killed.

        Args:
            pin: Its number.
            patience: Seconds between the first two; 0 kills at once.
            then: What follows when it has; the last one that asks decides.
        """
        place = self.places[pin]
        place.then = then
        if place.child is None:
            self._stopped(place)
            return
        if place.state is State.STOPPING and patience > 0:
            return  # it has been asked, and a second SIGTERM would cut off its call
        now = time.monotonic()
        if patience > 0:
            steps = [(now + patience, signal.SIGTERM), (now + patience + _TERMINATED, signal.SIGKILL)]
            place.child.terminate()
        else:
            steps = []
            place.child.kill()
        place.steps = [(when, int(signum)) for when, signum in steps]
        place.state, place.due = State.STOPPING, steps[0][0] if steps else None

    def look(self) -> None:
        """Take what has ended, and do what is due."""
        for place in list(self.places.values()):
            if place.child is not None and place.child.poll():
                self._ended(place)
        now = time.monotonic()
        for place in list(self.places.values()):
            if place.due is not None and place.due <= now:
                self._next_step(place)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _next_step(self, place: Place) -> None:
        if place.state is State.BACKOFF:
            self._fork(place)
        elif place.state is State.STOPPING and place.child is not None:
            _, signum = place.steps.pop(0)
            _log.warning(
                "worker #%d (pid %d) has not ended: sending %s",
                place.pin,
                place.child.pid,
                signal.Signals(signum).name,
            )
            place.child.send_signal(signum)
            place.due = place.steps[0][0] if place.steps else None

    def _fork(self, place: Place) -> None:
        pin = place.pin
        self._before_fork(pin)
        try:
            child = fork_child(lambda liveness: self._run(pin, liveness), title=self._title(pin))
        except OSError as error:
            _log.error("cannot fork worker #%d: %s; trying again in %g s", pin, error, _NO_FORK)
            place.state, place.due = State.BACKOFF, time.monotonic() + _NO_FORK
            return
        place.child, place.state, place.due = child, State.RUNNING, None
        place.started, place.since, place.worked = time.time(), time.monotonic(), False
        _log.info("worker #%d started (pid %d)", pin, child.pid)
        self._on_change(place, None)

    def _ended(self, place: Place) -> None:
        child = place.child
        assert child is not None
        policy, pid, exitcode = self._policy, child.pid, child.exitcode
        was_asked = place.state is State.STOPPING
        place.child, place.due, place.steps = None, None, []
        place.last_exit = describe_exit(exitcode)
        if was_asked and policy.is_normal(exitcode):
            place.last_exit = "was stopped"
        self._on_change(place, child)
        child.close()
        place.restarts += 1
        level = logging.INFO if was_asked or policy.is_normal(exitcode) else logging.WARNING
        _log.log(level, "worker #%d (pid %d) %s", place.pin, pid, place.last_exit)
        if was_asked:
            self._stopped(place)
            return
        lived = time.monotonic() - place.since
        if place.worked or lived >= policy.healthy or policy.is_normal(exitcode):
            place.failures = 0
        place.failures += not policy.is_normal(exitcode)
        outcome, reason = policy.outcome(exitcode, place.failures)
        if outcome is Outcome.AGAIN:
            delay = 0.0 if place.worked else policy.delay(place.failures, lived)
            place.state, place.due = State.BACKOFF, time.monotonic() + delay
            if delay:
                _log.info("worker #%d starts again in %.1f s", place.pin, delay)
        elif outcome is Outcome.ENDED:
            place.state = State.ENDED
        else:
            place.state, place.reason = State.FATAL, reason
            _log.error("worker #%d is given up: %s", place.pin, reason)

    def _stopped(self, place: Place) -> None:
        then, place.then = place.then, Then.NOTHING
        place.state, place.due = State.IDLE, None
        if then is Then.REPLACE:
            self.start(place.pin)
        elif then is Then.REMOVE:
            del self.places[place.pin]
