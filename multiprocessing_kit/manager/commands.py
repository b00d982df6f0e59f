"""What signals and commands mean to a master."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from multiprocessing_kit.errors import ManagerError
from multiprocessing_kit.manager.control import Answer
from multiprocessing_kit.manager.logs import reopen_logs
from multiprocessing_kit.manager.master import Master

__all__ = ["Commands"]

_log = logging.getLogger("multiprocessing_kit.manager")


class Commands:
    """Acts on them.

    Args:
        master: Whose they are.

    Attributes:
        signals: Those that are taken.
    """

    def __init__(self, master: Master) -> None:
        self._master = master
        self._by_signal: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop_or_exit,
            signal.SIGINT: self._stop_or_exit,
            signal.SIGQUIT: master.exit,
            signal.SIGHUP: master.restart,
            signal.SIGUSR1: reopen_logs,
            signal.SIGUSR2: master.log_status,
            signal.SIGTTIN: lambda: master.add(1),
            signal.SIGTTOU: lambda: master.add(-1),
            signal.SIGCHLD: lambda: None,  # wakes the loop, which looks
        }
        self._by_name: dict[str, Callable[[], None]] = {
            "stop": master.stop,
            "exit": master.exit,
            "restart": master.restart,
            "reload": master.reload,
            "wakeup": master.wake,
        }
        self.signals = tuple(self._by_signal)

    def _stop_or_exit(self) -> None:
        """A second signal means that somebody is out of patience."""
        if self._master.is_stopping:
            _log.warning("a second signal: it ends at once, and what runs is cut off")
            self._master.exit()
        else:
            self._master.stop()

    def signal(self, signum: int) -> None:
        """Act on a signal; what cannot be done is logged."""
        if signum != signal.SIGCHLD:
            _log.info("signal %s", signal.Signals(signum).name)
        try:
            self._by_signal[signum]()
        except (ManagerError, OSError) as error:
            _log.error("signal %s: %s", signal.Signals(signum).name, error)
        except Exception:  # must not end the workers
            _log.exception("signal %s failed", signal.Signals(signum).name)

    def command(self, wanted: Answer) -> Answer:
        """Act on a request, and answer it.

        Raises:
            ManagerError: It cannot be done, or there is no such command.
        """
        name = wanted.get("command")
        if name == "status":
            return {"status": self._master.status().as_dict()}
        _log.info("command %s", name)
        if name == "scale":
            workers = wanted.get("workers")
            if not isinstance(workers, int):
                raise ManagerError(f"scale needs a whole number of workers, not {workers!r}")
            self._master.scale(workers)
        elif name in self._by_name:
            try:
                self._by_name[name]()
            except OSError as error:
                raise ManagerError(f"{name}: {error}") from error
        else:
            known = ", ".join(["status", "scale", *self._by_name])
            raise ManagerError(f"there is no command {name!r}; there are {known}")
        return {"patience": self._master.settings.stop_timeout} if name == "stop" else {}
