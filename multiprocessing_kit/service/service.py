"""`Service`: a configuration that runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from multiprocessing_kit.errors import NotRunningError
from multiprocessing_kit.service.client import Client
from multiprocessing_kit.service.consumer import consume
from multiprocessing_kit.service.managing import manager_for
from multiprocessing_kit.service.paths import Paths, Start
from multiprocessing_kit.service.turns import turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiprocessing_kit.manager.context import Context
    from multiprocessing_kit.service.config import ServiceConfig

__all__ = ["Service"]

_STOP_SECONDS = 10.0
"""That a consumer has, beyond its workers' patience, to settle what they answered."""


class Service:
    """A master, under it a consumer for each pool, and under each its workers.

    Args:
        config: See `ServiceConfig`.
        start: Noted for commands when it starts; None for one that is not known.

    Attributes:
        config: As given.
        manager: Who starts, stops and restarts it.
    """

    def __init__(self, config: ServiceConfig, start: Start | None = None) -> None:
        self.config = config
        crews = list(config.crews())

        def serve(context: Context) -> None:
            crew = crews[context.pin]
            paths = Paths(config)
            with turn(paths.turn(crew), context) as is_ours:
                if is_ours:
                    consume(config, crew, f"{paths.consumer()}/{crew}", context)

        self.manager = manager_for(
            config,
            config.name,
            serve,
            workers=len(crews),
            log=config.log,
            patience=_STOP_SECONDS,
            init=lambda _context: Paths(config).note_start(start or Start()),
        )

    def client(self) -> Client:
        """To push jobs with."""
        config = self.config
        return Client(
            config.broker_url,
            config.name,
            encoding=config.encoding,
            secret=config.payloads().secret,
            topics=[topic.name for topic in config.topics],
        )

    def pause(self, topics: list[str]) -> frozenset[str]:
        """Take no more jobs of these topics, of all if there are none; returns those that are paused now."""
        return self._note(lambda paused: paused | self._named(topics))

    def resume(self, topics: list[str]) -> frozenset[str]:
        """Take jobs again; returns those that are still paused."""
        return self._note(lambda paused: paused - self._named(topics))

    def _named(self, topics: list[str]) -> frozenset[str]:
        return frozenset(topics or [topic.name for topic in self.config.topics])

    def _note(self, change: Callable[[frozenset[str]], frozenset[str]]) -> frozenset[str]:
        paused = Paths(self.config).pause(change)
        with contextlib.suppress(NotRunningError):  # it reads the note when it starts
            self.manager.wakeup()
        return paused
