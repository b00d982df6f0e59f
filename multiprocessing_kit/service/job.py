"""A job as it lies in a broker, and what is known of a topic's jobs.

    record = one line of JSON (the head) ⏎ payload

The head is what the service knows of the job: where it belongs, its attempts and their history. The payload
is the caller's, encoded (see `payloads`); brokers and the service itself never look into it.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as _text
from typing import Any

__all__ = [
    "HIGHEST_PRIORITY",
    "LATEST",
    "LONGEST_DELAY",
    "Backlog",
    "DeadJob",
    "Delivery",
    "Event",
    "Job",
    "Outcome",
    "Settlement",
]

HIGHEST_PRIORITY = 100
"""Priorities go from minus this to this."""

LONGEST_DELAY = 10 * 366 * 86400.0
"""Seconds."""

LATEST = 1e11
"""By `time.time()`; a number above it is likely meant as milliseconds."""

_head = json.JSONDecoder().decode

_MOST_EVENTS = 20
"""Failures that a job remembers: the first, and the latest."""


@dataclass(frozen=True)
class Event:
    """One failed attempt.

    Attributes:
        at: When it ended, by `time.time()`.
        attempt: Which it was, from 1.
        kind: "failed", "crashed" or "timeout"; "unreadable" of what is no job.
        error: What went wrong, in words.
    """

    at: float
    attempt: int
    kind: str
    error: str


@dataclass
class Job:
    """One job of a topic.

    Attributes:
        id: Unique.
        topic: Whose it is.
        payload: The argument, encoded.
        priority: From -100 to 100; higher first.
        due: When it may run, by `time.time()`; 0.0 at once.
        pushed: When it was pushed.
        attempt: The next attempt, from 1.
        crashes: Attempts that ended with their worker.
        idle_for: Seconds waited between attempts so far.
        first_run: When the first attempt began; 0.0 before.
        history: Of its failed attempts.
        changes: What JOB_RETRY listeners changed on the worker, signed; "" for nothing.
        is_unique: Its id was given by the caller: refused while another job has it.
        hold: Seconds from the push in which a unique id is refused also after the job is done.
    """

    id: str
    topic: str
    payload: bytes
    priority: int = 0
    due: float = 0.0
    pushed: float = field(default_factory=time.time)
    attempt: int = 1
    crashes: int = 0
    idle_for: float = 0.0
    first_run: float = 0.0
    history: list[Event] = field(default_factory=list)
    changes: str = ""
    is_unique: bool = False
    hold: float = 0.0

    def failed(self, kind: str, error: str) -> None:
        """Note that this attempt failed; the next one is counted."""
        self.history.append(Event(time.time(), self.attempt, kind, error))
        if len(self.history) > _MOST_EVENTS:
            del self.history[1]
        self.attempt += 1
        self.crashes += kind == "crashed"

    def begin_anew(self) -> None:
        """Be as when it was pushed, but with the history: a dead letter that is to run again."""
        self.attempt, self.crashes, self.idle_for, self.due = 1, 0, 0.0, 0.0
        self.first_run, self.changes = 0.0, ""

    def encode(self) -> bytes:
        """As a record."""
        if not (
            self.priority or self.due or self.is_unique or self.history or self.changes or self.attempt > 1
        ):
            # As most are when they are pushed; it takes a fifth of the time.
            head_line = f'{{"id":{_text(self.id)},"topic":{_text(self.topic)},"pushed":{self.pushed!r}}}\n'
            return head_line.encode() + self.payload
        head: dict[str, Any] = {"id": self.id, "topic": self.topic, "pushed": self.pushed}
        if self.priority:
            head["priority"] = self.priority
        if self.due:
            head["due"] = self.due
        if self.is_unique:
            head["unique"], head["hold"] = True, self.hold
        if self.attempt > 1 or self.history:  # a dead letter that is retried begins anew, with its history
            head["attempt"], head["crashes"] = self.attempt, self.crashes
            head["idle"], head["first"] = self.idle_for, self.first_run
            head["history"] = [[event.at, event.attempt, event.kind, event.error] for event in self.history]
        if self.changes:
            head["changes"] = self.changes
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.payload

    @classmethod
    def decode(cls, record: bytes) -> Job:
        """From `encode`.

        Raises:
            ValueError: It is no record.
        """
        line, newline, payload = record.partition(b"\n")
        if not newline:
            raise ValueError(f"not a job's record: {record!r:.100}")
        try:
            head = _head(line.decode())
            if len(head) == 3:  # as most are
                job = cls(head["id"], head["topic"], payload, pushed=head["pushed"])
                if not (type(job.id) is type(job.topic) is str and type(job.pushed) is float):
                    raise TypeError("wrong types")
                return job
            job = cls(
                head["id"],
                head["topic"],
                payload,
                head.get("priority", 0),
                head.get("due", 0.0),
                head["pushed"],
                head.get("attempt", 1),
                head.get("crashes", 0),
                head.get("idle", 0.0),
                head.get("first", 0.0),
                [Event(*event) for event in head.get("history", ())],
                head.get("changes", ""),
                head.get("unique", False),
                head.get("hold", 0.0),
            )
            job._check_types()
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"not a job's record: {line!r:.200}") from error
        return job

    def _check_types(self) -> None:
        """What others write into a broker may be no number where one is needed."""
        texts = (self.id, self.topic, self.changes)
        whole = (self.priority, self.attempt, self.crashes)
        times = (self.due, self.pushed, self.idle_for, self.first_run, self.hold)
        if not (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in whole)
            and all(isinstance(seconds, (int, float)) and math.isfinite(seconds) for seconds in times)
        ):
            raise TypeError("wrong types")


@dataclass(eq=False)
class Delivery:
    """A job that a broker has given to this consumer, until it is settled.

    Attributes:
        job: The job.
        token: The broker's own mark of it.
    """

    job: Job
    token: Any = None


class Outcome:
    """What becomes of a delivered job."""

    ACK = "ack"
    """It is done, and is removed."""

    RETRY = "retry"
    """It runs again, not before its `due`; behind those of its priority that wait."""

    RELEASE = "release"
    """It was not run: back to the front, as if it had never been taken."""

    DEAD = "dead"
    """It has failed for good, and is kept among the dead letters."""


@dataclass
class Settlement:
    """What a consumer says of one delivery.

    Attributes:
        delivery: Of which job; for RETRY and DEAD with its job as it is now to be kept.
        outcome: One of `Outcome`.
        result: The encoded result to keep for who waits for it; None for none.
        keep: Seconds that the result is kept.
    """

    delivery: Delivery
    outcome: str
    result: bytes | None = None
    keep: float = 0.0


@dataclass(frozen=True)
class Backlog:
    """A topic's jobs, counted.

    Attributes:
        ready: May run now.
        delayed: May run later.
        running: Given to consumers, on all hosts; None where the broker cannot tell.
        dead: Dead letters.
        oldest: Seconds that the longest waiting ready job has been waiting; None where the broker cannot
        tell.
    """

    ready: int
    delayed: int
    running: int | None
    dead: int
    oldest: float | None


@dataclass(frozen=True)
class DeadJob:
    """A dead letter.

    Attributes:
        job: With its history.
        died: When, by `time.time()`.
    """

    job: Job
    died: float
