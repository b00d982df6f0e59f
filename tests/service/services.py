"""A service of a user's: `service.toml` and a module of jobs, run by the command line, under real signals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest

from multiprocessing_kit.errors import ManagerError, ServiceError
from multiprocessing_kit.manager import Status
from multiprocessing_kit.manager.control import request
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.client import Client, JobId
from multiprocessing_kit.service.config_file import load_config
from multiprocessing_kit.service.job import Backlog
from multiprocessing_kit.service.service import Service
from multiprocessing_kit.service.status import CrewStatus, ServiceStatus, StatusReader, TopicStatus
from tests.folders import PATIENCE, InFolder, until

if TYPE_CHECKING:
    pass

__all__ = ["WORK", "Shop"]

ROOT = Path(__file__).parents[2]
WORK = """
    [[topics]]
    name = "work"
    worker = "jobs:work"
    workers = 2
    results = 60.0
"""
"""A topic whose jobs are only noted; see `Shop.runs`."""

_JOBS = """\
import os
import signal
import sys
import time

from multiprocessing_kit import Worker


def note(what, file="runs"):
    '''Add a line to a file in the folder; whole, also if many do.'''
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), file)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what}\\n".encode())
    os.close(descriptor)


def work(argument):
    note(argument)
    return argument


def fail(argument):
    note(argument)
    raise ValueError(f"no {argument}")


def slow(seconds):
    '''Say when it begins, in `begun`, and note when it is done.'''
    note(seconds, "begun")
    time.sleep(seconds)
    note(seconds)
    return "slept"


def kill(argument):
    note(argument)
    os.kill(os.getpid(), signal.SIGKILL)
"""

T = TypeVar("T")


class Shop(InFolder):
    """A service in a folder of its own.

    As a context manager it ends what is left of it, and fails the test if that does not end. What it does in
    this process leaves no connection open.

    Args:
        folder: Where `service.toml` and `jobs.py` are written (made if it is not there); the working
            directory of all its processes, by which they are found. One folder for each service.
        topics: TOML of topics, pools and such tables; may be indented.
        jobs: More functions for the module `jobs`, which has `note work fail slow kill` already (see
            `_JOBS`); may be indented.
        broker: URL.
        name: Of the service; one of its own where tests share a server (fixture `service_name`).
        settings: Lines of TOML for the top of the file, such as `lease = 3.0`; may be indented.
        environment: More variables for its processes.

    Attributes:
        folder: Where the files are.
        toml: Path of `service.toml`.
        runtime: The runtime directory.
        environment: Of its processes.
        foreground: That which `run` has started.
    """

    def __init__(
        self,
        folder: Path,
        topics: str = WORK,
        jobs: str = "",
        *,
        broker: str = "sqlite:///shop.db",
        name: str = "shop",
        settings: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        folder = folder.resolve()
        super().__init__(folder)
        self.name = name
        self.toml = folder / "service.toml"
        # A socket's path must be short, and a test's own directory may not be.
        self.runtime = self.base
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MPKIT_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",  # a module that is written twice in a second would be stale
            **(environment or {}),
        }
        self.broker_url = broker
        self.write(topics, settings=settings)
        self.write_jobs(jobs)

    def write(self, topics: str = WORK, *, settings: str = "") -> None:
        """Give the service another configuration; a service that runs takes it with `restart`."""
        head = [
            f'name = "{self.name}"',
            f'broker = "{self.broker_url}"',
            f'runtime_dir = "{self.runtime}"',
        ]
        text = "\n".join([*head, textwrap.dedent(settings), textwrap.dedent(topics)])
        self.toml.write_text(text)

    def write_jobs(self, jobs: str = "") -> None:
        """Give the module other functions, beside those that it has always."""
        (self.folder / "jobs.py").write_text(f"{_JOBS}\n\n{textwrap.dedent(jobs)}")

    # ── the command line ──────────────────────────────────────────────────────────────────────────

    def line(self, *words: str) -> list[str]:
        """The words of a command; of its own `service.toml`."""
        return [sys.executable, "-W", "error", "-m", "multiprocessing_kit.cli", "service", *words]

    def command(self, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `mpkit service WORDS` to its end.

        Args:
            words: Such as "status", "--json".
            expect: The exit status that it must have; None for any.
        """
        done = subprocess.run(
            self.line(*words),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, self.told(f"{words} exits with {done.returncode}", done)
        return done

    def run(self, *, ready: bool = True) -> int:
        """Start it in the foreground, as a child of this process; what it writes is in `log`.

        Again after its end, by `kill` or otherwise, of which it is reaped.

        Args:
            ready: Whether to wait until its consumers are at work (their workers may still be starting).

        Returns:
            The master's pid.
        """
        if self.foreground is not None:
            self.foreground.wait(PATIENCE)
        with open(self.folder / "output", "ab") as output:
            self.foreground = subprocess.Popen(
                self.line("start"),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if ready:
            self.wait_until_ready()
        return self.foreground.pid

    def start(self) -> int:
        """Start it in the background; returns the master's pid."""
        self.command("start", "-d")
        self.wait_until_ready()
        return self.master().pid

    def stop(self) -> None:
        """Let it drain, and wait for the end of it all."""
        self.ask("stop")
        self.wait_for_end()

    # ── how it is ─────────────────────────────────────────────────────────────────────────────────

    def ask(self, command: str, **more: object) -> dict[str, Any]:
        """A request to the master, without a process for it."""
        path = self.runtime / f"{self.name}.sock"
        return request(path, {"command": command, **more}, name=self.name, timeout=PATIENCE)

    def master(self) -> Status:
        """What the manager tells, at once: its workers are the consumers. Raises NotRunningError."""
        return Status.parse(self.ask("status")["status"])

    def status(self) -> ServiceStatus:
        """What `status` tells, without a process for it; consumers tell it after 0.2 s."""
        config = load_config(self.toml)
        with contextlib.closing(StatusReader(config, Service(config).manager)) as reader:
            return reader.read()

    def topic(self, name: str = "work") -> TopicStatus:
        """Of `status`: one topic."""
        return self.status().topic(name)

    def crew(self, name: str = "work") -> CrewStatus:
        """Of `status`: the workers of one topic or pool."""
        return self.status().crew(name)

    def status_json(self) -> Any:
        """What `status --json` prints."""
        return json.loads(self.command("status", "--json").stdout)

    def backlog(self, topic: str = "work") -> Backlog:
        """What the broker counts, at once."""
        with self.broker() as broker:
            return broker.backlog(topic)

    def wait_until(self, holds: Callable[[ServiceStatus], object], what: str = "a status") -> ServiceStatus:
        """The first status for which it holds."""
        last: list[object] = [None]

        def look() -> ServiceStatus | None:
            try:
                last[0] = status = self.status()
            except (ManagerError, ServiceError) as error:
                last[0] = error
                return None
            return status if holds(status) else None

        return self._waited(look, what, last)

    def wait_until_ready(self) -> Status:
        """Until there is a consumer for each pool and topic, which serves it."""
        wanted = len(load_config(self.toml).crews())

        def look() -> Status | None:
            if self.foreground is not None and self.foreground.poll() is not None:
                pytest.fail(self.told(f"it has ended with {self.foreground.returncode}"))
            with contextlib.suppress(ManagerError):
                status = self.master()
                ready = status.state == "running" and all(w.state == "busy" for w in status.workers)
                return status if ready and len(status.workers) == wanted else None
            return None

        return self._waited(look, "ready consumers")

    def wait_until_empty(self, *topics: str, patience: float = PATIENCE) -> None:
        """Until nothing of these topics (or "work") is ready, delayed or running, as the broker counts."""

        def look() -> bool:
            with contextlib.suppress(ServiceError), self.broker() as broker:
                found = [broker.backlog(topic) for topic in topics or ("work",)]
                return not any(one.ready or one.delayed or one.running for one in found)
            return False

        self._waited(look, f"empty topics {topics}", patience=patience)

    @property
    def log(self) -> str:
        """What was logged in the background, and what was written in the foreground."""
        files = (self.folder / "output", self.runtime / f"{self.name}.log", self.runtime / f"{self.name}.out")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """The lines that a regular expression is found in, once there are so many."""

        def look() -> list[str]:
            found = [line for line in self.log.splitlines() if re.search(pattern, line)]
            return found if len(found) >= count else []

        return self._waited(look, f"{count} log lines with {pattern!r}")

    def lines(self, file: str = "runs") -> list[str]:
        """Those that jobs have noted in a file, so far."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_lines(self, count: int, file: str = "runs", patience: float = PATIENCE) -> list[str]:
        """Those that jobs have noted, once there are so many."""

        def look() -> list[str]:
            found = self.lines(file)
            return found if len(found) >= count else []

        return self._waited(look, f"{count} lines in {file}", patience=patience)

    @property
    def runs(self) -> Counter[str]:
        """How often `work` (or `fail`, `kill`, a whole `slow`) has run with each argument."""
        return Counter(self.lines())

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """To push with."""
        with Service(load_config(self.toml)).client() as client:
            yield client

    @contextlib.contextmanager
    def broker(self) -> Iterator[Broker]:
        """A connection of its own, to look and count with."""
        config = load_config(self.toml)
        with open_broker(config.broker_url, config.name) as broker:
            yield broker

    def push(self, topic: str = "work", argument: object = None, **options: Any) -> str:
        """Push a job with a connection of its own; returns its id."""
        with self.client() as client:
            return str(client.push(topic, argument, **options))

    def push_many(self, topic: str, arguments: Iterable[object], **options: Any) -> list[JobId]:
        """Push many with a connection of its own; their ids can no longer `wait`, see `result`."""
        with self.client() as client:
            return client.push_many(topic, arguments, **options)

    def result(self, job_id: str, timeout: float = PATIENCE) -> Any:
        """Wait for the result of a job."""
        with self.client() as client:
            return client.wait(job_id, timeout)

    # ── its processes ─────────────────────────────────────────────────────────────────────────────

    def consumer(self, crew: str = "work") -> int:
        """The pid of the process that serves a topic or pool."""
        pin = list(load_config(self.toml).crews()).index(crew)
        return next(worker.pid for worker in self.master().workers if worker.pin == pin)

    def workers(self, crew: str = "work", count: int = 1) -> list[int]:
        """The pids of the job workers of a topic or pool, once there are so many; they may be starting."""
        title = f"mpkit: worker {self.name} {crew} #"

        def look() -> list[int]:
            found = [process.pid for process in self.living() if _title(process).startswith(title)]
            return found if len(found) >= count else []

        return self._waited(look, f"{count} workers of {crew}")

    def kill(self, pid: int | None = None, signum: int = signal.SIGKILL) -> None:
        """Send a signal to one process, by default to the master; does not wait."""
        os.kill(self.master().pid if pid is None else pid, signum)

    def kill_all(self) -> None:
        """SIGKILL to all of its processes, and wait for their end."""
        self._kill()
        self.wait_for_end()

    def wait_for_end(self) -> int | None:
        """Until nothing of it lives; the exit status if it was in the foreground."""
        status = None if self.foreground is None else self.foreground.wait(PATIENCE)
        self._waited(lambda: not self.living(), "the end of all its processes")
        self.foreground = None
        return status

    def _waited(
        self,
        look: Callable[[], T | None],
        what: str,
        last: list[object] | None = None,
        patience: float = PATIENCE,
    ) -> T:
        try:
            return until(look, what, patience)
        except BaseException:
            print(self.told(f"last: {last[0]}" if last else what))
            raise


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
