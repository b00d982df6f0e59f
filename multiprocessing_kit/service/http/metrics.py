"""Numbers for Prometheus, in its text format.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.http.connections import Guard
from multiprocessing_kit.service.job import Backlog, Outcome
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.stats import read_stats

__all__ = ["Metrics"]

_STALE_SECONDS = 30.0
"""After which what a consumer has written is of one that was killed."""

_TOTALS = (
    ("mpkit_jobs_done_total", Outcome.ACK, "Jobs done, since the consumer started."),
    ("mpkit_jobs_retried_total", Outcome.RETRY, "Failed attempts that are followed by another one."),
    ("mpkit_jobs_dead_total", Outcome.DEAD, "Jobs that became dead letters."),
)

Sample = tuple[Mapping[str, str], float]


class Metrics:
    """Of one service, on this host where they are not the broker's.

    Args:
        config: Of the service.
        guard: Of the HTTP connections.
    """

    def __init__(self, config: ServiceConfig, guard: Guard) -> None:
        self._config = config
        self._guard = guard
        self._paths = Paths(config)

    def text(self, backlogs: Mapping[str, Backlog] | None) -> str:
        """All of them; None for the backlogs of a broker that is away, or declines."""
        lines: list[str] = []
        lines += _family(
            "mpkit_broker_up", "gauge", "Whether the broker answers.", [({}, backlogs is not None)]
        )
        lines += self._of_broker(backlogs or {})
        lines += self._of_consumers()
        lines += self._of_http()
        return "\n".join(lines) + "\n"

    def _of_broker(self, backlogs: Mapping[str, Backlog]) -> list[str]:
        jobs: list[Sample] = []
        oldest: list[Sample] = []
        for topic, backlog in backlogs.items():
            for state in ("ready", "delayed", "running", "dead"):
                count = getattr(backlog, state)
                if count is not None:
                    jobs.append(({"topic": topic, "state": state}, count))
            if backlog.oldest is not None:
                oldest.append(({"topic": topic}, backlog.oldest))
        return [
            *_family("mpkit_jobs", "gauge", "Jobs in the broker, by state.", jobs),
            *_family("mpkit_oldest_job_seconds", "gauge", "Age of the job that waits longest.", oldest),
        ]

    def _of_consumers(self) -> list[str]:
        totals: dict[str, list[Sample]] = {name: [] for name, _, _ in _TOTALS}
        up: list[Sample] = []
        workers: list[Sample] = []
        restarts: list[Sample] = []
        for crew in self._config.crews():
            stats = self._stats(crew)
            up.append(({"crew": crew}, stats is not None))
            if stats is None:
                continue
            for topic, counts in stats["topics"].items():
                for name, outcome, _ in _TOTALS:
                    totals[name].append(({"topic": topic}, counts[outcome]))
            states = Counter(worker["state"] for worker in stats["workers"])
            workers += [({"crew": crew, "state": state}, count) for state, count in sorted(states.items())]
            restarts.append(({"crew": crew}, sum(worker["restarts"] for worker in stats["workers"])))
        return [
            *(line for name, _, text in _TOTALS for line in _family(name, "counter", text, totals[name])),
            *_family("mpkit_consumer_up", "gauge", "Whether a consumer runs on this host.", up),
            *_family("mpkit_workers", "gauge", "Workers on this host, by state.", workers),
            *_family(
                "mpkit_worker_restarts",
                "gauge",
                "Starts after the first, of the workers there are.",
                restarts,
            ),
        ]

    def _stats(self, crew: str) -> dict[str, Any] | None:
        stats = read_stats(self._paths.stats(crew))
        return None if stats is None or time.time() - stats["written"] > _STALE_SECONDS else stats

    def _of_http(self) -> list[str]:
        guard = self._guard
        return [
            *_family("mpkit_http_connections", "gauge", "Open HTTP connections.", [({}, len(guard))]),
            *_family(
                "mpkit_http_dropped_total",
                "counter",
                "HTTP connections closed as silent or slow, or refused for there were too many.",
                [({"why": "silent"}, guard.dropped), ({"why": "full"}, guard.refused)],
            ),
        ]


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    return lines + [f"{name}{_labels(labels)} {float(value):.15g}" for labels, value in samples]


def _labels(labels: Mapping[str, str]) -> str:
    """Names of topics and such have no character that would have to be escaped."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
