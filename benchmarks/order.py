"""The cases, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cases import (
    arrays_in,
    arrays_out,
    events,
    gridsearch,
    growth,
    imports,
    jobs,
    lockers,
    manager,
    one_by_one,
    pipes,
    pools,
    queues,
    same_array,
    services,
    shared_table,
    startup,
    toolkit_queues,
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
    pools.MAP,
    pools.SUBMIT,
    pools.ARRAYS,
    *toolkit_queues.CASES,
    lockers.CASE,
    shared_table.COUNT,
    shared_table.ROW,
    pipes.CASE,
    gridsearch.CASE,
    manager.LATENCY,
    manager.CPU,
    manager.MEMORY,
    *services.CASES,
)
