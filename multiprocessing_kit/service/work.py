"""The life of one worker of a topic: set up once, then jobs, until a limit or a signal ends it."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from multiprocessing_kit.errors import PayloadError
from multiprocessing_kit.lifecycle import JobRun, Requeue
from multiprocessing_kit.manager.context import Context
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.retry import History
from multiprocessing_kit.service.channel import HURRY, Answer, Task, WorkerEnd
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.logs import at_job
from multiprocessing_kit.service.marks import Mark
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.topic_config import TopicConfig
from multiprocessing_kit.service.topic_worker import CallWorker, loaded, topic_worker
from multiprocessing_kit.supervise.held_signals import HeldSignals
from multiprocessing_kit.supervise.memory import resident_memory
from multiprocessing_kit.supervise.respawn import RECYCLED

__all__ = ["live"]

_FAILED = 1
_JITTER = 0.1
_PUBLISH_SECONDS = 0.01
"""Answers wait this long at most, so that a worker that is killed has not more than that to do again."""

_LONGEST_ERROR = 4000
"""Characters. It is kept with the job, 20 times at most."""

_log = logging.getLogger("multiprocessing_kit.service")


def live(
    config: ServiceConfig, topics: Sequence[TopicConfig], context: Context, end: WorkerEnd, mark: Mark
) -> int:
    """Live it; returns the exit status.

    Args:
        config: Of the service.
        topics: That this worker serves.
        context: Its signals.
        end: Where tasks come from.
        mark: Where it notes what it does.
    """
    context.listen()
    try:
        if config.directory not in sys.path:
            sys.path.insert(0, config.directory)
        if config.setup is not None:
            loaded(config.setup)()
        desks = {topic.name: _Desk(topic, config.payloads(), mark) for topic in topics}
        mark.ready()
        end.send([])  # wakes the consumer
        status = _Life(topics, desks, end, mark, context).run()
        for desk in desks.values():
            desk.worker.teardown()
    except SystemExit as exit_:  # a second SIGTERM
        return exit_.code if isinstance(exit_.code, int) else _FAILED
    except EOFError:
        return RECYCLED  # the consumer is gone, and so is who would ask
    except BaseException as error:
        _log.exception("a worker of %s failed", ", ".join(topic.name for topic in topics))
        with contextlib.suppress(Exception):  # the consumer is gone too, or the error cannot be told in words
            end.send([Answer("broken", error=_in_words(error))])
        return _FAILED
    return status


class _Life:
    """Between set-up and teardown."""

    def __init__(
        self,
        topics: Sequence[TopicConfig],
        desks: dict[str, _Desk],
        end: WorkerEnd,
        mark: Mark,
        context: Context,
    ) -> None:
        self._context = context
        self._desks = desks
        self._end = end
        self._mark = mark
        # Of several topics' limits the narrowest holds.
        self._jobs = min(
            (topic.max_jobs_per_worker for topic in topics if topic.max_jobs_per_worker), default=0
        )
        seconds = min(
            (topic.max_seconds_per_worker for topic in topics if topic.max_seconds_per_worker), default=0.0
        )
        self._until = time.monotonic() + seconds * random.uniform(1 - _JITTER, 1) if seconds else 0.0
        self._memory = min(
            (topic.max_memory_per_worker for topic in topics if topic.max_memory_per_worker), default=0
        )
        self._number = 0
        self._answers: list[Answer] = []
        self._published = time.monotonic()
        self._may_hurry = False  # only while a job runs: the handler would find all else half done

    def run(self) -> int:
        """Until it is to be replaced, or is asked to end."""
        context = self._context
        signal.signal(HURRY, self._hurry)
        while not context.stopping:
            if not context.wait_for(self._end.fileno(), None if not self._until else self._seconds_left()):
                break
            for task in self._end.tasks():
                if context.stopping:
                    break  # the rest is released by the consumer
                self._one(task)
                if self._is_over():
                    self._publish()
                    return RECYCLED
            self._publish()
            if self._is_over():
                return RECYCLED
        return RECYCLED

    def _seconds_left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def _is_over(self) -> bool:
        return bool(
            (self._jobs and self._number >= self._jobs)
            or (self._until and time.monotonic() >= self._until)
            or (self._memory and resident_memory(os.getpid()) > self._memory)
        )

    def _one(self, task: Task) -> None:
        number, self._number = self._number, self._number + 1
        if self._mark.begin(number):
            self._may_hurry = True
            answer = self._desks[task.topic].run(task, self._tried)
            self._may_hurry = False
            if self._context.interrupted:  # `process()` was, and its failure is none
                raise SystemExit(_FAILED)
            self._mark.end(number)
        else:
            answer = Answer("skipped")
        self._answers.append(answer)
        if time.monotonic() - self._published >= _PUBLISH_SECONDS:
            self._publish()

    def _tried(self, answer: Answer) -> None:
        """The job under way goes on; what came of the attempt is told, should this worker not live to."""
        self._answers.append(answer)
        self._publish_amid_job()

    def _hurry(self, _signum: int, _frame: FrameType | None) -> None:
        """The job under way is long, and answers wait behind it."""
        if self._may_hurry:
            self._publish_amid_job()

    def _publish_amid_job(self) -> None:
        self._may_hurry = False
        try:
            with HeldSignals():  # handlers of the job's own may raise, and would leave a message half sent
                self._publish()
        finally:
            self._may_hurry = True

    def _publish(self) -> None:
        if self._answers:
            self._end.send(self._answers)
            self._answers = []
        self._published = time.monotonic()


class _Desk:
    """Runs the jobs of one topic; also their `Host` (see `lifecycle`): a retry is the broker's to make."""

    events = 0

    def __init__(self, topic: TopicConfig, payloads: Payloads, mark: Mark) -> None:
        self.worker = topic_worker(topic)
        self.worker._host = self
        self.pid = os.getpid()
        self._topic = topic
        self._payloads = payloads
        self._mark = mark
        self._result: bytes | None = None
        self._tried: Callable[[Answer], None]
        self._first_run = 0.0
        self.worker.setup()

    def run(self, task: Task, tried: Callable[[Answer], None]) -> Answer:
        began = time.perf_counter()
        self._tried = tried
        with at_job(task.id, task.topic):
            answer = self._run(task)
        return answer._replace(seconds=time.perf_counter() - began)

    def _run(self, task: Task) -> Answer:
        self._first_run = first_run = task.first_run or time.time()
        self._result = None
        try:
            argument = self._payloads.decode(task.payload)
            changes = self._changes(task.changes)
            if isinstance(self.worker, CallWorker):
                self.worker.check(argument)
        except PayloadError as error:  # it is the same in each run
            _log.error("job %s of topic %s cannot be run: %s", task.id, task.topic, error)
            return Answer("failed", error=str(error), attempt=task.attempt)
        history = History(
            task.attempt, time.monotonic() - max(0.0, time.time() - first_run), task.idle_for, task.crashes
        )
        outcome = JobRun(self.worker, argument, task.id, history=history, changes=changes, host=self).run()
        if isinstance(outcome, Requeue):
            told = _told(outcome.response)
            _log.warning(
                "job %s: attempt %d failed, again in %.1f s: %s",
                task.id,
                self.worker.attempt,
                outcome.delay,
                told,
            )
            return Answer(
                "again",
                error=told,
                attempt=self.worker.attempt,
                delay=outcome.delay,
                idle_for=outcome.history.idle_for,
                first_run=first_run,
                changes=self._packed(outcome.changes),
            )
        if outcome.ok:
            return Answer("ok", result=self._result, attempt=self.worker.attempt)
        told = _told(outcome)
        _log.error("job %s failed: %s", task.id, told, exc_info=outcome.exception)
        kind = "canceled" if self.worker._canceled else "failed"
        return Answer(kind, result=self._failure(told), error=told, attempt=self.worker.attempt)

    def _failure(self, error: str) -> bytes | None:
        return self._payloads.encode({"ok": False, "error": error}) if self._topic.results else None

    # ── as their host ─────────────────────────────────────────────────────────────────────────────

    def relay(self, payload: dict[str, Any]) -> None:
        """Nobody in the consumer listens."""

    def seal(self, response: Response) -> Response:
        """Encode the result, so that SUCCESS is not said of a job whose result cannot be kept."""
        if self._topic.results and response.ok:
            try:
                self._result = self._payloads.encode({"ok": True, "body": response.body})
            except PayloadError as error:
                return JobResponse(exception=error)
        return response

    def attempting(self, number: int) -> None:
        """An attempt here, after an immediate retry; its time is its own."""
        self._mark.attempt()

    def pausing(self) -> None:
        """Before it."""
        worker = self.worker
        assert worker.response is not None
        told = _told(worker.response)
        # It counts the next attempt only when that begins.
        _log.warning("job %s: attempt %d failed, again here: %s", worker.job_id, worker.attempt, told)
        self._tried(Answer("tried", error=told, attempt=worker.attempt, first_run=self._first_run))
        self._mark.pause()

    def check_process(self) -> None:
        """End a copy of this worker that `process()` has forked."""
        if os.getpid() != self.pid:
            os._exit(0)

    def _changes(self, packed: str) -> dict[str, bytes | None] | None:
        if not packed:
            return None
        found: dict[str, bytes | None] = pickle.loads(self._payloads.verified(base64.b64decode(packed)))
        return found

    def _packed(self, changes: dict[str, bytes | None]) -> str:
        if not changes:
            return ""
        if not self._payloads.has_secret:
            _log.warning(
                "what JOB_RETRY's listeners changed on %s stays here: a pickle needs a secret to travel",
                type(self.worker).__name__,
            )
            return ""
        return base64.b64encode(self._payloads.signed(pickle.dumps(changes, protocol=5))).decode()


def _told(response: Response) -> str:
    error = response.exception
    if error is None:
        return f"exit code {response.exit_code}"
    return _in_words(error)


def _in_words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as unspeakable:
        text = f"its text cannot be had: {type(unspeakable).__name__}"
    # File names that are no UTF-8 have surrogates, which cannot be written.
    words = f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()
    return words if len(words) <= _LONGEST_ERROR else f"{words[:_LONGEST_ERROR]}…"
