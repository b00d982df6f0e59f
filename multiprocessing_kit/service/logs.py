"""Log lines that tell which job they are about; written by the master alone, as text or as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone

__all__ = ["JsonFormatter", "TextFormatter", "at_job", "mark_records"]

_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"


class _Now:
    """What this process does. Not a context variable: threads that a job starts are about it as well."""

    job: tuple[str, str] = ("", "")


@contextlib.contextmanager
def at_job(job_id: str, topic: str) -> Iterator[None]:
    """What is logged inside, by whatever thread of this process, is about this job."""
    before, _Now.job = _Now.job, (job_id, topic)
    try:
        yield
    finally:
        _Now.job = before


def mark_records() -> None:
    """In a worker: from now on each record that is sent to the master tells its job and topic."""
    for handler in logging.getLogger().handlers:
        if _mark not in handler.filters:
            handler.addFilter(_mark)


def _mark(record: logging.LogRecord) -> bool:
    """By a filter, and not by a record factory: `extra={"topic": …}` of the user's would be refused then."""
    record.mpkit_job = _Now.job
    return True


def _job_of(record: logging.LogRecord) -> tuple[str, str]:
    """Id and topic: of the worker's job, or as somebody said who logs about a job of others."""
    job_id, topic = getattr(record, "mpkit_job", None) or ("", "")
    if not job_id:
        job_id, topic = getattr(record, "job_id", ""), getattr(record, "topic", "")
    return str(job_id), str(topic)


class TextFormatter(logging.Formatter):
    """A line for people: topic and job after the process, where there are any."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        about = " ".join(filter(None, reversed(_job_of(record))))
        if not about:
            return super().format(record)
        if not about.isprintable():  # an id is anybody's: it must not look like another line
            about = about.encode("unicode_escape").decode()
        before = record.name
        record.name = f"{before} [{about}]"
        try:
            return super().format(record)
        finally:
            record.name = before


class JsonFormatter(logging.Formatter):
    """A line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        job_id, topic = _job_of(record)
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": record.processName,
            "pid": record.process,
            "logger": record.name,
            "topic": topic or None,
            "job": job_id or None,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["traceback"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        told = {name: _whole(value) for name, value in fields.items() if value is not None}
        return json.dumps(told, default=str)


def _whole(value: object) -> object:
    """Without half characters, as in the name of a file that is no text: many readers of JSON refuse them."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
