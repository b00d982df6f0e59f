"""The log of a service: each line of a job tells which, one process writes, and files are rotated."""

from __future__ import annotations

import json
import logging
import re
import signal
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.service import logs
from multiprocessing_kit.service.logs import JsonFormatter, TextFormatter, at_job
from tests.folders import until
from tests.service.holding import ids, take
from tests.service.services import ROOT, Shop

JOBS = """
    import concurrent.futures
    import logging
    import threading
    import warnings

    library = logging.getLogger("some.package")
    mine = logging.getLogger("jobs")

    def speak(argument):
        mine.info("mine %s", argument)
        library.warning("library %s", argument)
        thread = threading.Thread(target=library.error, args=("thread %s", argument))
        thread.start()
        thread.join()
        mine.info("extra %s", argument, extra={"topic": "of mine", "job_id": "of mine"})
        try:
            1 / 0
        except ZeroDivisionError:
            library.exception("two\\nlines %s", argument)

    def set_up():
        mine.info("set up")

    def many(argument):
        for number in range(100):
            mine.info("line %d-%d %s", argument, number, "x" * 100)
"""

TOPICS = """
    [[topics]]
    name = "talk"
    worker = "jobs:speak"
    [[topics]]
    name = "bad"
    worker = "jobs:fail"
    retry = { max = 1, wait = "none" }
    [[topics]]
    name = "many"
    worker = "jobs:many"
    workers = 3
"""

SAID = ["mine", "library", "thread", "extra", "two"]


def test_each_line_of_a_job_tells_which(tmp_path: Path) -> None:
    with Shop(tmp_path, TOPICS, JOBS, settings='log = "shop.log"\nsetup = "jobs:set_up"') as shop:
        shop.run()
        log = tmp_path / "shop.log"
        ids = {shop.push("talk", number): number for number in range(3)}
        bad = shop.push("bad", "one")
        shop.wait_until_empty("talk", "bad")
        until(
            lambda: log.read_text().count("two\nlines") == 3 and "dead letter" in log.read_text(), "all lines"
        )
        lines = log.read_text().splitlines()
        for job_id, number in ids.items():
            found = [line for line in lines if f"[talk {job_id}]" in line]
            said = [line.partition(f"[talk {job_id}]: ")[2].split()[0] for line in found]
            assert said == SAID, found
            assert all(f" {number}" in line for line in found[:4])
        of_bad = [line for line in lines if f"[bad {bad}]" in line]
        assert any("again in 0.0 s: ValueError: no one" in line for line in of_bad)
        assert any("is a dead letter after 2 attempts" in line for line in of_bad)
        set_up = [line for line in lines if "set up" in line]
        assert len(set_up) == 5  # workers; of no job
        assert not any("[" in line.partition(" jobs")[2].partition(":")[0] for line in set_up)


def test_lines_of_json(tmp_path: Path) -> None:
    settings = 'log = "shop.log"\nlog_format = "json"'
    with Shop(tmp_path, TOPICS, JOBS, settings=settings) as shop:
        shop.run()
        log = tmp_path / "shop.log"
        job_id = shop.push("talk", 7)
        shop.wait_until_empty("talk")
        until(lambda: "two\\nlines" in log.read_text(), "all lines")
        records: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
        of_job = [record for record in records if record.get("job") == job_id]
        assert [record["message"].split()[0] for record in of_job] == SAID
        assert {record["topic"] for record in of_job} == {"talk"}
        assert {record["process"] for record in of_job} == {"talk #0"}
        assert "ZeroDivisionError" in of_job[-1]["traceback"]
        assert all("topic" not in record for record in records if record not in of_job)


ODD = """
    import logging

    class Sulky:
        def __str__(self):
            raise RuntimeError("no text")

    def odd(argument):
        log = logging.getLogger("jobs")
        log.info("half a character \\udcff")
        try:
            raise ValueError("\\udcff")
        except ValueError:
            log.exception("half of one in a traceback")
        log.info("an extra that cannot be written", extra={"counts": {(1, 2): 3}})
        log.info("an extra without a text", extra={"of": Sulky()})
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_that_is_hard_to_write(tmp_path: Path, log_format: str) -> None:
    settings = f'log = "shop.log"\nlog_format = "{log_format}"'
    topics = '[[topics]]\nname = "odd"\nworker = "jobs:odd"\n'
    with Shop(tmp_path, topics, ODD, settings=settings) as shop:
        shop.run()
        job_id = shop.push("odd")
        shop.wait_until_empty("odd")
        shop.stop()
        lines = (tmp_path / "shop.log").read_text().splitlines()
        if log_format == "json":
            records = [json.loads(line) for line in lines]
            said = [record["message"] for record in records if record.get("job") == job_id]
            tracebacks = [record["traceback"] for record in records if "traceback" in record]
        else:
            said = [line.partition(f"[odd {job_id}]: ")[2] for line in lines if job_id in line]
            tracebacks = [line for line in lines if line.startswith("ValueError")]
        assert said == [
            "half a character \\udcff",
            "half of one in a traceback",
            "an extra that cannot be written",
            "an extra without a text",
        ]
        assert [text.endswith("ValueError: \\udcff") for text in tracebacks] == [True]


def test_a_job_that_takes_too_long_is_marked(tmp_path: Path) -> None:
    topics = """
        [[topics]]
        name = "slow"
        worker = "jobs:slow"
        timeout = 0.3
        retry = { max = 0 }
    """
    with Shop(tmp_path, topics) as shop:
        shop.run()
        job_id = shop.push("slow", 600)
        (line,) = shop.wait_for_log("takes more than 0.3 s")
        assert f"[slow {job_id}]" in line


def test_a_job_whose_lease_was_over_is_marked(tmp_path: Path) -> None:
    topics = """
        [[topics]]
        name = "slow"
        worker = "jobs:slow"
    """
    with Shop(tmp_path, topics, settings="lease = 3.0") as shop:
        shop.run()
        job_id = shop.push("slow", 1)
        shop.wait_for_lines(1, "begun")
        shop.kill(consumer := shop.consumer("slow"), signal.SIGSTOP)
        with shop.broker() as other:
            other.join("other", ["slow"], 3.0)
            assert ids(take(other, 1, extends=True)) == [job_id]
            shop.kill(consumer, signal.SIGCONT)
            (line,) = shop.wait_for_log("its lease was over")
        assert f"[slow {job_id}]" in line


SMALL = """
    import multiprocessing_kit.manager.logs

    multiprocessing_kit.manager.logs._BYTES = 50_000
"""


def test_one_process_writes_and_files_are_rotated(tmp_path: Path) -> None:
    """Many workers write more than all files hold; no line is torn, and the newest ones are all there."""
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(SMALL))
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with Shop(tmp_path, TOPICS, JOBS, settings='log = "shop.log"', environment=environment) as shop:
        shop.run()
        shop.push_many("many", range(30))
        shop.wait_until_empty("many")
        shop.stop()
        files = [tmp_path / "shop.log", *(tmp_path / f"shop.log.{number}" for number in range(1, 6))]
        assert all(file.exists() for file in files)
        assert not (tmp_path / "shop.log.6").exists()
        assert all(file.stat().st_size <= 50_000 for file in files)
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        lines = [line for file in reversed(files) for line in file.read_text().splitlines()]
        whole = re.compile(r"\d{4}-.*? jobs \[many \w+\]: line (\d+)-(\d+) x{100}")
        found = [(match[1], int(match[2])) for line in lines if (match := whole.fullmatch(line))]
        assert sum("xxx" in line for line in lines) == len(found) > 500
        assert "ended" in lines[-1]
        for job, count in Counter(job for job, _ in found).items():
            numbers = [number for one, number in found if one == job]
            assert numbers == list(range(100))[-count:]  # the oldest may be rotated away


# ── the formatters ────────────────────────────────────────────────────────────────────────────────


def record(**more: object) -> logging.LogRecord:
    made = logging.LogRecord("name", logging.INFO, __file__, 1, "said", (), None)
    made.__dict__.update(more)
    return made


FORMATTED = [
    ({}, "name: said", {}),
    ({"mpkit_job": ["7", "mail"]}, "name [mail 7]: said", {"job": "7", "topic": "mail"}),
    ({"mpkit_job": ["", ""]}, "name: said", {}),
    ({"job_id": "7", "topic": "mail"}, "name [mail 7]: said", {"job": "7", "topic": "mail"}),
    ({"job_id": "7"}, "name [7]: said", {"job": "7"}),
    (
        {"mpkit_job": ["7", "mail"], "job_id": "8", "topic": "x"},
        "name [mail 7]: said",
        {"job": "7", "topic": "mail"},
    ),
    ({"mpkit_job": ["a\nb", "mail"]}, "name [mail a\\nb]: said", {"job": "a\nb", "topic": "mail"}),
]


@pytest.mark.parametrize(("more", "text", "fields"), FORMATTED)
def test_formats(more: dict[str, object], text: str, fields: dict[str, str]) -> None:
    made = record(**more)
    assert TextFormatter().format(made).endswith(f" {text}")
    assert made.name == "name"
    line = JsonFormatter().format(made)
    assert "\n" not in line
    data = json.loads(line)
    assert {key: data[key] for key in ("job", "topic") if key in data} == fields
    assert (data["message"], data["logger"], data["level"]) == ("said", "name", "INFO")


def test_what_a_job_logs_ends_with_it() -> None:
    with at_job("1", "mail"):
        with at_job("2", "mail"):
            pass
        assert marked() == ("1", "mail")
    assert marked() == ("", "")


def marked() -> object:
    made = record()
    assert logs._mark(made)
    return made.__dict__["mpkit_job"]
