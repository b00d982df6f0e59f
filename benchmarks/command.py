"""The command line: choose cases, run them, say what came of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import chart, report
from benchmarks.harness import Case, Result, Scale, run
from benchmarks.order import CASES

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    scale = Scale(rounds=options.rounds, quick=options.quick)
    quiet = options.json == "-"
    if not quiet:
        print(report.head(scale), flush=True)
    measured: list[tuple[Case, list[Result]]] = []
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        measured.append((case, run(case, scale)))
        if not quiet:
            print(f"\n{report.table(*measured[-1])}", flush=True)
    notes = [*_missing(measured), *_chart(options.chart, scale, measured)]
    if options.json:
        _write_json(options.json, scale, measured)
    if not quiet and notes:
        print("\n" + "\n".join(notes))
    return 0


def _missing(measured: report.Measured) -> list[str]:
    packages = ", ".join(report.missing(measured))
    return [f"not installed: {packages}: pip install -e .[benchmarks]"] if packages else []


def _chart(path: Path | None, scale: Scale, measured: report.Measured) -> list[str]:
    if path is None:
        return []
    try:
        chart.save(path, scale, measured)
    except ImportError as error:
        return [f"no chart, not installed: {error.name}: pip install -e .[benchmarks]"]
    return [f"chart: {path}"]


def _write_json(path: str, scale: Scale, measured: report.Measured) -> None:
    text = json.dumps(report.as_json(scale, measured), indent=2)
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n")


def _parser() -> argparse.ArgumentParser:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ours and the peers side by side: the contenders of a case take turns in every "
        "round. Less is better; the ratio compares medians with the first line of each table.",
    )
    parser.add_argument(
        "--rounds", type=_positive, help="measure each this often (default: what each case finds enough)"
    )
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
    parser.add_argument(
        "--chart",
        type=Path,
        default=Path("benchmarks.png"),
        metavar="FILE",
        help="draw the results there (default: %(default)s)",
    )
    parser.add_argument("--no-chart", dest="chart", action="store_const", const=None, help="draw nothing")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
