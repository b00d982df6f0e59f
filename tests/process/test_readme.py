"""Every Python block of README.md and docs/ runs as it stands, and prints what the page says.

A block that is followed by a ```text block must print exactly that, where `…` stands for anything
within a line (process ids, times). Any other must run without an error. A block that imports nothing, or
has `<!-- fragment -->` on the line before, is only part of a program, and need only compile.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCED = re.compile(
    r"(?P<fragment><!-- fragment -->\n)?"
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n*```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
IMPORT = re.compile(r"^(import|from) ", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One block.

    Attributes:
        place: File and line.
        output: What it prints; None if the page does not say.
    """

    place: str
    code: str
    output: str | None
    fragment: bool


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text()
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        place = f"{page.relative_to(ROOT)}:{line}"
        fragment = bool(found["fragment"]) or not IMPORT.search(found["code"])
        yield Example(place, found["code"], found["output"], fragment)


EXAMPLES = [example for page in PAGES for example in examples(page)]


@pytest.mark.parametrize(
    "example", [pytest.param(each, id=each.place) for each in EXAMPLES if not each.fragment]
)
def test_example(example: Example, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(example.code)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if example.output is not None:
        assert matches(done.stdout, example.output), (
            f"printed:\n{done.stdout}\nthe page says:\n{example.output}"
        )


def test_fragments_are_python() -> None:
    for example in EXAMPLES:
        compile(example.code, example.place, "exec")


def test_few_are_fragments() -> None:
    assert sum(example.fragment for example in EXAMPLES) <= len(EXAMPLES) // 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("printed", "written", "same"),
    [
        ("a 12 b\n", "a … b\n", True),
        ("a 12 b\nc\n", "a … b\n", False),
        ("a\nc\n", "…\n", False),
        ("(a)\n", "(a)\n", True),
        ("ab\n", "a.\n", False),
    ],
)
def test_an_ellipsis_stands_for_anything_in_its_line(printed: str, written: str, same: bool) -> None:
    assert matches(printed, written) is same


def matches(printed: str, written: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in written.split("…"))
    return re.fullmatch(pattern, printed) is not None
