"""Pushing jobs from any program."""

from __future__ import annotations

import math
import numbers
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from multiprocessing_kit.errors import BrokerUnavailableError, DuplicateJobError, JobError, ServiceError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.job import HIGHEST_PRIORITY, LATEST, LONGEST_DELAY, Backlog, Job
from multiprocessing_kit.service.payloads import Payloads

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Client", "JobId"]

_ID_BYTES = 12
_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.25


class JobId(str):
    """The id of a pushed job: a text that can also wait for the job's result."""

    __slots__ = ("_client",)
    _client: Client

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the job's end.

        Its topic must keep results (`results = SECONDS` in the configuration).

        Args:
            timeout: Seconds; None for any time.

        Returns:
            What `process()` returned.

        Raises:
            JobError: The job failed for good; it says why.
            TimeoutError: There is no result yet; or the topic keeps none.
            BrokerUnavailableError: The broker could not be reached when the time was over.
        """
        return self._client.wait(self, timeout)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """A copy is a plain text: the connection to wait with stays here."""
        return str, (str(self),)


class Client:
    """Pushes jobs to the topics of a service. Threads that share one take turns; forked children may use it.

    Args:
        broker: The URL in the service's configuration.
        service: The service's name.
        encoding: Of the arguments: "json", "msgpack", or "pickle", which needs the secret.
        secret: The service's.
        topics: All that there are; None if that is not known here: then jobs of a misspelt one wait for ever.

    Raises:
        ServiceConfigError: One of them makes no sense.
    """

    def __init__(
        self,
        broker: str,
        service: str = "default",
        *,
        encoding: str = "json",
        secret: str = "",
        topics: Collection[str] | None = None,
    ) -> None:
        self._topics = topics
        self._payloads = Payloads(encoding, secret)
        self._broker: Broker = open_broker(broker, service)
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def push(
        self,
        topic: str,
        argument: Any = None,
        *,
        delay: float = 0.0,
        at: float | None = None,
        priority: int = 0,
        id: str | None = None,
    ) -> JobId:
        """Add a job; it is safe in the broker when this returns.

        Args:
            topic: Whose.
            argument: What `process()` gets.
            delay: Seconds before which it does not run.
            at: Or the instant, by `time.time()`.
            priority: From -100 to 100; higher first.
            id: A name of the caller's own, refused while a job of the service, of whatever topic, has it that
                is not done.

        Returns:
            Its id.

        Raises:
            ServiceError: There is no such topic, or one of the others makes no sense.
            DuplicateJobError: A job of this id waits, runs, or is a dead letter.
            PayloadError: The argument cannot be written in this encoding.
            BrokerUnavailableError: The broker cannot be reached; whether the job was added is not known.
        """
        self._check(topic)
        rank, due = _rank(priority), _due(delay, at)
        if id is not None and not (isinstance(id, str) and 0 < len(id) <= 200 and id.isprintable()):
            raise ServiceError(f"id {id!r:.100} is not a text of 1 to 200 characters that can be printed")
        job_id = secrets.token_hex(_ID_BYTES) if id is None else id
        payload = self._payloads.encode(argument)
        job = Job(job_id, topic, payload, rank, due, is_unique=id is not None)
        with self._turn:
            (added,) = self._broker.push([job])
        if not added:
            raise DuplicateJobError(f"this service has a job {job_id!r} that is not done", job_id=job_id)
        return self._id(job_id)

    def push_many(
        self,
        topic: str,
        arguments: Iterable[Any],
        *,
        delay: float = 0.0,
        at: float | None = None,
        priority: int = 0,
    ) -> list[JobId]:
        """Add a job for each argument, in one go; see `push`."""
        self._check(topic)
        rank, due = _rank(priority), _due(delay, at)
        payloads = [self._payloads.encode(argument) for argument in arguments]  # all, before one is sent
        call = secrets.token_hex(_ID_BYTES)  # once: for each it would cost as much as the rest
        ids = [f"{call}{number:06x}" for number in range(len(payloads))]
        with self._turn:
            self._broker.push(
                Job(job_id, topic, payload, rank, due) for job_id, payload in zip(ids, payloads, strict=True)
            )
        return [self._id(job_id) for job_id in ids]

    def wait(self, job_id: str, timeout: float | None = None) -> Any:
        """Wait for a job's end; see `JobId.wait`."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            away = None
            try:
                with self._turn:
                    result = self._broker.result(job_id)
                if result is not None:
                    break
            except BrokerUnavailableError as error:
                away = error
            left = _LONGEST_LOOK if until is None else until - time.monotonic()
            if left <= 0:
                if away is not None:
                    raise away
                raise TimeoutError(
                    f"job {job_id} has no result after {timeout:g} s: it waits, runs or is to be retried; "
                    "or its topic keeps no results"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK)
        found = self._payloads.decode(result)
        if not found["ok"]:
            raise JobError(f"job {job_id} failed: {found['error']}", job_id=job_id)
        return found["body"]

    def backlog(self, topic: str) -> Backlog:
        """How many jobs a topic has.

        Raises:
            ServiceError: There is no such topic.
            BrokerUnavailableError: The broker cannot be reached.
        """
        self._check(topic)
        with self._turn:
            return self._broker.backlog(topic)

    def close(self) -> None:
        """Close the connection."""
        with self._turn:
            self._broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _turn(self) -> threading.Lock:
        if self._pid != os.getpid():  # another thread may have been inside when this process was forked
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock

    def _check(self, topic: str) -> None:
        if not topic or not isinstance(topic, str) or not topic.isprintable():
            raise ServiceError(f"topic {topic!r:.100} is no name")
        if self._topics is not None and topic not in self._topics:
            raise ServiceError(f"there is no topic {topic!r:.100}; there are {', '.join(self._topics)}")

    def _id(self, job_id: str) -> JobId:
        made = JobId(job_id)
        made._client = self
        return made


def _rank(priority: int) -> int:
    if not isinstance(priority, numbers.Integral) or not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise ServiceError(
            f"priority {priority!r} is no whole number from {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
        )
    return int(priority)


def _due(delay: float, at: float | None) -> float:
    """When a job is due."""
    if at is not None:
        if not isinstance(at, numbers.Real) or not 0 <= at <= LATEST:
            raise ServiceError(f"at {at!r} is no instant in seconds since 1970, as time.time() gives them")
        if delay:
            raise ServiceError("delay and at are two ways of saying the same: one of them must go")
        return float(at)
    if not isinstance(delay, numbers.Real) or not -math.inf < delay <= LONGEST_DELAY:
        raise ServiceError(f"delay {delay!r} is no number of seconds up to {LONGEST_DELAY:.0f}")
    return time.time() + float(delay) if delay > 0 else 0.0
