"""How much memory a process has for itself."""

from __future__ import annotations

__all__ = ["own_memory"]


def own_memory(pid: int) -> int:
    """Bytes of memory of a process, without what lies in files and shared memory; 0 if it is gone."""
    import psutil  # noqa: PLC0415  # slow to import, and only limits on memory need it

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process has resident; 0 if it is gone."""
    import psutil  # noqa: PLC0415

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
