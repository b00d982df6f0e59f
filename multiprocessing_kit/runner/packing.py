"""Leases to records.

Arguments that are plain and immutable share one pickle. All others are pickled one by one: jobs must not
find an object that another one has changed, and a pickle keeps what is shared in it shared.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import encode
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.lane import PIECE
from multiprocessing_kit.runner.ledger import Lease
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER

__all__ = ["pack_jobs"]

_NUMBERS = frozenset({int, float, bool, complex, type(None)})
_STRINGS: tuple[set[type], ...] = ({str}, {bytes})

_PROTOCOL = pickle.HIGHEST_PROTOCOL


def pack_jobs(lease: Lease, at: int, most: int) -> tuple[bytes, int]:
    """The record for jobs of a lease that was not sent, from place `at` on: as many as fit together.

    Args:
        lease: None of its jobs is done.
        at: How many of its jobs were packed before.
        most: At most how many jobs.

    Returns:
        The record, and how many jobs are in it.

    Raises:
        SerializationError: The first one's argument cannot be pickled.
    """
    if lease.history is not None:
        return _pack_again(lease, lease.history), 1
    arguments = lease.arguments
    if most == 1 or len(arguments) == at + 1:
        header = HEADER.pack(messages.JOB, 1, lease.first + at, 0.0)
        return header + encode(arguments[at], "the argument"), 1
    if at or len(arguments) > most:
        arguments = arguments[at : at + most]
    if type(arguments) is range:
        return _together(arguments, lease.first + at), len(arguments)
    kinds: set[type] = set(map(type, arguments))
    if kinds <= _NUMBERS or (kinds in _STRINGS and sum(map(len, arguments)) < PIECE):  # type: ignore[arg-type]
        return _together(arguments, lease.first + at), len(arguments)
    pickles = _pickled_apart(arguments)
    header = HEADER.pack(messages.JOBS_APART, len(pickles), lease.first + at, 0.0)
    return header + pickle.dumps(pickles, _PROTOCOL), len(pickles)


def _together(arguments: Sequence[object], first: int) -> bytes:
    header = HEADER.pack(messages.JOBS, len(arguments), first, 0.0)
    return header + pickle.dumps(arguments, _PROTOCOL)


def _pickled_apart(arguments: Sequence[object]) -> list[bytes]:
    """Pickles of as many as go into half a piece, but at least of one."""
    pickles: list[bytes] = []
    size = 0
    for argument in arguments:
        try:
            data = encode(argument, "the argument")
        except SerializationError:
            if not pickles:
                raise
            break  # it is the first one next time
        size += len(data)
        if pickles and size > PIECE // 2:
            break
        pickles.append(data)
    return pickles


def _pack_again(lease: Lease, history: bytes) -> bytes:
    argument = encode(lease.arguments[0], "the argument")
    header = HEADER.pack(messages.AGAIN, lease.attempt, lease.first, 0.0)
    return b"".join((header, AGAIN_LENGTH.pack(len(history)), history, argument))
