"""In which order a consumer asks for the jobs of its topics."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

from multiprocessing_kit.service.job import Delivery
from multiprocessing_kit.service.topic_config import TopicConfig

__all__ = ["TopicOrder"]


class TopicOrder:
    """By priority; of equal ones, who was served last comes last.

    Asked always in the same order, a topic that never gets empty would keep all behind it waiting for ever.

    Args:
        topics: With the highest priority first.
    """

    def __init__(self, topics: Iterable[TopicConfig]) -> None:
        groups = itertools.groupby(topics, lambda topic: topic.priority)
        self._equals = [[topic.name for topic in group] for _, group in groups]

    def names(self, paused: Collection[str]) -> list[str]:
        """Of all that are not paused, as `Broker.reserve` takes them."""
        return [name for equals in self._equals for name in equals if name not in paused]

    def served(self, deliveries: Sequence[Delivery]) -> None:
        """These came of it."""
        served = {delivery.job.topic for delivery in deliveries}
        for equals in self._equals:
            equals.sort(key=lambda name: name in served)  # which leaves the others as they are
