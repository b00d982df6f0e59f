"""The cases, one per file, in the order in which they run."""

from collections.abc import Sequence

from benchmarks.cases import events, imports, jobs, startup
from benchmarks.harness import Case

__all__ = ["CASES"]

CASES: Sequence[Case] = (jobs.CASE, imports.CASE, events.RECORDS, events.BYTES, events.TIME, startup.CASE)
