"""The contract of all brokers.

    push ──▶ ready ◀──due── delayed ◀─────────── retry(delay)
               │  ▲                                 ▲
            reserve└── release, or the lease ran out │
               ▼                                    │
             held by a consumer, under a lease ──settle──▶ ack: gone (its result kept, if wanted)
                                                    └────▶ dead letters ──dead_retry──▶ ready

A job is in one of these places at any instant, whoever is killed. A consumer holds its jobs as long as it
calls `extend` in time; what it settles after its lease ran out is fenced off: it has no effect, and is told.

Every method may raise `BrokerUnavailableError`: the broker cannot be reached or does not answer just now,
and the call may or may not have had its effect. Calling again is always safe: a push with the same ids is
refused as a duplicate or has no second effect, and a settlement has one effect. The next call connects anew.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from multiprocessing_kit.service.job import Backlog, DeadJob, Delivery, Job, Outcome, Settlement

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Broker"]


class Broker(ABC):
    """Holds the jobs of one service's topics. Not for several threads or both sides of a fork at once.

    Args:
        service: The service's name; jobs of services with other names are apart from these.
    """

    def __init__(self, service: str) -> None:
        self.service = service

    # ── for everybody ─────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def push(self, jobs: Iterable[Job]) -> list[bool]:
        """Add jobs; all are safe when it returns.

        Returns:
            Of each whether it was added; False for a unique id that is refused.
        """

    @abstractmethod
    def backlog(self, topic: str) -> Backlog:
        """Count a topic's jobs."""

    @abstractmethod
    def purge(self, topic: str) -> int:
        """Drop the ready and delayed jobs of a topic; returns how many."""

    @abstractmethod
    def result(self, job_id: str) -> bytes | None:
        """The kept result of a job; None while there is none."""

    @abstractmethod
    def dead_letters(self, topic: str, limit: int) -> list[DeadJob]:
        """The oldest dead letters of a topic, `limit` at most."""

    @abstractmethod
    def dead_retry(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """Make dead letters ready again, as if they had never run, but with their history; all for None.

        Returns:
            How many there were.
        """

    @abstractmethod
    def dead_purge(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """Drop dead letters; all for None. Returns how many there were."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Jobs that are still held are released where the broker can be reached."""

    # ── for a consumer ────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def join(self, consumer: str, topics: Sequence[str], lease: float) -> None:
        """Become a consumer. Jobs that one of this name holds are released: it is dead.

        Args:
            consumer: Unique among living consumers.
            topics: Whose jobs it takes.
            lease: Seconds without `extend` after which its jobs are others'.
        """

    @abstractmethod
    def reserve(self, limit: int, topics: Sequence[str] | None = None) -> list[Delivery]:
        """Take ready jobs, without waiting: by topic, then priority, then age.

        A delayed one counts as ready from its `due` on, at the place of its push.

        Args:
            limit: Jobs at most.
            topics: Of those that it has joined for, to take from, in this order; all as given there for None.
        """

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Say what becomes of held jobs, all in one go.

        Returns:
            Those that were fenced off: this consumer's lease of them was over.
        """

    @abstractmethod
    def extend(self) -> None:
        """Say that this consumer lives. To be called at least three times within a lease.

        It also looks for consumers whose lease is over, and releases what they hold.
        """

    def detach(self) -> None:  # noqa: B027  # most need nothing
        """Before this process forks: give up what must not be open on both sides; the next call connects."""

    def fileno(self) -> int | None:
        """Readable when `reserve` may have something; None where there is no such descriptor.

        It may change with each call of another method.
        """
        return None

    @abstractmethod
    def idle(self) -> float:
        """Seconds after which to `reserve` again though the descriptor stayed silent."""

    # ── in other words ────────────────────────────────────────────────────────────────────────────

    def ack(self, delivery: Delivery, result: bytes | None = None, keep: float = 0.0) -> bool:
        """The job is done. Returns False if it was fenced off, as the following do."""
        return not self.settle([Settlement(delivery, Outcome.ACK, result, keep)])

    def retry(self, delivery: Delivery, delay: float = 0.0) -> bool:
        """The job runs again after `delay` seconds, with its attempts and history as in `delivery`."""
        delivery.job.due = time.time() + delay if delay > 0 else 0.0
        return not self.settle([Settlement(delivery, Outcome.RETRY)])

    def release(self, delivery: Delivery) -> bool:
        """The job was not run."""
        return not self.settle([Settlement(delivery, Outcome.RELEASE)])

    def dead(self, delivery: Delivery) -> bool:
        """The job has failed for good."""
        return not self.settle([Settlement(delivery, Outcome.DEAD)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
