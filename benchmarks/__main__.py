"""Run the cases: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.cases import CASES
from benchmarks.harness import Scale, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    scale = Scale(rounds=options.rounds or (1 if options.quick else 5), quick=options.quick)
    quiet = options.json == "-"
    measured = []
    if not quiet:
        print(report.head(scale), flush=True)
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        results = run(case, scale)
        measured.append((case, results))
        if not quiet:
            print(f"\n{report.table(case, results)}", flush=True)
    if options.json:
        text = json.dumps(report.as_json(scale, measured), indent=2)
        if quiet:
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ours and the peers side by side: the contenders of a case take turns in every "
        "round. Less is better; the ratio compares medians with the first line of each table.",
    )
    parser.add_argument("--rounds", type=_positive, help="measure each this often (default 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="little work, to see that everything runs")
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"only this case; may be repeated: {', '.join(names)}",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write JSON there; without FILE print it, and no table",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
