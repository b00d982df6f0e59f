"""How many processors this process may really use.

`os.cpu_count()` counts the machine. A process may be bound to fewer (affinity), and a container is
mostly limited by time instead: a cgroup quota of 200 ms per 100 ms period is worth two processors.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cpus"]


def available_cpus(proc: Path = Path("/proc/self"), cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors by affinity and cgroup quota (rounded up), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for quota in _quotas(proc / "cgroup", cgroup_root):
        count = min(count, max(1, math.ceil(quota)))
    return count


def _quotas(memberships: Path, root: Path) -> list[float]:
    """The quotas, in processors, of this process's cgroup and of all above it."""
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / controllers, _quota_v1
            base = base if base.is_dir() else root / "cpu"
        else:
            continue
        # Inside a container the path may be the host's, which is not mounted here: the root is.
        here = base / path.lstrip("/")
        for folder in [here, *here.parents]:
            if folder.is_relative_to(base):
                quotas += read(folder)
    return quotas


def _quota_v2(folder: Path) -> list[float]:
    limit, _, period = _read(folder / "cpu.max").partition(" ")
    return [int(limit) / int(period)] if limit.isdigit() and period else []


def _quota_v1(folder: Path) -> list[float]:
    limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return [int(limit) / int(period)] if limit.isdigit() and period else []


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
