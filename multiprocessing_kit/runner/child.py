"""The child's loop: take a job from the lane, run it, answer.

Between two jobs it puts back what a job may have changed for the next one: the working directory and
the signal handlers. A job that forks and comes back in the copy as well ends that copy here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal takes 20 times as long
from typing import Any

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.ipc.codec import decode, encode, pack_exception
from multiprocessing_kit.lifecycle import JobRun, Requeue
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.answers import seal_answer
from multiprocessing_kit.runner.child_end import CallerGone, ChildEnd, DescriptorsLost, Stopped
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER
from multiprocessing_kit.supervise.death import PARENT_GONE
from multiprocessing_kit.supervise.fork import flush_stdio
from multiprocessing_kit.worker import Worker

__all__ = ["LOST_DESCRIPTORS", "JobChild"]

_log = logging.getLogger("multiprocessing_kit.runner")

LOST_DESCRIPTORS = 114
"""Exit status of a child whose descriptors a job has closed; what it answered stands."""


_PLACES = {event: place for place, event in enumerate(JobEvent)}


class JobChild:
    """One child of the runner; implements `lifecycle.Host`.

    Args:
        lane: Its end of the lane.
        worker: Inherited by fork.
        run_id: Prefix of the job ids.
    """

    def __init__(self, lane: ChildEnd, worker: Worker, run_id: str) -> None:
        self._lane = lane
        self.pid = os.getpid()
        self._is_copy = False
        os.register_at_fork(after_in_child=self._note_copy)  # cheaper than a getpid() for each job
        self._run_id = run_id
        self._index = 0
        self._sealed = b""
        self._set_up = False
        self._surroundings = _Surroundings()
        self._worker = worker
        worker._host = self

    def main(self) -> int:
        """Work until asked to stop; returns the exit status."""
        try:
            while (record := self._lane.receive()) is not None:
                if not self._handle(record):
                    break
            if self._set_up:
                self._worker.teardown()
        except CallerGone:
            return PARENT_GONE
        except Stopped:
            return 0
        except DescriptorsLost:
            return LOST_DESCRIPTORS
        return 0

    def _handle(self, record: bytes) -> bool:
        """Act on one record; False to end."""
        kind, attempt, index, _ = HEADER.unpack_from(record)
        if kind == messages.RUN:
            return self._begin_run(record)
        if not self._set_up and not self._do_setup():
            return False
        skipped = self._lane.begin(index)
        if skipped:
            self._lane.send(HEADER.pack(messages.SKIPPED, attempt, index, float(skipped)))
            return True
        answer = self._run_job(kind, attempt, index, record)
        self.check_process()  # listeners and `__reduce__` may fork, too
        self._lane.send(answer)
        self._lane.end()
        return self._surroundings.restore()

    # ── a run begins ──────────────────────────────────────────────────────────────────────────────

    def _begin_run(self, record: bytes) -> bool:
        self._run_id, pickled = decode(memoryview(record)[HEADER.size :], "the run")
        if pickled is None:
            return True
        try:
            worker = decode(pickled, "the worker")
        except SerializationError as error:
            self._lane.send(HEADER.pack(messages.RENEW, 0, 0, 0.0) + encode(str(error), "the reason"))
            return False
        if self._set_up:
            self._worker.teardown()
            self._set_up = False
        self._worker = worker
        worker._host = self
        return True

    def _do_setup(self) -> bool:
        try:
            self._worker.setup()
        except BaseException as error:
            self.check_process()
            packed = encode(pack_exception(error), "the exception of setup()")
            self._lane.send(HEADER.pack(messages.NO_SETUP, 0, 0, 0.0) + packed)
            return False
        self.check_process()
        self._set_up = True
        self._surroundings = _Surroundings()  # setup() may change them for all jobs
        return True

    # ── one job ───────────────────────────────────────────────────────────────────────────────────

    def _run_job(self, kind: int, attempt: int, index: int, record: bytes) -> bytes:
        """Run a job; the record of its answer."""
        self._index = index
        job_id = f"{self._run_id}-{index}"
        history, changes, start = None, None, HEADER.size
        if kind == messages.AGAIN:
            (length,) = AGAIN_LENGTH.unpack_from(record, start)
            start += AGAIN_LENGTH.size
            history, changes = decode(memoryview(record)[start : start + length], "the history", job_id)
            start += length
        try:
            argument = decode(memoryview(record)[start:], "the argument", job_id)
            run = JobRun(self._worker, argument, job_id, history=history, changes=changes, host=self)
            outcome = run.run()
        except (CallerGone, DescriptorsLost, Stopped):
            raise
        except BaseException as error:  # the argument, a Response whose `ok` raises, a listener's Ctrl-C
            self.check_process()
            response = JobResponse(exception=error, job_id=job_id, attempts=attempt, pid=self.pid)
            return seal_answer(response, index, attempt, job_id)[1]
        return self._requeue(outcome) if isinstance(outcome, Requeue) else self._sealed

    def _requeue(self, requeue: Requeue) -> bytes:
        header = HEADER.pack(messages.REQUEUE, requeue.history.attempt, self._index, requeue.delay)
        return header + encode((requeue.history, requeue.changes), "the history", self._worker.job_id)

    # ── lifecycle.Host ────────────────────────────────────────────────────────────────────────────

    @property
    def events(self) -> int:
        """START, RUNNING and RETRY, as far as the caller listens; the final ones it makes itself."""
        return self._lane.events

    def relay(self, payload: dict[str, Any]) -> None:
        """Send START, RUNNING or RETRY home."""
        if self._is_copy:
            return  # process() forked, and called running() there: this lane is its parent's
        if not self._lane.at_job:
            return  # from a thread that its job left behind
        fields = {name: payload[name] for name in ("response", "delay", "info")}
        place = _PLACES[payload["event"]]
        header = HEADER.pack(messages.EVENT, payload["attempt"], self._index, float(place))
        what = f"the payload of {payload['event'].name}"
        try:
            record = encode(fields, what, payload["job_id"])
        except SerializationError as error:
            exception = getattr(fields["response"], "exception", None) or error
            fields["response"] = fields["response"] and JobResponse(exception=exception)
            fields["info"] = {name: _travels_or_repr(value) for name, value in fields["info"].items()}
            record = encode(fields, what, payload["job_id"])
        # Where descriptors are lost, the job goes on and its answer is the last thing this child sends.
        with contextlib.suppress(DescriptorsLost):
            self._lane.send(header + record)

    def seal_body(self, body: object, seconds: float) -> bool:
        """Encode a bare result."""
        try:
            data = encode(body, "the result")
        except SerializationError:
            return False
        self._sealed = HEADER.pack(messages.DONE, self._worker.attempt, self._index, seconds) + data
        return True

    def seal(self, response: Response) -> Response:
        """Encode the answer, so that SUCCESS is not said of a job whose result cannot be sent."""
        worker = self._worker
        response, self._sealed = seal_answer(response, self._index, worker.attempt, worker.job_id)
        return response

    def check_process(self) -> None:
        """End the copy of this child that `process()` forked, if this is that."""
        if self._is_copy:
            error = sys.exc_info()[1]
            status = 0
            if isinstance(error, SystemExit):
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            elif error is not None:
                traceback.print_exc()
                status = 1
            flush_stdio()
            os._exit(status)

    def _note_copy(self) -> None:
        self._is_copy = True


def _travels_or_repr(value: object) -> object:
    try:
        encode(value, "the value")
    except SerializationError:
        return repr(value)
    return value


class _Surroundings:
    """The working directory and the signal handlers that every job should find."""

    def __init__(self) -> None:
        self._directory = _getcwd()
        self._handlers = list(map(getsignal, _WATCHED))

    def restore(self) -> bool:
        """Put them back; False if the directory is gone, and with it this child's use."""
        if list(map(getsignal, _WATCHED)) != self._handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm without its handler would kill
            for signum, handler in zip(_WATCHED, self._handlers, strict=True):
                if handler is not None:  # set by C code, which Python cannot put back
                    signal.signal(signum, handler)
        if self._directory is not None and _getcwd() != self._directory:
            try:
                os.chdir(self._directory)
            except OSError:
                _log.exception("a job left the working directory and there is no way back; ending this child")
                return False
        return True


_WATCHED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
)


def _getcwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # a job removed the directory it is in
        return None
