"""Calls of the broker, which block, in a few threads, each with a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from multiprocessing_kit.errors import BrokerUnavailableError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.job import Job

__all__ = ["Calls", "push"]

_THREADS = 4
_SECONDS = 10.0

_log = logging.getLogger("multiprocessing_kit.service.http")

T = TypeVar("T")


class Calls:
    """Calls one function after the other with a broker.

    Args:
        config: Of the service.
        seconds: Within which a call must be done, its waiting for a free thread included.
    """

    def __init__(self, config: ServiceConfig, seconds: float = _SECONDS) -> None:
        self._url, self._service = config.broker_url, config.name
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(_THREADS, "broker")
        self._local = threading.local()
        self._is_away = False

    async def __call__(self, function: Callable[[Broker], T]) -> T:
        """What it returns.

        Raises:
            BrokerUnavailableError: The broker is away, or does not answer in time; the call may have an
                effect yet.
        """
        loop = asyncio.get_running_loop()
        try:
            done = await asyncio.wait_for(
                loop.run_in_executor(self._pool, self._call, function), self._seconds
            )
        except asyncio.TimeoutError:
            self._note(f"no answer in {self._seconds:g} s")
            raise BrokerUnavailableError(f"the broker does not answer in {self._seconds:g} s") from None
        except BrokerUnavailableError as error:
            self._note(str(error))
            raise
        self._note("")
        return done

    def close(self) -> None:
        """Let no more begin; who hangs in one now does not keep the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[[Broker], T]) -> T:
        broker: Broker | None = getattr(self._local, "broker", None)
        if broker is None:
            broker = self._local.broker = open_broker(self._url, self._service)
        return function(broker)

    def _note(self, error: str) -> None:
        if error and not self._is_away:
            _log.warning("the broker is away: %s", error)
        elif self._is_away and not error:
            _log.info("the broker is back")
        self._is_away = bool(error)


def push(broker: Broker, jobs: Sequence[Job]) -> list[bool]:
    """As the broker's, and once more where it was away: a connection that was idle may have ended unseen.

    With an id of the caller's among them this cannot be: if the first try had its effect after all, the
    second would say that there is one of this id.
    """
    try:
        return broker.push(jobs)
    except BrokerUnavailableError:
        if any(job.is_unique for job in jobs):
            raise
        broker.push(jobs)
        return [True] * len(jobs)
