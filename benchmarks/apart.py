"""A measurement in a forked process of its own.

Packages, threads, helpers and memory of one contender are gone before the next one comes. In one process,
arrays that were freed make later ones cheaper, and joblib after loky loses track of its files.
"""

from __future__ import annotations

import atexit
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

__all__ = ["MeasurementError", "apart"]

_FORK = multiprocessing.get_context("fork")


class MeasurementError(RuntimeError):
    """A measurement raised, which went to stderr, or was killed."""


def apart(measure: Callable[[], float], expected: tuple[type[Exception], ...]) -> float:
    """Call it in a fork of this process.

    Args:
        measure: What to call.
        expected: What it may raise.

    Raises:
        Exception: One of these.
        MeasurementError: It raised something else, or was killed.
    """
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_child, args=(measure, expected, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise MeasurementError(f"the measurement ended with exit code {process.exitcode}") from None
    finally:
        receiver.close()
    process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return float(outcome)


def _child(measure: Callable[[], float], expected: tuple[type[Exception], ...], sender: Connection) -> None:
    try:
        sender.send(measure())
    except expected as error:
        sender.send(error)
    finally:
        # before Python 3.12 a forked child skips them, and joblib's removes its folder
        atexit._run_exitfuncs()
