"""What every job should find as the child was set up: the working directory and the signal handlers."""

from __future__ import annotations

import logging
import os
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal takes 20 times as long

from multiprocessing_kit.runner.lane import HURRY

__all__ = ["NoWayBack", "Surroundings"]

_log = logging.getLogger("multiprocessing_kit.runner")


class NoWayBack(Exception):
    """The directory is gone, and with it this child's use."""


class Surroundings:
    """Notes them as they are now."""

    def __init__(self) -> None:
        self._directory = _getcwd()
        self._handlers = list(map(getsignal, _WATCHED))

    def restore(self) -> None:
        """Put them back. Raises NoWayBack."""
        if list(map(getsignal, _WATCHED)) != self._handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm without its handler would kill
            for signum, handler in zip(_WATCHED, self._handlers, strict=True):
                if handler is not None:  # set by C code, which Python cannot put back
                    signal.signal(signum, handler)
        if self._directory is not None and _getcwd() != self._directory:
            try:
                os.chdir(self._directory)
            except OSError as error:
                _log.exception("a job left the working directory and there is no way back; ending this child")
                raise NoWayBack from error


_WATCHED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    HURRY,
)


def _getcwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # a job removed the directory it is in
        return None
