"""A program that a test starts by its command line, in a folder by which its processes are found."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest

from multiprocessing_kit.errors import KitError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PATIENCE", "InFolder", "until"]

PATIENCE = 45.0
"""Seconds to wait for what should come at once; a loaded machine must not fail a test."""

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str = "it", patience: float = PATIENCE) -> T:
    """What `look` gives once that is true in a boolean sense; fails the test if it is not in time."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:g} s for {what}; last: {found!r}")
        time.sleep(0.02)
    return found


class InFolder(ABC):
    """As a context manager it ends what is left of the program, and fails the test if that does not end.

    Args:
        folder: The working directory of all its processes.

    Attributes:
        folder: As given.
        base: A directory for what must have a short path, as sockets; it is gone at the end.
        foreground: The process that the test has started itself, if it has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = Path(os.path.realpath(tempfile.mkdtemp(prefix="mpkit-test-")))
        self.foreground: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def ask(self, command: str, **more: object) -> dict[str, Any]:
        """Ask its master."""

    @property
    @abstractmethod
    def log(self) -> str:
        """What it has logged and printed."""

    def living(self) -> list[psutil.Process]:
        """All processes that live in its folder: master, workers, and what these have started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(process.cwd()) == self.folder and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _kill(self) -> list[str]:
        """SIGKILL to all of its processes; which there were."""
        found = []
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                found.append(f"{process.pid} {process.cmdline()}")
                process.kill()
        return found

    def told(self, what: str, done: subprocess.CompletedProcess[str] | None = None) -> str:
        """All that is worth knowing when a test fails."""
        words = [what] if done is None else [what, done.stdout, done.stderr]
        return "\n".join([*words, "--- log", self.log[-20_000:]])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                print(self.told("at the failure"))
            with contextlib.suppress(KitError):
                self.ask("exit")
            deadline = time.monotonic() + PATIENCE
            # A master that does not listen yet is not heard, and is killed below with its workers.
            while kind is None and self.living() and time.monotonic() < deadline:
                if self.foreground is not None:
                    self.foreground.poll()
                time.sleep(0.02)
            left = self._kill()
            assert kind is not None or not left, f"still alive: {left}"
        finally:
            if self.foreground is not None:
                self.foreground.wait()
            shutil.rmtree(self.base, ignore_errors=True)
