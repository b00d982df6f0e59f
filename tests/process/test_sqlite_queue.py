"""The code in docs/queues.md: it runs as it stands there."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import JobResponse, Process, Queue, RemoteError
from tests.forks import exit_of, fork

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/queues.md").read_text("utf-8"), re.S | re.M)
(QUEUE,) = (block for block in BLOCKS if "class SqliteQueue" in block)


def sqlite_queue() -> Callable[..., Queue[Any]]:
    namespace: dict[str, Any] = {"__name__": "docs_queues"}
    exec(compile(QUEUE, "docs/queues.md", "exec"), namespace)
    made: Callable[..., Queue[Any]] = namespace["SqliteQueue"]
    return made


SqliteQueue = sqlite_queue()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "queue.db")


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of the page, in their order, print what their comments say."""
    monkeypatch.chdir(tmp_path)
    exec("".join(BLOCKS), {"__name__": "docs_queues"})
    said = re.findall(r"^ *print\(.*\)  # (.*)$", "".join(BLOCKS), re.M)
    assert len(said) >= 3
    assert capsys.readouterr().out.splitlines() == said


def square_or_fail(number: int) -> int:
    if number % 10 == 3:
        raise LookupError(number)
    return number * number


def test_responses_go_through_it(path: str) -> None:
    results = SqliteQueue(path)
    responses = Process(2, results).map(square_or_fail, range(40))
    assert len(responses) == 40
    assert results.empty()
    for number, response in enumerate(responses):
        assert isinstance(response, JobResponse)
        assert response.argument_index == number
        if number % 10 == 3:
            with pytest.raises(LookupError, match=str(number)) as caught:
                response.result()
            assert isinstance(caught.value.__cause__, RemoteError)
            assert "square_or_fail" in caught.value.__cause__.traceback_text
        else:
            assert response.result() == number * number


def test_it_outlives_its_processes(path: str) -> None:
    SqliteQueue(path).put_many(["one", {"two": 2}, JobResponse(3)])
    script = f"{QUEUE}\nimport sys\nq = SqliteQueue(sys.argv[1])\nprint(q.get_all())\nq.put('back')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{['one', {'two': 2}, JobResponse(3)]}\n"
    assert SqliteQueue(path).get_all() == ["back"]


def test_what_was_put_survives_a_kill(path: str) -> None:
    results = SqliteQueue(path)

    def put_and_die(number: int) -> None:
        results.put(number)
        os.kill(os.getpid(), signal.SIGKILL)

    in_children([partial(put_and_die, number) for number in range(3)], -signal.SIGKILL)
    assert sorted(results.get_all()) == [0, 1, 2]


def test_many_processes(path: str) -> None:
    """Each item is taken once, in the order of its producer."""
    items, taken = SqliteQueue(path), SqliteQueue(path + ".taken")
    items.put("the file was used before the fork")
    assert items.get()

    def produce(first: int) -> None:
        for number in range(first, first + 20):
            items.put(number, timeout=50)

    def consume(who: int) -> None:
        for _ in range(20):
            taken.put((who, items.get(timeout=50)))

    in_children([partial(produce, 100 * n) for n in range(3)] + [partial(consume, n) for n in range(3)])
    got = taken.get_all()
    assert sorted(item for _, item in got) == sorted(100 * n + i for n in range(3) for i in range(20))
    for who in range(3):
        for n in range(3):
            mine = [item for consumer, item in got if consumer == who and item // 100 == n]
            assert mine == sorted(mine)
    assert items.empty()


def test_many_threads(path: str) -> None:
    items = SqliteQueue(path)
    threads = [threading.Thread(target=items.put_many, args=(range(10),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(items.get_all()) == sorted(4 * list(range(10)))


def test_like_queue_queue(path: str) -> None:
    items = SqliteQueue(path)
    for how in ({"block": False}, {"timeout": 0}, {"timeout": 0.01}):
        with pytest.raises(queue.Empty):
            items.get(**how)
    items.put_many([None, 0])
    assert items.qsize() == 2
    assert items.get(block=False) is None
    assert items.get() == 0
    items.put(1)
    items.clear()
    assert items.empty()
    items.destroy()
    items.destroy()
    assert not Path(path).exists()


def in_children(targets: Sequence[Callable[[], None]], status: int = 0) -> None:
    """Run each in a forked child of its own, all at once; all must end with `status`."""
    pids = [fork(target) for target in targets]
    assert [exit_of(pid) for pid in pids] == [status] * len(targets)
