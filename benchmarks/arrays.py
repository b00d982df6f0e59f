"""What the array cases share.

numpy is imported when something is measured: without it these cases are named as skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.harness import Scale
from benchmarks.peers import Opener

if TYPE_CHECKING:
    from benchmarks.work import Array

__all__ = ["PEERS", "make", "size"]

_SIZE = 2_000_000  # 16 MB
_QUICK_SIZE = 150_000  # joblib carries what is above 1 MB in files

PEERS: Mapping[str, Opener] = {
    # 32 jobs travel in chunks of 4 by default, and nothing runs before a whole chunk is there
    "Pool.map, chunks of 1": functools.partial(peers.pool, 1),
    "Pool.map": peers.pool,
    "ProcessPoolExecutor.map": peers.executor,
    "mpire": peers.mpire,
    "joblib": peers.joblib,
    "loky": peers.loky,
    "pebble": peers.pebble,
}


def size(scale: Scale) -> int:
    """How many numbers are in an array."""
    return _QUICK_SIZE if scale.quick else _SIZE


def make(scale: Scale, count: int) -> list[Array]:
    """So many different arrays."""
    numpy = import_module("numpy")
    return [numpy.full(size(scale), float(number)) for number in range(count)]
