"""What is counted under fire, and what of it must not be."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Tally"]


@dataclass
class Tally:
    """The figures.

    Attributes:
        seconds: How long it was fired.
        maps: That came to an end.
        jobs: In these maps.
        again: Jobs that were run once more.
        not_again: Jobs that were answered with an error, as was asked for, by its name.
        faults: What was done to children, by its name.
        lost, doubled, wrong: Answers that are.
        repeated: Runs again of jobs that must run once at most.
        hangs: Maps that did not end.
        children_left, objects_left: After the process that had them.
        after_death: Seconds from a death to the next child's first job, while all others were at work.
        after_stop: The same from a SIGSTOP.
        errors: What maps raised, and other details.
    """

    seconds: float = 0.0
    maps: int = 0
    jobs: int = 0
    again: int = 0
    not_again: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    repeated: int = 0
    hangs: int = 0
    children_left: int = 0
    objects_left: int = 0
    after_death: list[float] = field(default_factory=list)
    after_stop: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, counts: dict[str, int], error: str) -> None:
        """A map has come to an end."""
        self.maps += 1
        self.jobs += counts["jobs"]
        self.again += counts["runs again"]
        self.repeated += counts.get("runs again though ruled out", 0)
        self.lost += counts["lost"]
        self.doubled += counts.get("doubled", 0)
        self.wrong += counts.get("wrong", 0)
        for name, count in counts.items():
            if name.startswith("not again: "):
                self.not_again[name.removeprefix("not again: ")] += count
        if error:
            self.errors.append(error)

    @property
    def flawless(self) -> bool:
        """Whether nothing was lost, doubled, wrong, repeated, hung or left behind."""
        bad = (self.lost, self.doubled, self.wrong, self.repeated, self.hangs)
        return not (any(bad) or self.children_left or self.objects_left or self.errors)

    def lines(self) -> list[str]:
        """To read."""
        again = self.again / max(1, self.faults.total())
        given_up = "".join(f", {count} with {name}" for name, count in sorted(self.not_again.items()))
        rows = [
            ("jobs answered", f"{self.jobs - self.lost:,} in {self.maps:,} maps{given_up}"),
            *((name, f"{count:,}") for name, count in sorted(self.faults.items())),
            ("answers lost", f"{self.lost}"),
            ("answers doubled", f"{self.doubled}"),
            ("wrong bodies, order or errors", f"{self.wrong}"),
            ("run twice where ruled out", f"{self.repeated}"),
            ("maps that hung", f"{self.hangs}"),
            ("jobs run again for each fault", f"{again:.2f}"),
            ("death to next child at work", _span(self.after_death)),
            ("SIGSTOP to next child at work", _span(self.after_stop)),
            ("children left", f"{self.children_left}"),
            ("System V objects left", f"{self.objects_left}"),
        ]
        return [*(f"  {name:<32} {value}" for name, value in rows), *(f"  {each}" for each in self.errors)]

    def as_json(self) -> dict[str, Any]:
        """To keep."""
        return {**vars(self), "flawless": self.flawless}


def _span(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    median, most = statistics.median(seconds) * 1000, max(seconds) * 1000
    return f"{median:.1f} ms in the middle, {most:.1f} ms at most, of {len(seconds)}"
