"""Whether a worker that has ended is started again, and when.

A worker that lived for a healthy period is sound: it is replaced at once. One that ends sooner, again and
again, is given more and more time, so that a fault at its start costs no processor, and at last is given up.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from multiprocessing_kit.errors import describe_exit

__all__ = ["RECYCLED", "Outcome", "RespawnPolicy", "When"]

RECYCLED = 88
"""Exit status of a worker that has reached a limit of its age or memory, and wants a successor."""

_JITTER = 0.1


class When(str, enum.Enum):
    """Which ends of a worker are followed by a new one."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Outcome(enum.Enum):
    """What becomes of a worker's place."""

    AGAIN = "again"
    ENDED = "ended"
    FATAL = "fatal"


@dataclass(frozen=True)
class RespawnPolicy:
    """What follows on which end.

    Attributes:
        when: Which ends are followed by a new worker.
        normal: Exit statuses that are an orderly end.
        fatal: Exit statuses after which a worker is never started again.
        first: Seconds before the second start in a row; each further one takes twice as long. The first
            one in a row comes at once.
        longest: Seconds that it takes at most.
        healthy: Seconds after which a worker is sound, and its failures so far are forgotten.
        limit: Failures in a row after which it is given up; 0 for never.
    """

    when: When = When.ON_FAILURE
    normal: frozenset[int] = frozenset({0})
    fatal: frozenset[int] = frozenset()
    first: float = 1.0
    longest: float = 60.0
    healthy: float = 10.0
    limit: int = 10

    def is_normal(self, exitcode: int | None) -> bool:
        """Whether a worker that ended so has done what it should."""
        return exitcode in self.normal or exitcode == RECYCLED

    def outcome(self, exitcode: int | None, failures: int) -> tuple[Outcome, str]:
        """What follows.

        Args:
            exitcode: How the worker ended; None if nobody knows.
            failures: In a row, this one included.

        Returns:
            That, and the reason for it.
        """
        ended = describe_exit(exitcode)
        if exitcode in self.fatal:
            return Outcome.FATAL, f"it {ended}, which is a fatal exit code"
        if self.when is When.NEVER:
            return (Outcome.ENDED if self.is_normal(exitcode) else Outcome.FATAL), f"it {ended}"
        if self.is_normal(exitcode):
            again = self.when is When.ALWAYS or exitcode == RECYCLED
            return (Outcome.AGAIN if again else Outcome.ENDED), f"it {ended}"
        if self.limit and failures >= self.limit:
            return Outcome.FATAL, f"it failed {failures} times in a row, the last time it {ended}"
        return Outcome.AGAIN, f"it {ended}"

    def delay(self, failures: int, lived: float) -> float:
        """Seconds before the next start; after failures with jitter, so that not all start at once.

        Args:
            failures: In a row.
            lived: Seconds from the last start to its end.
        """
        if not failures:  # an orderly end; one that comes at once each time must not make a storm either
            return max(0.0, self.first - lived)
        if failures == 1:
            return 0.0
        seconds = min(self.first * 2.0 ** min(failures - 2, 60), self.longest)
        return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
