"""Our own ways to map, opened and ended as the peers' are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.peers import CHILDREN, Map
from multiprocessing_kit import JobEvent, Process

__all__ = ["bodies", "imap", "listened", "process"]


@contextlib.contextmanager
def process(**options: Any) -> Iterator[Map]:
    """`Process.map`, which gives responses."""
    with Process(CHILDREN, **options) as made:
        yield made.map


@contextlib.contextmanager
def bodies(**options: Any) -> Iterator[Map]:
    """The same with the value of each response, which is what the peers give."""
    with Process(CHILDREN, **options) as made:
        yield lambda function, inputs: [response.body for response in made.map(function, inputs)]


@contextlib.contextmanager
def imap() -> Iterator[Map]:
    """`Process.imap`."""
    with Process(CHILDREN) as made:
        yield made.imap


@contextlib.contextmanager
def listened() -> Iterator[Map]:
    """`Process.map` while the caller hears of every success."""
    with Process(CHILDREN) as made:
        made.on(JobEvent.JOB_SUCCESS, _ignore)
        yield made.map


def _ignore(_process: object) -> None:
    pass
