"""A table in shared memory: fixed columns, rows by key, atomic counters."""

from multiprocessing_kit.shared.table import Shared

__all__ = ["Shared"]
