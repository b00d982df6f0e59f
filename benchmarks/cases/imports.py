"""What an import costs a program that starts, with its byte code compiled already."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from benchmarks.harness import AtMost, Case, Contender, Scale

__all__ = ["CASE"]

_INTERPRETERS = 5

_TIMED = """
import time
began = time.perf_counter()
{statement}
print(time.perf_counter() - began)
"""


def _import(statement: str) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        return statistics.median(_once(statement) for _ in range(1 if scale.quick else _INTERPRETERS))

    return measure


def _once(statement: str) -> float:
    """Milliseconds in a fresh interpreter."""
    _compiled(statement)
    return _run(statement) * 1000


@functools.cache
def _compiled(statement: str) -> None:
    _run(statement)


def _run(statement: str) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": _byte_code()}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _TIMED.format(statement=statement)]
    return float(
        subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    )


@functools.cache
def _byte_code() -> str:
    """A folder of our own: the checkout may be read-only, or its byte code out of date."""
    folder = tempfile.mkdtemp(prefix="benchmarks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


CASE = Case(
    name="import",
    title=f"an import statement in a fresh interpreter, median of {_INTERPRETERS} in each round",
    unit="ms",
    contenders=(
        Contender("multiprocessing_kit", _import("import multiprocessing_kit"), AtMost(100)),
        Contender(
            "multiprocessing.pool, concurrent.futures",
            _import("import multiprocessing.pool, concurrent.futures.process"),
        ),
        Contender("blinker, sysv_ipc", _import("import blinker, sysv_ipc")),
    ),
    apart=False,  # in interpreters of their own anyway
)
