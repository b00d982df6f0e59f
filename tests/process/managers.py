"""A program of a user's with a manager in it, started by the command line and acted on by real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from multiprocessing_kit.errors import ManagerError
from multiprocessing_kit.manager import Status, WorkerStatus
from multiprocessing_kit.manager.control import request
from tests.folders import PATIENCE, InFolder, until

if TYPE_CHECKING:
    pass

__all__ = ["Program"]

ROOT = Path(__file__).parents[2]
_HEADER = """\
import logging
import os
import signal
import sys
import time

from multiprocessing_kit.manager import Manager, ManagerGroup

log = logging.getLogger("program")
"""

T = TypeVar("T")


class Program(InFolder):
    """A module `program`, in which `manager` is a `Manager` called "tested".

    As a context manager it ends what is left of it, and fails the test if that does not end.

    Args:
        folder: Where the module is written; the working directory of all its processes.
        source: Of the module, after some imports (see `_HEADER`); may be indented.
        name: Of the manager.
        reference: What the commands are given.

    Attributes:
        folder: Where the module is.
        runtime: The runtime directory: `$XDG_RUNTIME_DIR/mpkit`.
        environment: Of its processes.
        foreground: That which `run` has started.
    """

    def __init__(
        self, folder: Path, source: str, *, name: str = "tested", reference: str = "program:manager"
    ) -> None:
        super().__init__(folder)
        self.name = name
        self.reference = reference
        self.runtime = self.base / "mpkit"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MPKIT_")},
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(self.base),
            "PYTHONDONTWRITEBYTECODE": "1",  # a module that is written twice in a second would be stale
        }
        self.write(source)

    def write(self, source: str) -> None:
        """Give the module another source."""
        (self.folder / "program.py").write_text(_HEADER + textwrap.dedent(source))

    # ── the command line ──────────────────────────────────────────────────────────────────────────

    def line(self, command: str, *words: str, reference: str | None = None) -> list[str]:
        """The words of a command."""
        start = [sys.executable, "-W", "error", "-m", "multiprocessing_kit.cli", "manage", command]
        return [*start, self.reference if reference is None else reference, *words]

    def command(
        self, command: str, *words: str, reference: str | None = None, expect: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `mpkit manage COMMAND` to its end.

        Args:
            command: Such as "status".
            words: Further words.
            reference: In place of the program's.
            expect: The exit status that it must have.
        """
        return self.run_line(self.line(command, *words, reference=reference), expect)

    def python(self, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in the folder, such as on a file in it, to its end."""
        return self.run_line([sys.executable, "-W", "error", *words], expect)

    def run_line(self, line: list[str], expect: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run this to its end."""
        done = subprocess.run(
            line,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, self.told(f"{line} exits with {done.returncode}", done)
        return done

    def start(self) -> int:
        """Start it in the background; returns the master's pid."""
        self.command("start", "-d", expect=0)
        return self.status().pid

    def run(self, command: str = "run", *words: str) -> subprocess.Popen[bytes]:
        """Start it in the foreground; what it writes is in `output`."""
        return self._begun(self.line(command, *words))

    def run_python(self, *words: str) -> subprocess.Popen[bytes]:
        """As `run`, by the interpreter on a file in the folder."""
        return self._begun([sys.executable, "-W", "error", *words])

    def _begun(self, line: list[str]) -> subprocess.Popen[bytes]:
        with open(self.folder / "output", "ab") as output:
            self.foreground = subprocess.Popen(
                line,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.foreground

    # ── how it is ─────────────────────────────────────────────────────────────────────────────────

    @property
    def socket(self) -> Path:
        """Where the master listens."""
        return self.runtime / f"{self.name}.sock"

    def ask(self, command: str, **more: object) -> dict[str, Any]:
        """A request to the master, without a process for it."""
        return request(self.socket, {"command": command, **more}, name=self.name, timeout=PATIENCE)

    def status(self) -> Status:
        """What `status` tells, without a process for it. Raises NotRunningError."""
        return Status.parse(self.ask("status")["status"])

    def status_json(self) -> Any:
        """What `status --json` prints."""
        return json.loads(self.command("status", "--json", expect=0).stdout)

    def worker(self, pin: int = 0) -> WorkerStatus:
        """The status of one."""
        return next(worker for worker in self.status().workers if worker.pin == pin)

    def wait_until(self, holds: Callable[[Status], object], what: str = "a status") -> Status:
        """The first status for which it holds."""
        last: list[object] = [None]

        def look() -> Status | None:
            try:
                status = self.status()
            except ManagerError as error:
                last[0] = error
                return None
            last[0] = status
            return status if holds(status) else None

        try:
            return until(look, what)
        except BaseException:
            print(self.told(f"last status: {last[0]}"))
            raise

    def wait_until_ready(self) -> Status:
        """Until all workers are past their `init`."""
        return self.wait_until(
            lambda status: (
                status.state == "running" and all(w.state in ("idle", "busy") for w in status.workers)
            ),
            "ready workers",
        )

    @property
    def log(self) -> str:
        """What was logged in the background, and what was written in the foreground."""
        files = (self.folder / "output", self.runtime / f"{self.name}.log", self.runtime / f"{self.name}.out")
        return "".join(file.read_text() for file in files if file.exists())

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """The lines that a regular expression is found in, once there are so many."""

        def look() -> list[str]:
            found = [line for line in self.log.splitlines() if re.search(pattern, line)]
            return found if len(found) >= count else []

        try:
            return until(look, f"{count} log lines with {pattern!r}")
        except BaseException:
            print(self.told("no such line"))
            raise

    def wait_for_file(self, name: str) -> Path:
        """A file in the folder, once it is there and not empty."""
        path = self.folder / name
        until(lambda: path.exists() and path.stat().st_size, f"file {name}")
        return path

    # ── acting ────────────────────────────────────────────────────────────────────────────────────

    def send(self, signum: int) -> None:
        """Send a signal to the master."""
        os.kill(self.status().pid, signum)

    def kill_worker(self, pin: int = 0, signum: int = signal.SIGKILL) -> int:
        """Send a signal to a worker; returns its pid."""
        pid = self.worker(pin).pid
        os.kill(pid, signum)
        return pid

    def wait_for_end(self) -> int | None:
        """Until nothing of it lives; the exit status if it was in the foreground."""
        status = None if self.foreground is None else self.foreground.wait(PATIENCE)
        until(lambda: not self.living(), f"the end of {self.living()}")
        return status
