"""Unique ids on a RabbitMQ server, which can find nothing by its content, but queues by their
keys.

An id is taken as long as the exchange `:ids` leads somewhere by its key. Who changes that has the id's lock,
an exclusive queue, which the server removes with the connection of its owner: pushing is finding it free,
publishing, taking it; a job's end is freeing it, and then acknowledging the job. A kill between two of them
may let a second job of this id in; it never leaves an id taken that has no job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from pika.exceptions import ChannelClosedByBroker

from multiprocessing_kit.service.brokers.rabbitmq.names import LONGEST_MS
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter
from multiprocessing_kit.service.brokers.rabbitmq.results import Results
from multiprocessing_kit.service.brokers.rabbitmq.session import LOCKED, Session
from multiprocessing_kit.service.job import Job

__all__ = ["free", "push_unique"]

_LOCK_SECONDS = 4.0
_LOOK_AGAIN = 0.01


def push_unique(session: Session, results: Results, job: Job, letter: Letter) -> bool:
    """Publish a job unless its id is taken; returns whether it was."""
    ids, key = session.names.ids, session.names.lock(job.id)
    session.declare_indexes()
    with _locked(session, job.id):
        if session.is_bound(ids, key):
            return False
        results.forget(session, job)
        session.send([(job.topic, letter)])
        session.control.call("queue_bind", queue=ids, exchange=ids, routing_key=key)
    return True


def free(session: Session, job: Job) -> None:
    """Let others have the id, at once, or when its hold is over."""
    ids, key = session.names.ids, session.names.lock(job.id)
    session.declare_indexes()
    rest = job.pushed + job.hold - time.time()
    with _locked(session, job.id):
        if rest > 0:
            held = session.names.held(job.id)
            session.declare(held, {"x-max-length": 1, "x-expires": _milliseconds(rest)})
            session.control.call("queue_bind", queue=held, exchange=ids, routing_key=key)
        session.control.call("queue_unbind", queue=ids, exchange=ids, routing_key=key)


@contextlib.contextmanager
def _locked(session: Session, job_id: str) -> Iterator[None]:
    lock = session.names.lock(job_id)
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            session.control.call("queue_declare", queue=lock, exclusive=True)
            break
        except ChannelClosedByBroker as error:
            if error.reply_code != LOCKED:
                raise
            if time.monotonic() > until:
                raise TimeoutError(f"somebody else is at the id {job_id!r}, for too long") from error
            session.wire.pump(_LOOK_AGAIN)
    try:
        yield
    finally:
        if session.wire.is_usable:
            session.control.call("queue_delete", queue=lock)


def _milliseconds(seconds: float) -> int:
    return max(1, min(int(seconds * 1000), LONGEST_MS))
