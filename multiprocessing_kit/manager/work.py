"""The life of one worker: `init` once, then `target` again and again, until a limit or a signal ends it."""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Callable

from multiprocessing_kit.ipc.doorbell import Doorbell
from multiprocessing_kit.manager.board import Row
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.manager.jobs import JobTarget, Turn
from multiprocessing_kit.manager.settings import Settings
from multiprocessing_kit.supervise.memory import resident_memory
from multiprocessing_kit.supervise.respawn import RECYCLED
from multiprocessing_kit.worker import Worker

__all__ = ["work"]

_FAILED = 1
_JITTER = 0.1

_log = logging.getLogger("multiprocessing_kit.manager")


def work(settings: Settings, context: Context, row: Row, bell: Doorbell) -> int:
    """Live it; returns the exit status.

    Args:
        settings: The manager's.
        context: For the user's functions.
        row: To tell the master.
        bell: The master's, rung when `init` is over.
    """
    context.listen()
    born = time.monotonic()
    longest = settings.limit_seconds * random.uniform(1 - _JITTER, 1)
    status = settings.orderly
    target, end = _target(settings)
    try:
        if settings.init is not None:
            context.resource = settings.init(context)
        row.ready()
        bell.ring()
        while not context.stopping:
            row.begin()
            turn = target(context)
            context.executed += turn is not Turn.NOTHING
            row.end(context.executed)
            if settings.execute_times and context.executed >= settings.execute_times:
                break
            if (longest and time.monotonic() - born >= longest) or _is_too_large(settings, context):
                status = RECYCLED
                break
            context.sleep(0.0 if turn is Turn.JOB else settings.execute_sleep)
        if context.stopping:  # somebody's SIGTERM; where it was not the master's, he wants a fresh worker
            status = RECYCLED
        end()
    except SystemExit as exit_:
        return _status(exit_.code)
    except BaseException:
        _log.exception("worker #%d failed", context.pin)
        return _FAILED
    return status


def _target(settings: Settings) -> tuple[Callable[[Context], Turn], Callable[[], None]]:
    """What to call again and again, and what to call at an orderly end."""
    if isinstance(settings.target, Worker):
        assert settings.source is not None
        jobs = JobTarget(settings.target, settings.source, settings.orderly)
        return jobs, jobs.end
    call = settings.target

    def turn(context: Context) -> Turn:
        call(context)
        return Turn.CALL

    return turn, lambda: None


def _is_too_large(settings: Settings, context: Context) -> bool:
    if settings.max_memory is None:
        return False
    memory = resident_memory(os.getpid())
    if memory > settings.max_memory:
        _log.info("worker #%d has %d bytes resident: it is replaced", context.pin, memory)
    return memory > settings.max_memory


def _status(code: object) -> int:
    """As the interpreter does at its end."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return _FAILED
