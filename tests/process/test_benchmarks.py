"""`python -m benchmarks` runs and says what it measured. No number is judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.goals import AtMost, Goal, NoMoreThan, NoMoreThanBest, Verdict
from benchmarks.harness import Case, Contender, LeftOut, Scale, run
from benchmarks.order import CASES

# All cases once, those that start servers and services too, take the better part of a minute.
pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]

PEERS = ("celery", "dramatiq", "faster_fifo", "huey", "joblib", "loky", "mpire", "pebble", "rq")
HIDES = """
import sys

for name in {names!r}:
    sys.modules[name] = None  # an import of it raises ImportError
"""

ARRAY_CASES = ("arrays-in", "arrays-out", "arrays-out-summed", "same-array", "pools-arrays")
POOLS = {"Pool.map", "ProcessPoolExecutor.map"}
QUEUES = {"FifoQueue", "LifoQueue", "PriorityQueue", "multiprocessing.Queue", "Manager().Queue()"}


def benchmarks(*options: str, hidden: Sequence[str] = (), folder: Path | None = None) -> str:
    """What it prints, with some packages hidden from it by a `sitecustomize` in the folder."""
    path = [str(ROOT)]
    if hidden:
        assert folder is not None
        (folder / "sitecustomize.py").write_text(HIDES.format(names=tuple(hidden)))
        path.insert(0, str(folder))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONWARNINGS": "",  # the peers' own, about their threads
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def named(report: Any, case: str) -> dict[str, Any]:
    (found,) = (each for each in report["cases"] if each["name"] == case)
    return {result["name"]: result for result in found["results"]}


# ── all cases, for real ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of ours and the standard library's, wherever this runs."""
    return json.loads(
        benchmarks("--quick", "--json", "--no-chart", hidden=PEERS, folder=tmp_path_factory.mktemp("hidden"))
    )


def test_tells_the_machine_and_the_options(quick: Any) -> None:
    assert quick["machine"].keys() == {"python", "system", "architecture", "processors"}
    assert quick["options"] == {"rounds": None, "quick": True}


def test_runs_every_case_in_order(quick: Any) -> None:
    assert [case["name"] for case in quick["cases"]] == [case.name for case in CASES]


@pytest.mark.parametrize(
    ("case", "measured"),
    [
        ("jobs", {"Process.map", "Process.map, every body read", "Process.imap", *POOLS}),
        ("one-by-one", {"Process(batch_size=1).map", "Pool.imap", "ProcessPoolExecutor.map"}),
        ("arrays-in", {"Process.map", *POOLS, "memcpy of the same"}),
        ("arrays-out", {"Process.map", *POOLS}),
        ("arrays-out-summed", {"Process.map", *POOLS}),
        ("same-array", {"Process.map", *POOLS}),
        ("uneven", {"Process.map", "Pool.map, chunks of 1", "possible in this order (calculated)"}),
        ("uneven-long-last", {"Process.map", "Pool.map, chunks of 1"}),
        ("start-up", {"Process", "Pool", "ProcessPoolExecutor"}),
        ("growth", {f"{way}, 10,000 jobs" for way in ("Process.map", "Process.imap", "Pool.map")}),
        ("queue-between", {"SharedMemQueue", "multiprocessing.Queue"}),
        ("queue-within", {"SharedMemQueue", "multiprocessing.Queue"}),
        ("import", {"multiprocessing_kit", "multiprocessing.pool, concurrent.futures"}),
        ("events", {"nobody listens", "caller listens for every event"}),
        ("pools", {"Pool.map", "ForkExecutor.map", "multiprocessing.Pool.map", "ProcessPoolExecutor.map"}),
        ("pools-submit", {"ForkExecutor.submit", "Pool.apply_async", "ProcessPoolExecutor.submit"}),
        ("pools-arrays", {"Pool.map", "ForkExecutor.map", "multiprocessing.Pool.map"}),
        ("toolkit-queues-between", QUEUES),
        ("toolkit-queues-within", QUEUES),
        ("lockers", {"MutexLocker", "SpinLocker", "FileLocker", "multiprocessing.Lock", "threading.Lock"}),
        ("shared-count", {"Shared.incr", "Manager().dict(), d[k] = d[k] + 1"}),
        ("shared-row", {"Shared, a row read", "Manager().dict(), a row read"}),
        ("pipe", {"Pipe, to a child and back", "multiprocessing.Pipe, to a child and back"}),
    ],
)
def test_measures_ours_and_the_peers(quick: Any, case: str, measured: set[str]) -> None:
    results = named(quick, case)
    for name in measured:
        assert len(results[name]["rounds"]) == 1
        assert results[name]["median"] > 0


def test_every_contender_is_measured_or_left_out_for_a_reason(quick: Any) -> None:
    for case in quick["cases"]:
        for result in case["results"]:
            assert (result["median"] is None) == bool(result["left_out"])
            assert not result["failures"]


def test_children_send_only_answers_while_nobody_listens(quick: Any) -> None:
    records = {name: result["median"] for name, result in named(quick, "records").items()}
    # several answers may share a record
    assert records["nobody listens"] <= 1
    assert records["caller listens for JOB_SUCCESS"] <= 1  # follows from the answer
    assert 1 < records["caller listens for every event"] <= 3  # JOB_START, JOB_RUNNING, the answer


def test_beside_an_earlier_revision() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.against", "HEAD", "jobs.CASE", "--quick", "--rounds", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    _, line = done.stdout.splitlines()
    name, unit, before, now, ratio = line.split()
    assert (name, unit) == ("jobs", "us/job")
    assert float(ratio) == pytest.approx(float(now) / float(before), abs=0.05)


# ── what is absent ────────────────────────────────────────────────────────────────────────────────


def test_absent_peers_are_named(quick: Any) -> None:
    assert quick["missing"] == [peer.replace("_", "-") for peer in PEERS]
    mpire = named(quick, "jobs")["mpire"]
    assert (mpire["rounds"], mpire["left_out"]) == ([], "not installed: mpire")
    goals = {goal["goal"]: goal["met"] for goal in named(quick, "jobs")["Process.map"]["goals"]}
    assert goals["<= 0.1 x mpire"] is None
    assert goals["<= 0.01 x ProcessPoolExecutor.map"] is not None


def test_says_how_to_install_what_is_absent(tmp_path: Path) -> None:
    only = [option for name in ("records", *ARRAY_CASES) for option in ("--only", name)]
    printed = benchmarks("--quick", *only, hidden=("numpy", "matplotlib", *PEERS), folder=tmp_path)
    assert "nobody listens" in printed
    assert printed.count("skipped, not installed: numpy") == len(ARRAY_CASES)
    assert "not installed: numpy: pip install -e .[benchmarks]" in printed
    assert "no chart, not installed: matplotlib" in printed


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_left_out_costs_only_itself(apart: bool) -> None:
    def absent(_scale: Scale) -> float:
        raise ModuleNotFoundError("No module named 'some_peer.part'", name="some_peer.part")

    def resting(_scale: Scale) -> float:
        raise LeftOut("not today")

    case = Case(
        "case",
        "title",
        "ms",
        [
            Contender(
                "ours",
                lambda _: 2.0,
                (NoMoreThan("absent"), NoMoreThanBest(("absent", "resting", "there"), 0.5)),
            ),
            Contender("absent", absent),
            Contender("resting", resting),
            Contender("there", lambda _: 4.0),
        ],
        apart=apart,
    )
    ours, missing, left_out, there = run(case, Scale(rounds=2))
    assert (missing.rounds, missing.missing, missing.left_out) == (
        [],
        "some-peer",
        "not installed: some-peer",
    )
    assert (left_out.rounds, left_out.missing, left_out.left_out) == ([], "", "not today")
    assert there.rounds == [4.0, 4.0]
    assert ours.goals == [
        Verdict("<= absent", None, None),
        Verdict("<= 0.5 x the best peer", 2.0, True),
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_our_own_faults_are_not_left_out(apart: bool) -> None:
    def broken(_scale: Scale) -> float:
        raise ImportError("cannot import name", name="multiprocessing_kit.process")

    with pytest.raises(ImportError, match="cannot import name"):
        run(Case("case", "title", "ms", [Contender("ours", broken)], apart=apart), Scale())


@pytest.mark.parametrize("failing", [(2,), (1, 2)])
def test_a_peer_that_fails_costs_only_its_round(
    failing: tuple[int, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def flaky(_scale: Scale) -> float:
        with (tmp_path / "rounds").open("a+") as file:
            file.write("x")
        if (tmp_path / "rounds").stat().st_size in failing:
            raise ValueError("not this time")
        return 1.0

    case = Case("case", "title", "ms", [contender("ours", 2.0, NoMoreThan("peer")), Contender("peer", flaky)])
    results = run(case, Scale(rounds=2))
    ours, peer = results
    numbers = [1.0] * (2 - len(failing))
    assert (ours.rounds, ours.failures) == ([2.0, 2.0], 0)
    assert (peer.rounds, peer.failures) == (numbers, len(failing))
    assert ours.goals == [Verdict("<= peer", *((1.0, False) if numbers else (None, None)))]
    last = report.table(case, results).splitlines()[-1]
    assert last.endswith("failed in 1 of 2 rounds" if numbers else "failed")
    assert "not this time" in capfd.readouterr().err


def test_a_measurement_of_ours_that_fails_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    def fails(_scale: Scale) -> float:
        raise ValueError("that was wrong")

    with pytest.raises(RuntimeError, match="exit code 1"):
        run(Case("case", "title", "ms", [Contender("ours", fails, ours=True)]), Scale())
    assert "that was wrong" in capfd.readouterr().err


# ── turns and goals ───────────────────────────────────────────────────────────────────────────────


def contender(name: str, number: float, goal: Goal | Sequence[Goal] = ()) -> Contender:
    return Contender(name, lambda _scale: number, goal)


def test_contenders_take_turns() -> None:
    turns: list[str] = []

    def noting(name: str) -> Contender:
        def measure(_scale: Scale) -> float:
            turns.append(name)
            return 1.0

        return Contender(name, measure)

    run(Case("case", "title", "ms", [noting("a"), noting("b"), noting("c")], apart=False), Scale(rounds=3))
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_goals_are_compared() -> None:
    contenders = [
        contender("a", 2.0, (NoMoreThan("b"), AtMost(1.0), NoMoreThan("b", 0.5))),
        contender("b", 3.0, AtMost(2.5)),
        contender("c", 1.0),
    ]
    first, second, third = run(Case("case", "title", "ms", contenders), Scale())
    assert [(goal.goal, goal.limit, goal.met) for goal in first.goals] == [
        ("<= b", 3.0, True),
        ("<= 1", 1.0, False),
        ("<= 0.5 x b", 1.5, False),
    ]
    assert [goal.met for goal in second.goals] == [False]
    assert not third.goals
    assert [first.ratio, second.ratio, third.ratio] == [1.0, 1.5, 0.5]
    assert [first.ours, third.ours] == [True, False]


def test_a_case_says_how_many_rounds_are_enough() -> None:
    case = Case("case", "title", "ms", [contender("a", 1.0)], rounds=3)
    assert len(run(case, Scale())[0].rounds) == 3
    assert len(run(case, Scale(rounds=2))[0].rounds) == 2
    assert len(run(case, Scale(quick=True))[0].rounds) == 1


# ── what comes out ────────────────────────────────────────────────────────────────────────────────


def test_prints_a_table_and_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    printed = benchmarks("--quick", "--only", "records", "--rounds", "2", "--json", str(file), "--no-chart")
    assert "nobody listens" in printed
    assert "<= 1: met" in printed
    written = json.loads(file.read_text())
    assert [case["name"] for case in written["cases"]] == ["records"]
    assert len(named(written, "records")["nobody listens"]["rounds"]) == 2


def test_a_row_shows_every_goal() -> None:
    contenders = [contender("a", 2.0, (NoMoreThan("b"), AtMost(1.0))), contender("b", 300.0)]
    case = Case("case", "title", "ms", contenders)
    lines = report.table(case, run(case, Scale())).splitlines()
    assert lines[2].split() == ["a", "2", "2", "..", "2", "1.00", "<=", "b", "(300):", "met"]
    assert lines[3].strip() == "<= 1: not met"
    assert lines[4].split() == ["b", "300", "300", "..", "300", "150.00"]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="draws with matplotlib")
def test_draws_a_chart(tmp_path: Path) -> None:
    printed = benchmarks("--quick", "--only", "records", "--chart", str(tmp_path / "chart.png"))
    assert f"chart: {tmp_path / 'chart.png'}" in printed
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
