"""Jobs that lie in a queue, looked at one after the other: its dead letters, or what is to be purged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from multiprocessing_kit.service.brokers.rabbitmq import ids
from multiprocessing_kit.service.brokers.rabbitmq.names import mark_of, new_mark
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter
from multiprocessing_kit.service.brokers.rabbitmq.results import Results
from multiprocessing_kit.service.brokers.rabbitmq.session import Message, Session
from multiprocessing_kit.service.job import DeadJob, Event, Job

__all__ = ["Lying"]


class Lying:
    """The jobs of a queue.

    Args:
        session: That it is looked at by.
        topic: Whose they are.
        queue: That is there.
    """

    def __init__(self, session: Session, topic: str, queue: str) -> None:
        self._session = session
        self._topic = topic
        self._queue = queue

    def list(self, limit: int) -> list[DeadJob]:
        """The oldest. What was looked at lies behind what was not, so all must be."""
        with self._session.looking(self._queue) as messages:
            oldest = heapq.nsmallest(limit, messages, key=_died)
        return [DeadJob(self._job(message)[0], _died(message)) for message in oldest]

    def retry(self, job_ids: Sequence[str] | None, results: Results) -> int:
        """Publish them as if they had never run, and had no results. What is no job stays."""
        count = 0
        with self._session.looking(self._queue) as messages:
            for message, job, is_whole in self._found(messages, job_ids):
                if not is_whole:
                    continue
                job.begin_anew()
                results.forget(self._session, job)
                letter = Letter("", self._session.names.of(job, 0.0), job.encode(), new_mark(job))
                self._session.send([(job.topic, letter)])
                message.drop()
                count += 1
        return count

    def purge(self, job_ids: Sequence[str] | None) -> int:
        """Remove them."""
        count = 0
        with self._session.looking(self._queue) as messages:
            for message, job, _ in self._found(messages, job_ids):
                if job.is_unique:
                    ids.free(self._session, job)
                message.drop()
                count += 1
        return count

    def _found(
        self, messages: Iterator[Message], job_ids: Sequence[str] | None
    ) -> Iterator[tuple[Message, Job, bool]]:
        left = None if job_ids is None else set(job_ids)
        for message in messages:
            job, is_whole = self._job(message)
            if left is None or job.id in left:
                yield message, job, is_whole
                if left is not None:
                    left.discard(job.id)
                    if not left:
                        return

    def _job(self, message: Message) -> tuple[Job, bool]:
        """And whether it is one; what is none is shown as one that has failed."""
        try:
            job = Job.decode(message.body)
            _ = mark_of(job), self._session.names.of(job, 0.0)
            return job, True
        except (ValueError, OverflowError) as error:
            died = _died(message)
            name = message.mark.partition("-")[2] or blake2b(message.body, digest_size=12).hexdigest()
            history = [Event(died, 1, "unreadable", str(error))]
            return Job(name, self._topic, message.body, pushed=died, history=history), False


def _died(message: Message) -> float:
    return float(message.headers.get("died", 0.0))
