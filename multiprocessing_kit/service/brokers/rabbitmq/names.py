"""What lies where on a RabbitMQ server, and how it is marked.

    mpkit.SERVICE.TOPIC          quorum queue   ready jobs of priority 0 and below
    mpkit.SERVICE.TOPIC.high     quorum queue   ready jobs of priority 1 and above
    mpkit.SERVICE.TOPIC.due      quorum queue   jobs that come from a delay queue: due, or to be delayed on
    mpkit.SERVICE.TOPIC.dead     quorum queue   dead letters
    mpkit.SERVICE.TOPIC.delay.MS quorum queues  jobs that wait; after MS milliseconds they go to `.due`
    mpkit.SERVICE.:hold.CONSUMER quorum queue   long jobs of a consumer (and a fanout exchange of this name)
    mpkit.SERVICE.:ids           queue          unique ids that are taken: each is a binding of it to …
    mpkit.SERVICE.:ids           exchange       … by the id's key
    mpkit.SERVICE.:held.KEY      queue          a unique id that is refused for some time after its job's end
    mpkit.SERVICE.:lock.KEY      queue          whoever has it changes this unique id; it ends with him
    mpkit.SERVICE.:results       stream         results of jobs

Names of services, topics and consumers are %-escaped in these, dots too; an id's key is the id or its digest.

Each message carries as message id its mark, the place in the order of pushes and the job's key: `PLACE-KEY`.
All copies of one message (delayed on, held longer, published again when no answer came) have the same mark;
what is published anew because the job changed has another. So a consumer can tell a job that it has, or has
done, from one that it may run.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any
from urllib.parse import quote

from multiprocessing_kit.service.job import Job

__all__ = ["LONGEST_MS", "Names", "delay", "key_of", "mark_of", "new_mark", "place_of", "quorum", "rung_of"]

_RUNGS: tuple[int, ...] = tuple(digit * 100 * 10**power for power in range(6) for digit in (1, 3))
"""Milliseconds of the delay queues, 0.1 s to 8 hours: few queues, and few of them one after another."""

_NO_LIMIT = 2**31 - 1

LONGEST_MS = 2**32 - 1
"""That a server takes."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Names:
    """Of one service.

    Args:
        service: Its name.
    """

    def __init__(self, service: str) -> None:
        self._prefix = f"mpkit.{_escaped(service)}."
        self.ids = f"{self._prefix}:ids"
        self.results = f"{self._prefix}:results"

    def low(self, topic: str) -> str:
        return self._prefix + _escaped(topic)

    def high(self, topic: str) -> str:
        return f"{self.low(topic)}.high"

    def due(self, topic: str) -> str:
        return f"{self.low(topic)}.due"

    def dead(self, topic: str) -> str:
        return f"{self.low(topic)}.dead"

    def delays(self, topic: str) -> list[tuple[str, int]]:
        """Each with its milliseconds."""
        return [(f"{self.low(topic)}.delay.{rung}", rung) for rung in _RUNGS]

    def taken_from(self, topic: str) -> list[str]:
        """Whence a consumer takes jobs."""
        return [self.high(topic), self.due(topic), self.low(topic)]

    def of(self, job: Job, now: float) -> str:
        """Where a job is put that is published now."""
        if job.due > now:
            return f"{self.low(job.topic)}.delay.{rung_of(job.due - now)}"
        return self.high(job.topic) if job.priority > 0 else self.low(job.topic)

    def hold(self, consumer: str) -> str:
        return f"{self._prefix}:hold.{_escaped(consumer)}"

    def held(self, job_id: str) -> str:
        return f"{self._prefix}:held.{key_of(job_id)}"

    def lock(self, job_id: str) -> str:
        return f"{self._prefix}:lock.{key_of(job_id)}"


def quorum(**more: Any) -> dict[str, Any]:
    """Arguments of a quorum queue: a job that comes back often is still nobody's to throw away.

    With a limit, what comes back is put before what never went out; without one, version 3 puts it to the
    back, and version 4 throws it away after 20 times.
    """
    return {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT, **more}


def delay(target: str, milliseconds: int) -> dict[str, Any]:
    """Arguments of a quorum queue from which messages go elsewhere, and none is lost on the way.

    Args:
        target: The queue to which they go; "" for that of their own routing key.
        milliseconds: After which.
    """
    arguments: dict[str, Any] = {
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    if target:
        arguments["x-dead-letter-routing-key"] = target
    return arguments


def rung_of(seconds: float) -> int:
    """Milliseconds of the delay queue for a job that is due in so long.

    The longest that does not end too late; of what ends too early the rest is delayed then. The shortest may
    end too late by its own length.
    """
    return next((rung for rung in reversed(_RUNGS) if rung <= seconds * 1000), _RUNGS[0])


def mark_of(job: Job) -> str:
    """Of a job as it was pushed."""
    return f"{int(job.pushed * 1e9):x}-{key_of(job.id)}"


def new_mark(job: Job) -> str:
    """Of a job that has changed, or has a new place in the order."""
    return f"{time.time_ns():x}-{key_of(job.id)}"


def place_of(mark: str) -> int:
    """Its place in the order; the first for what is no mark of ours."""
    try:
        return int(mark.partition("-")[0], 16)
    except ValueError:
        return 0


def key_of(job_id: str) -> str:
    """Short and plain."""
    if _PLAIN.fullmatch(job_id):
        return job_id
    return "." + hashlib.blake2b(job_id.encode(), digest_size=20).hexdigest()


def _escaped(name: str) -> str:
    escaped = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
    return escaped if len(escaped) <= 70 else key_of(name + "\n")
