"""The HTTP door of a service, started by its command and asked over real sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil

from tests.folders import PATIENCE, until
from tests.process.managers import ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TOKEN", "TOPICS", "Door"]

TOKEN = "a-token-of-the-test"

TOPICS = """
[[topics]]
name = "mail"
worker = "os.path:basename"
results = 60.0

[[topics]]
name = "image"
worker = "os.path:basename"
priority = 5
"""


class Door:
    """The `[http]` of a service called "shop", in a folder of its own; as a context manager it ends it.

    Args:
        folder: Where the configuration is.
        http: Lines of [http], beside port and token.
        broker: Its URL.
        topics: The rest of the configuration.

    Attributes:
        folder, broker: As given.
        runtime: The runtime directory.
        master: The foreground process, after `run`.
    """

    def __init__(self, folder: Path, *, http: str = "", broker: str = "", topics: str = TOPICS) -> None:
        self.folder = folder
        self.broker = broker or f"sqlite:///{folder}/shop.db"
        self.runtime = Path(os.path.realpath(tempfile.mkdtemp(prefix="mpkit-test-")))
        self.master: subprocess.Popen[bytes] | None = None
        self.write(http=http, topics=topics)

    def write(self, *, http: str = "", topics: str = TOPICS) -> None:
        """Give it another configuration."""
        head = f'name = "shop"\nbroker = "{self.broker}"\nruntime_dir = "{self.runtime}"\nlog = "shop.log"\n'
        door = f'[http]\nport = 0\ntoken = "{TOKEN}"\n{http}\n'
        (self.folder / "service.toml").write_text(head + door + topics)

    # ── the command line ──────────────────────────────────────────────────────────────────────────

    def command(
        self, *words: str, expect: int | None = 0, of: str = "http"
    ) -> subprocess.CompletedProcess[str]:
        """Run `mpkit http` to its end, or another group of commands."""
        done = subprocess.run(
            self._line(*words, of=of),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        told = f"{words} exits with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log}"
        assert expect is None or done.returncode == expect, told
        return done

    def run(self) -> Self:
        """Start it in the foreground, and wait until it listens."""
        with open(self.folder / "output", "ab") as output:
            self.master = subprocess.Popen(
                self._line("start"),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(lambda: self.address or self._ended(), "a door that listens")
        return self

    def _ended(self) -> bool:
        assert self.master is not None
        assert self.master.poll() is None, f"it ended: {(self.folder / 'output').read_text()}\n{self.log}"
        return False

    def _line(self, *words: str, of: str = "http") -> list[str]:
        return [sys.executable, "-W", "error", "-m", "multiprocessing_kit.cli", of, *words]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MPKIT_")}
        return {**kept, "PYTHONPATH": str(ROOT)}

    # ── asking it ─────────────────────────────────────────────────────────────────────────────────

    @property
    def address(self) -> str:
        """The URL that it listens at; "" for none yet."""
        with contextlib.suppress(FileNotFoundError):
            return (self.runtime / "shop-http.address").read_text()
        return ""

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of the address."""
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def client(self, token: str | None = TOKEN) -> httpx.Client:
        """To be closed."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=PATIENCE, trust_env=False)

    def ask(self, method: str, path: str, *, token: str | None = TOKEN, **more: Any) -> httpx.Response:
        """One request on a connection of its own."""
        with self.client(token) as client:
            return client.request(method, path, **more)

    def socket(self) -> socket.socket:
        """A bare connection, to be closed."""
        return socket.create_connection(self.place, timeout=PATIENCE)

    def metric(self, line: str) -> float:
        """A number of /metrics, by name and labels as they are there."""
        for one in self.ask("GET", "/metrics").text.splitlines():
            name, _, value = one.rpartition(" ")
            if name == line:
                return float(value)
        raise AssertionError(f"there is no metric {line}")

    @property
    def log(self) -> str:
        """What was logged."""
        path = self.folder / "shop-http.log"
        return path.read_text() if path.exists() else ""

    def worker(self) -> psutil.Process:
        """The process that serves."""
        return next(one for one in self._living() if "master" not in " ".join(one.cmdline()))

    # ── its end ───────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                print("--- log", self.log, sep="\n")
            for process in self._living():
                if "master" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(self._living(), PATIENCE)
            for process in left:
                process.kill()
            assert kind is not None or not left, f"still alive: {left}"
        finally:
            if self.master is not None:
                self.master.wait(PATIENCE)
            shutil.rmtree(self.runtime, ignore_errors=True)

    def _living(self) -> list[psutil.Process]:
        """All of it, by the titles and the folder that they are in."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found
