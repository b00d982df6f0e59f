"""What a contender's number should be, and whether it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AtMost", "Goal", "NoMoreThan", "NoMoreThanBest", "Verdict", "judge"]


@dataclass(frozen=True)
class AtMost:
    """A number that is not to be passed."""

    value: float

    def __str__(self) -> str:
        return f"<= {self.value:g}"

    def limit(self, _medians: Mapping[str, float]) -> float:
        """The number."""
        return self.value


@dataclass(frozen=True)
class NoMoreThan:
    """Another contender's median, or so many times that."""

    contender: str
    times: float = 1.0

    def __str__(self) -> str:
        return f"<= {_times(self.times)}{self.contender}"

    def limit(self, medians: Mapping[str, float]) -> float | None:
        """The number; None if that contender was left out."""
        return medians[self.contender] * self.times if self.contender in medians else None


@dataclass(frozen=True)
class NoMoreThanBest:
    """The smallest median of some contenders, or so many times that."""

    contenders: tuple[str, ...]
    times: float = 1.0

    def __str__(self) -> str:
        return f"<= {_times(self.times)}the best peer"

    def limit(self, medians: Mapping[str, float]) -> float | None:
        """The number; None if all of them were left out."""
        return min((medians[name] * self.times for name in self.contenders if name in medians), default=None)


Goal = AtMost | NoMoreThan | NoMoreThanBest


@dataclass(frozen=True)
class Verdict:
    """What came of a goal.

    Attributes:
        goal: Its text.
        limit: The number it comes to; None if it cannot be told.
        met: Whether it was; None likewise.
    """

    goal: str
    limit: float | None
    met: bool | None


def judge(goal: Goal, median: float | None, medians: Mapping[str, float]) -> Verdict:
    """Hold a contender's median against its goal, which may hang on the others' medians."""
    limit = goal.limit(medians)
    met = None if median is None or limit is None else median <= limit
    return Verdict(str(goal), limit, met)


def _times(times: float) -> str:
    return "" if times == 1 else f"{times:.3g} x "
