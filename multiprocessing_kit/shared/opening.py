"""The memory of a table: made, or found by its name."""

from __future__ import annotations

import errno
from typing import NamedTuple

from multiprocessing_kit.errors import IpcError, TableError
from multiprocessing_kit.ipc.named import NamedSegment, open_named
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.shared.cells import Cells
from multiprocessing_kit.shared.rows import LOCKS

__all__ = ["Shape", "find", "make"]


class Shape(NamedTuple):
    """What all who share a table must agree on; the arguments of `Cells` behind its memory."""

    layout: bytes
    rows: int
    key_size: int
    row_size: int


def make(shape: Shape) -> StampedSegment:
    """New memory, for this process and its children."""
    return StampedSegment("table", Cells.bytes_for(*shape), LOCKS)


def find(name: str, shape: Shape) -> NamedSegment:
    """The memory of the table of this name, made if there is none.

    Raises:
        IpcError: The system refused; names the limit that was hit.
        TableError: It is there with another shape.
    """

    def keep_layout(memory: memoryview) -> None:
        Cells(memory, *shape).keep_layout(shape.layout)

    try:
        segment = open_named("table", name, Cells.bytes_for(*shape), LOCKS, prepare=keep_layout)
    except IpcError as error:
        if error.errno == errno.EINVAL:
            raise _other(name, shape, "other columns, rows or key_size") from error
        raise
    there = Cells(segment.buf, *shape).layout()
    if there != shape.layout:
        raise _other(name, shape, there.decode("utf-8", "replace"))
    return segment


def _other(name: str, shape: Shape, there: str) -> TableError:
    title = f"table {name!r}"
    return TableError(
        f"{title} is there with {there}, not with {shape.layout.decode()}; give the same, or take another "
        "name, or destroy the one that is there",
        table=title,
    )
