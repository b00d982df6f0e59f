"""What a consumer tells whoever asks for the service's status: a file, written anew every few seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections import Counter, deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

from multiprocessing_kit.service.crew import WorkerState
from multiprocessing_kit.service.job import Outcome, Settlement
from multiprocessing_kit.service.topic_config import TopicConfig

__all__ = ["Stats", "read_stats"]

_WINDOW_SECONDS = 60.0


class Stats:
    """Counts what came of jobs.

    Args:
        path: Of the file.
        topics: That are counted.
    """

    def __init__(self, path: Path, topics: list[TopicConfig]) -> None:
        self._path = path
        self._counts = {
            topic.name: dict.fromkeys((Outcome.ACK, Outcome.RETRY, Outcome.DEAD, Outcome.RELEASE), 0)
            for topic in topics
        }
        self._started = time.time()
        self._points: deque[tuple[float, dict[str, int]]] = deque()

    def count(self, settlement: Settlement) -> None:
        """One that had its effect."""
        self._counts[settlement.delivery.job.topic][settlement.outcome] += 1

    def write(
        self, workers: Collection[WorkerState], wanted: int, is_away: bool, held: Collection[str]
    ) -> None:
        """Replace the file; a reader sees the old one or the new one. `held` are the topics of jobs here."""
        now = time.monotonic()
        done = {name: counts[Outcome.ACK] for name, counts in self._counts.items()}
        self._points.append((now, done))
        while now - self._points[0][0] > _WINDOW_SECONDS:
            self._points.popleft()
        since, before = self._points[0]
        seconds = max(now - since, 1e-9)
        counted = Counter(held)
        data = {
            "pid": os.getpid(),
            "written": time.time(),
            "started": self._started,
            "broker_away": is_away,
            "wanted": wanted,
            "workers": [dataclasses.asdict(worker) for worker in workers],
            "topics": {
                name: {
                    **counts,
                    "rate": (done[name] - before[name]) / seconds if since < now else 0.0,
                    "held": counted[name],
                }
                for name, counts in self._counts.items()
            },
        }
        partial = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk hides the numbers, and is no reason to stop
            partial.write_text(json.dumps(data))
            os.replace(partial, self._path)

    def close(self) -> None:
        """Nobody serves here any more."""
        self._path.unlink(missing_ok=True)


def read_stats(path: Path) -> dict[str, Any] | None:
    """What the consumer has written; None if none runs."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
