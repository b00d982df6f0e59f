"""Leases to records.

Arguments that are plain and immutable share one pickle. All others are pickled one by one: jobs must not
find an object that another one has changed, and a pickle keeps what is shared in it shared. A large argument
goes by shared memory, and its job travels alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.parcel import Parcel, pack
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.freight import Lender, Shipper
from multiprocessing_kit.runner.lane import PIECE
from multiprocessing_kit.runner.ledger import Lease
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER

__all__ = ["IMMUTABLE", "Packer", "Pickled", "pickled"]

Pickled: TypeAlias = "bytes | Parcel | SerializationError"

IMMUTABLE = frozenset({int, float, bool, complex, str, bytes, type(None)})
"""Types whose values stay as they are."""

_NUMBERS = frozenset({int, float, bool, complex, type(None)})
_STRINGS: tuple[set[type], ...] = ({str}, {bytes})

_PROTOCOL = pickle.HIGHEST_PROTOCOL


class Packer:
    """Makes the records of a crew's jobs.

    Args:
        shipper: Of its large arguments.
    """

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper

    def pack(self, lease: Lease, at: int, most: int, child: Lender) -> tuple[bytes, int, int]:
        """The record for jobs of a lease that was not sent, from place `at` on: as many as fit together.

        Args:
            lease: None of its jobs is done.
            at: How many of its jobs were packed before.
            most: At most how many jobs.
            child: Who gets the record.

        Returns:
            The record, how many jobs are in it, and the bytes of their arguments.

        Raises:
            SerializationError: The first one's argument cannot be pickled.
        """
        arguments = lease.arguments
        if lease.history is not None:
            return self._again(lease, lease.history, child)
        if most == 1 or len(arguments) == at + 1:
            return self._alone(lease.first + at, _pickle_of(lease, at), child)
        if at or len(arguments) > most:
            arguments = arguments[at : at + most]
        first = lease.first + at
        if lease.pickles is None and _may_share(arguments):
            return _together(messages.JOBS, arguments, first)
        small, large = _some(_pickle_of(lease, at + place) for place in range(len(arguments)))
        if large is not None:
            return self._alone(first, large, child)
        return _together(messages.JOBS_APART, small, first)

    def _alone(self, index: int, argument: bytes | Parcel, child: Lender) -> tuple[bytes, int, int]:
        if isinstance(argument, bytes):
            return HEADER.pack(messages.JOB, 1, index, 0.0) + argument, 1, len(argument)
        data = self._shipper.ship(argument, child)
        return HEADER.pack(messages.JOB_LARGE, 1, index, 0.0) + data, 1, argument.size

    def _again(self, lease: Lease, history: bytes, child: Lender) -> tuple[bytes, int, int]:
        argument = _pickle_of(lease, 0)
        if isinstance(argument, bytes):
            kind, data, size = messages.AGAIN, argument, 0
        else:
            kind, data, size = messages.AGAIN_LARGE, self._shipper.ship(argument, child), argument.size
        header = HEADER.pack(kind, lease.attempt, lease.first, 0.0)
        record = b"".join((header, AGAIN_LENGTH.pack(len(history)), history, data))
        return record, 1, size + len(record)


def pickled(argument: object) -> Pickled:
    """The argument of a job, as it is now; or why it cannot be pickled."""
    try:
        if type(argument) in _NUMBERS:
            return pickle.dumps(argument, _PROTOCOL)
        return pack(argument, "the argument")
    except SerializationError as error:
        return error


def _pickle_of(lease: Lease, place: int) -> bytes | Parcel:
    data = pickled(lease.arguments[place]) if lease.pickles is None else lease.pickles[place]
    if isinstance(data, SerializationError):
        raise data
    return data


def _may_share(arguments: Sequence[object]) -> bool:
    """Whether one pickle may hold them all, and is not large."""
    if type(arguments) is range:
        return True
    kinds: set[type] = set(map(type, arguments))
    return kinds <= _NUMBERS or (kinds in _STRINGS and sum(map(len, arguments)) < PIECE)  # type: ignore[arg-type]


def _together(kind: int, arguments: Sequence[object], first: int) -> tuple[bytes, int, int]:
    data = pickle.dumps(arguments, _PROTOCOL)
    return HEADER.pack(kind, len(arguments), first, 0.0) + data, len(arguments), len(data)


def _some(pickles: Iterator[bytes | Parcel]) -> tuple[list[bytes], Parcel | None]:
    """As many as go into half a piece; or the first one alone, if that is large."""
    small: list[bytes] = []
    size = 0
    while True:
        try:
            data = next(pickles, None)
        except SerializationError:
            if not small:
                raise
            return small, None  # it is the first one next time
        if data is None:
            return small, None
        if not isinstance(data, bytes):
            return (small, None) if small else ([], data)
        size += len(data)
        if small and size > PIECE // 2:
            return small, None
        small.append(data)
