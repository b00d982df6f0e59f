"""The house stands: each module on its floor, imports downward only, a light front door."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "multiprocessing_kit"
ROOT = Path(__file__).resolve().parents[2]

CHILD = {"child", "child_events", "child_side", "parent_side"}

# Rooms from the ground up. A module imports from its own room and from lower floors.
# The package's own __init__.py re-exports from everywhere, so nothing imports from it.
HOUSE = [
    (0, {"errors"}),
    (1, {"ipc"}),
    (1, {"supervise"}),
    (2, {"worker", "response", "responses", "events", "observer", "retry", "changes", "lifecycle"} | CHILD),
    (2, {"queues", "lockers", "shared", "pipe"}),
    (3, {"process", "runner", "progress", "checkpoint"}),
    (4, {"pool"}),
    (4, {"executor"}),
    (5, {"joblib_backend"}),
    (5, {"manager"}),
    (5, {"service"}),
    (6, {"cli"}),
]
# Across or inside rooms, whatever HOUSE says.
ALLOWED = {("service", "manager")}
FORBIDDEN = {("runner", "process")}

HEAVY = {
    "asyncio",
    "click",
    "cloudpickle",
    "joblib",
    "multiprocessing",
    "numpy",
    "psutil",
    "sqlite3",
    "tenacity",
    "tqdm",
}


@dataclass(frozen=True)
class Import:
    importer: str  # dotted, without the package's name; "" is the package itself
    target: str
    line: int
    typing_only: bool


def complaints(package: Path) -> list[str]:
    """All that is wrong with the imports of the modules under `package`, which is not imported."""
    modules = {_dotted(path, package): path for path in sorted(package.rglob("*.py"))}
    homeless = [
        f"{path.relative_to(package)}: give it a floor in {Path(__file__).name}"
        for name, path in modules.items()
        if name and _room(name) is None
    ]
    imports = [found for name, path in modules.items() if name for found in _imports(name, path, modules)]
    upward = [
        f"{found.importer}:{found.line} must not import {found.target or PACKAGE}"
        for found in imports
        if not _may(found)
    ]
    between_modules = {
        (found.importer, found.target) for found in imports if not found.typing_only and _may(found)
    }
    between_members = {(_member(a), _member(b)) for a, b in between_modules if _member(a) != _member(b)}
    circles = {_circle(edges) for edges in (between_modules, between_members)} - {""}
    return homeless + upward + sorted(circles)


def _dotted(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def _member(module: str) -> str:
    return module.partition(".")[0]


def _room(module: str) -> tuple[int, set[str]] | None:
    return next((room for room in HOUSE if _member(module) in room[1]), None)


def _may(found: Import) -> bool:
    pair = (_member(found.importer), _member(found.target))
    here, there = _room(found.importer), _room(found.target)
    if here is None or there is None:
        return here is None and found.target != ""  # homeless ones are reported as such
    if pair in FORBIDDEN:
        return False
    return (
        here is there or there[0] < here[0] or (found.typing_only and there[0] == here[0]) or pair in ALLOWED
    )


def _imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    here = [PACKAGE, *name.split(".")]
    if path.name != "__init__.py":
        here.pop()
    for node, typing_only in _import_nodes(ast.parse(path.read_text(), str(path)), typing_only=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            top, _, inside = target.partition(".")
            if top == PACKAGE:
                yield Import(name, _module_of(inside, modules), node.lineno, typing_only)


def _import_nodes(node: ast.AST, typing_only: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, typing_only
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for statement in node.body:
            yield from _import_nodes(statement, True)
        for statement in node.orelse:
            yield from _import_nodes(statement, typing_only)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _import_nodes(child, typing_only)


def _module_of(target: str, modules: dict[str, Path]) -> str:
    """`ipc.ring.Ring` is imported from `ipc.ring`."""
    while target not in modules and target:
        target = target.rpartition(".")[0]
    return target


def _circle(edges: set[tuple[str, str]]) -> str:
    graph: dict[str, set[str]] = {}
    for importer, target in edges:
        graph.setdefault(importer, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1][:0:-1]
        start = ring.index(min(ring))
        return "circle: " + " -> ".join([*ring[start:], *ring[:start], ring[start]])
    return ""


def test_every_module_has_a_floor_and_imports_downward() -> None:
    assert complaints(ROOT / PACKAGE) == []


SOUND = {
    "__init__.py": f"from {PACKAGE}.process import Process",
    "errors.py": "import os",
    "ipc/__init__.py": f"from {PACKAGE}.ipc.ring import Ring\nfrom .keys import KEY",
    "ipc/keys.py": "KEY = 1",
    "ipc/ring.py": "from . import keys\nfrom ..errors import KitError",
    "worker.py": f"import typing\nif typing.TYPE_CHECKING:\n    from {PACKAGE}.queues import Queue",
    "queues.py": f"import {PACKAGE}.ipc.ring as ring",
    "runner/__init__.py": "",
    "runner/loop.py": f"from {PACKAGE} import errors, worker",
    "progress.py": "",
    "process.py": f"def run():\n    from {PACKAGE}.runner.loop import Loop\n    from . import progress",
}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("errors.py", f"from {PACKAGE}.ipc.keys import KEY", ["errors:1 must not import ipc.keys"]),
        ("worker.py", f"import {PACKAGE}.process", ["worker:1 must not import process"]),
        ("worker.py", f"def f():\n    import {PACKAGE}.process", ["worker:2 must not import process"]),
        ("worker.py", "from . import process", ["worker:1 must not import process"]),
        ("worker.py", "from .process import Process", ["worker:1 must not import process"]),
        ("ipc/ring.py", "from ..worker import Worker", ["ipc.ring:1 must not import worker"]),
        ("ipc/ring.py", "from .. import worker", ["ipc.ring:1 must not import worker"]),
        ("ipc/__init__.py", "from ..worker import Worker", ["ipc:1 must not import worker"]),
        (
            "worker.py",
            f"if TYPE_CHECKING:\n    from {PACKAGE} import process",
            ["worker:2 must not import process"],
        ),
        ("supervise/watch.py", f"from {PACKAGE}.ipc import KEY", ["supervise.watch:1 must not import ipc"]),
        ("worker.py", f"from {PACKAGE}.queues import Queue", ["worker:1 must not import queues"]),
        ("worker.py", f"from {PACKAGE} import Process", [f"worker:1 must not import {PACKAGE}"]),
        ("worker.py", f"import {PACKAGE}", [f"worker:1 must not import {PACKAGE}"]),
        ("runner/loop.py", "from ..process import Process", ["runner.loop:1 must not import process"]),
        ("ipc/keys.py", "def f():\n    from .ring import Ring", ["circle: ipc.keys -> ipc.ring -> ipc.keys"]),
        ("progress.py", "from .process import run", ["circle: process -> progress -> process"]),
        ("attic.py", "", ["attic.py: give it a floor in test_house.py"]),
        ("attic/box.py", "", ["attic/box.py: give it a floor in test_house.py"]),
    ],
)
def test_a_crooked_house_is_noticed(tmp_path: Path, path: str, source: str, expected: list[str]) -> None:
    _build(tmp_path, {**SOUND, path: source})
    assert complaints(tmp_path) == expected


def test_a_sound_house_is_accepted(tmp_path: Path) -> None:
    _build(tmp_path, SOUND)
    assert complaints(tmp_path) == []


def _build(package: Path, sources: dict[str, str]) -> None:
    for name, text in sources.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)


def test_public_names_are_sorted_and_there() -> None:
    package = importlib.import_module(PACKAGE)
    names: list[str] = package.__all__
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(package, name)] == []


def test_the_front_door_is_light() -> None:
    code = f"import sys; before = set(sys.modules); import {PACKAGE}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    imported = set(done.stdout.split())
    assert imported & HEAVY == set()
    later = importlib.import_module(PACKAGE)._LATER
    assert later.keys() >= {"lockers", "manager", "pool"}
    assert imported & {f"{PACKAGE}.{home}" for home in later} == set()


def test_what_is_not_there() -> None:
    package = importlib.import_module(PACKAGE)
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match="'multiprocessing_kit' has no attribute 'Pul'"):
        _ = package.Pul
