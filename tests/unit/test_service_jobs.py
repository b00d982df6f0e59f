"""Records of jobs, and their payloads."""

from __future__ import annotations

import copy
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from multiprocessing_kit import PayloadError, ServiceConfigError, ServiceError
from multiprocessing_kit.service.client import Client, JobId
from multiprocessing_kit.service.job import Job
from multiprocessing_kit.service.payloads import Payloads

SECRET = "a secret of the tests"


def failed_job() -> Job:
    job = Job(
        "id", "mail", b"payload\nwith lines\n\x00\xff", 5, due=7.5, pushed=1.25, is_unique=True, hold=3.0
    )
    job.failed("failed", "ValueError: \u00e4\n\U0001f600")
    job.failed("crashed", "was killed by SIGKILL")
    job.idle_for, job.first_run, job.changes = 1.5, 2.5, "c2lnbmVk"
    return job


@pytest.mark.parametrize("job", [Job("id", "mail", b""), Job("id", "mail", b"x" * 100_000), failed_job()])
def test_a_record_brings_the_job_back(job: Job) -> None:
    assert Job.decode(job.encode()) == job


def test_history_keeps_the_first_and_the_latest() -> None:
    job = Job("id", "mail", b"")
    for number in range(1, 101):
        job.failed("failed", str(number))
    assert [event.error for event in job.history] == ["1", *(str(number) for number in range(82, 101))]
    assert job.attempt == 101


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b"{}\n",
        b"7\n",
        b"[1]\n",
        b"[1, 2, 3]\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"id": 1}\n',
        b"no json\npayload",
        b'{"id": "a", "topic": "b"}\n',
        b'{"id": 7, "topic": "b", "pushed": 1.0}\n',
        b'{"id": "a", "topic": null, "pushed": 1.0}\n',
        b'{"id": "a", "topic": "b", "pushed": "now"}\n',
        b'{"id": "a", "topic": "b", "pushed": 1.0, "due": "soon"}\n',
        b'{"id": "a", "topic": "b", "pushed": 1.0, "due": NaN}\n',
        b'{"id": "a", "topic": "b", "pushed": 1.0, "priority": 1.5}\n',
        b'{"id": "a", "topic": "b", "pushed": 1.0, "attempt": "2"}\n',
        b'{"id": "a", "topic": "b", "pushed": 1.0, "history": [7]}\n',
    ],
)
def test_what_is_no_record_is_told(record: bytes) -> None:
    with pytest.raises(ValueError, match=r"job's record|Expecting|codec"):
        Job.decode(record)


@pytest.mark.parametrize("encoding", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize("value", [None, 1, "\u00e4\x00", [1, {"a": [True, 1.5]}], {}, ""])
def test_payloads_come_back(encoding: str, value: object) -> None:
    payloads = Payloads(encoding, SECRET)
    assert payloads.decode(payloads.encode(value)) == value


@pytest.mark.parametrize("reader", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize("writer", ["json", "msgpack", "pickle"])
def test_who_writes_one_encoding_reads_all(writer: str, reader: str) -> None:
    assert Payloads(reader, SECRET).decode(Payloads(writer, SECRET).encode([1])) == [1]


@pytest.mark.parametrize(
    ("encoding", "secret", "key"),
    [("xml", "", "encoding"), ("pickle", "", "secret")],
    ids=["unknown", "unsigned"],
)
def test_what_cannot_be_is_refused(encoding: str, secret: str, key: str) -> None:
    with pytest.raises(ServiceConfigError) as raised:
        Payloads(encoding, secret)
    assert raised.value.key == key


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle of a stranger was loaded",))


@pytest.mark.parametrize(
    "payload",
    [
        b"p" + pickle.dumps(_Code()),
        b"p" + bytes(32) + pickle.dumps(_Code()),
        Payloads("pickle", "another secret").encode(_Code()),
        b"",
        b"x1",
        b"j{",
        b"m\xc1",
    ],
    ids=["bare pickle", "no signature", "another's", "empty", "unknown", "no JSON", "no msgpack"],
)
def test_what_may_not_be_read_is_not(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        Payloads("pickle", SECRET).decode(payload)


def test_a_right_pickle_needs_the_secret() -> None:
    payload = Payloads("pickle", SECRET).encode({1, 2})
    with pytest.raises(PayloadError, match="secret"):
        Payloads("json").decode(payload)


@pytest.mark.parametrize("encoding", ["json", "msgpack", "pickle"])
def test_what_cannot_be_written_is_told(encoding: str) -> None:
    with pytest.raises(PayloadError, match=f"written as {encoding}"):
        Payloads(encoding, SECRET).encode(lambda: None)


@pytest.mark.parametrize(
    "copied",
    [lambda job_id: pickle.loads(pickle.dumps(job_id)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_id_of_a_job_travels_as_a_text(tmp_path: Path, copied: Callable[[JobId], str]) -> None:
    with Client(f"sqlite:///{tmp_path}/jobs.db") as client:
        job_id = client.push("mail")
        found = copied(job_id)
        assert type(found) is str
        assert found == job_id


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"topic": "mial"}, "there is no topic 'mial'; there are mail, sms"),
    ({"topic": ""}, "topic '' is no name"),
    ({"topic": "a\nb"}, r"topic 'a\\nb' is no name"),
    ({"priority": 101}, "priority 101 is no whole number from -100 to 100"),
    ({"priority": 1.5}, "priority 1.5 is no whole number"),
    ({"priority": "high"}, "priority 'high' is no whole number"),
    ({"topic": "caf\udce9"}, "is no name"),
    ({"delay": math.nan}, "delay nan is no number of seconds up to"),
    ({"delay": math.inf}, "delay inf is no number"),
    ({"delay": "60"}, "delay '60' is no number"),
    ({"at": "tomorrow"}, "at 'tomorrow' is no instant in seconds since 1970"),
    ({"at": math.nan}, "at nan is no instant"),
    ({"at": time.time() * 1000}, "at .* is no instant in seconds"),
    ({"at": 1.0, "delay": 1.0}, "delay and at are two ways of saying the same"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_what_cannot_be_pushed(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    call = {"topic": "mail", **wrong}
    with Client(f"sqlite:///{tmp_path}/jobs.db", topics=["mail", "sms"]) as client:
        with pytest.raises(ServiceError, match=told):
            client.push(**call)
        with pytest.raises(ServiceError, match=told):
            client.push_many(arguments=[1, 2], **call)
        backlog = client.backlog("mail")
        assert (backlog.ready, backlog.delayed) == (0, 0)


@pytest.mark.parametrize("wrong", ["", "x" * 201, "two\nlines", "caf\udce9", 7, b"x"])
def test_ids_that_are_none(tmp_path: Path, wrong: Any) -> None:
    with (
        Client(f"sqlite:///{tmp_path}/jobs.db") as client,
        pytest.raises(ServiceError, match="is not a text of 1 to 200 characters that can be printed"),
    ):
        client.push("mail", id=wrong)


def test_times_and_priorities_of_numpy(tmp_path: Path) -> None:
    with Client(f"sqlite:///{tmp_path}/jobs.db") as client:
        three: Any = numpy.int64(3)
        later: Any = numpy.int64(time.time()) + 60
        client.push("mail", delay=numpy.float64(60), priority=three)
        client.push("mail", at=later)
        backlog = client.backlog("mail")
        assert (backlog.ready, backlog.delayed) == (0, 2)


def test_the_backlog_of_no_topic(tmp_path: Path) -> None:
    with (
        Client(f"sqlite:///{tmp_path}/jobs.db", topics=["mail"]) as client,
        pytest.raises(ServiceError, match="there is no topic 'mial'; there are mail"),
    ):
        client.backlog("mial")


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/jobs", "rediss://:password@127.0.0.1:1/0x", "redis://:12/password@h"]
)
def test_a_redis_database_is_a_number(url: str) -> None:
    with pytest.raises(ServiceConfigError, match="the database is a number") as raised:
        Client(url)
    assert "password" not in str(raised.value)
