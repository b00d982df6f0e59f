"""What becomes of a job by what came of it: removed, run again, a dead letter, or given back."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from multiprocessing_kit.errors import JobTimeoutError
from multiprocessing_kit.retry import History
from multiprocessing_kit.service.channel import Answer
from multiprocessing_kit.service.crew import Done
from multiprocessing_kit.service.job import Delivery, Job, Outcome, Settlement
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.topic_config import TopicConfig

__all__ = ["Settling"]

_LONGEST_ERROR = 4000

_log = logging.getLogger("multiprocessing_kit.service")


class Settling:
    """Decides.

    Args:
        topics: That the consumer serves.
        payloads: Of the service.
    """

    def __init__(self, topics: list[TopicConfig], payloads: Payloads) -> None:
        self._topics = {topic.name: topic for topic in topics}
        self._payloads = payloads

    def of(self, done: Done) -> Settlement:
        """The settlement; the job in it is as it is to be kept."""
        topic = self._topics[done.delivery.job.topic]
        if done.answer is not None:
            return self._answered(topic, done.delivery, done.answer)
        if done.lost:
            return self._lost(topic, done)
        return Settlement(done.delivery, Outcome.RELEASE)

    def refused(self, settlement: Settlement, why: str) -> Settlement:
        """In place of one that the broker will not have: a dead letter, with nothing large in it."""
        delivery = settlement.delivery
        job = replace(delivery.job, history=[], changes="")
        job.failed("failed", f"the broker does not take what came of it: {why}"[:_LONGEST_ERROR])
        return self._dead(self._topics[job.topic], Delivery(job, delivery.token))

    def _answered(self, topic: TopicConfig, delivery: Delivery, answer: Answer) -> Settlement:
        job = delivery.job
        if answer.kind in ("ok", "canceled"):
            return Settlement(delivery, Outcome.ACK, answer.result, topic.results)
        job.attempt = answer.attempt
        job.failed("failed", answer.error)
        if answer.kind == "again":
            job.idle_for, job.first_run, job.changes = answer.idle_for, answer.first_run, answer.changes
            return _retry(delivery, answer.delay)
        return self._dead(topic, delivery, answer.result)

    def _lost(self, topic: TopicConfig, done: Done) -> Settlement:
        job = done.delivery.job
        history = _history(job)
        job.failed(done.lost, done.error)
        _log.warning(
            "job %s of topic %s: attempt %d: %s",
            job.id,
            job.topic,
            job.attempt - 1,
            done.error,
            extra={"job_id": job.id, "topic": job.topic},
        )
        if done.lost == "crashed":
            if job.crashes >= topic.retry.crashes:
                return self._dead(topic, done.delivery)
            return _retry(done.delivery, 0.0)
        error = JobTimeoutError(done.error, job_id=job.id)
        # The worker may have a strategy of its own, which died with it: the topic's counts.
        verdict = topic.retry.strategy().decide(error, history, (_process, None))
        if not verdict.again:
            return self._dead(topic, done.delivery)
        job.idle_for = history.idle_for
        return _retry(done.delivery, verdict.delay)

    def _dead(self, topic: TopicConfig, delivery: Delivery, result: bytes | None = None) -> Settlement:
        job = delivery.job
        error = job.history[-1].error if job.history else ""
        _log.error(
            "job %s of topic %s is a dead letter after %d attempts: %s",
            job.id,
            job.topic,
            job.attempt - 1,
            error,
            extra={"job_id": job.id, "topic": job.topic},
        )
        if result is None and topic.results:
            result = self._payloads.encode({"ok": False, "error": error})
        return Settlement(delivery, Outcome.DEAD, result, topic.results)


def _retry(delivery: Delivery, delay: float) -> Settlement:
    delivery.job.due = time.time() + delay if delay > 0 else 0.0
    return Settlement(delivery, Outcome.RETRY)


def _history(job: Job) -> History:
    started = time.monotonic() - max(0.0, time.time() - (job.first_run or time.time()))
    return History(job.attempt, started, job.idle_for, job.crashes)


def _process(argument: object) -> None:
    """Stands for the job's `process()` in tenacity's state."""
