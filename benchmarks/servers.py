"""Redis and RabbitMQ servers of one's own: on free loopback ports, killed and started again at will.

    owner ──pipe──▶ guard (this file, run as a program) ──▶ the server (and epmd, for RabbitMQ)

The guard is its owner's only child, so that a server that was started again is no child left behind. It kills
all it started when it is told to, and when the pipe closes: however its owner ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["RabbitServer", "RedisServer", "Server", "free_port", "rabbitmq_server", "redis_server"]

_START_SECONDS = 60.0
# Debian's. What is in the path there changes user and directory, and is not in everybody's path.
_RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class Server:
    """One server, from `redis_server` or `rabbitmq_server`.

    Attributes:
        url: Of the broker.
        port: Where it listens, on 127.0.0.1.
        pid: Of the server; another one after each `start`.
        directory: Of its data, configuration and log.
    """

    hello = b""
    answer = b""

    def __init__(self, url: str, port: int, directory: Path) -> None:
        self.url = url
        self.port = port
        self.directory = directory
        self.pid = 0
        self._guard: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, for the first time or after `kill`; returns when it answers."""
        self.pid = int(self._ask("start"))
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if not self.alive:
                raise RuntimeError(f"the server ended while it started:\n{self.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer:\n{self.log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with SIGKILL; returns when it is gone."""
        self._ask("kill")

    def stop(self) -> None:
        """Pause it with SIGSTOP."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self._ask("alive") == "yes"

    def answers(self) -> bool:
        """Whether it serves now."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection:
                connection.sendall(self.hello)
                return connection.recv(len(self.answer)) == self.answer
        except OSError:
            return False

    def log(self) -> str:
        """The end of all that the server wrote to its log."""
        parts = []
        for path in sorted(self.directory.glob("**/*.log")):
            parts.append(f"── {path.name}\n{path.read_text(errors='replace')[-4000:]}")
        return "\n".join(parts)

    def _ask(self, command: str) -> str:
        assert self._guard is not None
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.write(command + "\n")
        self._guard.stdin.flush()
        return self._guard.stdout.readline().strip()

    @contextlib.contextmanager
    def _guarded(
        self, server: Sequence[str | Path], companions: Sequence[Sequence[str | Path]], env: Mapping[str, str]
    ) -> Iterator[None]:
        lines = {"server": server, "companions": companions, "env": env, "directory": self.directory}
        task = json.dumps(lines, default=str)
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with self._guard:  # which closes the pipes, and waits
            try:
                self.start()
                yield
            finally:  # a child that some test has left may have the pipe open
                self._ask("end")


class RedisServer(Server):
    """See `Server`."""

    hello = b"PING\r\n"
    answer = b"+PONG"


class RabbitServer(Server):
    """See `Server`. It answers with the first frame of the protocol."""

    hello = b"AMQP\x00\x00\x09\x01"
    answer = b"\x01\x00\x00"


@contextlib.contextmanager
def redis_server(directory: Path, **settings: str) -> Iterator[RedisServer]:
    """A Redis server that forgets nothing it has acknowledged.

    Args:
        directory: Of its data, made if missing.
        settings: More lines of its configuration, with `_` for `-`.

    Raises:
        FileNotFoundError: It is not installed.
    """
    program = _program("redis-server")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "logfile": str(directory / "redis.log"),
        "appendonly": "yes",
        # With "everysec", a server that is killed loses what it acknowledged while the disk was slow.
        "appendfsync": "always",
        "save": '""',
    } | {name.replace("_", "-"): value for name, value in settings.items()}
    configuration = directory / "redis.conf"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    server = RedisServer(f"redis://127.0.0.1:{port}/0", port, directory)
    with server._guarded([program, configuration], [], {}):
        yield server


@contextlib.contextmanager
def rabbitmq_server(directory: Path, advanced: str = "", **settings: str) -> Iterator[RabbitServer]:
    """A RabbitMQ node of its own, with an epmd of its own and no plugins.

    Args:
        directory: Of its data, made if missing.
        advanced: More settings of its application, in Erlang, such as `{channel_tick_interval, 500}`.
        settings: More lines of its configuration, such as `consumer_timeout="5000"`.

    Raises:
        FileNotFoundError: It is not installed.
    """
    program = _RABBITMQ if Path(_RABBITMQ).exists() else _program("rabbitmq-server")
    directory.mkdir(parents=True, exist_ok=True)
    port, epmd_port, between_nodes = free_port(), free_port(), free_port()
    lines = {
        "listeners.tcp.default": f"127.0.0.1:{port}",
        "disk_free_limit.absolute": "10MB",
        "vm_memory_high_watermark.absolute": "1GB",
        "log.file.level": "info",
    } | settings
    (directory / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    # By default a dead letter whose target was not up yet, after a kill, waits for three minutes.
    found = ", ".join(filter(None, ["{dead_letter_worker_publisher_confirm_timeout, 5000}", advanced]))
    (directory / "advanced.config").write_text(f"[{{rabbit, [{found}]}}].\n")
    (directory / "plugins").write_text("[].\n")
    env = {
        "HOME": str(directory),
        "RUNNING_UNDER_SYSTEMD": "true",  # the server takes the place of its shell script
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_LOGS": str(directory / "rabbit.log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_NODENAME": f"mpkit{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(between_nodes),
        # Few threads, and none that spins while it waits: the machine has other work.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +SDio 4 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none",
        "ERL_FLAGS": "-start_epmd false",  # one that it started itself would outlive it
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_SECONDS": "0",
    }
    server = RabbitServer(f"amqp://guest:guest@127.0.0.1:{port}/", port, directory)
    with server._guarded([program], [[_program("epmd")]], env):
        yield server


def free_port() -> int:
    """One that nobody listens at, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: scripts/install-servers installs it")
    return path


# ── the guard ─────────────────────────────────────────────────────────────────────────────────────────


class _Guard:
    def __init__(self, task: str) -> None:
        self._task = json.loads(task)
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        companions = [self._started(command) for command in self._task["companions"]]
        try:
            for line in sys.stdin:
                if line == "end\n":
                    break
                print(self._done(line.strip()), flush=True)
        finally:
            for process in (self._server, *companions):
                _end(process)

    def _done(self, command: str) -> str:
        if command == "start":
            _end(self._server)
            self._server = self._started(self._task["server"])
            return str(self._server.pid)
        if command == "kill":
            _end(self._server)
        return "yes" if self._server is not None and self._server.poll() is None else "no"

    def _started(self, command: list[str]) -> subprocess.Popen[bytes]:
        with Path(self._task["directory"], "output.log").open("ab") as output:
            return subprocess.Popen(
                command,
                env={**os.environ, **self._task["env"]},
                cwd=self._task["directory"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    _Guard(sys.argv[1]).run()
