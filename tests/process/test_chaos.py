"""`python -m benchmarks.chaos`: ours loses nothing under fire, and the comparison says what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.cell import Seen
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.plans import Plan
from benchmarks.chaos.pools import POOLS
from benchmarks.chaos.subject import check
from benchmarks.chaos.tally import Tally
from multiprocessing_kit import JobResponse, WorkerLostError

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
HIDES = "import sys\nfor name in ('joblib', 'loky', 'mpire', 'pebble'):\n    sys.modules[name] = None\n"


def chaos(folder: Path, *options: str) -> tuple[str, Any]:
    """What it prints and what it writes, without the peers that have to be installed."""
    (folder / "sitecustomize.py").write_text(HIDES)
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options, "--json", str(folder / "json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, json.loads((folder / "json").read_text())


# ── under fire ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_lost_under_fire(tmp_path: Path) -> None:
    printed, report = chaos(tmp_path, "--seconds", "2", "--seed", "1", "--only", "ours")
    ours = report["ours"]
    assert report["machine"].keys() == {"python", "system", "architecture", "processors"}
    assert report["peers"] == {}
    assert ours["flawless"]
    assert ours["maps"] > 1
    assert ours["jobs"] > 100
    assert ours["faults"]["SIGKILL"] > 1
    assert ours["after_death"]
    for name in ("lost", "doubled", "wrong", "repeated", "hangs", "children_left", "objects_left"):
        assert ours[name] == 0
    assert "answers lost                     0\n" in printed
    assert "death to next child at work" in printed


PLAN = Plan(jobs=4, way="map", long=1, seconds=0.0, large=100, crashes=100, again=True)
RIGHT = [JobResponse(index * 7 + 1, argument_index=index) for index in range(4)]
LOST = JobResponse(exception=WorkerLostError("its child died"), argument_index=3)


@pytest.mark.parametrize(
    ("responses", "count", "flaw"),
    [
        (RIGHT[:3], 1, "lost"),
        ([*RIGHT, RIGHT[3]], 1, "doubled"),
        ([RIGHT[1], RIGHT[0], *RIGHT[2:]], 1, "wrong"),
        ([*RIGHT[:3], JobResponse(5, argument_index=3)], 1, "wrong"),
        ([*RIGHT[:3], LOST], 1, "wrong"),
    ],
)
def test_a_flaw_is_found(responses: list[JobResponse], count: int, flaw: str) -> None:
    counts = check(PLAN, iter(responses))
    assert counts[flaw] == count
    counts["runs again"] = 0
    tally = Tally()
    tally.add(dict(counts), "")
    assert not tally.flawless


def test_without_a_flaw() -> None:
    assert check(PLAN, iter(RIGHT)) == Counter(right=4, jobs=4)


# ── the comparison ────────────────────────────────────────────────────────────────────────────────


def test_compares_what_is_installed(tmp_path: Path) -> None:
    printed, report = chaos(tmp_path, "--only", "killed", "--only", "unpicklable", "--limit", "3")
    assert report["ours"] is None
    assert report["peers"].keys() == {"killed", "unpicklable"}
    killed, unpicklable = report["peers"]["killed"], report["peers"]["unpicklable"]
    assert list(killed) == list(POOLS)
    assert killed["multiprocessing_kit"]["text"] == "100 of 100 answered"
    assert unpicklable["multiprocessing_kit"]["text"] == "99 of 100 answered, job 7: SerializationError"
    assert killed["multiprocessing.Pool.map"]["text"] == "hangs (>3 s)"
    assert killed["ProcessPoolExecutor.map"]["raised"] == "BrokenProcessPool"
    for peer in ("mpire", "pebble", "joblib (loky)"):
        assert killed[peer]["text"].startswith("not installed: ")
    assert FAULTS["killed"].title in printed
    assert "hangs (>3 s)\n" in printed


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Seen(1, 10, answers=100, over=True, closed=True), "100 of 100 answered"),
        (
            Seen(1, 10, answers=98, failures={7: "A", 8: "B"}, over=True, closed=True),
            "98 of 100 answered, job 7: A, job 8: B",
        ),
        (
            Seen(1, 10, answers=97, failures={7: "A", 8: "B", 9: "A"}, over=True, closed=True),
            "97 of 100 answered, 3 jobs: A or B",
        ),
        (Seen(1, 10, raised="A", over=True, closed=True), "fails all: A"),
        (Seen(1, 10, answers=7, raised="A", over=True, closed=True), "7 of 100 answered, then A"),
        (Seen(10, 10), "hangs (>10 s)"),
        (Seen(10, 10, answers=7), "7 of 100 answered, then hangs (>10 s)"),
        (Seen(1, 10, answers=100, over=True), "100 of 100 answered, hangs when closed"),
        (Seen(1, 10, answers=99, wrong=1, over=True, closed=True), "99 of 100 answered, 1 wrong"),
        (Seen(1, 10, status=-9), "its caller ends with -9"),
    ],
)
def test_a_cell_says_what_a_user_sees(seen: Seen, text: str) -> None:
    assert seen.text == text
