"""A `Worker` as the work of a manager: the jobs that a source has, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from multiprocessing_kit.errors import QueueClosedError, QueueEmptyError
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.queues import Queue
from multiprocessing_kit.worker import Worker

__all__ = ["JobTarget", "Source"]

_log = logging.getLogger("multiprocessing_kit.manager")

Source = Queue[Any] | Callable[[Context], Any]
"""A queue of inputs, or a function that gives the next input, and None while there is none."""


class JobTarget:
    """One call runs jobs until the source has none at the moment, or the worker is to end.

    Args:
        worker: Whose jobs; a failed one is logged, with what its listeners and retries made of it.
        source: Where the inputs come from. One that was taken is lost with a worker that dies.
        orderly: Exit status of a worker whose queue was closed.
    """

    def __init__(self, worker: Worker, source: Source, orderly: int) -> None:
        self._worker = worker
        self._next = self._from_queue if isinstance(source, Queue) else source
        self._source = source
        self._orderly = orderly
        self._is_set_up = False

    def __call__(self, context: Context) -> None:
        """Run them."""
        if not self._is_set_up:
            self._worker.setup()
            self._is_set_up = True
        while context.dispatch():
            argument = self._next(context)
            if argument is None:
                return
            response = self._worker.start(argument)
            if not response.ok:
                _log.error("job %s failed: %r", self._worker.job_id, response.exception)

    def end(self) -> None:
        """The worker ends in order."""
        if self._is_set_up:
            self._worker.teardown()

    def _from_queue(self, _context: Context) -> Any:
        assert isinstance(self._source, Queue)
        try:
            return self._source.get(block=False)
        except QueueEmptyError:
            return None
        except QueueClosedError:
            raise SystemExit(self._orderly) from None
