"""Results as a table to read and as JSON to keep."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Case, Result, Scale
from multiprocessing_kit.supervise.cpus import available_cpus

__all__ = ["as_json", "head", "table"]

_ROW = "  {:<40} {:>10} {:>21} {:>7}  {:<16} {}"


def head(scale: Scale) -> str:
    """The machine and the options."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    quick = ", quick: the numbers mean little" if scale.quick else ""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{available_cpus()} processors, load {load}; {scale.rounds} rounds{quick}"
    )


def table(case: Case, results: Sequence[Result]) -> str:
    """One case."""
    lines = [f"{case.name}: {case.title}", _ROW.format("", case.unit, "min .. max", "ratio", "goal", "met")]
    for result in results:
        span = f"{_number(min(result.rounds))} .. {_number(max(result.rounds))}"
        met = "" if result.met is None else "yes" if result.met else "no"
        row = _ROW.format(result.name, _number(result.median), span, f"{result.ratio:.2f}", result.goal, met)
        lines.append(row.rstrip())
    return "\n".join(lines)


def as_json(scale: Scale, measured: Sequence[tuple[Case, Sequence[Result]]]) -> dict[str, Any]:
    """Everything, every round included."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "processors": available_cpus(),
        },
        "options": asdict(scale),
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


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 or value == int(value) else f"{value:.1f}"
