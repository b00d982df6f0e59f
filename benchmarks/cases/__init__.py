"""The cases, one per file, in the order in which they run."""

from collections.abc import Sequence

from benchmarks.cases import (
    arrays_in,
    arrays_out,
    events,
    growth,
    imports,
    jobs,
    one_by_one,
    queues,
    same_array,
    startup,
    uneven,
)
from benchmarks.harness import Case

__all__ = ["CASES"]

CASES: Sequence[Case] = (
    jobs.CASE,
    one_by_one.CASE,
    arrays_in.CASE,
    arrays_out.TOUCHED,
    arrays_out.SUMMED,
    same_array.CASE,
    uneven.MIXED,
    uneven.LONG_LAST,
    startup.CASE,
    growth.TIME,
    growth.MEMORY,
    *queues.CASES,
    imports.CASE,
    events.RECORDS,
    events.BYTES,
    events.TIME,
)
