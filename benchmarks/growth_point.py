"""One point of the growth cases, in an interpreter of its own: `python -m benchmarks.growth_point KIND JOBS`.

Prints the microseconds per job and the megabytes that the caller's memory grew by at its highest.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import ours, peers
from benchmarks.peers import Map
from benchmarks.work import increment

__all__ = ["KINDS", "main"]

_STATUS = Path("/proc/self/status")


def _kept(map_: Map, jobs: int) -> object:
    return map_(increment, range(jobs))


def _consumed(map_: Map, jobs: int) -> object:
    """Inputs from a generator, answers dropped as they come: nothing has to be kept."""
    return deque(map_(increment, (number for number in range(jobs))), maxlen=0)


KINDS: Mapping[str, tuple[peers.Opener, Callable[[Map, int], object]]] = {
    "Process.map": (ours.process, _kept),
    "Process.map, bodies": (ours.bodies, _kept),
    "Process.imap": (ours.imap, _consumed),
    "Pool.map": (peers.pool, _kept),
}


def main(kind: str, jobs: int) -> None:
    """Measure the point and print it as JSON."""
    opener, work = KINDS[kind]
    with opener() as map_:
        work(map_, 1000)
        before, began = _highest(), time.perf_counter()
        kept = work(map_, jobs)
        seconds, after = time.perf_counter() - began, _highest()
        del kept
    print(json.dumps({"us": seconds / jobs * 1e6, "MB": after - before}))


def _highest() -> float:
    """Megabytes that were resident at the highest point so far."""
    if _STATUS.exists():  # unlike getrusage it forgets what the process was before this program ran
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
