"""Jobs that are submitted to a `Process`: an engine for their worker, and another one for the next worker."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from multiprocessing_kit.response import Response
from multiprocessing_kit.runner.engine import Engine
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.submissions import with_response
from multiprocessing_kit.runner.telling import Audience
from multiprocessing_kit.worker import Worker, as_worker

__all__ = ["Serving"]


class Serving:
    """Any thread may call it. Dropped without `close`, it closes itself.

    Args:
        size: How many children.
        name: For their titles.
        limits: What they may.
        batch_size: Jobs that a child is given at once; None to adapt.
        audience: The listeners.
    """

    def __init__(
        self, size: int, *, name: str, limits: Limits, batch_size: int | None, audience: Audience
    ) -> None:
        self._size = size
        self._name = name
        self._limits = limits
        self._batch_size = batch_size
        self._audience = audience
        self._lock = threading.Lock()
        self._given: object = None
        self._engine: Engine | None = None
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()  # those that have not ended

    def submit(self, worker: Worker | Callable[[Any], Any], argument: Any) -> Future[Response]:
        """Hand in a job. The children of another worker than the last one's end when their jobs are done."""
        with self._lock:
            if self._engine is None or self._given is not worker:
                if self._engine is not None:
                    self._engine.close()
                self._engine, self._given = self._start(as_worker(worker)), worker
            return self._engine.submit(argument)

    def cancel(self, job_id: str) -> bool:
        """Have this job end; False if it is none of these."""
        return any(engine.cancel(job_id) for engine in list(self._engines))

    def close(self, *, cancel: bool) -> None:
        """Have the children end when all jobs are answered.

        Args:
            cancel: Cancel those that have not begun.
        """
        with self._lock:
            self._engine = self._given = None
        for engine in list(self._engines):
            engine.close(cancel=cancel)

    def join(self) -> None:
        """Wait until they have ended; after `close`."""
        for engine in list(self._engines):
            engine.join()

    def _start(self, worker: Worker) -> Engine:
        engine = Engine(
            worker,
            self._size,
            name=self._name,
            limits=self._limits,
            audience=self._audience,
            batch_size=self._batch_size,
            settle=with_response,
        )
        engine.start()
        self._engines.add(engine)
        weakref.finalize(self, engine.close).atexit = False
        return engine
