"""What a user allows jobs and children."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

__all__ = ["Limits"]

_JITTER = 0.1


@dataclass(frozen=True)
class Limits:
    """None is no limit.

    Attributes:
        crash_retries: How often a job is run again after a child died of it.
        timeout: Seconds for each attempt of a job.
        tasks: Jobs in the life of a child.
        memory: Bytes of a child's own memory: beyond them it is replaced between two jobs.
    """

    crash_retries: int = 0
    timeout: float | None = None
    tasks: int | None = None
    memory: int | None = None

    @property
    def memory_killed(self) -> int | None:
        """Bytes beyond which a child is killed in the midst of a job."""
        return None if self.memory is None else 2 * self.memory

    @property
    def least_quota(self) -> int:
        """Jobs that any child may have."""
        return sys.maxsize if self.tasks is None else self.tasks - int(self.tasks * _JITTER)

    def quota(self) -> int:
        """Jobs for one child: up to a tenth fewer than `tasks`, so that not all are replaced at once."""
        return sys.maxsize if self.tasks is None else random.randint(self.least_quota, self.tasks)
