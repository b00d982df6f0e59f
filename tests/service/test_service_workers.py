"""Workers that end, and calls that are never made: what is told of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.folders import until
from tests.service.services import WORK, Shop

pytestmark = pytest.mark.timeout(300)

BROKEN = """
    [[topics]]
    name = "broken"
    worker = "jobs:Broken"
"""
BROKEN_JOBS = """
    class Broken(Worker):
        def setup(self):
            if not os.path.exists("mended"):
                raise RuntimeError("no\\n  database")

        def process(self, argument):
            note(argument)
"""


def test_why_workers_fail_is_told_until_they_are_mended(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + BROKEN, BROKEN_JOBS, settings="scale_seconds = 0.2") as shop:
        shop.start()
        told = "RuntimeError: no database"
        shop.wait_until(lambda status: any(worker.problem for worker in status.crew("broken").workers))
        assert f"\nproblem: broken: {told}; see the log\n" in shop.command("status").stdout
        assert [crew["workers"][0]["problem"] for crew in shop.status_json()["crews"]] == ["", told]
        shop.wait_for_log(rf"alert: worker broken: .* again and again: it exited with 1: {told}")
        (tmp_path / "mended").touch()
        shop.push("broken", 1)
        shop.wait_for_lines(1)
        shop.wait_until(lambda status: not any(worker.problem for worker in status.crew("broken").workers))


def test_how_workers_ended_that_did_as_they_should(tmp_path: Path) -> None:
    topics = """
        [[topics]]
        name = "brief"
        worker = "jobs:work"
        max_jobs_per_worker = 1

        [[topics]]
        name = "slow"
        worker = "jobs:slow"
        timeout = 0.2
        retry = { max = 0 }
    """
    with Shop(tmp_path, topics) as shop:
        shop.start()
        shop.push("brief", 1)
        shop.push("slow", 600)
        shop.push("brief", 2)
        crews = {"brief": "was replaced", "slow": "was killed: its job took too long"}
        status = shop.wait_until(lambda status: all(status.crew(crew).workers[0].last_exit for crew in crews))
        assert {crew: status.crew(crew).workers[0].last_exit for crew in crews} == crews
        assert re.search(r"^slow #0 .* was killed: its job took too long$", status.table(), re.MULTILINE)
        shop.wait_for_lines(2)
        shop.stop()
        assert "starts again in" not in shop.log  # after a job, whatever it was, without a pause


def test_a_consumer_tells_of_its_own_topics_when_some_are_paused(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + WORK.replace('name = "work"', 'name = "other"')) as shop:
        shop.start()
        shop.command("pause", "work")
        shop.wait_for_log("paused topics of work: work$")
        shop.command("pause", "other")
        shop.wait_for_log("paused topics of other: other$")
        assert len(shop.wait_for_log("paused topics of")) == 2


CALLS = """
    [[topics]]
    name = "calls"
    calls = ["jobs:work", "jobs:Worker.*"]
    retry = { max = 3, wait = "fixed", first = 600 }
    results = 60
"""


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"method": "os:system", "params": ["true"]}, "call of 'os:system' is not allowed; the topic allows"),
        ("jobs:work", "a call is {class, method, params}, and not 'jobs:work'"),
        ({"method": "jobs:work", "params": 5}, "params are an array or an object, and not 5"),
        ({"method": "jobs:Worker.__init__", "params": []}, "is not allowed"),
        ({"method": "jobs:Worker.start.__globals__.get", "params": ["os"]}, "is not allowed"),
        ({"class": "jobs:Worker.__subclasses__", "method": "copy"}, "is not allowed"),
        ({"class": "jobs:Worker", "method": "start.__call__"}, "is not allowed"),
    ],
    ids=["not allowed", "no call", "wrong params", "private", "beyond a method", "beyond a class", "dotted"],
)
def test_a_call_that_cannot_be_made_is_a_dead_letter_at_once(
    tmp_path: Path, argument: object, told: str
) -> None:
    with Shop(tmp_path, CALLS) as shop:
        shop.start()
        shop.push("calls", argument, id="bad")
        shop.wait_until(lambda _: shop.backlog("calls").dead == 1)
        with shop.broker() as broker:
            (letter,) = broker.dead_letters("calls", 10)
        (event,) = letter.job.history
        assert (event.kind, event.attempt) == ("failed", 1)
        assert told in event.error
        assert shop.result(shop.push("calls", {"method": "jobs:work", "params": [7]})) == 7


# ── what a worker tells in the midst of a job ───────────────────────────────────────────────────────


IMMEDIATE = """
    [[topics]]
    name = "work"
    worker = "jobs:ends"
    timeout = 0.5
    retry = { max = 3, crashes = 2, type = "immediate", wait = "fixed", first = 0.7 }
"""
ENDS = """
    def ends(hows):
        '''Another way in each run, whatever worker does it.'''
        note("run")
        with open(os.path.join(os.path.dirname(__file__), "runs")) as file:
            how = hows[len(file.readlines()) - 1]
        if how == "failed":
            raise ValueError("no")
        if how == "crashed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
"""


@pytest.mark.parametrize(
    "hows",
    [
        ["failed", "failed", "failed", "failed"],
        ["failed", "timeout", "failed", "timeout"],
        ["failed", "crashed", "failed", "failed", "failed"],
        ["failed", "crashed", "failed", "crashed"],
    ],
    ids="-".join,
)
def test_attempts_in_one_worker_are_counted_and_timed_each_for_itself(
    tmp_path: Path, hows: list[str]
) -> None:
    """The pauses between them are longer than a job may take."""
    with Shop(tmp_path, IMMEDIATE, ENDS) as shop:
        shop.run()
        shop.push("work", hows)
        shop.wait_until(lambda _: shop.backlog().dead == 1)
        with shop.broker() as broker:
            (letter,) = broker.dead_letters("work", 10)
    assert [event.kind for event in letter.job.history] == hows
    assert [event.attempt for event in letter.job.history] == list(range(1, len(hows) + 1))


def test_what_was_done_before_a_long_job_does_not_wait_for_it(tmp_path: Path) -> None:
    """And is not run again when that one kills the worker."""
    jobs = """
        def mixed(argument):
            note(argument)
            if argument == "long":
                time.sleep(600)
            return argument
    """
    with Shop(tmp_path, WORK.replace("jobs:work", "jobs:mixed").replace("= 2", "= 1"), jobs) as shop:
        shop.run()
        shop.push_many("work", ["first"] * 200)  # by which it learns that they are short
        shop.wait_until_empty()
        ids = shop.push_many("work", ["short"] * 10 + ["long"])
        assert [shop.result(job_id) for job_id in ids[:-1]] == ["short"] * 10
        shop.kill(*shop.workers())
        until(lambda: shop.runs["long"] == 2, "the long job to run again")
        assert shop.runs["short"] == 10


def test_a_large_argument_is_with_its_worker_at_once(tmp_path: Path) -> None:
    """It is more than a socket takes in one go, and nothing else wakes the consumer meanwhile."""
    with Shop(tmp_path, WORK.replace("jobs:work", "jobs:count"), "def count(text): return len(text)") as shop:
        shop.run()
        shop.result(shop.push("work", ""))
        job_id = shop.push("work", "x" * 10_000_000)
        assert shop.result(job_id, 6.0) == 10_000_000
