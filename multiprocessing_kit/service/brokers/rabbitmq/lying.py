"""Jobs that lie in a queue, looked at one after the other: its dead letters, or what is to be purged."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from multiprocessing_kit.service.brokers.rabbitmq import ids
from multiprocessing_kit.service.brokers.rabbitmq.names import new_mark
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter
from multiprocessing_kit.service.brokers.rabbitmq.results import Results
from multiprocessing_kit.service.brokers.rabbitmq.session import Message, Session
from multiprocessing_kit.service.job import DeadJob, Event, Job

__all__ = ["Lying"]


class Lying:
    """The jobs of a queue.

    Args:
        session: That it is looked at by.
        queue: That is there.
    """

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._queue = queue

    def list(self, limit: int) -> list[DeadJob]:
        """The oldest. What was looked at lies behind what was not, so all must be."""
        with self._session.looking(self._queue) as messages:
            oldest = heapq.nsmallest(limit, messages, key=_died)
        return [DeadJob(_job(message), _died(message)) for message in oldest]

    def retry(self, job_ids: Sequence[str] | None, results: Results) -> int:
        """Publish them as if they had never run, and had no results."""
        count = 0
        with self._session.looking(self._queue) as messages:
            for message, job in _found(messages, job_ids):
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
            for message, job in _found(messages, job_ids):
                if job.is_unique:
                    ids.free(self._session, job)
                message.drop()
                count += 1
        return count


def _found(messages: Iterator[Message], job_ids: Sequence[str] | None) -> Iterator[tuple[Message, Job]]:
    left = None if job_ids is None else set(job_ids)
    for message in messages:
        job = _job(message)
        if left is None or job.id in left:
            yield message, job
            if left is not None:
                left.discard(job.id)
                if not left:
                    return


def _died(message: Message) -> float:
    return float(message.headers.get("died", 0.0))


def _job(message: Message) -> Job:
    try:
        return Job.decode(message.body)
    except ValueError as error:
        return Job("?", "?", message.body, history=[Event(0.0, 0, "failed", str(error))])
