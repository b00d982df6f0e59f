"""`python -m benchmarks` runs and says what it measured. No number is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import AtMost, Case, Contender, NoMoreThan, Scale, run

ROOT = Path(__file__).resolve().parents[2]


def benchmarks(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": ""},  # the peers' own, about their threads
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def quick() -> Any:
    return json.loads(benchmarks("--quick", "--json"))


def test_tells_the_machine_and_the_options(quick: Any) -> None:
    assert quick["machine"].keys() == {"python", "system", "architecture", "processors"}
    assert quick["options"] == {"rounds": 1, "quick": True}


@pytest.mark.parametrize(
    ("case", "ours", "peers"),
    [
        ("jobs", {"Process.map", "Process.imap"}, {"Pool.map", "Pool.imap", "ProcessPoolExecutor.map"}),
        ("import", {"multiprocessing_kit"}, {"multiprocessing.pool, concurrent.futures"}),
        ("events", {"nobody listens", "caller listens for every event"}, set()),
        ("start-up", {"Process"}, {"Pool", "ProcessPoolExecutor"}),
    ],
)
def test_measures_ours_and_the_peers(quick: Any, case: str, ours: set[str], peers: set[str]) -> None:
    results = named(quick, case)
    assert ours | peers <= results.keys()
    for result in results.values():
        assert len(result["rounds"]) == 1
        assert result["median"] > 0
        assert isinstance(result["met"], bool) or (result["met"] is None and not result["goal"])


def test_children_send_only_answers_while_nobody_listens(quick: Any) -> None:
    records = {name: result["median"] for name, result in named(quick, "records").items()}
    assert records == {
        "nobody listens": 1,  # the answer
        "caller listens for JOB_SUCCESS": 1,  # follows from the answer
        "caller listens for every event": 3,  # JOB_START, JOB_RUNNING, the answer
    }


def test_prints_a_table_and_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    printed = benchmarks("--quick", "--only", "records", "--rounds", "2", "--json", str(file))
    assert "nobody listens" in printed
    assert "goal" in printed
    written = json.loads(file.read_text())
    assert [case["name"] for case in written["cases"]] == ["records"]
    assert named(written, "records")["nobody listens"]["rounds"] == [1, 1]


def test_contenders_take_turns_and_goals_are_compared() -> None:
    turns: list[str] = []

    def contender(name: str, number: float, goal: AtMost | NoMoreThan | None = None) -> Contender:
        def measure(_scale: Scale) -> float:
            turns.append(name)
            return number

        return Contender(name, measure, goal)

    first, second, third = run(
        Case(
            "case",
            "title",
            "ms",
            [contender("a", 2.0, NoMoreThan("b")), contender("b", 3.0, AtMost(2.5)), contender("c", 1.0)],
        ),
        Scale(rounds=3),
    )
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [first.met, second.met, third.met] == [True, False, None]
    assert [first.ratio, second.ratio, third.ratio] == [1.0, 1.5, 0.5]


def named(report: Any, case: str) -> dict[str, Any]:
    (found,) = (each for each in report["cases"] if each["name"] == case)
    return {result["name"]: result for result in found["results"]}
