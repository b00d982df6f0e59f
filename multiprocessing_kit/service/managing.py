"""The manager behind a service's processes, those of its jobs and the one of its HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from multiprocessing_kit.manager import Manager
from multiprocessing_kit.service.logs import JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from multiprocessing_kit.manager.context import Context
    from multiprocessing_kit.service.config import ServiceConfig

__all__ = ["manager_for"]

_BACKOFF = (0.1, 5.0)
"""Seconds between two starts of a worker that keeps failing, at first and at most."""


def manager_for(
    config: ServiceConfig,
    name: str,
    target: Callable[[Context], None],
    *,
    workers: int,
    log: str | None,
    patience: float,
    init: Callable[[Context], Any] | None = None,
) -> Manager:
    """A manager whose workers are respawned for ever: who pushes jobs counts on them.

    Args:
        config: For what all of a service's processes have in common.
        name: Of the manager.
        target: Lives as long as its worker should.
        workers: How many.
        log: As a manager's `logger`.
        patience: Seconds that a worker has to end, beyond those of the jobs.
        init: Called first; its value is the context's resource.
    """
    formatter: logging.Formatter = JsonFormatter() if config.log_format == "json" else TextFormatter()
    return Manager(
        name,
        workers=workers,
        target=target,
        init=init,
        logger=log,
        formatter=formatter,
        respawn="always",
        respawn_limit=0,
        backoff=_BACKOFF,
        execute_sleep=0.0,
        check_interval=0.0,
        stop_timeout=config.stop_timeout + patience,
        runtime_dir=config.runtime_dir,
        user=config.user,
        group=config.group,
    )
