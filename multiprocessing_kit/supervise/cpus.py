"""How many processors this process may really use.

`os.cpu_count()` counts the machine. A process may be bound to fewer (affinity), and a container is
mostly limited by time instead: a cgroup quota of 200 ms per 100 ms period is worth two processors.
"""

from __future__ import annotations

import math
import os
from typing import Union

__all__ = ["available_cpus"]


_Folder = Union[str, "os.PathLike[str]"]


def available_cpus(proc: _Folder = "/proc/self", cgroups: _Folder = "/sys/fs/cgroup") -> int:
    """Processors by affinity and cgroup quota (rounded up), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for quota in _quotas(os.path.join(proc, "cgroup"), os.path.normpath(cgroups)):
        count = min(count, max(1, math.ceil(quota)))
    return count


def _quotas(memberships: str, root: str) -> list[float]:
    """The quotas, in processors, of this process's cgroup and of all above it."""
    quotas = []
    for line in _read(memberships).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = os.path.join(root, controllers), _quota_v1
            base = base if os.path.isdir(base) else os.path.join(root, "cpu")
        else:
            continue
        # Inside a container the path may be the host's, which is not mounted here: the root is.
        folder = os.path.normpath(f"{base}/{path}")
        while folder.startswith(f"{base}/"):
            quotas += read(folder)
            folder = os.path.dirname(folder)
        quotas += read(base)
    return quotas


def _quota_v2(folder: str) -> list[float]:
    limit, _, period = _read(f"{folder}/cpu.max").partition(" ")
    return [int(limit) / int(period)] if limit.isdigit() and period else []


def _quota_v1(folder: str) -> list[float]:
    limit, period = _read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")
    return [int(limit) / int(period)] if limit.isdigit() and period else []


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
