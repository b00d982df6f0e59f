"""All cells, as lines to read, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.chaos.cell import Seen, run
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.pools import POOLS

__all__ = ["Table", "as_json", "lines", "markdown", "rows"]

Table = Mapping[str, Mapping[str, Seen]]


def rows(faults: Sequence[str], limit: float) -> Iterator[tuple[str, dict[str, Seen]]]:
    """Each fault with what a user of each pool sees of it."""
    for fault in faults:
        yield fault, {pool: run(fault, pool, limit) for pool in POOLS}


def lines(fault: str, row: Mapping[str, Seen]) -> list[str]:
    """One fault."""
    return [
        f"{fault}: {FAULTS[fault].title}",
        *(f"  {pool:<26} {seen.text:<56} {_seconds(seen):>9}".rstrip() for pool, seen in row.items()),
    ]


def markdown(table: Table) -> list[str]:
    """One table."""
    head = ["", *POOLS]
    body = [[FAULTS[fault].title, *(_cell(row[pool]) for pool in POOLS)] for fault, row in table.items()]
    return [_row(head), _row(["---"] * len(head)), *map(_row, body)]


def as_json(table: Table) -> dict[str, Any]:
    """Everything."""
    return {
        fault: {pool: {**asdict(seen), "text": seen.text} for pool, seen in row.items()}
        for fault, row in table.items()
    }


def _cell(seen: Seen) -> str:
    seconds = _seconds(seen)
    return f"{seen.text}; {seconds}" if seconds else seen.text


def _seconds(seen: Seen) -> str:
    return f"{seen.seconds:.2f} s" if seen.over else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
