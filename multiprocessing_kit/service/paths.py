"""The files of a service in its runtime directory, which is the owner's alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from multiprocessing_kit.manager.safe_files import runtime_directory
from multiprocessing_kit.service.config import ServiceConfig

__all__ = ["Paths", "Start"]


class Start(NamedTuple):
    """Of a service, as far as it is known.

    Attributes:
        file: Absolute path of its configuration; "" if it is not known.
        log: Where its log goes: a path, "stderr", "syslog" or "journal"; "" if it is not known.
    """

    file: str = ""
    log: str = ""


class Paths:
    """Of one service.

    Args:
        config: Its configuration.

    Raises:
        ManagerConfigError: The runtime directory cannot be used.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._name = config.name
        self._log = config.log
        user = None if config.user is None else pwd.getpwnam(config.user).pw_uid
        self._directory = runtime_directory(config.runtime_dir, user)

    def stats(self, crew: str) -> Path:
        """What a consumer tells."""
        return self._directory / f"{self._name}@{crew}.stats"

    def turn(self, crew: str) -> Path:
        """Locked by the consumer of a crew."""
        return self._directory / f"{self._name}@{crew}.turn"

    def alert(self, kind: str, topic: str) -> Path:
        """When an alert was told last."""
        return self._directory / f"{self._name}@{topic}.{kind}.alert"

    def paused(self) -> frozenset[str]:
        """The topics that are paused here."""
        try:
            return frozenset(self._pause_file.read_text().split())
        except FileNotFoundError:
            return frozenset()

    def pause(self, change: Callable[[frozenset[str]], frozenset[str]]) -> frozenset[str]:
        """Note which are, also over restarts; of several who do so, each sees what the one before has noted.

        Args:
            change: Gets those that are paused; returns those that are from now on.
        """
        with _locked(self._directory):
            topics = change(self.paused())
            if topics:
                self._replace(self._pause_file, "\n".join(sorted(topics)))
            else:
                self._pause_file.unlink(missing_ok=True)
        return topics

    def consumer(self) -> str:
        """The name of this host's consumers: no other service of this name has it, wherever it runs.

        It is kept, so that a service that was killed finds what it held when it starts again.
        """
        path = self._directory / f"{self._name}.consumer"
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)  # whole, or not at all
        partial.unlink()
        return path.read_text()

    def log(self, background: bool) -> str:
        """Where the log goes."""
        if background and self._log in (None, "stderr"):
            return str(self._directory / f"{self._name}.{'log' if self._log is None else 'out'}")
        return self._log or "stderr"

    def note_start(self, start: Start) -> None:
        """For commands; a service runs without it as well."""
        with contextlib.suppress(OSError), _locked(self._directory):
            self._replace(self._start_file, json.dumps(start))

    def started(self) -> Start:
        """What the last start has noted."""
        try:
            return Start(*json.loads(self._start_file.read_text()))
        except (OSError, ValueError, TypeError):
            return Start()

    def _replace(self, path: Path, text: str) -> None:
        """While it is locked. Root may write it for the service's user, who must be able to read it."""
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)  # of who was killed
        # Nothing is followed that the user may have put there.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644)  # whatever the umask
            file.write(text)
        os.replace(partial, path)

    @property
    def _pause_file(self) -> Path:
        return self._directory / f"{self._name}.paused"

    @property
    def _start_file(self) -> Path:
        return self._directory / f"{self._name}.start"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory itself: a file for it might belong to root, and its user could not open it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
