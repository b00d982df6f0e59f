"""What changes cost: the package as it is beside an earlier revision of it, in turns.

    python -m benchmarks.against REVISION [CASE …] [--rounds N]

Each measurement is one interpreter, which finds the package of one of the two and these benchmarks. It needs
the repository's history, and cases that both revisions can run.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Case, Scale

__all__ = ["main", "measured"]

_ROOT = Path(__file__).resolve().parents[1]
_CASES = ("jobs.CASE", "one_by_one.CASE", "arrays_in.CASE", "arrays_out.TOUCHED")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each case."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mpkit-before-") as folder:
        _unpack(options.revision, Path(folder))
        print(f"{'':16} {'':8} {'before':>9} {'now':>9}  now / before, medians of {options.rounds}")
        for name in options.cases or _CASES:
            case = _case(name)
            pairs = [
                [_in_turn(name, path, quick=options.quick) for path in (folder, _ROOT)]
                for _ in range(options.rounds)
            ]
            before, now = (statistics.median(numbers) for numbers in zip(*pairs, strict=True))
            print(f"{case.name:16} {case.unit:8} {before:9.3g} {now:9.3g}  {now / before:.2f}", flush=True)


def _unpack(revision: str, folder: Path) -> None:
    command = ["git", "archive", "--format=tar", revision, "multiprocessing_kit"]
    archive = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            tar.extract(member, folder)


def _in_turn(name: str, package: str | Path, *, quick: bool) -> float:
    code = f"from benchmarks.against import measured; print(measured({name!r}, quick={quick}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package,  # comes first in the path of modules
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measured(name: str, *, quick: bool) -> float:
    """Our number in a case, of the package that is found first."""
    ours, *_ = _case(name).contenders
    return ours.measure(Scale(quick=quick))


def _case(name: str) -> Case:
    module, _, case = name.partition(".")
    found: Case = getattr(import_module(f"benchmarks.cases.{module}"), case)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        description="Measure the package beside an earlier revision of it, in turns.",
    )
    parser.add_argument("revision", help="of the repository, such as HEAD~1")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"in benchmarks/cases; by default {', '.join(_CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="only to see that all of it runs")
    return parser


if __name__ == "__main__":
    main()
