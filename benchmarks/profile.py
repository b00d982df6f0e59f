"""Where the time of a trivial job goes, in the caller and in a child: `python -m benchmarks.profile`.

Processor time per job comes from an undisturbed run. The shares come from another one under cProfile, which
makes calls dearer than they are: they rank the parts and do not measure them.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.cases.jobs import increment
from benchmarks.peers import CHILDREN
from multiprocessing_kit import Process, Worker

__all__ = ["main"]

_JOBS = 400_000
_PARTS = 10
_PACKAGE = "multiprocessing_kit"


class _Profiled(Worker):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def setup(self) -> None:
        self.profile = cProfile.Profile(time.process_time)
        self.profile.enable()

    def process(self, number: int) -> int:
        return increment(number)

    def teardown(self) -> None:
        self.profile.disable()
        self.profile.dump_stats(self.folder / "child")


def main() -> None:
    """Print both."""
    began, caller, children = time.perf_counter(), _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    Process(CHILDREN).map(increment, range(_JOBS))
    per_job = 1e6 / _JOBS
    print(
        f"{(time.perf_counter() - began) * per_job:.1f} us/job with {CHILDREN} children; processor time: "
        f"caller {(_cpu(resource.RUSAGE_SELF) - caller) * per_job:.1f} us/job, "
        f"children {(_cpu(resource.RUSAGE_CHILDREN) - children) * per_job:.1f} us/job"
    )
    with tempfile.TemporaryDirectory() as folder:
        profile = cProfile.Profile(time.process_time)
        profile.enable()
        Process(CHILDREN).map(increment, range(_JOBS))
        profile.disable()
        _print_shares("caller", pstats.Stats(profile))
        Process(1).map(_Profiled(Path(folder)), range(_JOBS))
        _print_shares("child", pstats.Stats(str(Path(folder) / "child")))


def _cpu(whose: int) -> float:
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def _print_shares(title: str, stats: pstats.Stats) -> None:
    parts: Counter[str] = Counter()
    for function, (_, _, own_seconds, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        part = _part(function)
        if part or not callers:
            parts[part or "other"] += own_seconds
            continue
        for caller, (_, _, seconds, _) in callers.items():  # a builtin is its caller's work
            parts[_part(caller) or "other"] += seconds
    print(f"\n{title}: shares of its processor time, by module")
    for part, seconds in parts.most_common(_PARTS):
        print(f"  {seconds / parts.total():6.1%}  {part}")


def _part(function: tuple[str, int, str]) -> str:
    """The module of the package, "" for what is not in it."""
    path = Path(function[0])
    if _PACKAGE not in path.parts:
        return ""
    place = len(path.parts) - path.parts[::-1].index(_PACKAGE)
    return ".".join(path.with_suffix("").parts[place:])


if __name__ == "__main__":
    main()
