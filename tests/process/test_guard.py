"""The guard of tests/conftest.py sees what a test leaves behind, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import os, signal, subprocess, sys, threading, time
import pytest, sysv_ipc
kept = []
PID = os.getpid() % 65536
"""
SEEN = {
    "child": ("pid = os.fork()\nif not pid: signal.pause()\nlater(os.kill, pid, 9)", "child .*sleeping"),
    "zombie": ("if not os.fork(): os._exit(0)", "child .*zombie"),
    "file": ("kept.append(open(os.devnull))", "descriptor .* -> /dev/null"),
    "pipe": ("os.pipe()", "descriptor .* -> pipe.*descriptor .* -> pipe"),
    "pidfd": ("os.pidfd_open(1)", "descriptor .*pidfd"),
    "other_file": ("fd = os.open('.', 0)\nos.dup2(os.open(os.devnull, 0), fd)", "descriptor .*null"),
    "thread": ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "thread Thread-"),
    "segment": ("s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=9)\nlater(s.remove)", "shm"),
    "removed_segment": (
        "s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=9)\ns.remove()\nkept.append(s)",
        "shm",
    ),
    "our_semaphore": (
        "s = sysv_ipc.Semaphore(0x4D4B0000 + PID, sysv_ipc.IPC_CREX)\nlater(s.remove)",
        "sem .*0x4d4b",
    ),
}
NOT_SEEN = {
    "nothing": "pass",
    "ended_child": "subprocess.run([sys.executable, '-c', ''], check=True)",
    "closed_file": "with open(os.devnull): pass",
    "ended_thread": "thread = threading.Thread(target=int)\nthread.start()\nthread.join()",
    "freed_segment": "s = sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX, size=9)\ns.detach()\ns.remove()",
    "other_semaphore": "s = sysv_ipc.Semaphore(0x0BAD0000 + PID, sysv_ipc.IPC_CREX)\nlater(s.remove)",
    "garbage": "class Fd:\n    def __del__(self): os.close(self.fd)\n"
    "a = Fd()\na.a = a\na.fd = os.open(os.devnull, 0)\ndel a",
    "failed_itself": "kept.append(open(os.devnull))\nassert 0",
}


def run_pytest(folder: Path, tests: dict[str, str], mark: str = "") -> subprocess.CompletedProcess[str]:
    code = PRELUDE
    for name, body in tests.items():
        lines = [
            "later = lambda call, *args: request.config.add_cleanup(lambda: call(*args))",
            *body.splitlines(),
        ]
        code += f"{mark}\ndef test_{name}(request):\n" + "".join(f"    {line}\n" for line in lines)
    (folder / "test_made_up.py").write_text(code)
    guard = (ROOT / "tests" / "conftest.py").read_text()
    assert "GRACE = 5.0" in guard
    (folder / "conftest.py").write_text(guard.replace("GRACE = 5.0", "GRACE = 0.1"))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = timeout(seconds): as in setup.cfg\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "test_made_up.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)


def test_what_is_left_is_seen_and_what_is_not_left_is_not(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, {name: body for name, (body, _) in SEEN.items()} | NOT_SEEN)
    assert done.returncode == 1, done.stdout + done.stderr
    for name, (_, left) in SEEN.items():
        section = rf"ERROR at teardown of test_{name} _+\nleft behind: .*{left}"
        assert re.search(section, done.stdout), f"{name}: {done.stdout}"
    assert len(re.findall("^ERROR test", done.stdout, re.MULTILINE)) == len(SEEN)
    assert re.findall(r"^FAILED \S+::test_(\w+)", done.stdout, re.MULTILINE) == ["failed_itself"]


def test_a_hanging_test_ends_the_run_and_says_where(tmp_path: Path) -> None:
    body = "threading.Event().wait()"
    done = run_pytest(tmp_path, {"hanging": body}, "@pytest.mark.timeout(0.2)")
    assert done.returncode == -14, "SIGALRM"
    assert "test_made_up.py" in done.stderr
    assert "in test_hanging" in done.stderr
