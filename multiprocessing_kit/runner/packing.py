"""Leases to records.

Arguments that are plain and immutable share one pickle. All others are pickled one by one: jobs must not
find an object that another one has changed, and a pickle keeps what is shared in it shared. A large argument
goes by shared memory, and its job travels alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.parcel import Parcel, pack
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.freight import Lender, Shipper
from multiprocessing_kit.runner.lane import PIECE
from multiprocessing_kit.runner.ledger import Lease
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER

__all__ = ["Packer"]

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
            return self._alone(lease.first + at, _pickled(arguments[at]), child)
        if at or len(arguments) > most:
            arguments = arguments[at : at + most]
        first = lease.first + at
        if type(arguments) is range:
            return _together(messages.JOBS, arguments, first)
        kinds: set[type] = set(map(type, arguments))
        if kinds <= _NUMBERS or (kinds in _STRINGS and sum(map(len, arguments)) < PIECE):  # type: ignore[arg-type]
            return _together(messages.JOBS, arguments, first)
        small, large = _pickled_apart(arguments)
        if large is not None:
            return self._alone(first, large, child)
        return _together(messages.JOBS_APART, small, first)

    def _alone(self, index: int, argument: bytes | Parcel, child: Lender) -> tuple[bytes, int, int]:
        if isinstance(argument, bytes):
            return HEADER.pack(messages.JOB, 1, index, 0.0) + argument, 1, len(argument)
        data = self._shipper.ship(argument, child)
        return HEADER.pack(messages.JOB_LARGE, 1, index, 0.0) + data, 1, argument.size

    def _again(self, lease: Lease, history: bytes, child: Lender) -> tuple[bytes, int, int]:
        argument = _pickled(lease.arguments[0])
        if isinstance(argument, bytes):
            kind, data, size = messages.AGAIN, argument, 0
        else:
            kind, data, size = messages.AGAIN_LARGE, self._shipper.ship(argument, child), argument.size
        header = HEADER.pack(kind, lease.attempt, lease.first, 0.0)
        record = b"".join((header, AGAIN_LENGTH.pack(len(history)), history, data))
        return record, 1, size + len(record)


def _pickled(argument: object) -> bytes | Parcel:
    return pickle.dumps(argument, _PROTOCOL) if type(argument) in _NUMBERS else pack(argument, "the argument")


def _together(kind: int, arguments: Sequence[object], first: int) -> tuple[bytes, int, int]:
    data = pickle.dumps(arguments, _PROTOCOL)
    return HEADER.pack(kind, len(arguments), first, 0.0) + data, len(arguments), len(data)


def _pickled_apart(arguments: Sequence[object]) -> tuple[list[bytes], Parcel | None]:
    """Pickles of as many as go into half a piece; or the first one's alone, if that is large."""
    pickles: list[bytes] = []
    size = 0
    for argument in arguments:
        try:
            data = _pickled(argument)
        except SerializationError:
            if not pickles:
                raise
            break  # it is the first one next time
        if not isinstance(data, bytes):
            return (pickles, None) if pickles else ([], data)
        size += len(data)
        if pickles and size > PIECE // 2:
            break
        pickles.append(data)
    return pickles, None
