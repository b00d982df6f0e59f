"""A `Worker` as the work of a manager: the jobs that a source has, one after the other."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import Any

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.queues import Queue
from multiprocessing_kit.worker import Worker

__all__ = ["JobTarget", "Source", "Turn"]

_log = logging.getLogger("multiprocessing_kit.manager")

Source = Queue[Any] | Callable[[Context], Any]
"""A queue of inputs, or a function that gives the next input, and None while there is none."""


_NONE = object()


class Turn(enum.Enum):
    """What a worker's turn was, and so what comes after it."""

    CALL = "call"
    """A call of the target; then a pause."""

    JOB = "job"
    """One job, which counts as a call; the next one at once."""

    NOTHING = "nothing"
    """There was no job; then a pause."""


class JobTarget:
    """One turn runs one job, if there is one, so that limits are looked at between jobs.

    Args:
        worker: Whose jobs; a failed one is logged, with what its listeners and retries made of it.
        source: Where the inputs come from. One that was taken is lost with a worker that dies.
        orderly: Exit status of a worker whose queue was closed.
    """

    def __init__(self, worker: Worker, source: Source, orderly: int) -> None:
        self._worker = worker
        self._source = source
        self._orderly = orderly
        self._is_set_up = False

    def __call__(self, context: Context) -> Turn:
        """Run it."""
        if not self._is_set_up:
            self._worker.setup()
            self._is_set_up = True
        argument = self._next(context)
        if argument is _NONE:
            return Turn.NOTHING
        response = self._worker.start(argument)
        if not response.ok:
            _log.error("job %s failed: %r", self._worker.job_id, response.exception)
        return Turn.JOB

    def end(self) -> None:
        """The worker ends in order."""
        if self._is_set_up:
            self._is_set_up = False
            self._worker.teardown()

    def _next(self, context: Context) -> Any:
        if not isinstance(self._source, Queue):
            argument = self._source(context)
            return _NONE if argument is None else argument
        try:
            return self._source.get(block=False)
        except QueueEmptyError:
            return _NONE
        except QueueClosedError:
            self.end()
            raise SystemExit(self._orderly) from None
