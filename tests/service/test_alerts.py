"""Alerts: each thing is told once in a while, by real delivery, and who does not take it harms nothing."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.servers import RedisServer, free_port
from multiprocessing_kit.service import alerts as module
from multiprocessing_kit.service.alerts import Alerts, send
from multiprocessing_kit.service.config import AlertsConfig, ServiceConfig
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.supervise.fork import fork_child
from tests.folders import PATIENCE, until
from tests.service.receivers import Receiver
from tests.service.services import Shop

PASSWORD = "pass-of-the-test"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "received") as found:
        yield found


def alerts_of(urls: list[str], every: float = 3600.0) -> str:
    return f"""
    [alerts]
    urls = {urls}
    every = {every}
    title = "{{service}}|{{kind}}|{{topic}}"
    body = "{{text}} at {{host}}"
    """


TOPICS = """
    [[topics]]
    name = "work"
    worker = "jobs:work"
    backlog = { alert = 5 }

    [[topics]]
    name = "bad"
    worker = "jobs:fail"
    retry = { max = 0 }

    [[topics]]
    name = "odd"
    worker = "jobs:Odd"
"""

ODD = """
    class Odd(Worker):
        def setup(self):
            raise RuntimeError("no set-up")

        def process(self, argument):
            pass
"""


@pytest.mark.timeout(180)
def test_each_arrives_once(tmp_path: Path, receiver: Receiver) -> None:
    topics = TOPICS + alerts_of([receiver.url()])
    with Shop(tmp_path / "shop", topics, ODD, settings="scale_seconds = 0.2") as shop:
        shop.run()
        shop.command("pause", "work")
        shop.push_many("work", range(20))
        shop.push_many("bad", range(20))
        expected = ["shop|backlog|work", "shop|dead|bad", "shop|worker|odd"]
        until(lambda: receiver.titles() == expected, "alerts", 120.0)
        shop.push_many("bad", range(20))
        until(lambda: shop.backlog("bad").dead == 40)
        # A consumer that starts anew knows what was told.
        os.kill(shop.consumer("bad"), signal.SIGKILL)
        shop.wait_for_log("was killed by SIGKILL")
        shop.push("bad", 1)
        until(lambda: shop.backlog("bad").dead == 41)
        bodies = {one["title"]: one["message"] for one in receiver.received()}
        assert receiver.titles() == expected
        assert bodies["shop|backlog|work"].startswith("20 jobs are ready at ")
        assert "ValueError: no" in bodies["shop|dead|bad"]
        assert "exited with 1" in bodies["shop|worker|odd"]
        assert PASSWORD not in shop.log


@pytest.mark.timeout(180)
def test_a_broker_that_is_away(
    tmp_path: Path, receiver: Receiver, redis: RedisServer, service_name: str
) -> None:
    """It is one broker, for all consumers, and told of once."""
    two = "".join(f'\n[[topics]]\nname = "{name}"\nworker = "jobs:work"\n' for name in ("a", "b"))
    topics = two + alerts_of([receiver.url()])
    with Shop(tmp_path / "shop", topics, broker=redis.url, name=service_name) as shop:
        shop.run()
        shop.wait_until(lambda status: all(topic.ready == 0 for topic in status.topics))
        redis.kill()
        until(receiver.received, "an alert", 90.0)
        shop.wait_for_log("the broker is away", 2)
        redis.start()
        shop.wait_for_log("the broker is back", 2)
        assert receiver.titles() == [f"{service_name}|broker|"]


@pytest.mark.timeout(180)
def test_who_does_not_take_it_is_logged_and_harms_nothing(tmp_path: Path, receiver: Receiver) -> None:
    nobody = f"json://watcher:{PASSWORD}@127.0.0.1:{free_port()}/secret-path"
    urls = [nobody, receiver.url("/broken"), "nonsense://secret-path", "env:NOT_THERE_1", receiver.url()]
    environment = {"NOT_THERE_1": f"slack://{PASSWORD}"}
    topics = TOPICS.partition('[[topics]]\n    name = "odd"')[0] + alerts_of(urls)
    with Shop(tmp_path / "shop", topics, environment=environment) as shop:
        shop.run()
        shop.push("bad", 1)
        until(lambda: receiver.titles() == ["shop|dead|bad"] * 2, "both that take something")
        shop.wait_for_log(r"alerts.urls.3 .* did not take")
        for number in range(4):
            (line,) = shop.wait_for_log(rf"alerts\.urls\.{number} ")
            assert "did not take the alert" in line
        shop.wait_for_log(r"alerts\.urls\.0 \(json\) .*Connection error", 1)
        assert "alerts.urls.4" not in shop.log
        assert PASSWORD not in shop.log
        assert "secret-path" not in shop.log
        assert shop.push("work", "one")
        shop.wait_until_empty("work")


# ── in this process ───────────────────────────────────────────────────────────────────────────────


class Told:
    """Alerts of a consumer in this process, which are noted and not sent."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **alerts: Any) -> None:
        self.all: list[str] = []
        self.selectors: list[selectors.BaseSelector] = []
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now)
        self._folder = folder
        self._monkeypatch = monkeypatch
        self.settings = {"urls": ["json://nowhere"], **alerts}

    def file(self) -> Path:
        """Which tells when the dead letters of mail were told last."""
        return Paths(self.config()).alert("dead", "mail")

    def config(self) -> ServiceConfig:
        return ServiceConfig.model_validate(
            {
                "name": "shop",
                "broker": "sqlite:///x",
                "runtime_dir": str(self._folder),
                "alerts": self.settings,
                "topics": [{"name": "mail", "worker": "a:b"}],
            }
        )

    def consumer(self) -> Alerts:
        self.selectors.append(selectors.DefaultSelector())
        made = Alerts(self.config(), self.selectors[-1])
        self._monkeypatch.setattr(
            made, "_send", lambda kind, topic, text: self.all.append(f"{kind} {topic}: {text}")
        )
        return made


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    made = Told(tmp_path, monkeypatch, every=100.0)
    yield made
    for selector in made.selectors:
        selector.close()


def test_once_in_a_while(told: Told) -> None:
    one, another = told.consumer(), told.consumer()
    for second in range(250):
        told.now = 1000.0 + second
        one.tell("backlog", "mail", f"at {second}")
        another.tell("backlog", "mail", f"at {second}")
        one.look()
    assert told.all == ["backlog mail: at 0", "backlog mail: at 100", "backlog mail: at 200"]


def test_each_kind_and_topic_by_itself(told: Told) -> None:
    one = told.consumer()
    for kind, topic in (("backlog", "mail"), ("dead", "mail"), ("backlog", "image"), ("backlog", "mail")):
        one.tell(kind, topic, "x")
    one.tell("broker", "mail", "x")
    told.consumer().tell("broker", "image", "x")
    assert told.all == ["backlog mail: x", "dead mail: x", "backlog image: x", "broker : x"]


def test_dead_letters_that_were_held_back_are_told_of_later(told: Told) -> None:
    one = told.consumer()
    for number in range(4):
        one.tell("dead", "mail", f"job {number}")
    told.now += 99
    one.look()
    assert told.all == ["dead mail: job 0"]
    told.now += 2
    one.look()
    one.look()
    assert told.all[1:] == ["dead mail: 3 more since the last alert, the last of them job 3"]


def test_every_0_tells_all(told: Told) -> None:
    told.settings["every"] = 0.0
    one = told.consumer()
    for _ in range(3):
        one.tell("dead", "mail", "x")
    assert len(told.all) == 3


def test_a_clock_that_is_set_back_holds_nothing_up(told: Told) -> None:
    told.consumer().tell("dead", "mail", "x")
    told.now -= 500
    told.consumer().tell("dead", "mail", "y")
    assert told.all == ["dead mail: x", "dead mail: y"]


@pytest.mark.parametrize("content", ["", "no number", "nan"])
def test_a_file_that_says_nothing(told: Told, content: str) -> None:
    told.file().write_text(content)
    told.consumer().tell("dead", "mail", "x")
    assert told.all == ["dead mail: x"]


def test_a_file_that_cannot_be_written(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.file().mkdir()
    one = told.consumer()
    one.tell("dead", "mail", "x")
    one.tell("dead", "mail", "y")
    assert told.all == ["dead mail: x"]
    assert "cannot note the alert" in caplog.text


def test_a_receiver_that_never_answers_is_given_up(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_SENDING_SECONDS", 0.2)
    config = ServiceConfig.model_validate(
        {
            "name": "shop",
            "broker": "sqlite:///x",
            "runtime_dir": str(tmp_path),
            "alerts": {"urls": [receiver.url("/slow")]},
            "topics": [{"name": "mail", "worker": "a:b"}],
        }
    )
    with selectors.DefaultSelector() as selector:
        alerts = Alerts(config, selector)
        alerts.tell("dead", "mail", "x")
        (child,) = alerts._children

        def ended() -> bool:
            alerts.look()
            return not selector.get_map()

        until(ended, "the end of the child")
        assert child.exitcode == -signal.SIGKILL  # apprise gives up by itself, some time
        alerts.close()
    assert "an alert was not taken in 0.2 s" in caplog.text


def test_the_templates(receiver: Receiver) -> None:
    config = AlertsConfig(urls=[receiver.url()], title="{kind} {{{topic}}}", body="{service}\n{text}")
    # In a child, as it is meant: apprise keeps threads and connections.
    child = fork_child(lambda _: send(config, "shop", "dead", "mail", "job 7: {text}"), title="alert")
    assert child.wait(PATIENCE)
    assert child.exitcode == 0
    child.close()
    (found,) = receiver.received()
    assert (found["title"], found["message"]) == ("dead {mail}", "shop\njob 7: {text}")


@pytest.mark.parametrize("template", ["{nothing}", "{text", "{}", "{text.nothing}"])
def test_wrong_templates(template: str) -> None:
    with pytest.raises(ValidationError, match="no template"):
        AlertsConfig(urls=["json://x"], body=template)
