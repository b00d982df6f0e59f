"""What came of the jobs of one row of the fault table."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MOST_BACK", "Outcome"]

MOST_BACK = 5.0
"""Seconds after which jobs must be run again, from when what they need is back."""


@dataclass
class Outcome:
    """The figures of a row.

    Attributes:
        fault: What was done.
        faults: How often.
        jobs: That are safe in the broker, as it has said.
        lost: Of these, that were never run to their end, nor are dead letters where they should be.
        again: Runs of jobs beyond their first.
        most_again: More would be too many; None where that is not to be said.
        back: Seconds, after each fault, until the first job was run.
        seconds: That it took.
        wrong: What else must not be.
    """

    fault: str
    faults: int = 0
    jobs: int = 0
    lost: int = 0
    again: int = 0
    most_again: int | None = None
    back: list[float] = field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def note_back(self, seconds: float | None) -> None:
        """Until the first job after a fault; None if none was left for it."""
        if seconds is not None:
            self.back.append(seconds)

    @property
    def problems(self) -> list[str]:
        """What must not be; nothing if all is well."""
        found = list(self.wrong)
        if self.lost:
            found.append(f"{self.lost} of {self.jobs} jobs were lost")
        if self.most_again is not None and self.again > self.most_again:
            found.append(f"{self.again} runs too many, and not {self.most_again} at most")
        if self.back and max(self.back) > MOST_BACK:
            found.append(f"jobs were run again only {max(self.back):.1f} s after it was back")
        return found
