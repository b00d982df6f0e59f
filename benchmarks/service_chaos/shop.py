"""A service under fire, in processes of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.service_chaos.notes import NOTES, Notes
from multiprocessing_kit.errors import ManagerError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.client import Client
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.service import Service

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PATIENCE", "Shop", "until"]

ROOT = Path(__file__).parents[2]
PATIENCE = 50.0
"""Seconds after which what should come soon is taken as never coming."""

_TOPIC = {"name": "work", "worker": "benchmarks.service_chaos.jobs:work", "workers": 3}


def until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for it.

    Raises:
        TimeoutError: It does not come.
    """
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:g} s for {what}")
        time.sleep(0.01)


class Shop:
    """One service on one host; several of the same name on one broker stand for several hosts.

    As a context manager it ends all its processes.

    Args:
        url: Of the broker.
        name: Of the service.
        notes: Of all services of this name.
        topic: What its topic `work` has beside `_TOPIC`.
        topics: Further topics.
        **settings: Of `ServiceConfig`.

    Attributes:
        folder: Working directory of all its processes, with its log and runtime directory.
        notes: See there.
        config: What it was told.
    """

    def __init__(
        self,
        url: str,
        name: str,
        notes: Notes,
        *,
        topic: dict[str, Any] | None = None,
        topics: list[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        # Short: there will be a socket in it.
        self.folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="mpkit-chaos-")))
        self.notes = notes
        values = {"stop_timeout": 20.0, "lease": 30.0, "log": str(self.folder / "log"), **settings}
        values |= {"name": name, "broker": url, "runtime_dir": str(self.folder / "run")}
        self.config = ServiceConfig.model_validate(
            {**values, "topics": [{**_TOPIC, **(topic or {})}, *(topics or [])]}
        )
        (self.folder / "config.json").write_text(self.config.model_dump_json())
        self._manager = Service(self.config).manager
        self._master: subprocess.Popen[bytes] | None = None

    # ── starting and ending ───────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start it; returns at once."""
        with open(self.folder / "output", "ab") as output:
            self._master = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.service_chaos.serve", str(self.folder / "config.json")],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), NOTES: str(self.notes.path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of its master."""
        assert self._master is not None
        return self._master.pid

    def kill_all(self) -> None:
        """SIGKILL all its processes, and wait until they are gone."""
        family = psutil.Process(self.pid)
        for process in [family, *family.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._wait_for_end()

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Send the master a signal, and wait for the end of all; returns its exit status."""
        os.kill(self.pid, signum)
        return self._wait_for_end()

    def _wait_for_end(self) -> int:
        assert self._master is not None
        status = self._master.wait(PATIENCE)
        until(lambda: not self.living(), "the end of all processes")
        return status

    # ── how it is ─────────────────────────────────────────────────────────────────────────────────

    def living(self) -> list[psutil.Process]:
        """Its processes: all that work in its folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(process.cwd()) == self.folder and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def check(self) -> None:
        """Raise AssertionError if the master has ended though nobody asked it to."""
        assert self._master is not None
        assert self._master.poll() is None, f"the master has ended: {self.log()[-2000:]}"

    def consumers(self) -> list[int]:
        """Pids of the consumers; none while it cannot be asked."""
        self.check()
        with contextlib.suppress(ManagerError):
            return [worker.pid for worker in self._manager.status().workers if worker.pid]
        return []

    def workers(self) -> list[int]:
        """Pids of the consumers' workers."""
        consumers, found = self.consumers(), []
        for process in self.living():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() in consumers:
                    found.append(process.pid)
        return found

    def client(self) -> Client:
        """To push jobs with."""
        return Client(self.config.broker_url, self.config.name)

    def broker(self) -> Broker:
        """To ask for backlogs and dead letters."""
        return open_broker(self.config.broker_url, self.config.name)

    def log(self) -> str:
        """All that it has logged and printed."""
        files = (self.folder / "log", self.folder / "output")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                print(f"--- log of {self.folder}\n{self.log()[-20_000:]}", file=sys.stderr)
            for process in self.living():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._wait_for_end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
