"""Log lines that tell which job they are about; written by the master alone, as text or as JSON."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

__all__ = ["JsonFormatter", "TextFormatter", "at_job", "mark_records"]

_FORMAT = "%(asctime)s %(levelname)-7s %(processName)s[%(process)d] %(name)s: %(message)s"

_current: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("mpkit_job", default=("", ""))


@contextlib.contextmanager
def at_job(job_id: str, topic: str) -> Iterator[None]:
    """What is logged inside is about this job."""
    token = _current.set((job_id, topic))
    try:
        yield
    finally:
        _current.reset(token)


def mark_records() -> None:
    """In a worker: from now on each record has `job_id` and `topic`."""
    make = logging.getLogRecordFactory()

    def marked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.job_id, record.topic = _current.get()
        return record

    logging.setLogRecordFactory(marked)


class TextFormatter(logging.Formatter):
    """A line for people: topic and job after the process, where there are any."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        topic, job_id = getattr(record, "topic", ""), getattr(record, "job_id", "")
        if not job_id:
            return super().format(record)
        before = record.name
        record.name = f"{before} [{topic} {job_id}]"
        try:
            return super().format(record)
        finally:
            record.name = before


class JsonFormatter(logging.Formatter):
    """A line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": record.processName,
            "pid": record.process,
            "logger": record.name,
            "topic": getattr(record, "topic", "") or None,
            "job": getattr(record, "job_id", "") or None,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["traceback"] = record.exc_text
        return json.dumps({name: value for name, value in fields.items() if value is not None}, default=str)
