"""`Manager`: workers that are always there, under one name."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from multiprocessing_kit.errors import ManagerConfigError, ManagerError, NotRunningError
from multiprocessing_kit.manager.background import start_in_background
from multiprocessing_kit.manager.commands import Commands
from multiprocessing_kit.manager.control import Answer, check_address, request
from multiprocessing_kit.manager.handover import (
    is_for_another,
    is_handed_over,
    is_restarting,
    leave_trial,
    taken_over,
)
from multiprocessing_kit.manager.identity import become, check_identity
from multiprocessing_kit.manager.instance import InstanceLock
from multiprocessing_kit.manager.logs import check_logs, open_logs
from multiprocessing_kit.manager.master import Master
from multiprocessing_kit.manager.safe_files import open_private, runtime_directory
from multiprocessing_kit.manager.settings import Settings
from multiprocessing_kit.manager.status import Status

if TYPE_CHECKING:
    import click

    from multiprocessing_kit.manager.context import Context

__all__ = ["Manager"]

_Target = TypeVar("_Target", bound="Callable[[Context], object]")

_ANSWER_SECONDS = 10.0
_STOP_SECONDS = 10.0
"""For what comes after the patience of a stop: interrupted, killed, buried."""

_LOOK_SECONDS = 0.05


class Manager:
    """A master that does no work, and workers that are there for ever.

    Args:
        name: Under which it is started, stopped and asked; one of a name runs at a time.
        logger: Where its log goes, that of the workers included: a logger or a handler of the program's,
            the path of a file (rotated at 100 MB, five old ones are kept), "stderr", "syslog" or
            "journal". By default what the program has set up; where it has nothing, standard error, and
            in the background NAME.log in the runtime directory.
        formatter: Of its lines, where `logger` is none of the program's own.
        **options: See `Settings` for all, their units and defaults. `workers` and `target` must be given;
            without `target`, use the manager as a decorator of the function.

    Raises:
        ManagerConfigError: An option is unknown, missing, or makes no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        logger: logging.Logger | logging.Handler | str | None = None,
        formatter: logging.Formatter | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(logger, (logging.Logger, logging.Handler, str, type(None))):
            raise ManagerConfigError(f"option logger: {logger!r:.100} is none", option="logger")
        self.name = name
        self._logger = logger
        self._formatter = formatter
        self._options = options
        decorates = "target" not in options
        self._checked = Settings.checked(name, {**options, "target": id} if decorates else options)
        self._settings = None if decorates else self._checked

    def __call__(self, target: _Target) -> _Target:
        """As a decorator: `target` is the work."""
        self._settings = Settings.checked(self.name, {**self._options, "target": target})
        return target

    @property
    def settings(self) -> Settings:
        """What it was told.

        Raises:
            ManagerConfigError: There is no target yet.
        """
        if self._settings is None:
            raise ManagerConfigError("option target: it must be given", option="target")
        return self._settings

    # ── running ───────────────────────────────────────────────────────────────────────────────────

    def run(self) -> int:
        """Run in the foreground, in the main thread, until it is stopped or all workers have ended.

        Returns:
            The exit status for the program: 0.

        Raises:
            AlreadyRunningError: One of this name runs.
            ManagerConfigError: The runtime directory or the log cannot be used, the user not be become.
            ManagerError: This is not the main thread.
        """
        return self._run(None, lambda _text: None)

    def start(self, background: bool = True, timeout: float = 60.0) -> str:
        """Start it in the background, and return when it is ready: each worker is, or has failed once.

        Args:
            background: False for `run`.
            timeout: Seconds to wait.

        Returns:
            A line that tells how many workers are ready.

        Raises:
            AlreadyRunningError, ManagerConfigError: As for `run`.
            ManagerError: It has ended, or is not ready in time.
        """
        if not background:
            self.run()
            return f"manager {self.name!r} has ended"
        if is_for_another(self.name):  # of a group; this one is not touched
            return f"manager {self.name!r} is left as it is"
        leave_trial(self.name, lambda: self._checked_paths(self._path("log")))
        log, output = self._path("log"), self._path("out")
        if is_handed_over(self.name):  # this is what was in the background before it executed itself anew
            sys.exit(self._run(log, lambda _text: None))
        self._check_before_fork(log)
        return start_in_background(self.name, lambda on_ready: self._run(log, on_ready), output, timeout)

    def _run(self, log: Path | None, on_ready: Callable[[str], None]) -> int:
        # Slow to import, and only masters need them: now, for another user may not be able to.
        import psutil  # noqa: F401, PLC0415
        import setproctitle  # noqa: PLC0415

        leave_trial(self.name, lambda: self._checked_paths(log))
        settings = self.settings
        if threading.current_thread() is not threading.main_thread():
            raise ManagerError("a manager takes signals: run it in the main thread")
        lock = InstanceLock(self._path("lock"), self.name)
        handover = taken_over(self.name)
        if handover is None:
            lock.acquire()
        else:
            lock.adopt(handover.lock)
        try:
            become(settings)  # first: what it opens now, it must be able to open again later
            open_logs(self._logger, log, self._formatter)
            master = Master(settings, lock, self._path("sock"), handover)
        except BaseException:
            lock.release()
            raise
        setproctitle.setproctitle(f"{settings.title_prefix}: master {self.name}")
        commands = Commands(master)
        master.run(commands.signals, commands.signal, commands.command, on_ready)
        return 0

    def _checked_paths(self, log: Path | None) -> list[Path]:
        """Of lock and socket; as far as can be checked without being the master, or its new code."""
        settings, paths = self.settings, [self._path("lock"), self._path("sock")]
        check_identity(settings)
        check_address(paths[1])
        if settings.uid in (None, os.geteuid()):  # another one may have other rights, and owns what is made
            check_logs(self._logger, log)
        return paths

    def _check_before_fork(self, log: Path | None) -> None:
        lock, _ = self._checked_paths(log)
        os.close(open_private(lock, "lock_file", os.O_RDWR | os.O_CREAT))

    # ── one that runs ─────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Let running work end, for `stop_timeout` seconds at most, and wait for the end of it all.

        Raises:
            NotRunningError: It does not run.
            ManagerError: It does not answer, or does not end.
        """
        self._ask({"command": "stop"}, until_end=_STOP_SECONDS)

    def exit(self) -> None:
        """End it at once; running work is cut off. Raises as `stop` does."""
        self._ask({"command": "exit"}, until_end=_STOP_SECONDS)

    def restart(self, timeout: float = 600.0) -> None:
        """Have it go on with the program's new code and settings; workers are replaced one by one.

        Args:
            timeout: Seconds to wait until all are.

        Raises:
            NotRunningError: It does not run.
            ManagerError: The new code does not start, and the old one goes on; or it takes longer.
        """
        self._ask({"command": "restart"})
        self._wait_until_running(timeout)

    def reload(self, timeout: float = 600.0) -> None:
        """Have the workers replaced one by one, with the code the master has; arguments as for `restart`."""
        self._ask({"command": "reload"})
        self._wait_until_running(timeout)

    def wakeup(self) -> None:
        """End the sleep of each worker. Raises as `status` does."""
        self._ask({"command": "wakeup"})

    def scale(self, workers: int) -> None:
        """Have so many workers, until the next start.

        Raises:
            NotRunningError: It does not run.
            ManagerError: So many cannot be, or it is stopping.
        """
        self._ask({"command": "scale", "workers": workers})

    def status(self) -> Status:
        """How it is.

        Raises:
            NotRunningError: It does not run.
            ManagerError: It does not answer.
        """
        return Status.parse(self._ask({"command": "status"})["status"])

    def cli(self) -> click.Group:
        """The commands of `mpkit manage` for this manager, to be run, or mounted in the program's own."""
        from multiprocessing_kit.manager.cli import commands  # noqa: PLC0415  # click is slow to import

        return commands(self)

    def _wait_until_running(self, timeout: float) -> None:
        heard = time.monotonic()
        deadline = heard + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                # New code may take its time until it answers.
                status = Status.parse(self._ask({"command": "status"}, timeout=left)["status"])
            except NotRunningError:
                if time.monotonic() - heard > _ANSWER_SECONDS:  # it is not about to listen again
                    raise
            else:
                heard = time.monotonic()
                if status.problem:
                    raise ManagerError(f"manager {self.name!r} goes on as it was: {status.problem}")
                if status.state == "running":
                    return
            time.sleep(_LOOK_SECONDS)
        raise ManagerError(f"manager {self.name!r} has not replaced all workers in {timeout:g} s; see status")

    def _ask(
        self, wanted: Answer, *, timeout: float = _ANSWER_SECONDS, until_end: float | None = None
    ) -> Answer:
        if is_restarting():  # it would wait for itself, or stop what is to go on
            raise NotRunningError(f"manager {self.name!r} cannot be asked: this process restarts a manager")
        path = self._path("sock")
        check_address(path)
        return request(path, wanted, name=self.name, timeout=timeout, until_end=until_end)

    def _path(self, kind: str) -> Path:
        settings = self._settings or self._checked
        if kind == "lock" and settings.lock_file is not None:
            return Path(os.path.abspath(settings.lock_file))
        return runtime_directory(settings.runtime_dir, settings.uid) / f"{self.name}.{kind}"
