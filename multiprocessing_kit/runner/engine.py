"""A run that goes on beside its program: a thread drives it, any thread hands jobs in.

    program's threads ──submit──▶ submissions ─▶ ┌─ engine's thread ──────┐ ─▶ children
                      ◀──futures── callbacks ◀── │ run: one loop, as ever │ ◀─
                                                 └────────────────────────┘

The children are forked by the thread that starts the engine, before its own thread is there: in a program
without other threads, that is the moment without locks that nobody will release. Those that replace one
are forked by the engine's thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from multiprocessing_kit.errors import PoolClosedError, PoolError
from multiprocessing_kit.runner.crew import ABANDONED, AT_ONCE, IN_ORDER, Crew
from multiprocessing_kit.runner.feeding import Window
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.run import Run
from multiprocessing_kit.runner.submissions import Settle, Submissions, with_body
from multiprocessing_kit.runner.telling import Audience
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.worker import Worker

__all__ = ["Engine"]

_log = logging.getLogger("multiprocessing_kit.runner")

_REQUEUE_BEHIND = 64
"""Jobs for each child that go before a requeued one."""


class BrokenPoolError(PoolError, BrokenExecutor):
    """A `PoolError` as `concurrent.futures` has it; here, because importing that takes milliseconds."""


class Engine:
    """Runs jobs as they are handed in.

    Args:
        worker: Whose jobs they are; children inherit it.
        size: How many children.
        name: For their titles.
        limits: What they may.
        audience: The listeners, which the engine's thread calls.
        batch_size: Jobs that a child is given at once; None to adapt.
        settle: Gives a future its job's response.
    """

    def __init__(
        self,
        worker: Worker,
        size: int,
        *,
        name: str,
        limits: Limits,
        audience: Audience,
        batch_size: int | None = None,
        settle: Settle = with_body,
    ) -> None:
        self._owner = os.getpid()
        self._name = name
        self._last_steps = ABANDONED
        self._crew = Crew(size, name, limits, resident=False)
        self._interrupts = Interrupts(self._crew.bell.ring)
        self._submissions = Submissions(self._crew.bell.ring, settle)
        self._run = Run(
            worker,
            self._submissions,
            self._crew,
            ordered=False,
            window=Window(None),
            queue_length=_REQUEUE_BEHIND * size,
            batch_size=batch_size,
            eager=True,
            interrupts=self._interrupts,
            audience=audience,
        )
        self._thread = threading.Thread(target=self._work, name=f"mpkit engine {name}".rstrip(), daemon=True)

    def start(self) -> None:
        """Fork the children, and begin.

        Raises:
            PoolClosedError: The program has ended.
            PoolError, IpcError: There is no child to be had.
        """
        try:
            if _program_ended.is_set():
                raise PoolClosedError("cannot schedule new futures: the program has ended")
            with self._interrupts:
                self._run.hire_all()
            self._thread.start()
        except BaseException as error:
            self._end(error, finished=False)
            raise
        _running.add(self)

    @property
    def unanswered(self) -> int:
        """How many jobs wait or run."""
        return self._submissions.unanswered

    @property
    def pids(self) -> list[int]:
        """Process ids of the children."""
        return [member.child.pid for member in list(self._crew.members)]

    def submit(self, argument: Any, *, again: bool = False) -> Future[Any]:
        """Hand in a job. Any thread.

        Args:
            argument: The job's.
            again: It is of a job that was handed in before `close`. Not from any thread, but from a
                callback of that job's future: later, the engine may have ended.

        Raises:
            PoolError: The engine was closed, has failed, or belongs to the parent of this process.
        """
        if os.getpid() != self._owner:
            raise PoolError("this pool belongs to the parent of this process; make one here")
        return self._submissions.submit(argument, again=again)

    def cancel(self, job_id: str) -> bool:
        """Have this job end; False if it is none of this run, or the run is over. Any thread."""
        index = self._run.index_of(job_id)
        return index is not None and self._submissions.unless_ended(lambda: self._run.cancel(index))

    def close(self, *, cancel: bool = False) -> None:
        """Take no more jobs, and end when all are answered. Any thread; may be called again.

        Args:
            cancel: Cancel those that wait.
        """
        self._submissions.close(PoolClosedError("this pool was shut down; make another"), cancel=cancel)

    def terminate(self) -> None:
        """End at once; jobs that are not answered fail with `PoolError`. Any thread; may be called again."""
        self._last_steps = AT_ONCE
        self.close()
        self._submissions.unless_ended(lambda: self._run.abort(PoolError("this pool was terminated")))

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended; it must have been closed. Not from a callback of a future."""
        if os.getpid() == self._owner and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _work(self) -> None:
        run, submissions = self._run, self._submissions
        error: BaseException = PoolClosedError("this pool was shut down; make another")
        finished = False
        try:
            while run.wait_ready():
                while run.ready:
                    part = run.ready.pop_part()
                    submissions.answered(part.first, part.open())
            finished = True
        except BaseException as raised:
            error = raised
            if type(raised) is PoolError:
                error = BrokenPoolError(*raised.args)
                error.__cause__ = raised.__cause__
            elif not isinstance(raised, PoolError):
                _log.exception("the engine of pool %r has failed", self._name)
        finally:
            self._end(error, finished=finished)
            _running.discard(self)

    def _end(self, error: BaseException, *, finished: bool) -> None:
        try:
            self._crew.stop(IN_ORDER if finished else self._last_steps, self._interrupts)
        except BaseException:
            _log.exception("the children of pool %r could not be stopped", self._name)
        self._submissions.end(error)  # from here on nobody rings the doorbell
        self._crew.close()
        self._submissions.fail(error)


_running: set[Engine] = set()
_program_ended = threading.Event()


@atexit.register
def _finish() -> None:
    """Nothing that was handed in is lost with the end of the program, so nothing is taken from here on."""
    _program_ended.set()
    for engine in list(_running):
        engine.close()
        engine.join()
