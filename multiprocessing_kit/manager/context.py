"""What a worker of a manager knows and may do; see `Context`."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from types import FrameType
from typing import Any

from multiprocessing_kit.ipc.doorbell import Doorbell

__all__ = ["Context"]

_LONGEST_POLL = 86400.0  # the system counts milliseconds, in 32 bits


class Context:
    """Given to `init` and `target` of a `Manager`.

    Attributes:
        name: The manager's.
        pin: The worker's index, 0 to workers - 1; the one that replaces it has the same.
        resource: What `init` has returned.
        executed: How many calls of `target` this worker has completed.
        stopping: Whether the worker is to end: finish what must be finished, and return.
        interrupted: Whether a second SIGTERM has cut off what was being done.
    """

    def __init__(self, name: str, pin: int, liveness: int) -> None:
        self.name = name
        self.pin = pin
        self.resource: Any = None
        self.executed = 0
        self.stopping = False
        self.interrupted = False
        self._liveness = liveness
        self._bell = Doorbell()

    def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than until the worker is to end or the manager wakes it.

        Returns:
            Whether to go on: False once `stopping`.
        """
        self._wait(time.monotonic() + seconds, None)
        return not self.stopping

    def wait_for(self, descriptor: int, seconds: float | None = None) -> bool:
        """Wait until a descriptor is readable, or until what ends a sleep.

        Args:
            descriptor: Of the program's own: a socket, a pipe.
            seconds: At most; None for any time.

        Returns:
            Whether to go on: False once `stopping`. It may be readable or not.
        """
        self._wait(math.inf if seconds is None else time.monotonic() + seconds, descriptor)
        return not self.stopping

    def fileno(self) -> int:
        """Readable when the worker is to end, or is woken. A loop of the program's own calls `clear` then."""
        return self._bell.fileno()

    def clear(self) -> None:
        """It has been seen that it was woken."""
        self._bell.clear()

    def _wait(self, deadline: float, descriptor: int | None) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._liveness, select.POLLIN)
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        while not self.stopping:
            left = deadline - time.monotonic()
            ready = poll.poll(min(max(0.0, left), _LONGEST_POLL) * 1000)
            if any(found == self._liveness for found, _ in ready):
                os._exit(signal.SIGKILL + 128)  # the master is dead: where the system does not kill us
            if ready or left <= 0:
                self._bell.clear()
                break

    def dispatch(self) -> bool:
        """Whether to go on; a long loop in `target` asks this now and then.

        Signals that have come are taken before it returns, as always between two steps of Python code.
        """
        return not self.stopping

    def listen(self) -> None:
        """Take the signals of the master; from the worker's main thread.

        SIGTERM: to end after this call; a second one interrupts it with `SystemExit`. SIGUSR2: no more sleep.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGUSR2, self._wake)
        # A worker's terminal and its own children are the master's affair.
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(signum, _nothing)  # and not SIG_IGN, which programs that it starts would inherit

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        if self.stopping:
            self.interrupted = True
            raise SystemExit(128 + signum)
        self.stopping = True
        self._bell.ring()

    def _wake(self, _signum: int, _frame: FrameType | None) -> None:
        self._bell.ring()


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    pass
