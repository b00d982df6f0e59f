"""Results as a table to read and as JSON to keep."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.goals import Verdict
from benchmarks.harness import Case, Result, Scale
from multiprocessing_kit.supervise.cpus import available_cpus

__all__ = ["Measured", "as_json", "head", "missing", "number", "table", "verdict"]

Measured = Sequence[tuple[Case, Sequence[Result]]]

_ROW = "  {:<44} {:>10} {:>19} {:>7}  {}"


def head(scale: Scale) -> str:
    """The machine and the options."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    rounds = f"; {scale.rounds} rounds" if scale.rounds else ""
    quick = "; quick: the numbers mean little" if scale.quick else ""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{available_cpus()} processors, load {load}{rounds}{quick}"
    )


def table(case: Case, results: Sequence[Result]) -> str:
    """One case."""
    lines = [f"{case.name}: {case.title}", _ROW.format("", case.unit, "min .. max", "ratio", "goal")]
    if all(result.left_out for result in results) and len({result.left_out for result in results}) == 1:
        return "\n".join([lines[0], f"  skipped, {results[0].left_out}"])
    for result in results:
        lines.extend(line.rstrip() for line in _rows(result))
    return "\n".join(lines)


def _rows(result: Result) -> Iterator[str]:
    """One line, and another for each further goal."""
    if result.median is None:
        yield _ROW.format(result.name, "-", "", "", result.left_out)
        return
    span = f"{number(min(result.rounds))} .. {number(max(result.rounds))}"
    first, *others = [verdict(goal) for goal in result.goals] or [""]
    if result.failures:
        first = f"failed in {result.failures} of {result.failures + len(result.rounds)} rounds"
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
    yield _ROW.format(result.name, number(result.median), span, ratio, first)
    for other in others:
        yield _ROW.format("", "", "", "", other)


def verdict(goal: Verdict) -> str:
    """A goal, the number it comes to, and whether it was met."""
    if goal.limit is None or goal.met is None:
        return f"{goal.goal}: not known"
    limit = number(goal.limit)
    text = goal.goal if goal.goal == f"<= {limit}" else f"{goal.goal} ({limit})"
    return f"{text}: {'met' if goal.met else 'not met'}"


def missing(measured: Measured) -> list[str]:
    """The packages without which contenders were left out."""
    return sorted({result.missing for _, results in measured for result in results if result.missing})


def as_json(scale: Scale, measured: Measured) -> dict[str, Any]:
    """Everything, every round included."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "processors": available_cpus(),
        },
        "options": asdict(scale),
        "missing": missing(measured),
        "cases": [
            {
                "name": case.name,
                "title": case.title,
                "unit": case.unit,
                "results": [asdict(result) for result in results],
            }
            for case, results in measured
        ],
    }


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
