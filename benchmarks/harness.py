"""What a case is, and how it is run: contenders take turns, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["AtMost", "Case", "Contender", "Goal", "NoMoreThan", "Result", "Scale", "run"]


@dataclass(frozen=True)
class Scale:
    """How much to do.

    Attributes:
        rounds: How often each contender is measured.
        quick: A fraction of the work, to see whether everything runs; the numbers mean little.
    """

    rounds: int = 5
    quick: bool = False

    def jobs(self, count: int) -> int:
        """`count`, or a fraction of it."""
        return max(20, count // 100) if self.quick else count


@dataclass(frozen=True)
class AtMost:
    """A goal: a number that is not to be passed."""

    value: float

    def __str__(self) -> str:
        return f"<= {self.value:g}"

    def limit(self, _medians: dict[str, float]) -> float:
        """The number."""
        return self.value


@dataclass(frozen=True)
class NoMoreThan:
    """A goal: another contender's median, or a part of it."""

    contender: str
    part: float = 1.0

    def __str__(self) -> str:
        return f"<= {self.contender}" if self.part == 1 else f"<= {self.part:g} {self.contender}"

    def limit(self, medians: dict[str, float]) -> float:
        """That part of its median."""
        return medians[self.contender] * self.part


Goal = AtMost | NoMoreThan


@dataclass(frozen=True)
class Contender:
    """One way to do the case's work.

    Attributes:
        name: Shown in the table, unique in its case.
        measure: Does the work once, from the start; returns a number in the case's unit.
        goal: What the number should be.
    """

    name: str
    measure: Callable[[Scale], float]
    goal: Goal | None = None


@dataclass(frozen=True)
class Case:
    """One thing to measure; less is better.

    Attributes:
        name: For `--only`.
        title: What is done, and what the number includes.
        unit: Of the numbers.
        contenders: The first is what the others are compared with.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]


@dataclass(frozen=True)
class Result:
    """What came of one contender.

    Attributes:
        rounds: Every number, in the order of the rounds.
        ratio: Its median, as a multiple of the first contender's.
        met: Whether the goal was; None where there is none.
    """

    name: str
    rounds: Sequence[float]
    median: float
    ratio: float
    goal: str
    met: bool | None


def run(case: Case, scale: Scale) -> list[Result]:
    """Measure every contender once per round, so that what the machine does meanwhile hits all alike."""
    rounds: dict[str, list[float]] = {each.name: [] for each in case.contenders}
    for number in range(scale.rounds):
        for contender in _turn(case.contenders, number):
            rounds[contender.name].append(contender.measure(scale))
    medians = {name: statistics.median(numbers) for name, numbers in rounds.items()}
    return [_result(contender, rounds[contender.name], medians) for contender in case.contenders]


def _turn(contenders: Sequence[Contender], number: int) -> Iterator[Contender]:
    """Each round begins with another contender: none always follows the same one."""
    start = number % len(contenders)
    yield from contenders[start:]
    yield from contenders[:start]


def _result(contender: Contender, rounds: Sequence[float], medians: dict[str, float]) -> Result:
    median = medians[contender.name]
    base = next(iter(medians.values()))
    goal = contender.goal
    return Result(
        name=contender.name,
        rounds=rounds,
        median=median,
        ratio=median / base if base else 0.0,
        goal="" if goal is None else str(goal),
        met=None if goal is None else median <= goal.limit(medians),
    )
