"""The process that serves HTTP: one worker of a manager of its own, NAME-http."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from multiprocessing_kit.errors import NotRunningError, ServiceConfigError
from multiprocessing_kit.manager.handover import is_handed_over, is_restarting
from multiprocessing_kit.manager.safe_files import runtime_directory
from multiprocessing_kit.service.http.app import Door, token_of
from multiprocessing_kit.service.http.calls import Calls
from multiprocessing_kit.service.http.connections import Guard, guarded
from multiprocessing_kit.service.managing import manager_for

if TYPE_CHECKING:
    from multiprocessing_kit.manager.context import Context
    from multiprocessing_kit.service.config import HttpConfig, ServiceConfig

__all__ = ["HttpService"]

_STOP_SECONDS = 5.0
_SWEEP_SECONDS = 1.0
_QUEUED = 1024
"""Connections that the system holds until they are taken."""

_MOST_AT_ONCE = 32

_TURNS = 4
"""Of asyncio's loop, from taking a connection for which there is no place until it is closed."""

_OTHER_DESCRIPTORS = 128

_log = logging.getLogger("multiprocessing_kit.service.http")


class HttpService:
    """HTTP for the topics of a service, on the same host or on another one.

    Args:
        config: Of the service, with [http] in it.

    Attributes:
        manager: Who starts, stops and restarts it.

    Raises:
        ServiceConfigError: There is no [http].
    """

    def __init__(self, config: ServiceConfig) -> None:
        if config.http is None:
            what = "there is no [http] in the configuration; the only key that it must have is token"
            raise ServiceConfigError(what)
        self._config = config
        self._http: HttpConfig = config.http
        self.manager = manager_for(
            config,
            f"{config.name}-http",
            self._serve,
            workers=1,
            log=_log_of(config.log),
            patience=_STOP_SECONDS,
            init=self._open,
        )

    def check(self) -> None:
        """Try token and address, so that who starts it hears at once what is wrong with them.

        Raises:
            ServiceConfigError: There is no token in the environment, or the address cannot be listened at.
        """
        token_of(self._http)
        if is_handed_over(self.manager.name):  # it was tried, and its worker listens yet
            return
        port = self._http.port
        if is_restarting():
            port = 0 if self.address.endswith(f":{port}") else port  # this very service listens there
        else:
            with contextlib.suppress(NotRunningError):
                self.manager.status()
                return  # as well, and the manager has more to say of it
        self._listener(port).close()

    @property
    def address(self) -> str:
        """The URL that it listens at, as the one that runs has noted it; "" if none has."""
        try:
            return self._address_file.read_text()
        except OSError:
            return ""

    # ── in the worker ─────────────────────────────────────────────────────────────────────────────

    def _open(self, _context: Context) -> socket.socket:
        """Before the worker is called ready: from now on clients can connect."""
        listener = self._listener(self._http.port)
        listener.listen(_QUEUED)
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        partial = self._address_file.with_suffix(".partial")
        partial.write_text(address)
        os.replace(partial, self._address_file)
        _log.info("listens at %s", address)
        return listener

    def _serve(self, context: Context) -> None:
        asyncio.run(_Server(self._config, self._http).live(context))

    def _listener(self, port: int) -> socket.socket:
        http = self._http
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                http.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            text = f"cannot listen at {http.host} port {http.port}: {error.strerror}"
            raise ServiceConfigError(text, key="http.port") from error
        return listener

    @property
    def _address_file(self) -> Path:
        directory = runtime_directory(self._config.runtime_dir, self.manager.settings.uid)
        return directory / f"{self.manager.name}.address"


class _Server(uvicorn.Server):
    """Ends by the manager's word; without uvicorn's own signals, and its ten looks a second."""

    def __init__(self, config: ServiceConfig, http: HttpConfig) -> None:
        places = _places(http.connections)
        self._guard = Guard(places)
        self._calls = Calls(config)
        self._door = Door(config, self._calls, self._guard)
        self._stop = asyncio.Event()
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what clients do wrong fills no log
        super().__init__(
            uvicorn.Config(
                self._door.app,
                http=guarded(self._guard),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=_at_once(places),
                timeout_graceful_shutdown=max(1, int(config.stop_timeout)),
            )
        )

    async def live(self, context: Context) -> None:
        """Until the context is to stop."""
        loop = asyncio.get_running_loop()

        def woken() -> None:
            context.clear()
            if context.stopping:
                self._stop.set()

        def sweep() -> None:
            # Where the system does not end the children of a dead master, `sleep` does.
            if not context.sleep(0.0):
                self._stop.set()
            self._guard.sweep()
            loop.call_later(_SWEEP_SECONDS, sweep)

        loop.add_reader(context.fileno(), woken)
        sweep()
        try:
            await self.serve([context.resource])
        finally:
            loop.remove_reader(context.fileno())
            self._calls.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUED)  # asyncio has set it to what it takes in one go

    async def main_loop(self) -> None:
        """Serve until told otherwise."""
        await self._stop.wait()
        self._door.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The context has them."""
        yield


def _at_once(places: int) -> int:
    """Connections that asyncio takes in one go.

    Fewer than there are places: each that is taken must have been read from before others push it out.
    """
    return max(1, min(_MOST_AT_ONCE, places // _TURNS))


def _places(connections: int) -> int:
    """How many connections there may be; the limit of descriptors is raised for them as far as it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _TURNS * _MOST_AT_ONCE + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit below the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < needed:
            left = soft - _OTHER_DESCRIPTORS
            fewer = max(
                1, left - _TURNS * _MOST_AT_ONCE, left // 2
            )  # half of few, as many as there are turns
            _log.warning(
                "http.connections = %d: with %d descriptors there are %d at most", connections, soft, fewer
            )
            return fewer
    return connections


def _log_of(log: str | None) -> str | None:
    """The service writes its own file, and two who rotate one would lose lines."""
    if log is None or log in ("stderr", "syslog", "journal"):
        return log
    path = Path(log)
    return str(path.with_name(f"{path.stem}-http{path.suffix}"))
