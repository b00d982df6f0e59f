from __future__ import annotations

import os
from pathlib import Path

import pytest

from multiprocessing_kit.supervise.cpus import available_cpus

V1 = "5:cpuacct,cpu:{0}\n4:memory:/elsewhere\n3:cpuset:/elsewhere\n"
V2 = "0::{0}\n"


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("memberships", "files", "expected"),
    [
        (None, {}, 8),
        ("", {}, 8),
        (V2.format("/"), {}, 8),
        (V2.format("/"), {"cpu.max": "max 100000"}, 8),
        (V2.format("/"), {"cpu.max": "max"}, 8),
        (V2.format("/"), {"cpu.max": ""}, 8),
        (V2.format("/"), {"cpu.max": "200000 100000\n"}, 2),
        (V2.format("/"), {"cpu.max": "150000 100000"}, 2),
        (V2.format("/"), {"cpu.max": "10000 100000"}, 1),
        (V2.format("/"), {"cpu.max": "25000 10000"}, 3),
        (V2.format("/"), {"cpu.max": "9900000 100000"}, 8),
        (V2.format("/a/b"), {"a/b/cpu.max": "300000 100000"}, 3),
        (V2.format("/a/b"), {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        (V2.format("/a/b"), {"a/cpu.max": "300000 100000", "a/b/cpu.max": "500000 100000"}, 3),
        (V2.format("/a/b"), {"a/cpu.max": "500000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        (V2.format("/a/b"), {"a/b/c/cpu.max": "300000 100000", "x/cpu.max": "300000 100000"}, 8),
        (V2.format("/docker/0123"), {"cpu.max": "400000 100000"}, 4),
        (V2.format("/../../outside"), {"cpu.max": "400000 100000"}, 4),
        (V2.format("/a:b"), {"a:b/cpu.max": "400000 100000"}, 4),
        (V1.format("/"), {}, 8),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (
            V1.format("/"),
            {"cpuacct,cpu/cpu.cfs_quota_us": "50000", "cpuacct,cpu/cpu.cfs_period_us": "20000"},
            3,
        ),
        (
            V1.format("/a/b"),
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "10000"},
            5,
        ),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "200000"}, 8),
        (
            V1.format("/") + V2.format("/"),
            {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000", "cpu.max": "200000 100000"},
            2,
        ),
    ],
)
def test_quotas(memberships: str | None, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "root"
    proc.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "cpu.max").write_text("100000 100000")
    root.mkdir()
    if memberships is not None:
        (proc / "cgroup").write_text(memberships)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert available_cpus(proc, root) == expected


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(V2.format("/"))
    (tmp_path / "cpu.max").mkdir()
    assert available_cpus(tmp_path, tmp_path) == 8


def test_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path, tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path, tmp_path) == 1


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="has no affinity")
def test_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cpus(tmp_path, tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cpus(tmp_path, tmp_path) == len(allowed)
