"""The master's loop: it does no work of its own, so that hardly anything can end it.

signals ──▶ ┐                                    ┌─▶ Supervisor: start, stop, replace workers
commands ─▶ ├─ one selector, one loop, no waits ─┤─▶ answers to commands
deaths ───▶ │                                    ├─▶ log records of workers, written
records ──▶ ┘                                    └─▶ signs of life for systemd

RUNNING ──stop──▶ STOPPING ──all gone──▶ the end
   ├─reload: one PIN after the other is stopped and started anew
   └─restart: the same, by the new code that this process has become (see `handover`)
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from multiprocessing_kit.errors import ManagerError
from multiprocessing_kit.ipc.doorbell import Doorbell
from multiprocessing_kit.manager.board import Board
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.manager.control import Answer, Connection, ControlServer
from multiprocessing_kit.manager.handover import Handover, execute_anew, place_of, seats_of
from multiprocessing_kit.manager.instance import InstanceLock
from multiprocessing_kit.manager.logs import send_all_to
from multiprocessing_kit.manager.notify import Notifier
from multiprocessing_kit.manager.orphans import reap_orphans
from multiprocessing_kit.manager.relay import Relay
from multiprocessing_kit.manager.rolling import Rolling
from multiprocessing_kit.manager.settings import MOST_WORKERS, Settings
from multiprocessing_kit.manager.status import Status, WorkerStatus
from multiprocessing_kit.manager.trial import Trial
from multiprocessing_kit.manager.work import work
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.memory import resident_memory
from multiprocessing_kit.supervise.signal_queue import SignalQueue
from multiprocessing_kit.supervise.supervisor import Place, State, Supervisor, Then

__all__ = ["Master"]

_LONGEST_WAIT = 3600.0
_DEAF_SECONDS = 1.0
"""For how long nobody is let in where no descriptor is left."""

_log = logging.getLogger("multiprocessing_kit.manager")


class Master:
    """Runs one manager's workers until they are stopped, or have all ended.

    Args:
        settings: The manager's.
        lock: Which this process holds.
        control: Path of the socket for commands.
        handover: What an earlier life of this process has left; None for a first start.
    """

    def __init__(
        self, settings: Settings, lock: InstanceLock, control: Path, handover: Handover | None
    ) -> None:
        self.settings = settings
        self._lock = lock
        self._handover = handover
        if handover is None:
            self._control = ControlServer(control)
        else:
            self._control = ControlServer(control, handover.control, handover.connections)
        self._relay = Relay(None if handover is None else handover.relay)
        self._board = Board(None if handover is None else handover.board)
        self._started = time.time() if handover is None else handover.started
        self._starts = 0 if handover is None else handover.starts
        self._restarts = 0 if handover is None else handover.restarts
        self._wanted = settings.workers if handover is None else handover.workers or settings.workers
        self._notifier = Notifier()
        self._bell = Doorbell()
        self._selector = selectors.DefaultSelector()
        self._supervisor = Supervisor(self._live, self._title, settings.policy, self._changed)
        self._rolling = Rolling(self._supervisor, self._is_ready, settings.stop_timeout)
        self._trial: Trial | None = None
        self._problem = ""
        self._is_settled = False
        self._is_stopping = False
        self._deaf_until: float | None = None
        self._next_check = time.monotonic() + settings.check_interval

    # ── what it can be asked ──────────────────────────────────────────────────────────────────────

    def status(self) -> Status:
        """How everything is."""
        state = "running" if self._is_settled else "starting"
        if self._rolling.is_active or self._trial is not None:
            state = "restarting"
        places = sorted(self._supervisor.places.items())
        return Status(
            name=self.settings.name,
            state="stopping" if self._is_stopping else state,
            pid=os.getpid(),
            uptime=time.time() - self._started,
            memory=resident_memory(os.getpid()),
            starts=self._starts,
            restarts=self._restarts,
            problem=self._problem or self._rolling.problem,
            workers=tuple(WorkerStatus.of(place, self._board.row(pin)) for pin, place in places),
        )

    @property
    def is_stopping(self) -> bool:
        """Whether its end has begun."""
        return self._is_stopping

    def stop(self) -> None:
        """Let running work end, then end."""
        if not self._is_stopping:
            self._stop(self.settings.stop_timeout)

    def exit(self) -> None:
        """End at once; running work is cut off."""
        self._stop(0.0)

    def reload(self) -> None:
        """Replace the workers one by one; `init` is called anew."""
        self._refuse_while_stopping()
        self._problem = ""
        self._rolling.begin()

    def restart(self) -> None:
        """Try the new code, become it, and replace the workers one by one."""
        self._refuse_while_stopping()
        if self._trial is not None:
            raise ManagerError("a restart is under way already")
        self._problem = self._rolling.problem = ""
        self._notifier.reloading()
        self._trial = Trial(self.settings.name, [self._lock.path, self._control.path])
        self._watch(self._trial.child, _nothing)

    def wake(self) -> None:
        """End every worker's sleep."""
        for pin, place in self._supervisor.places.items():
            if place.child is not None and self._is_ready(pin):  # before that, the signal would end it
                place.child.send_signal(signal.SIGUSR2)

    def scale(self, workers: int) -> None:
        """Have so many workers.

        Raises:
            ManagerError: That is not from 1 to `MOST_WORKERS`, or it is about to end.
        """
        self._refuse_while_stopping()
        if not 1 <= workers <= MOST_WORKERS:
            raise ManagerError(f"cannot have {workers} workers: 1 to {MOST_WORKERS} are possible")
        self._wanted = workers
        for pin in range(workers):
            place = self._supervisor.places.get(pin)
            if place is None:
                self._supervisor.start(pin)
            elif place.state is State.STOPPING:  # on its way out
                self._supervisor.stop(pin, self.settings.stop_timeout, Then.REPLACE)
        for pin in [pin for pin in self._supervisor.places if pin >= workers]:
            self._supervisor.stop(pin, self.settings.stop_timeout, Then.REMOVE)

    def add(self, workers: int) -> None:
        """Have so many more, or fewer; within what is possible."""
        self.scale(min(max(1, self._wanted + workers), MOST_WORKERS))

    def log_status(self) -> None:
        """Write the status to the log."""
        for line in self.status().table().splitlines():
            _log.info("%s", line)

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        signums: Collection[int],
        on_signal: Callable[[int], None],
        on_command: Callable[[Answer], Answer],
        on_ready: Callable[[str], None],
    ) -> None:
        """Until the end.

        Args:
            signums: The signals it takes.
            on_signal: Called with each of them.
            on_command: Called with each request of a client; gives the answer.
            on_ready: Called once, when each worker is ready or has failed, with a text that says so.
        """
        with SignalQueue(signums) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())  # an exec has blocked them
            self._watch(signals, lambda: deque(map(on_signal, signals.take()), maxlen=0))
            self._watch(self._relay, self._relay.drain)
            self._listen(on_command)
            for connection in self._control.connections:
                self._watch_connection(connection, on_command)
            self._watch(self._bell, self._bell.clear)
            self._begin()
            self._turn(on_ready)  # a handover is followed by work, and nothing need happen before
            while not self._is_over():
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._turn(on_ready)
                if self._deaf_until is not None and time.monotonic() >= self._deaf_until:
                    self._listen(on_command)
                self._step_trial(lambda: signals.is_empty)
            self._end()

    def _begin(self) -> None:
        name, pid = self.settings.name, os.getpid()
        if self._handover is None:
            _log.info("manager %r started (pid %d)", name, pid)
            self.scale(self._wanted)
            return
        _log.info("manager %r goes on with new code (pid %d)", name, pid)
        for seat in self._handover.seats:
            place = self._supervisor.places[seat.pin] = place_of(seat)
            if place.child is not None:
                self._watch(place.child, _nothing)
        self.scale(self._wanted)
        self._rolling.begin()

    def _turn(self, on_ready: Callable[[str], None]) -> None:
        """What follows from what has happened, or is due by now."""
        self._supervisor.look()
        reap_orphans({child.pid for child in self._children()})
        if not self._is_stopping:
            self._rolling.step()
        if not (self._is_settled or self._is_stopping) and all(
            map(self._has_settled, self._supervisor.places.values())
        ):
            self._is_settled = True
            ready = sum(map(self._is_ready, self._supervisor.places))
            text = f"{ready} of {len(self._supervisor.places)} workers are ready"
            ends = {place.last_exit for place in self._supervisor.places.values() if place.last_exit}
            if ready < len(self._supervisor.places) and ends:
                text += f"; of the others, one {sorted(ends)[0]}: see the log"
            self._notifier.ready(text)
            on_ready(text)
        self._notifier.alive()
        for connection in self._control.idle():
            self._drop(connection)
        if self.settings.check_interval and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + self.settings.check_interval
            try:
                self.log_status()
            except Exception:  # no descriptor is left to look with: no reason to end the workers
                _log.exception("the status cannot be told")

    def _timeout(self) -> float:
        times = [self._supervisor.timeout(), self._notifier.timeout()]
        if self.settings.check_interval:
            times.append(max(0.0, self._next_check - time.monotonic()))
        if self._control.connections:
            times.append(1.0)
        if self._deaf_until is not None:
            times.append(max(0.0, self._deaf_until - time.monotonic()))
        if self._trial is not None:
            times.append(self._trial.child.recheck)
        # Not longer than a selector can count: milliseconds, in 32 bits.
        return min([_LONGEST_WAIT, *(seconds for seconds in times if seconds is not None)])

    def _is_over(self) -> bool:
        states = {place.state for place in self._supervisor.places.values()}
        # One that was given up is not forgotten: `status` must be able to tell.
        return self._supervisor.is_over and (self._is_stopping or states == {State.ENDED})

    def _end(self) -> None:
        while not self._relay.drain():
            pass
        _log.info("manager %r ended", self.settings.name)
        if self._trial is not None:
            self._trial.close()
        self._control.unlink()
        self._selector.close()
        self._bell.close()
        self._relay.close()
        self._board.close()
        self._lock.release()
        self._control.close()  # who waits for the end may start the next one now

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _stop(self, patience: float) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._rolling.cancel()
            self._notifier.stopping()
            _log.info("manager %r stops", self.settings.name)
        for pin in list(self._supervisor.places):
            self._supervisor.stop(pin, patience)

    def _refuse_while_stopping(self) -> None:
        if self._is_stopping:
            raise ManagerError("it is stopping")

    def _step_trial(self, may_execute: Callable[[], bool]) -> None:
        trial = self._trial
        if self._is_stopping or trial is None or not trial.child.poll():
            return
        self._problem = trial.failure()
        if not self._problem:
            try:
                execute_anew(self._hand_over(), may_execute)
                return  # a signal has come: first what it asks for
            except OSError as error:
                self._problem = f"the new code cannot be executed: {error}"
        self._trial = None
        self._selector.unregister(trial.child)
        trial.close()
        _log.error("manager %r goes on with its old code: %s", self.settings.name, self._problem)
        self._notifier.ready("it goes on with its old code")

    def _hand_over(self) -> Handover:
        self._relay.drain()
        return Handover(
            name=self.settings.name,
            pid=os.getpid(),
            started=self._started,
            starts=self._starts,
            restarts=self._restarts + 1,
            workers=None if self._wanted == self.settings.workers else self._wanted,
            lock=self._lock.fileno(),
            control=self._control.fileno(),
            relay=self._relay.descriptors(),
            board=self._board.fileno(),
            connections=tuple(c.fileno() for c in self._control.connections if not c.answered),
            seats=seats_of(self._supervisor.places.values()),
        )

    def _listen(self, on_command: Callable[[Answer], Answer]) -> None:
        self._deaf_until = None
        self._watch(self._control, lambda: self._accept(on_command))

    def _accept(self, on_command: Callable[[Answer], Answer]) -> None:
        try:
            connection = self._control.accept()
        except OSError:  # the client goes on waiting, and would wake the loop again and again
            self._selector.unregister(self._control)
            self._deaf_until = time.monotonic() + _DEAF_SECONDS
            return
        if connection is not None:
            self._watch_connection(connection, on_command)

    def _watch_connection(self, connection: Connection, on_command: Callable[[Answer], Answer]) -> None:
        self._watch(connection, lambda: self._serve(connection, on_command))

    def _serve(self, connection: Connection, on_command: Callable[[Answer], Answer]) -> None:
        if not self._control.serve(connection, on_command):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._selector.unregister(connection)
        self._control.drop(connection)

    def _watch(self, what: Any, act: Callable[[], object]) -> None:
        self._selector.register(what, selectors.EVENT_READ, act)

    # ── workers ───────────────────────────────────────────────────────────────────────────────────

    def _children(self) -> list[ForkedChild]:
        return self._supervisor.children + ([] if self._trial is None else [self._trial.child])

    def _live(self, pin: int, liveness: int) -> int:
        """In the child."""
        self._selector.close()
        self._control.leave()
        send_all_to(self._relay.handler(f"worker #{pin}"))
        context = Context(self.settings.name, pin, liveness)
        return work(self.settings, context, self._board.row(pin), self._bell)

    def _title(self, pin: int) -> str:
        return f"{self.settings.title_prefix}: worker {self.settings.name} #{pin}"

    def _changed(self, place: Place, gone: ForkedChild | None) -> None:
        if gone is not None:
            self._selector.unregister(gone)
            if not self.settings.policy.is_normal(gone.exitcode):
                # Health begins after `init`: one that fails in it, or soon after, was never sound.
                place.since = self._board.row(place.pin).ready_since() or time.monotonic()
            self._board.row(place.pin).clear()
        elif place.child is not None:
            self._starts += 1
            self._watch(place.child, _nothing)

    def _is_ready(self, pin: int) -> bool:
        return self._board.row(pin).read()[0]

    def _has_settled(self, place: Place) -> bool:
        return place.restarts > 0 or place.state is not State.RUNNING or self._is_ready(place.pin)


def _nothing() -> None:
    """The loop looks at its children after each wake-up anyway."""
