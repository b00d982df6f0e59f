"""The command line: fire at ours, compare the peers, say what came of both."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos import table
from benchmarks.chaos.cell import Seen
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.fire import fire
from multiprocessing_kit.supervise.cpus import available_cpus

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if ours lost anything."""
    options = _parser().parse_args(arguments)
    only = set(options.only or ["ours", "peers"])
    faults = [name for name in FAULTS if "peers" in only or name in only]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    machine = {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": available_cpus(),
    }
    print("Python {python}, {system} {architecture}, {processors} processors".format(**machine), end="")
    print(f", load {load}", flush=True)
    tally = None
    if "ours" in only:
        print(f"\nunder fire for {options.seconds:g} s, seed {options.seed}", flush=True)
        tally = fire(options.seconds, options.seed)
        print("\n".join(tally.lines()), flush=True)
    seen: dict[str, dict[str, Seen]] = {}
    for fault, row in table.rows(faults, options.limit):
        seen[fault] = row
        if not options.markdown:
            print("\n" + "\n".join(table.lines(fault, row)), flush=True)
    if options.markdown and seen:
        print("\n" + "\n".join(table.markdown(seen)))
    if options.json:
        report = {
            "machine": machine,
            "seed": options.seed,
            "ours": None if tally is None else tally.as_json(),
            "peers": table.as_json(seen),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if tally is None or tally.flawless else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Fire at the children of ours and count what becomes of the jobs; then show what a user "
        "of each pool sees when one of 100 jobs goes wrong. The exit status is 1 if ours lost anything.",
    )
    parser.add_argument("--seconds", type=_positive, default=60.0, help="under fire (default: %(default)g)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of what is mapped, and of when to fire"
    )
    parser.add_argument(
        "--limit", type=_positive, default=10.0, help="seconds for each pool and fault (default: %(default)g)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=["ours", "peers", *FAULTS],
        metavar="NAME",
        help=f"only this; may be repeated: ours, peers, or of these {', '.join(FAULTS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--markdown", action="store_true", help="the comparison as one Markdown table")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number
