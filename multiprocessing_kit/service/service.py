"""`Service`: a configuration that runs."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from multiprocessing_kit.errors import NotRunningError
from multiprocessing_kit.manager import Manager
from multiprocessing_kit.service.client import Client
from multiprocessing_kit.service.consumer import consume
from multiprocessing_kit.service.logs import JsonFormatter, TextFormatter
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.turns import turn

if TYPE_CHECKING:
    from multiprocessing_kit.manager.context import Context
    from multiprocessing_kit.service.config import ServiceConfig

__all__ = ["Service"]

_STOP_SECONDS = 10.0
"""That a consumer has, beyond its workers' patience, to settle what they answered."""


class Service:
    """A master, under it a consumer for each pool, and under each its workers.

    Args:
        config: See `ServiceConfig`.

    Attributes:
        config: As given.
        manager: Who starts, stops and restarts it.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        crews = list(config.crews())
        formatter: logging.Formatter = JsonFormatter() if config.log_format == "json" else TextFormatter()

        def serve(context: Context) -> None:
            crew = crews[context.pin]
            paths = Paths(config)
            with turn(paths.turn(crew), context) as is_ours:
                if is_ours:
                    consume(config, crew, f"{paths.consumer()}/{crew}", context)

        self.manager = Manager(
            config.name,
            workers=len(crews),
            target=serve,
            logger=config.log,
            formatter=formatter,
            respawn="always",
            respawn_limit=0,
            backoff=(0.1, 10.0),
            execute_sleep=0.0,
            check_interval=0.0,
            stop_timeout=config.stop_timeout + _STOP_SECONDS,
            runtime_dir=config.runtime_dir,
            user=config.user,
            group=config.group,
        )

    def client(self) -> Client:
        """To push jobs with."""
        config = self.config
        secret = config.payloads().secret
        return Client(config.broker_url, config.name, encoding=config.encoding, secret=secret)

    def pause(self, topics: list[str]) -> frozenset[str]:
        """Take no more jobs of these topics, of all if there are none; returns those that are paused now."""
        return self._note(Paths(self.config).paused() | self._named(topics))

    def resume(self, topics: list[str]) -> frozenset[str]:
        """Take jobs again; returns those that are still paused."""
        return self._note(Paths(self.config).paused() - self._named(topics))

    def _named(self, topics: list[str]) -> frozenset[str]:
        return frozenset(topics or [topic.name for topic in self.config.topics])

    def _note(self, paused: frozenset[str]) -> frozenset[str]:
        Paths(self.config).pause(paused)
        with contextlib.suppress(NotRunningError):  # it reads the note when it starts
            self.manager.wakeup()
        return paused
