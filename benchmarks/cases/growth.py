"""More and more tiny jobs: whether one costs the same among many, and what the caller keeps of each.

Each point is measured in a fresh interpreter, since memory that was once taken is not given back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.growth_point import KINDS
from benchmarks.harness import AtMost, Case, Contender, Goal, LeftOut, NoMoreThan, Scale
from benchmarks.peers import CHILDREN

__all__ = ["MEMORY", "TIME"]

_POWERS = range(4, 8)
_QUICK_POWER = 4


def _point(kind: str, power: int, unit: str) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        if scale.quick and power > _QUICK_POWER:
            raise LeftOut("not with --quick")
        command = [sys.executable, "-m", "benchmarks.growth_point", kind, str(scale.jobs(10**power))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return float(json.loads(done.stdout)[unit])

    return measure


def _name(kind: str, power: int) -> str:
    return f"{kind}, {10**power:,} jobs"


def _contenders(unit: str, goals: dict[str, Goal]) -> Sequence[Contender]:
    return [
        Contender(name, _point(kind, power, unit), goals.get(name, ()), ours=kind.startswith("Process"))
        for kind in KINDS
        for power in _POWERS
        for name in [_name(kind, power)]
    ]


TIME = Case(
    name="growth",
    title=f"`x + 1` so many times in a fresh interpreter, {CHILDREN} children; without their start",
    unit="us/job",
    contenders=_contenders(
        "us", {_name("Process.map", _POWERS[-1]): NoMoreThan(_name("Process.map", 5), 1.2)}
    ),
    rounds=3,
    apart=False,
)

MEMORY = Case(
    name="growth-memory",
    title="the same: growth of the caller's memory at its highest (imap: generator in, answers dropped)",
    unit="MB",
    contenders=_contenders("MB", {_name("Process.imap", _POWERS[-1]): AtMost(50)}),
    rounds=1,
    apart=False,
)
