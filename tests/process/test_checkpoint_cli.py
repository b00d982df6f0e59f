"""`mpkit checkpoint`: what it prints, deletes and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from multiprocessing_kit import Process
from multiprocessing_kit.cli import main

ROOT = Path(__file__).resolve().parents[2]


def halve(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number // 2


def mpkit(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["checkpoint", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "crawl.db"
    Process(2, checkpoint=file).map(halve, range(1500))
    return file


def test_show(file: Path) -> None:
    done = mpkit("show", str(file))
    assert done.exit_code == 0
    assert f"worker     {__name__}.halve\n" in done.output
    assert "1,500 inputs: 750 ok, 750 failed\n" in done.output
    assert "up to 1,499\n" in done.output
    assert "runs       1\n" in done.output
    for line in ("size ", "begun      20", "last       20"):
        assert f"\n{line}" in done.output


def test_show_while_it_is_in_use(file: Path) -> None:
    responses = Process(1, checkpoint=file).imap(halve, range(1500))
    next(responses)
    assert mpkit("show", str(file)).exit_code == 0
    refused = mpkit("clear", str(file))
    assert (refused.exit_code, "in use" in refused.output) == (1, True)
    assert len(list(responses)) == 1499


def test_clear_failed(file: Path) -> None:
    assert mpkit("clear", str(file), "--failed").output == "deleted 750 failed answers\n"
    assert "750 inputs: 750 ok, 0 failed\n" in mpkit("show", str(file)).output
    heard: list[int] = []
    process = Process(2, checkpoint=file)
    process.on("job_failed", lambda process, argument: heard.append(argument))
    assert len(process.map(halve, range(1500))) == 1500
    assert sorted(heard) == list(range(1, 1500, 2))
    assert "runs       2\n" in mpkit("show", str(file)).output


def test_clear_all_makes_room_for_another_worker(file: Path) -> None:
    size = file.stat().st_size
    assert mpkit("clear", str(file)).output == "deleted 1,500 answers\n"
    assert file.stat().st_size < size / 2
    shown = mpkit("show", str(file)).output
    assert "(none: it was cleared)" in shown
    assert "last       never\n" in shown
    assert Process(1, checkpoint=file).map(abs, [-1])[0].body == 1


@pytest.mark.parametrize("command", ["show", "clear"])
def test_what_is_no_checkpoint(tmp_path: Path, command: str) -> None:
    missing = mpkit(command, str(tmp_path / "missing"))
    assert (missing.exit_code, "No such file" in missing.output) == (1, True)
    (tmp_path / "text").write_text("some text, and no database")
    text = mpkit(command, str(tmp_path / "text"))
    assert (text.exit_code, "not a database" in text.output) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_as_a_module(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "multiprocessing_kit.cli", "checkpoint", "show", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "750 failed" in done.stdout, done.stderr) == (0, True, "")
    help_text = subprocess.run(
        [sys.executable, "-m", "multiprocessing_kit.cli", "-h"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: mpkit" in help_text.stdout
