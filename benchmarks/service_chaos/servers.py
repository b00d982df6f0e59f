"""Redis and RabbitMQ servers to be hurt, on free ports, with directories of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.service_chaos.shop import until

__all__ = ["CONSUMER_TIMEOUT", "LocalServer", "rabbitmq", "redis", "sqlite"]

CONSUMER_TIMEOUT = 12.0
"""Of RabbitMQ here, in seconds; 1,800 by default."""

_RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # what Debian puts into the path becomes another user
_START_SECONDS = 60.0


class LocalServer:
    """One that runs.

    Args:
        url: Of the broker.
        command: That starts it in the foreground.
        environment: Of it.
        hello, answer: It serves when it says this to that.
        folder: Its working directory.
    """

    def __init__(
        self,
        url: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        hello: tuple[bytes, bytes],
        folder: Path,
    ) -> None:
        self.url = url
        self._command = command
        self._environment = environment
        self._hello, self._answer = hello
        self._folder = folder
        self._port = int(url.rpartition(":")[2].split("/")[0])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it serves."""
        with open(self._folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self._serves, f"{self._command[0]}, see {self._folder}", _START_SECONDS)

    def kill(self) -> None:
        """SIGKILL, to all that belongs to it."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2.0) as connection:
                connection.sendall(self._hello)
                return connection.recv(len(self._answer)) == self._answer
        except OSError:
            return False


@contextlib.contextmanager
def sqlite() -> Iterator[str]:
    """The URL of a file."""
    with tempfile.TemporaryDirectory(prefix="mpkit-chaos-") as folder:
        yield f"sqlite:///{folder}/jobs.db"


@contextlib.contextmanager
def redis() -> Iterator[LocalServer]:
    """One that forgets nothing."""
    with tempfile.TemporaryDirectory(prefix="mpkit-chaos-") as folder:
        (port,) = _free_ports(1)
        # By default it may answer while the disk is behind by up to two seconds, which a kill takes.
        files = {"dir": folder, "save": "", "appendonly": "yes", "appendfsync": "always"}
        options = {"port": port, "bind": "127.0.0.1", **files}
        command = [_program("redis-server")]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        hello = (b"PING\r\n", b"+PONG")
        server = LocalServer(f"redis://127.0.0.1:{port}/0", command, {}, hello, Path(folder))
        with _running(server):
            yield server


@contextlib.contextmanager
def rabbitmq() -> Iterator[LocalServer]:
    """A node of its own, with an epmd of its own, and a consumer timeout of a few seconds."""
    with tempfile.TemporaryDirectory(prefix="mpkit-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        port, epmd_port, between_nodes = _free_ports(3)
        lines = {
            "listeners.tcp.default": f"127.0.0.1:{port}",
            "disk_free_limit.absolute": "10MB",
            "consumer_timeout": f"{CONSUMER_TIMEOUT * 1000:.0f}",
        }
        (folder / "rabbitmq.conf").write_text("".join(f"{key} = {lines[key]}\n" for key in lines))
        (folder / "plugins").write_text("[].\n")
        environment = {
            "HOME": name,
            "RUNNING_UNDER_SYSTEMD": "true",  # the server takes the place of its shell script
            "RABBITMQ_CONF_ENV_FILE": f"{name}/none",
            "RABBITMQ_CONFIG_FILE": f"{name}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{name}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{name}/data",
            "RABBITMQ_LOG_BASE": name,
            "RABBITMQ_LOGS": f"{name}/rabbit.log",
            "RABBITMQ_PID_FILE": f"{name}/pid",
            "RABBITMQ_NODENAME": f"chaos{port}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(between_nodes),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # It looks for what is over the consumer timeout each second, and not once a minute. What a delay
            # queue could not pass on after a kill is tried again after seconds, and not after three minutes.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit channel_tick_interval 1000"
            " -rabbit dead_letter_worker_publisher_confirm_timeout 5000 +sbwt none",
        }
        hello = (b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")
        url = f"amqp://guest:guest@127.0.0.1:{port}/?consumer_timeout={CONSUMER_TIMEOUT:g}"
        server = LocalServer(url, [_program(_RABBITMQ)], environment, hello, folder)
        epmd = subprocess.Popen([_program("epmd")], env={**os.environ, **environment}, start_new_session=True)
        try:
            with _running(server):
                yield server
        finally:
            epmd.kill()
            epmd.wait()


@contextlib.contextmanager
def _running(server: LocalServer) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.kill()


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed: scripts/test installs it")
    return path


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
