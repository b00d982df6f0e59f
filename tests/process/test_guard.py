"""The guard of tests/conftest.py sees what a test leaves behind, and nothing else."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import ctypes, os, signal, subprocess, sys, tempfile, threading, time
import pytest, sysv_ipc
kept = []
def test_it(request):
"""


def run_pytest(folder: Path, body: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    code = PRELUDE + "".join(f"    {line}\n" for line in inspect.cleandoc(body).splitlines())
    (folder / "test_made_up.py").write_text(code.replace("def test_it", f"{before}\ndef test_it"))
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_made_up.py"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (
            "pid = os.fork()\nif not pid: signal.pause()\nrequest.config.add_cleanup(lambda: os.kill(pid, 9))",
            "child",
        ),
        ("if not os.fork(): os._exit(0)", "child .*zombie"),
        ("kept.append(open(os.devnull))", "descriptor .* -> /dev/null"),
        ("kept.append(os.pipe())", "descriptor .* -> pipe.*descriptor .* -> pipe"),
        ("kept.append(os.pidfd_open(1))", "descriptor"),
        ("os.close(kept.pop()) if kept else kept.append(os.dup(1))", "descriptor"),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "thread"),
        (
            "s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=100)\nrequest.config.add_cleanup(s.remove)",
            "shm",
        ),
        (
            "s = sysv_ipc.Semaphore(0x4d4b0bad, sysv_ipc.IPC_CREX)\nrequest.config.add_cleanup(s.remove)",
            "sem",
        ),
        ("s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=9)\ns.remove()\nkept.append(s)", "shm"),
    ],
)
def test_what_is_left_is_seen(body: str, left: str, tmp_path: Path) -> None:
    done = run_pytest(tmp_path, body)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(f"left behind: .*{left}", done.stdout), done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "subprocess.run([sys.executable, '-c', ''], check=True)",
        "with open(os.devnull): pass",
        "thread = threading.Thread(target=int)\nthread.start()\nthread.join()",
        "s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=100)\ns.detach()\ns.remove()",
        "a, b = [], []\na.append(b)\nb.append(a)\na.append(open(os.devnull).detach().detach())",
    ],
)
def test_what_is_not_left_is_not(body: str, tmp_path: Path) -> None:
    done = run_pytest(tmp_path, body)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_failed_test_is_not_accused_of_it_too(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "kept.append(open(os.devnull))\nassert 0")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "left behind" not in done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(1000)",
        "signal.pthread_sigmask(0, {1})\nthreading.Lock().acquire(timeout=1000) and threading.Event().wait()",
    ],
)
def test_a_hanging_test_ends_the_run_and_says_where(body: str, tmp_path: Path) -> None:
    done = run_pytest(tmp_path, body, before="@pytest.mark.timeout(0.2)")
    assert done.returncode == -14, "SIGALRM"
    assert "test_made_up.py" in done.stderr
    assert "in test_it" in done.stderr
