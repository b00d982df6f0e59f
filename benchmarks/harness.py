"""What a case is, and how it is run: contenders take turns, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.apart import MeasurementError, apart
from benchmarks.goals import AtMost, Goal, NoMoreThan, NoMoreThanBest, Verdict, judge

__all__ = [
    "AtMost",
    "Case",
    "Contender",
    "Goal",
    "LeftOut",
    "NoMoreThan",
    "NoMoreThanBest",
    "Result",
    "Scale",
    "run",
]

_OWN = {"benchmarks", "multiprocessing_kit"}


class LeftOut(Exception):
    """Raised by a contender that does not take part; its text says why."""


_ABSENT = (ImportError, LeftOut)


@dataclass(frozen=True)
class Scale:
    """How much to do.

    Attributes:
        rounds: How often each contender is measured; None leaves that to the case.
        quick: A fraction of the work, to see whether everything runs; the numbers mean little.
    """

    rounds: int | None = None
    quick: bool = False

    def jobs(self, count: int) -> int:
        """`count`, or a fraction of it."""
        return max(20, count // 100) if self.quick else count


@dataclass(frozen=True)
class Contender:
    """One way to do the case's work.

    Attributes:
        name: Shown in the table, unique in its case.
        measure: Does the work once, from the start; returns a number in the case's unit. An `ImportError`
            means that the module it names is not installed, `LeftOut` that it does not take part.
        goal: What the number should be; there may be several.
        ours: Shown in our colour; what has a goal is ours anyway.
    """

    name: str
    measure: Callable[[Scale], float]
    goal: Goal | Sequence[Goal] = ()
    ours: bool = False

    @property
    def goals(self) -> Sequence[Goal]:
        """All of them."""
        return self.goal if isinstance(self.goal, Sequence) else (self.goal,)

    @property
    def is_ours(self) -> bool:
        """Whether it is no peer."""
        return self.ours or bool(self.goals)


@dataclass(frozen=True)
class Case:
    """One thing to measure; less is better.

    Attributes:
        name: For `--only`.
        title: What is done, and what the number includes.
        unit: Of the numbers.
        contenders: The first is what the others are compared with.
        rounds: How often each is measured where nobody asks for another number.
        apart: Each measurement is made in a forked process of its own.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]
    rounds: int = 5
    apart: bool = True


@dataclass(frozen=True)
class Result:
    """What came of one contender.

    Attributes:
        ours: Whether it is one of ours.
        rounds: Every number, in the order of the rounds; none if it was left out.
        failures: Rounds in which it failed, as only a peer may; they have no number.
        median: Of these.
        ratio: The median, as a multiple of the first contender's; None where that has none, or 0.
        goals: What came of each goal.
        left_out: Why it was.
        missing: The package it needs and that is not installed.
    """

    name: str
    ours: bool
    rounds: Sequence[float]
    failures: int
    median: float | None
    ratio: float | None
    goals: Sequence[Verdict]
    left_out: str = ""
    missing: str = ""


@dataclass
class _Record:
    """What one contender did so far."""

    numbers: list[float] = field(default_factory=list)
    failures: int = 0
    absence: Exception | None = None


def run(case: Case, scale: Scale) -> list[Result]:
    """Measure every contender once per round, so that what the machine does meanwhile hits all alike.

    Raises:
        ImportError: A contender cannot import our own modules.
        MeasurementError: One of ours failed.
    """
    records = {each.name: _Record() for each in case.contenders}
    for number in range(scale.rounds or (1 if scale.quick else case.rounds)):
        for contender in _turn(case.contenders, number):
            record = records[contender.name]
            if record.absence is not None:
                continue
            try:
                record.numbers.append(_measure(case, contender, scale))
            except _ABSENT as error:
                if _top(error) in _OWN:
                    raise
                record.absence = error
            except MeasurementError:
                if contender.is_ours:
                    raise
                record.failures += 1  # a peer's fault does not cost the numbers of all others
    medians = {name: statistics.median(one.numbers) for name, one in records.items() if one.numbers}
    return [_result(case, contender, records[contender.name], medians) for contender in case.contenders]


def _measure(case: Case, contender: Contender, scale: Scale) -> float:
    return apart(partial(contender.measure, scale), _ABSENT) if case.apart else contender.measure(scale)


def _turn(contenders: Sequence[Contender], number: int) -> Iterator[Contender]:
    """Each round begins with another contender: none always follows the same one."""
    start = number % len(contenders)
    yield from contenders[start:]
    yield from contenders[:start]


def _result(case: Case, contender: Contender, record: _Record, medians: Mapping[str, float]) -> Result:
    median = medians.get(contender.name)
    base = medians.get(case.contenders[0].name)
    missing = _package(record.absence)
    left_out = f"not installed: {missing}" if missing else str(record.absence or "")
    if record.failures and not record.numbers:
        left_out = left_out or "failed"
    return Result(
        name=contender.name,
        ours=contender.is_ours,
        rounds=record.numbers,
        failures=record.failures,
        median=median,
        ratio=median / base if median is not None and base else None,
        goals=[judge(goal, median, medians) for goal in contender.goals],
        left_out=left_out,
        missing=missing,
    )


def _top(error: Exception) -> str:
    """The package that could not be imported."""
    return (error.name or str(error)).partition(".")[0] if isinstance(error, ImportError) else ""


def _package(absence: Exception | None) -> str:
    """As package indexes spell it."""
    return _top(absence).replace("_", "-") if absence else ""
