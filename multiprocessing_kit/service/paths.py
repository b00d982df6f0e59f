"""The files of a service in its runtime directory, which is the owner's alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import socket
from pathlib import Path

from multiprocessing_kit.manager.safe_files import runtime_directory
from multiprocessing_kit.service.config import ServiceConfig

__all__ = ["Paths"]


class Paths:
    """Of one service.

    Args:
        config: Its configuration.

    Raises:
        ManagerConfigError: The runtime directory cannot be used.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._name = config.name
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

    def pause(self, topics: frozenset[str]) -> None:
        """Note which are, until the next note; also over restarts."""
        if not topics:
            self._pause_file.unlink(missing_ok=True)
            return
        partial = self._pause_file.with_suffix(".partial")
        partial.write_text("\n".join(sorted(topics)))
        os.replace(partial, self._pause_file)

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

    @property
    def _pause_file(self) -> Path:
        return self._directory / f"{self._name}.paused"
